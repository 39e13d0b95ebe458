"""Tasks that run too long, kill their process or grow: contained, named, never run for ever, and no neighbour suffers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import pytest

from amqtask.errors import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from tests.acceptance.nodes import Place
from tests.waiting import eventually

Places = Callable[..., Place]


# ---------------------------------------------------------------- time


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_task_past_its_hard_limit_is_ended_and_not_run_again(place: Places, kind: str) -> None:
    at = place(type=kind)
    node = at.node("-c1", "--prefetch-multiplier", "16", "-Q", at.queue)
    (child,) = node.children()
    result = at.send("linger", "x", True, soft_time_limit=0.3, time_limit=0.8)
    neighbours = at.send_notes(8)
    began = time.monotonic()

    with pytest.raises(TimeLimitExceeded, match=result.id):
        result.get(timeout=10)
    assert time.monotonic() - began < 3
    at.everything_done(neighbours)
    node.whole(1, without=child)
    assert node.stop() == 0

    assert at.count("soft")["x"] == 1  # swallowed
    assert at.count("start") == Counter([*neighbours, "x"])
    assert at.count("end") == Counter(neighbours)
    properties, _ = at.dead_letter()
    assert properties.headers["amqtask-dead-reason"] == "time limit"
    assert properties.headers["amqtask-dead-exception"] == "TimeLimitExceeded"
    assert at.depth() == at.depth(at.dead) == 0
    assert node.records("child ended at a hard limit")
    assert not node.records("child crashed")


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_task_that_holds_the_gil_is_killed_at_its_limit(place: Places, kind: str) -> None:
    at = place(type=kind)
    node = at.node("-c1", "--prefetch-multiplier", "16", "-Q", at.queue)
    result = at.send("spin", "x", time_limit=0.5)
    neighbours = at.send_notes(8)
    at.saw("start", "x")
    began = time.monotonic()

    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=10)
    assert time.monotonic() - began < 4
    at.everything_done(neighbours)
    assert node.stop() == 0

    assert at.count("start") == Counter([*neighbours, "x"])
    (record,) = node.records("child killed")
    assert record["task_id"] == result.id
    assert at.depth() == 0
    assert at.depth(at.dead) == 1


@pytest.mark.parametrize("flags", ["-c1", "-Psolo"])
def test_the_soft_limit_is_raised_in_the_task(place: Places, flags: str) -> None:
    at = place()
    node = at.node(flags, "-Q", at.queue)
    before = node.children()
    clean = at.send("linger", "x", soft_time_limit=0.3)
    assert clean.get(timeout=10) == "cleaned up"
    coroutine = at.send("nap", "y", 60.0, soft_time_limit=0.3)
    with pytest.raises(SoftTimeLimitExceeded):
        coroutine.get(timeout=10)
    # the coroutine saw it at its await, and is not left behind to end inside the next one
    assert at.count("soft") == {"x": 1, "y": 1}
    assert at.send("nap", "z", 0.05).get(timeout=10) == "z"
    assert at.count("end") == {"z": 1}
    assert node.children() == before
    assert node.stop() == 0
    assert at.depth(at.dead) == 1


def test_limits_of_the_command_line(place: Places) -> None:
    at = place()
    node = at.node("-c1", "--soft-time-limit", "0.3", "--time-limit", "5", "-Q", at.queue)
    assert at.send("linger", "x").get(timeout=10) == "cleaned up"
    assert node.stop() == 0


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize("how", ["exit", "segv"])
def test_a_task_that_kills_its_child_is_given_up(place: Places, kind: str, how: str) -> None:
    at = place(type=kind)
    node = at.node("-c1", "--prefetch-multiplier", "16", "-Q", at.queue)
    result = at.send("die", "x", how)
    neighbours = at.send_notes(24)

    with pytest.raises(WorkerLostError, match=r"3 times"):
        result.get(timeout=30)
    at.everything_done(neighbours)
    assert node.stop() == 0

    crashes = node.records("child crashed")
    assert [record["task_id"] for record in crashes] == [result.id] * 3
    assert {record["task_name"] for record in crashes} == {"work.die"}
    named = {"exit": ("exit_code", 3), "segv": ("signal", "SIGSEGV")}[how]
    assert {record[named[0]] for record in crashes} == {named[1]}
    assert at.count("start") == Counter(dict.fromkeys(neighbours, 1) | {"x": 3})
    properties, _ = at.dead_letter()
    assert properties.headers["amqtask-dead-reason"] == "crashes"
    assert properties.headers["id"] == result.id
    assert at.depth() == at.depth(at.dead) == 0


def test_max_crashes_of_a_queue(place: Places) -> None:
    at = place(queue={"max_crashes": 1})
    node = at.node("-c1", "-Q", at.queue)
    with pytest.raises(WorkerLostError):
        at.send("die", "x", "exit").get(timeout=20)
    assert node.stop() == 0
    assert at.count("start") == {"x": 1}


@pytest.mark.parametrize("how", ["exit", "interrupt", "base"])
@pytest.mark.parametrize("flags", ["-c1", "-Psolo"])
def test_what_is_no_exception_ends_the_task_only(place: Places, how: str, flags: str) -> None:
    at = place()
    node = at.node(flags, "-Q", at.queue)
    before = node.children()
    with pytest.raises(Exception, match=r"SystemExit|KeyboardInterrupt|BaseException") as caught:
        at.send("leave", how).get(timeout=10)
    assert isinstance(caught.value, Exception)
    assert at.send("add", 1, 2).get(timeout=10) == 3
    assert node.children() == before
    assert node.stop() == 0


# ---------------------------------------------------------------- recycling


def test_max_tasks_per_child(place: Places) -> None:
    at = place()
    node = at.node("-c2", "--max-tasks-per-child", "5", "-Q", at.queue)
    names = at.send_notes(63)
    at.everything_done(names)
    assert at.send("add", 1, 2).get(timeout=10) == 3
    assert node.stop() == 0

    assert at.count("start") == at.count("end") == Counter(names)
    per_child = Counter(at.pids())
    assert max(per_child.values()) == 5
    # every child but the two that were there at the end did exactly five, `add` included
    assert sum(1 for count in per_child.values() if count != 5) <= 3
    assert not node.records("child crashed")
    assert at.depth() == at.depth(at.dead) == 0


def test_max_memory_per_child(place: Places) -> None:
    at = place()
    node = at.node("-c1", "--max-memory-per-child", str(200 << 10), "-Q", at.queue)
    (child,) = node.children()
    assert at.send("grow", 1).get(timeout=10) == child
    assert at.send("grow", 300).get(timeout=10) == child
    assert at.send("grow", 1).get(timeout=10) != child
    assert node.stop() == 0
    assert at.depth() == 0


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_solo_recycles_too(place: Places, kind: str) -> None:
    at = place(type=kind)
    node = at.node("-Psolo", "--max-tasks-per-child", "3", "-Q", at.queue)
    names = at.send_notes(9)
    at.everything_done(names)
    node.wait_ready(times=4)
    assert node.stop() == 0
    assert at.count("start") == Counter(names)


# ---------------------------------------------------------------- shapes


def test_concurrency_queues_and_processes(place: Places) -> None:
    at = place(more=("second", "third"))
    node = at.node("-c2", "--processes", "2", "-Q", ",".join(at.queues[:2]))
    assert len(node.children()) == 4
    first = [at.send("hold", f"a{n}", "go", queue=at.queues[0]) for n in range(2)]
    second = [at.send("hold", f"b{n}", "go", queue=at.queues[1]) for n in range(2)]
    at.send("note", "c", queue=at.queues[2], ignore_result=True)
    eventually(lambda: sum(at.count("start").values()) == 4, 10)  # all four at a time
    assert len(set(at.pids())) == 4
    at.release("go")
    for result in (*first, *second):
        result.get(timeout=10)
    assert node.stop() == 0
    assert at.depth(at.queues[2]) == 1  # nobody was told to work on it


def test_who_runs_and_what_it_logs(place: Places) -> None:
    at = place()
    node = at.node("-c1", "-n", "one@%h", "-Q", at.queue)
    result = at.send("who")
    found = result.get(timeout=10)
    assert (found["id"], found["task"]) == (result.id, "work.who")
    assert found["host"].startswith("one@")
    assert found["pid"] in node.children()
    for event in ("asked", "asked too"):
        (record,) = node.says(event)
        assert (record["task_id"], record["task_name"]) == (result.id, "work.who")
    assert node.stop() == 0
