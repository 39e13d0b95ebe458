"""Messages that the broker hands out again though their tasks run, or have run: they are not started a second time."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from amqtask.testing.proxy import Proxy
from tests.acceptance.nodes import Node, Place, ports
from tests.brokers import Broker
from tests.waiting import eventually

Places = Callable[..., Place]


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    with Proxy.before(broker.url) as proxy:
        yield proxy


HELD = "runs in this node already, not started again"


def cut_until_held(proxy: Proxy, node: Node, times: int = 1) -> None:
    """Cut connections until another child than the one that runs the first task has got its message.

    After a cut of all it goes to whichever child is back first. When that is the one that runs the task, where it waits behind
    it, that child alone is cut off: then only the others can get it.
    """
    known = node.reconnected()
    assert proxy.cut()
    node.reconnected(known + 2)
    runs = node.place.pids()[0]

    def held() -> bool:
        with contextlib.suppress(AssertionError):
            node.says(HELD, 1.0, times)
            return True
        known = node.reconnected()
        theirs = ports(runs)
        assert proxy.cut(*(link.number for link in proxy.links if link.client in theirs))
        node.reconnected(known + 1)
        return False

    eventually(held, 30)


def answered(node: Node, task_id: str) -> None:
    """Wait until a redelivery of a task was settled by what the node knows; notes may have lost their acks, too."""
    eventually(
        lambda: any(
            line["task_id"] == task_id
            for how in ("before", "meanwhile")
            for line in node.records(f"finished {how}, not run again")
        ),
        20,
    )


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize("flags", [("-c2", "--prefetch-multiplier=1"), ("-c2",), ("-c1",)])
def test_the_running_task_answers_for_its_redelivery(
    place: Places, proxy: Proxy, kind: str, flags: tuple[str, ...]
) -> None:
    at = place(type=kind)
    node = at.node(*flags, "-b", proxy.url, "-Q", at.queue)
    result = at.send("hold", "x", "go")
    at.saw("start", "x")

    for number in range(2):
        if "-c2" in flags:
            cut_until_held(proxy, node, number + 1)
            # It blocks nobody, though it takes the whole prefetch of the child that keeps it. (With a fixed prefetch, one message
            # may wait behind the task in the child that runs it.)
            at.send_notes(5, prefix=f"{number}-")
            at.finished((number + 1) * 5 - 1)
        else:
            assert proxy.cut()
            node.reconnected(number + 1)
    at.release("go")

    assert result.get(timeout=10) == "x"
    answered(node, result.id)
    at.finished(11 if "-c2" in flags else 1)  # a note may have waited behind the task
    assert node.stop() == 0
    assert at.count("start")["x"] == at.count("end")["x"] == 1
    assert max(at.count("start").values()) == 1
    at.all_settled()
    assert at.depth(at.dead) == 0


def test_a_redelivery_runs_when_the_running_task_dies(place: Places, proxy: Proxy) -> None:
    at = place(type="quorum")
    node = at.node("-c2", "-b", proxy.url, "-Q", at.queue)
    result = at.send("hold", "x", "go")
    at.saw("start", "x")
    cut_until_held(proxy, node)

    os.kill(at.pids()[0], signal.SIGKILL)

    eventually(lambda: at.count("start")["x"] == 2, 10)
    at.release("go")
    assert result.get(timeout=10) == "x"
    (record,) = node.records("child crashed")
    assert record["task_id"] == result.id
    assert node.stop() == 0
    at.all_settled()


def test_what_is_held_is_given_back_at_a_stop(place: Places, proxy: Proxy) -> None:
    at = place(type="quorum")
    node = at.node("-c2", "-b", proxy.url, "-Q", at.queue)
    at.send("hold", "x", "never", ignore_result=True)
    at.saw("start", "x")
    cut_until_held(proxy, node)

    node.kill(signal.SIGTERM)

    eventually(lambda: at.depth() == 1, 10, interval=0.1)
    node.kill(signal.SIGQUIT)
    assert node.wait(10) == 0
    assert at.depth() == 1
    assert at.count("start") == {"x": 1}


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_cut_again_and_again_under_load_nothing_runs_twice(
    place: Places, proxy: Proxy, kind: str
) -> None:
    at = place(type=kind)
    node = at.node("-c2", "-b", proxy.url, "-Q", at.queue)
    names = at.send_notes(1200, 0.003)
    for number in range(1, 7):
        at.finished(number * 120)
        proxy.cut()

    at.everything_done(names)
    assert node.stop() == 0
    assert at.count("start") == at.count("end") == Counter(names)
    at.all_settled()
    assert at.depth(at.dead) == 0


def test_a_task_acked_before_it_runs_is_not_run_again(place: Places, proxy: Proxy) -> None:
    at = place(type="quorum", task_acks_late=False)
    node = at.node("-c2", "-b", proxy.url, "-Q", at.queue)
    names = at.send_notes(600, 0.003)
    for number in range(1, 4):
        at.finished(number * 120)
        proxy.cut()

    at.everything_done(names)
    assert node.stop() == 0
    assert at.count("start") == at.count("end") == Counter(names)


def test_a_message_sent_again_on_purpose_runs(place: Places, proxy: Proxy) -> None:
    at = place(type="quorum")
    node = at.node("-c2", "-b", proxy.url, "-Q", at.queue)
    at.send("note", "x", task_id="one")
    at.saw("end", "x")
    at.send("hold", "y", "go", ignore_result=True)
    at.send("hold", "y", "go", ignore_result=True)
    eventually(lambda: at.count("start")["y"] == 2, 10)
    # both slots are taken: this one waits, is given back, and comes again as a redelivery
    at.send("note", "x", task_id="one")
    at.release("go")
    eventually(lambda: at.count("end")["x"] == 2, 10)
    assert node.stop() == 0
    at.all_settled()
    assert at.depth(at.dead) == 0


def put_without_a_time(at: Place) -> None:
    """Publish a task as another program would, under the same id each time."""
    at.put(
        b'[["x"], {}, {}]',
        headers={"lang": "py", "task": "work.note", "id": "one"},
        content_type="application/json",
        content_encoding="utf-8",
    )


def test_a_message_without_a_time_runs(place: Places) -> None:
    at = place(type="quorum")
    node = at.node("-c2", "-Q", at.queue)
    put_without_a_time(at)
    at.saw("end", "x")
    assert node.stop() == 0


@pytest.mark.exact(
    "has a message without a time run twice, which is answered by the first run where a cut has lost that one's ack"
)
def test_a_message_without_a_time_that_is_sent_again_after_a_reload_runs(place: Places) -> None:
    at = place(type="quorum")
    node = at.node("-c2", "-Q", at.queue)
    put_without_a_time(at)
    at.saw("end", "x")
    node.kill(signal.SIGHUP)
    node.wait_ready(times=2)
    for _ in range(2):
        at.send("hold", "y", "go", ignore_result=True)
    eventually(lambda: at.count("start")["y"] == 2, 10)
    # both slots are taken: this one waits, is given back, and comes again as a redelivery
    put_without_a_time(at)
    eventually(lambda: at.depth() == 1, 10, interval=0.1)
    at.release("go")

    eventually(lambda: at.count("end")["x"] == 2, 10)
    assert node.stop() == 0
    assert not node.records("finished before, not run again")
    at.all_settled()
