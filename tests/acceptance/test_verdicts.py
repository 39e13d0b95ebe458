"""Verdicts across a cluster: what one node learns of a task id holds on every other, and after every restart."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pika.exceptions
import pytest

from amqtask.core.verdicts import STREAM, Kind, Record, decode, new_event, publication
from amqtask.errors import TaskRevokedError, WorkerLostError
from tests.acceptance.nodes import Node, Place, alive
from tests.brokers import Broker, OwnBroker, limited_user, own_vhost
from tests.waiting import eventually

Places = Callable[..., Place]
# how a task can kill its process, and what its caller is told of it
POISON = {
    "segv": r"signal 11 \(SIGSEGV\)",
    "exit": "exit code 3",
    "kill": r"signal 9 \(SIGKILL\)",
}
UNREAD = "the verdicts of other nodes are not known yet; going on without them"
UNUSABLE = "the stream of verdicts cannot be used; what other nodes know of crashes and revokes may be missing here"


def tell(broker: Broker, *records: Record) -> None:
    """Put records into the stream, as another node would; some node has declared it."""
    with broker.channel() as channel:
        for record in records[:-1]:
            channel.basic_publish("", STREAM, publication(record).envelope.body)
        channel.confirm_delivery()  # each waits for its answer, and the last is enough
        channel.basic_publish("", STREAM, publication(records[-1]).envelope.body, mandatory=True)


def written(broker: Broker) -> list[Record]:
    """Everything that is in the stream."""
    end = record(Kind.MARK)
    tell(broker, end)
    found: list[Record] = []
    connection = broker.connect()
    try:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=100)
        for method, _, body in channel.consume(
            STREAM, arguments={"x-stream-offset": "first"}, inactivity_timeout=10
        ):
            assert method is not None, "the stream has gone quiet"
            assert body is not None
            channel.basic_ack(method.delivery_tag)
            found.append(decode(body))
            if found[-1].event == end.event:
                return found
    finally:
        # pika rejects what has come behind the end, and RabbitMQ 3.10 answers a reject of a stream's entry with 540
        with contextlib.suppress(pika.exceptions.AMQPConnectionError):
            connection.close()
    raise AssertionError("the stream ended")


def record(kind: Kind, *ids: str, **more: Any) -> Record:
    values = {"time": time.time(), **more}
    return Record(kind=kind, event=new_event(), origin="test", ids=ids, **values)


def refused(at: Place, node: Node, task_id: str) -> None:
    """Wait until a node refuses a task: a message may be faster than the record that was told before it."""

    def once() -> bool:
        at.send("note", "late", task_id=task_id, ignore_result=True)
        at.send("add", 1, 2).get(timeout=20)  # the node has had both
        lines = node.records("task did not succeed")
        return any((line["task_id"], line["outcome"]) == (task_id, "revoked") for line in lines)

    eventually(once, 30)


# ---------------------------------------------------------------- revoked


@pytest.mark.parametrize("flags", ["-c1", "-Psolo"])
def test_a_revoked_task_does_not_run(place: Places, flags: str) -> None:
    at = place()
    at.node(flags, "-Q", at.queue).stop()  # the stream is there now
    before, name = str(uuid.uuid4()), str(uuid.uuid4())
    tell(at.broker, record(Kind.REVOKED, before))
    early = at.send("note", "early", task_id=before)
    node = at.node(flags, "-Q", at.queue)  # its message is in the queue before the replay begins
    with pytest.raises(TaskRevokedError):
        early.get(timeout=20)
    assert not node.records(UNREAD)

    tell(at.broker, record(Kind.REVOKED, name))
    refused(at, node, name)
    assert at.send("add", 1, 2).get(timeout=10) == 3
    assert node.stop() == 0
    assert "early" not in at.count("start")


def test_a_verdict_holds_as_long_as_the_setting_says(place: Places) -> None:
    at = place(verdict_max_age=3600.0)
    node = at.node("-c1", "-Q", at.queue)
    old, young = str(uuid.uuid4()), str(uuid.uuid4())
    tell(
        at.broker,
        record(Kind.REVOKED, old, time=time.time() - 3700),
        record(Kind.REVOKED, young),
    )
    refused(at, node, young)
    assert at.send("note", "old", task_id=old).get(timeout=10) == "old"
    assert node.stop() == 0


def test_thousands_of_records_are_known_before_the_first_task_and_cost_no_time(
    place: Places,
) -> None:
    at = place()
    at.node("-c1", "-Q", at.queue).stop()
    ids = [str(uuid.uuid4()) for _ in range(5000)]
    tell(at.broker, *(record(Kind.REVOKED, each) for each in ids))
    first, last = (at.send("note", each, task_id=each) for each in (ids[0], ids[-1]))

    began = time.monotonic()
    node = at.node("-c2", "-Q", at.queue)
    for result in (first, last):
        with pytest.raises(TaskRevokedError):
            result.get(timeout=10)
    assert time.monotonic() - began < 15  # 0.8 s on an idle machine
    assert not node.records(UNREAD)
    assert node.stop() == 0
    assert at.count("start") == {}


# ---------------------------------------------------------------- crashes


def test_crashes_on_other_nodes_count(place: Places) -> None:
    at = place()
    at.node("-c1", "-Q", at.queue).stop()
    name = str(uuid.uuid4())
    crashes = [record(Kind.CRASHED, name, cause="exit code 7", task="work.die") for _ in range(2)]
    tell(at.broker, *crashes, *crashes)  # each counts once

    node = at.node("-c1", "-n", "here@host", "-Q", at.queue)
    with pytest.raises(WorkerLostError, match=r"3 times, last by exit code 3 on node here@host"):
        at.send("die", "x", "exit", task_id=name).get(timeout=20)
    assert node.stop() == 0

    assert at.count("start") == {"x": 1}
    told = [each for each in written(at.broker) if name in each.ids]
    assert len({each.event for each in told}) == 3
    assert (told[-1].origin, told[-1].task) == ("here@host", "work.die")


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_two_nodes_try_a_task_that_kills_its_process_three_times_together(
    place: Places, kind: str
) -> None:
    at = place(type=kind)
    nodes = [at.node("-c1", "-n", name, "-Q", at.queue) for name in ("one", "two")]
    with pytest.raises(WorkerLostError, match="signal 11"):
        at.send("die", "x", "segv").get(timeout=30)
    for node in nodes:
        assert node.stop() == 0
        # while the one has no child, the other gets the message
        assert node.records("child crashed")

    crashes = sum(len(node.records("child crashed")) for node in nodes)
    # once more where the message was faster than the verdict, never without end
    assert 3 <= crashes == at.count("start")["x"] <= 5
    properties, _ = at.dead_letter()
    assert properties.headers["amqtask-dead-reason"] == "crashes"
    assert "SIGSEGV" in properties.headers["amqtask-dead-message"]
    at.all_settled()
    assert at.depth(at.dead) == 0


@pytest.mark.exact("counts the tasks of batches: what was unconfirmed at a cut is published again")
@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_the_neighbours_of_tasks_that_kill_their_process(place: Places, kind: str) -> None:
    at = place(type=kind)
    at.declare()
    names, poison = at.send_notes(50, 0.002, "a"), {}
    for how in POISON:
        poison[how] = at.send("die", how, how)
        names += at.send_notes(50, 0.002, f"{how}-")
    node = at.node("-c2", "--prefetch-multiplier", "100", "-Q", at.queue)

    for how, result in poison.items():
        with pytest.raises(WorkerLostError, match=rf"3 times, last by {POISON[how]} on node "):
            result.get(timeout=40)
    at.everything_done(names)
    assert node.stop() == 0

    # acks that a child took to the grave are no reason to run anything again: the node remembers what it has finished
    assert at.count("end") == Counter(names)
    assert at.count("start") == Counter(names) + Counter(dict.fromkeys(POISON, 3))
    crashed = Counter(line["task_id"] for line in node.records("child crashed"))
    assert crashed == Counter({each.id: 3 for each in poison.values()})
    assert not node.records("crash loop, backing off")
    letters = {}
    while (
        found := at.take()
    ):  # one that was on its way when the next task killed the child comes twice
        letters[found[0].headers["id"]] = found[0].headers
    assert len(letters) == len(poison)
    for how, result in poison.items():
        headers = letters[result.id]
        assert headers["amqtask-dead-reason"] == "crashes"
        assert headers["amqtask-dead-exception"] == "WorkerLostError"
        assert re.search(POISON[how], headers["amqtask-dead-message"])
        assert headers["amqtask-dead-queue"] == at.queue
    at.all_settled()


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_solo_worker_dies_with_its_task_and_only_the_broker_counts(
    place: Places, kind: str
) -> None:
    limit = {"delivery_limit": 1} if kind == "quorum" else {}
    at = place(type=kind, queue=limit)
    node = at.node("-Psolo", "-Q", at.queue)
    at.send("die", "x", "segv", ignore_result=True)
    assert node.wait() == -signal.SIGSEGV
    assert at.node("-Psolo", "-Q", at.queue, ready=False).wait() == -signal.SIGSEGV
    assert at.count("start") == {"x": 2}

    if kind == "quorum":
        properties, _ = at.dead_letter()
        assert properties.headers["x-death"][0]["reason"] == "delivery_limit"
    else:  # a classic queue counts nothing: the next one would die of it, too
        eventually(lambda: at.depth() == 1)


def test_a_child_killed_from_outside_counts_as_by_the_oom_killer(place: Places) -> None:
    at = place(queue={"max_crashes": 1})
    node = at.node("-c1", "-Q", at.queue)
    result = at.send("hold", "x", "never")
    at.saw("start", "x")
    os.kill(at.pids()[0], signal.SIGKILL)

    with pytest.raises(WorkerLostError, match=r"signal 9 \(SIGKILL\)"):
        result.get(timeout=20)
    assert node.stop() == 0
    assert at.count("start") == {"x": 1}


def test_a_task_that_takes_whole_nodes_with_it_meets_the_limit_of_the_broker(
    place: Places,
) -> None:
    at = place(type="quorum", queue={"delivery_limit": 2})
    at.declare()
    at.send("vanish", "x", ignore_result=True)
    for count in (1, 2, 3):
        node = at.node("-c1", "-Q", at.queue, ready=False)
        eventually(lambda count=count: at.count("start")["x"] == count, 60)  # type: ignore[misc]  # bound now
        assert node.wait() == -signal.SIGKILL

    properties, _ = at.dead_letter()
    assert properties.headers["x-death"][0]["reason"] == "delivery_limit"
    assert at.count("start") == {"x": 3}
    at.all_settled()


# ---------------------------------------------------------------- the agent


def test_nothing_is_forgotten_when_the_agent_is_killed(place: Places) -> None:
    at = place(queue={"max_crashes": 2})
    node = at.node("-c1", "-Q", at.queue)
    known, told = str(uuid.uuid4()), str(uuid.uuid4())
    tell(at.broker, record(Kind.REVOKED, known))
    first = eventually(node.agent)
    os.kill(first, signal.SIGKILL)
    tell(at.broker, record(Kind.REVOKED, told))
    poison = at.send("die", "x", "exit")

    with pytest.raises(WorkerLostError):
        poison.get(timeout=20)
    second = eventually(lambda: node.agent() not in (0, first) and node.agent())
    assert alive([second])

    def known_everywhere() -> bool:
        return sum(poison.id in each.ids for each in written(at.broker)) == 2

    eventually(known_everywhere, 20, interval=0.2)
    for name in (known, told):
        with pytest.raises(TaskRevokedError):
            at.send("note", name, task_id=name).get(timeout=10)
    assert node.stop() == 0
    assert at.count("start") == {"x": 2}
    (line,) = node.records("the node's agent died; another follows")
    assert line["how"] == "signal 9"


def test_a_reload_brings_a_new_agent(place: Places) -> None:
    at = place()
    node = at.node("-c1", "-Q", at.queue)
    before = node.agent()
    node.kill(signal.SIGHUP)
    node.wait_ready(times=2)
    eventually(lambda: node.agent() not in (0, before))
    assert node.stop() == 0
    assert not node.records("the node's agent died; another follows")


def test_verdicts_go_on_after_a_restart_of_the_broker(own: OwnBroker, place: Places) -> None:
    at = place(on=own, queue={"max_crashes": 2})
    node = at.node("-c1", "-Q", at.queue)
    before, after = str(uuid.uuid4()), str(uuid.uuid4())
    tell(own, record(Kind.REVOKED, before))
    own.restart()

    def taken() -> bool:
        try:
            tell(own, record(Kind.REVOKED, after))
        except pika.exceptions.UnroutableError:
            return False  # the stream comes up a moment after the broker answers
        return True

    eventually(taken)

    refused(at, node, after)
    with pytest.raises(TaskRevokedError):
        at.send("note", before, task_id=before).get(timeout=10)
    with pytest.raises(WorkerLostError):
        at.send("die", "x", "exit").get(timeout=20)
    assert node.stop() == 0
    assert sum(each.task == "work.die" for each in written(own)) == 2


# ---------------------------------------------------------------- without the stream


@pytest.fixture
def elsewhere(broker: Broker) -> Iterator[Broker]:
    """A virtual host of the test's own, in which there is no stream."""
    with own_vhost(broker) as own:
        assert own is not broker, "this test needs the management API"
        yield own


