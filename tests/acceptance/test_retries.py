"""Retries between real processes: each option, what the caller sees, what is kept, and a kill at the worst moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from amqtask.errors import MaxRetriesExceededError, TaskFailed
from tests.acceptance.nodes import Node, Place, elapsed
from tests.waiting import eventually

Places = Callable[..., Place]


@pytest.fixture
def at(place: Places) -> Place:
    return place()


@pytest.fixture
def node(at: Place) -> Iterator[Node]:
    node = at.node("-c1", "-Q", at.queue)
    yield node
    assert node.stop() == 0
    at.all_settled()
    assert not node.records("a callback on the I/O thread failed"), node.output


def attempts(at: Place, what: str) -> int:
    """How often it ran; each attempt once."""
    starts = at.count("start")
    made = {number: starts[f"{what}#{number}"] for number in range(20)}
    assert set(made.values()) <= {0, 1}, made
    assert all(made[number] for number in range(sum(made.values())))
    return sum(made.values())


def test_retries_until_it_succeeds(at: Place, node: Node) -> None:
    result = at.send("flaky", "x", 3)
    eventually(lambda: result.state == "RETRY", 10)
    assert not result.ready()
    why = result.result
    assert isinstance(why, TaskFailed)
    assert "not yet" in str(why)
    assert "in flaky" in str(result.traceback)

    took = elapsed(lambda: result.get(timeout=20))

    assert result.get() == "x"
    assert attempts(at, "x") == 4
    assert took > 0.3
    lines = node.says("retry scheduled", 5, times=3)
    assert [line["retries"] for line in lines] == [1, 2, 3]
    assert all(0.1 < line["delay"] <= 0.2 for line in lines)
    assert {line["exception"] for line in lines} == {"Broken"}
    assert all(line["level"] == "info" for line in lines)


@pytest.mark.usefixtures("node")
def test_beyond_the_limit(at: Place) -> None:
    with pytest.raises(TaskFailed, match="x") as failed:
        at.send("hopeless", "x", True).get(timeout=20)
    assert failed.value.exc_type == "Broken"
    properties, _ = at.dead_letter()
    headers = properties.headers
    assert attempts(at, "x") == 3
    assert headers["amqtask-dead-attempts"] == 3
    assert headers["amqtask-dead-exception"] == "Broken"
    assert headers["amqtask-dead-first-time"] < headers["amqtask-dead-time"]
    assert headers["retries"] == 2

    task = at.send("hopeless", "y", False)
    with pytest.raises(
        MaxRetriesExceededError, match=r"Can't retry work.hopeless\[.*\] args:\('y'"
    ):
        task.get(timeout=20)
    assert attempts(at, "y") == 3
    at.dead_letter()


@pytest.mark.usefixtures("node")
def test_exceptions_and_policies(at: Place) -> None:
    sent = {
        how: at.send("troubled", how, how)
        for how in ("timeout", "missing", "reset", "limited", "key")
    }
    succeeds = at.send("troubled", "once", "limited", 1)
    by_hand = at.send("troubled", "hand", "retry", 2)
    for result in sent.values():
        with pytest.raises(Exception):  # noqa: B017, PT011  # each its own; only the counts matter
            result.get(timeout=20)

    assert succeeds.get(timeout=20) == "once"
    assert by_hand.get(timeout=20) == "hand"
    counts = {how: attempts(at, how) for how in (*sent, "once", "hand")}
    assert counts == {
        "timeout": 4, "missing": 1, "reset": 2, "limited": 2, "key": 1, "once": 2, "hand": 3,
    }  # fmt: skip
    assert isinstance(sent["timeout"].result, TimeoutError)
    assert isinstance(sent["missing"].result, FileNotFoundError)


@pytest.mark.usefixtures("node")
def test_the_time_for_retries(at: Place) -> None:
    result = at.send("hurried", "x")
    with pytest.raises(TimeoutError, match="slow"):
        result.get(timeout=20)
    # 0, 0.3, 0.6, 0.9: never one that begins after 1.0; fewer when the machine is slow
    assert 2 <= attempts(at, "x") <= 4


def test_everything_is_kept_but_what_is_changed(place: Places) -> None:
    at = place(queue={"max_priority": 9})
    at.node("-c1", "-Q", at.queue)
    result = at.send(
        "change", "x", priority=7, expires=60, time_limit=50, soft_time_limit=40,
        headers={"mine": [1, {"two": 2.5}]}, serializer="msgpack", compression="gzip",
    )  # fmt: skip

    assert result.get(timeout=20) == {
        "what": "x!",
        "tries": 1,
        "priority": 3,
        "routing_key": at.queue,
        "exchange": "",
        "headers": {"mine": [1, {"two": 2.5}]},
        "retries": 1,
        "eta": True,
        "expires": True,
        "limits": [50, 40],
    }


@pytest.mark.usefixtures("node")
def test_a_task_that_goes_on_after_asking(at: Place) -> None:
    sent = {how: at.send("goes_on", how, how) for how in ("return", "raise", "ignore", "reject")}
    for how in ("return", "raise", "ignore"):
        assert sent[how].get(timeout=20) == "the second"
        assert attempts(at, how) == 2
    with pytest.raises(Exception, match="after all"):
        sent["reject"].get(timeout=20)
    properties, _ = at.dead_letter()
    assert properties.headers["amqtask-dead-reason"] == "rejected"
    assert attempts(at, "reject") == 1
    assert at.count("after") == {"return": 1, "raise": 1, "ignore": 1, "reject": 1}


def test_coroutines_and_exceptions_that_are_expected(at: Place, node: Node) -> None:
    assert at.send("naps", "x", "return").get(timeout=20) == "x"
    with pytest.raises(KeyError, match="expected"):
        at.send("naps", "y", "raise").get(timeout=20)
    assert (attempts(at, "x"), attempts(at, "y")) == (2, 2)
    (line,) = node.says("task did not succeed", 5)
    assert (line["level"], line["retries"]) == ("info", 1)
    assert "traceback" not in line


@pytest.mark.usefixtures("node")
def test_a_task_that_is_acked_before_it_runs(at: Place) -> None:
    assert at.send("eager_ack", "x").get(timeout=20) == "x"
    assert attempts(at, "x") == 2


@pytest.mark.usefixtures("node")
def test_a_next_attempt_that_cannot_be_sent_fails_the_task(at: Place) -> None:
    with pytest.raises(Exception, match="headers_max_bytes"):
        at.send("unsendable").get(timeout=20)
    at.dead_letter()


@pytest.mark.exact("its first attempt has 0.15 s to begin")
@pytest.mark.usefixtures("node")
def test_a_retry_that_comes_too_late_is_revoked(at: Place) -> None:
    result = at.send("flaky", "x", 3, expires=0.15)
    with pytest.raises(Exception, match="expired"):
        result.get(timeout=20)
    assert result.state == "REVOKED"
    assert attempts(at, "x") == 1


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_killed_between_the_next_attempts_confirm_and_the_ack(place: Places, kind: str) -> None:
    at = place(type=kind)
    node = at.node("-c1", "-Q", at.queue)
    began = time.monotonic()
    result = at.send("dies_before_its_ack", "x")

    assert result.get(timeout=30) == "x"
    # The first attempt was not acked and comes again; the node knows that it ended, so nothing is ordered twice.
    eventually(lambda: at.count("end")["x"], 20)
    assert node.stop() == 0
    assert at.count("start") == {"x#0": 1, "x#1": 1}
    at.all_settled()
    assert at.depth(at.dead) == 0
    assert time.monotonic() - began < 30
