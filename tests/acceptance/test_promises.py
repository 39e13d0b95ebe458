"""The promises of the guarantees page, one test each, in its order. The finer points are tested beside what keeps them."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amqtask import App, AsyncResult
from amqtask.errors import (
    ConfirmTimeout,
    ConnectFailed,
    NotRegistered,
    PublishNacked,
    Unroutable,
    WorkerLostError,
)
from tests.acceptance.nodes import Place
from tests.brokers import Broker, OwnBroker
from tests.waiting import eventually

Places = Callable[..., Place]


def test_promise_1_when_delay_returns_the_broker_has_the_task(
    place: Places, outage: OwnBroker
) -> None:
    at = place(on=outage, type="quorum", more=["full"], queue={"max_length": 1})
    at.declare()
    impatient = App(
        "impatient",
        topology=at.path / "topology.yaml",
        broker_url=outage.url,
        publish_timeout=2.0,
    )
    for queue in at.queues:
        at.send("note", queue, queue=queue, ignore_result=True)
    with pytest.raises(PublishNacked):  # a quorum queue takes a few more than its limit
        _fill(at, at.queues[1])
    with pytest.raises(Unroutable):
        at.send("note", "x", queue="nowhere", ignore_result=True)

    outage.kill()
    began = time.monotonic()
    with pytest.raises((ConnectFailed, ConfirmTimeout)):
        impatient.send_task("work.note", ("x",), queue=at.queue, ignore_result=True)
    impatient.close()
    assert time.monotonic() - began < 5
    outage.start()

    eventually(lambda: at.depth() == 1, 10)  # the broker may count it a moment later


def test_promise_2_a_task_is_acked_only_after_what_follows_from_it_is_safe(
    place: Places, outage: OwnBroker
) -> None:
    at = place(on=outage, type="quorum")
    node = at.node("-c1", "-Q", at.queue)
    result = at.send("hold", "x", "go")
    at.saw("start", "x")
    outage.pause()  # nothing is confirmed from here on, and no connection breaks yet
    at.release("go")
    at.saw("end", "x")
    node.kill(signal.SIGKILL)  # the task has ended, its result is not confirmed
    outage.resume()

    second = at.node("-c1", "-Q", at.queue)
    assert result.get(timeout=60) == "x"
    assert second.stop() == 0
    assert at.depth() == at.depth(at.dead) == 0


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_promise_3_a_process_killed_at_any_instant_loses_nothing(place: Places, kind: str) -> None:
    at = place(type=kind)
    first = at.node("-c2", "-Q", at.queue)
    second = at.node("-c1", "-Q", at.queue)
    names = at.send_notes(600, 0.002)
    at.finished(60)
    os.kill(first.children()[0], signal.SIGKILL)
    at.finished(160)
    first.kill(signal.SIGKILL)

    at.everything_done(names)
    assert second.stop() == 0
    assert at.depth() == at.depth(at.dead) == 0
    assert sum(at.count("start").values()) - len(names) <= 3 * 8


def test_promise_4_a_task_that_kills_its_worker_does_not_kill_the_next_for_ever(
    place: Places,
) -> None:
    at = place(type="quorum")
    node = at.node("-c1", "--prefetch-multiplier", "64", "-Q", at.queue)
    before = at.send_notes(20, prefix="before-")
    result = at.send("die", "x", "segv")
    after = at.send_notes(20, prefix="after-")

    with pytest.raises(WorkerLostError, match="SIGSEGV"):
        result.get(timeout=30)
    at.everything_done(before + after)
    assert node.stop() == 0
    assert at.count("start") == Counter(before + after) + Counter({"x": 3})
    properties, _ = at.dead_letter()
    assert properties.headers["id"] == result.id
    assert at.depth() == at.depth(at.dead) == 0


def test_promise_5_no_message_stops_a_worker(place: Places) -> None:
    at = place()
    node = at.node("-c1", "-Q", at.queue)
    children = node.children()
    at.put(b"no task at all")
    at.put(b"[[], {}, {}]", content_type="application/x-python-serialize", headers={"id": "p"})
    unknown = at.send("nothing_of_this_name")
    wrong = at.send("note")
    with pytest.raises(NotRegistered):
        unknown.get(timeout=10)
    with pytest.raises(TypeError):
        wrong.get(timeout=10)

    assert at.send("note", "next").get(timeout=10) == "next"
    assert node.children() == children
    assert node.stop() == 0
    assert at.depth() == 0
    assert at.depth(at.dead) == 4


def test_promise_6_a_delay_costs_a_worker_nothing(place: Places) -> None:
    at = place(type="quorum")
    node = at.node("-c1", "-Q", at.queue)
    at.send("note", "warm").get(timeout=10)
    held = _resident(node.children()[0])
    with at.app.batch():
        for number in range(2000):
            at.send("note", number, countdown=3600, ignore_result=True)
    due = time.monotonic() + 2
    at.send("note", "soon", countdown=2, ignore_result=True)

    assert at.send("note", "now").get(timeout=10) == "now"  # nothing stands before it
    assert _resident(node.children()[0]) - held < 2048  # KiB
    at.saw("end", "soon")
    assert 0 <= time.monotonic() - due < 2
    assert node.stop() == 0
    assert at.depth() == 0


def test_promise_7_a_revoke_holds_across_restarts(place: Places) -> None:
    at = place(type="quorum")
    at.declare()
    revoked = at.send("note", "revoked")
    kept = at.send("note", "kept")
    revoked.revoke()
    for _ in range(2):
        node = at.node("-c1", "-Q", at.queue)
        assert kept.get(timeout=10) == "kept"
        eventually(revoked.ready, 10)
        assert revoked.state == "REVOKED"
        assert node.stop() == 0
        # the same message again, long after: somebody sends it anew
        again = at.send("note", "revoked", task_id=revoked.id, ignore_result=True)
        assert again.id == revoked.id
    assert at.count("start") == {"kept": 1}


def test_promise_8_work_resumes_by_itself(place: Places, outage: OwnBroker) -> None:
    at = place(on=outage, type="quorum")
    node = at.node("-c1", "-Q", at.queue)
    children = node.children()
    assert at.send("note", "a").get(timeout=10) == "a"
    outage.kill()
    outage.start()
    assert at.send("note", "b").get(timeout=20) == "b"
    with outage.channel() as channel:
        channel.queue_delete(at.queue)
    node.says("ready")
    sent = eventually(lambda: _sent(at, "c"), 20)
    assert sent is not None
    assert sent.get(timeout=20) == "c"

    assert node.children() == children
    assert node.stop() == 0


def test_promise_9_stopping_a_worker_does_not_cost_an_attempt(
    place: Places, broker: Broker
) -> None:
    stops = 3
    # RabbitMQ counts what is given back as a failed delivery before 4.3: there the limit must be above the number of stops.
    uncounted = broker.version >= (4, 3)
    at = place(type="quorum", queue={"delivery_limit": 1 if uncounted else stops + 1})
    at.declare()
    names = at.send_notes(120, 0.01)
    for number in range(1, stops + 1):
        node = at.node("-c1", "--prefetch-multiplier", "64", "-Q", at.queue)
        at.finished(number * 5)
        assert node.stop() == 0
    node = at.node("-c2", "--prefetch-multiplier", "64", "-Q", at.queue)
    at.everything_done(names)
    assert node.stop() == 0
    assert at.count("start") == Counter(names)
    assert at.depth(at.dead) == 0


def test_promise_10_what_a_hook_does_wrong_never_loses_a_task(place: Places) -> None:
    at = place()
    file = at.path / "work.py"
    file.write_text(file.read_text() + HOOKS)
    node = at.node("-c1", "-Q", at.queue)
    with pytest.raises(Exception, match="x"):
        at.send("fail", "x").get(timeout=10)
    assert at.send("note", "after").get(timeout=10) == "after"
    assert node.stop() == 0
    assert at.depth() == 0
    assert at.depth(at.dead) == 1


def test_a_finished_task_whose_ack_was_lost_is_not_run_again(
    place: Places, outage: OwnBroker
) -> None:
    at = place(on=outage, type="quorum")
    node = at.node("-c1", "-Q", at.queue)
    at.send("hold", "x", "go", ignore_result=True)
    at.saw("start", "x")
    outage.kill()
    at.release("go")
    at.saw("end", "x")  # its ack belongs to a connection that is gone
    outage.start()

    node.says("finished before, not run again", 30)
    assert at.send("note", "next").get(timeout=20) == "next"
    assert node.stop() == 0
    assert at.count("start") == {"x": 1, "next": 1}
    assert at.depth() == at.depth(at.dead) == 0


HOOKS = """

import logging

class Raising(logging.Filter):
    def filter(self, record):
        raise RuntimeError("a filter of the application")

for logger in ("amqtask.worker", "amqtask.amqp"):
    logging.getLogger(logger).addFilter(Raising())
"""


def _fill(at: Place, queue: str) -> None:
    for number in range(10):
        at.send("note", number, queue=queue, ignore_result=True)


def _sent(at: Place, what: str) -> AsyncResult[Any] | None:
    """The handle of a task, unless its queue is not there yet, or (a nack) is just going."""
    try:
        sent: AsyncResult[Any] = at.send("note", what)
    except (Unroutable, PublishNacked):
        return None
    return sent


def _resident(pid: int) -> int:
    """Resident memory of a process in KiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024
