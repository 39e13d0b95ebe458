"""Nodes replaced under load, as deploys and schedulers of containers do it: no message lost, repeated, charged or kept waiting."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.acceptance.nodes import Place
from tests.waiting import eventually

Places = Callable[..., Place]

DEADLINE = 2.0  # seconds


def limited(at: Place, limit: int) -> None:
    """Allow few failed deliveries, where the broker does not count what is given back as one."""
    if at.broker.version >= (4, 3):
        at.write_topology({"type": "quorum", "dead_letter": True, "delivery_limit": limit})


@pytest.mark.timeout(300)  # fourteen starts on a busy machine
def test_rolling_restarts_over_a_prefetched_backlog(place: Places) -> None:
    at = place(type="quorum")
    limited(at, 3)
    at.declare()
    names = at.send_notes(500, 0.03)
    flags = ("-Psolo", "--prefetch-multiplier", "64", "-Q", at.queue)
    node = at.node(*flags, "-n", "zero")
    # one more is always on its way: a start is mostly imports, which need no broker
    coming = at.node(*flags, "-n", "node1", ready=False)
    done = 0
    for number in range(2, 14):
        # at least one task more each time, and the rest of the prefetch goes back
        at.finished(min(done + 1, len(names)))
        following = at.node(*flags, "-n", f"node{number}", ready=False)
        coming.wait_ready()
        assert node.stop() == 0
        node, coming = coming, following
        done = sum(at.count("end").values())

    at.everything_done(names)
    coming.wait_ready()
    assert node.stop() == coming.stop() == 0
    assert at.count("start") == at.count("end") == Counter(names)
    assert at.depth() == at.depth(at.dead) == 0


@pytest.mark.parametrize(("flags", "number"), [("-c2", signal.SIGTERM), ("-Psolo", signal.SIGQUIT)])
def test_a_stop_with_a_deadline_under_load(
    place: Places, flags: str, number: signal.Signals
) -> None:
    at = place(type="quorum", worker_soft_shutdown_timeout=DEADLINE)
    limited(at, 1)
    at.declare()
    slots = 1 if flags == "-Psolo" else 2
    first = at.node(flags, "--prefetch-multiplier", "1000", "-Q", at.queue, "-n", "first")
    for _ in range(slots):  # one for each child: they get them in turn
        at.send("hold", "stuck", "go", ignore_result=True)
    eventually(lambda: at.count("start")["stuck"] == slots, 10)
    names = at.send_notes(900)
    eventually(lambda: at.depth() == 0, 10, interval=0.05)  # all of it waits behind what is stuck
    second = at.node("-c1", "-Q", at.queue, "-n", "second")

    first.kill(number)
    began = time.monotonic()
    # what has not started goes back at once, not at the deadline
    eventually(lambda: sum(at.count("start").values()) > slots + 10, DEADLINE - 0.1)
    assert first.process.poll() is None
    assert first.wait(10) == 0
    took = time.monotonic() - began

    assert DEADLINE - 0.1 < took < DEADLINE + 4
    at.release("go")
    at.everything_done([*names, "stuck"])
    eventually(lambda: at.count("end")["stuck"] == slots, 10)
    assert second.stop() == 0
    assert at.count("start") == Counter(names) + Counter(stuck=2 * slots)
    assert at.depth() == at.depth(at.dead) == 0


def test_a_task_that_ends_within_the_deadline_is_not_interrupted(place: Places) -> None:
    at = place(worker_soft_shutdown_timeout=20.0)
    node = at.node("-c1", "-Q", at.queue)
    result = at.send("hold", "x", "go")
    at.saw("start", "x")
    node.kill(signal.SIGQUIT)
    node.says("soft shutdown")
    at.release("go")

    assert node.wait(10) == 0
    assert result.get(timeout=10) == "x"
    assert at.count("start") == {"x": 1}
    assert at.depth() == 0


@pytest.mark.parametrize("flags", ["-c1", "-Psolo"])
def test_a_second_term_is_cold(place: Places, flags: str) -> None:
    at = place(type="quorum")
    node = at.node(flags, "-Q", at.queue)
    at.send("hold", "x", "never", ignore_result=True)
    at.saw("start", "x")
    at.send_notes(3)
    node.kill(signal.SIGTERM)
    eventually(lambda: at.depth() == 3, 10, interval=0.05)
    node.kill(signal.SIGTERM)

    assert node.wait(5) == 0
    assert at.depth() == 4
    assert at.depth(at.dead) == 0


def test_cold_stops_under_load_repeat_what_ran_and_no_more(place: Places) -> None:
    at = place(type="quorum")
    limited(at, 3)
    at.declare()
    names = at.send_notes(500, 0.002)
    for number, flags in enumerate(("-c2", "-Psolo", "-c2"), start=1):
        node = at.node(flags, "-Q", at.queue)
        at.finished(number * 90)
        assert node.stop(signal.SIGQUIT) == 0
    node = at.node("-c2", "-Q", at.queue)
    at.everything_done(names)
    assert node.stop() == 0

    assert sum(at.count("start").values()) - len(names) <= 2 + 1 + 2
    assert at.depth() == at.depth(at.dead) == 0


def test_recycling_and_reloads_under_load_repeat_nothing(place: Places) -> None:
    at = place(type="quorum")
    limited(at, 1)
    at.declare()
    node = at.node(
        "-c2", "--max-tasks-per-child", "40", "--prefetch-multiplier", "16", "-Q", at.queue
    )
    names = at.send_notes(400, 0.004)
    for number in (1, 2):
        at.finished(number * 120)
        node.kill(signal.SIGHUP)
        node.wait_ready(times=number + 1)

    at.everything_done(names)
    assert node.stop() == 0
    assert at.count("start") == at.count("end") == Counter(names)
    assert not node.records("child crashed")
    assert at.depth() == at.depth(at.dead) == 0