@pytest.mark.parametrize("flags", ["-c1", "-Psolo"])
def test_a_stream_that_cannot_be_used_is_told_once_and_tasks_run(
    elsewhere: Broker, place: Places, flags: str
) -> None:
    with elsewhere.channel() as channel:
        channel.queue_declare(STREAM, durable=True)  # somebody else's, and no stream
    at = place(on=elsewhere)
    node = at.node(flags, "-Q", at.queue)
    assert at.send("add", 1, 2).get(timeout=10) == 3
    crashes = 3 if flags == "-c1" else 0
    if crashes:
        with pytest.raises(WorkerLostError):  # of its own crashes the node knows
            at.send("die", "x", "exit").get(timeout=20)
    assert node.stop() == 0
    reasons = Counter(line["reason"] for line in node.records(UNUSABLE))
    assert reasons
    assert max(reasons.values()) == 1
    assert at.count("start")["x"] == crashes


def test_a_user_who_may_not_declare_the_stream_is_told_once_and_tasks_run(
    elsewhere: Broker, place: Places
) -> None:
    at = place(on=elsewhere)
    with limited_user(elsewhere, configure="^(?!amqtask.verdicts)") as user:
        node = at.node("-c1", "-b", user.url, "-Q", at.queue)
        assert at.send("add", 1, 2).get(timeout=10) == 3
        with pytest.raises(WorkerLostError, match="3 times, last by exit code 3"):
            at.send("die", "x", "exit").get(timeout=20)
        (line,) = node.says(UNUSABLE)
        assert line["reason"].startswith("403 ACCESS_REFUSED")
        assert node.stop() == 0
    assert at.count("start")["x"] == 3


def test_a_node_that_does_not_declare_works_without_the_stream(
    elsewhere: Broker, place: Places
) -> None:
    at = place(on=elsewhere)
    with elsewhere.channel() as channel:
        channel.queue_declare(at.queue, durable=True)
    node = at.node("-c1", "--no-declare", "-Q", at.queue)
    (line,) = node.says(UNUSABLE)
    assert "no queue 'amqtask.verdicts'" in line["reason"]
    assert at.send("add", 1, 2).get(timeout=10) == 3
    assert node.stop() == 0
