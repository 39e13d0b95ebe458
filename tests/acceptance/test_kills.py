"""Processes killed at any instant: nothing lost, duplicates bounded, replaced at once, nobody left."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.acceptance.nodes import Node, Place, alive
from tests.waiting import eventually

Places = Callable[..., Place]


def everything_done(place: Place, names: list[str], timeout: float = 40.0) -> None:
    eventually(lambda: set(place.count("end")) >= set(names), timeout, interval=0.05)


@pytest.mark.parametrize("type", ["classic", "quorum"])
def test_killed_children_lose_nothing(place: Places, type: str) -> None:  # noqa: A002
    at = place(type=type)
    node = at.node("-c", "2", "-Q", at.queue)
    names = at.send_notes(1500, 0.002)
    rng = random.Random(5)
    kills = 6
    for kill in range(kills):
        # at any instant of the load: after some more have been done, whatever runs now
        eventually(lambda want=(kill + 1) * 100: sum(at.count("end").values()) >= want, 20)
        running = eventually(lambda: len(node.children()) == 2 and node.children(), 5)
        os.kill(rng.choice(running), signal.SIGKILL)
        began = time.monotonic()
        eventually(lambda: set(node.children()) - set(running) and len(node.children()) == 2, 5)
        assert time.monotonic() - began < 2

    everything_done(at, names)
    assert node.stop() == 0

    done = at.count("end")
    assert set(done) == set(names)
    assert at.depth() == at.depth(at.dead) == 0
    # A killed child had at most one task under way, and finished ones whose acks were waiting for company.
    assert sum(at.count("start").values()) - len(names) <= kills * 8
    crashes = node.records("child crashed")
    assert len(crashes) == kills
    assert {record["signal"] for record in crashes} == {"SIGKILL"}


@pytest.mark.parametrize("type", ["classic", "quorum"])
def test_a_second_node_takes_over_from_a_killed_supervisor(place: Places, type: str) -> None:  # noqa: A002
    at = place(type=type)
    first = at.node("-c", "2", "-Q", at.queue, "-n", "first")
    at.send("hold", "stuck", "never", ignore_result=True)
    at.send("hold", "stuck", "never", ignore_result=True)
    eventually(lambda: at.count("start")["stuck"] == 2, 10)
    second = at.node("-c", "2", "-Q", at.queue, "-n", "second")
    held = at.send_notes(16, 0.0, "held-")  # prefetched by both
    family = first.family()

    first.kill(signal.SIGKILL)
    killed = time.monotonic()
    eventually(lambda: at.count("start")["stuck"] == 4, 5)
    redelivered = time.monotonic() - killed
    eventually(lambda: not alive(family), 5)
    at.release("never")
    everything_done(at, [*held, "stuck"])
    assert second.stop() == 0

    assert redelivered < 2
    assert at.count("end") == dict.fromkeys(held, 1) | {"stuck": 2}
    assert at.depth() == at.depth(at.dead) == 0


def test_a_supervisor_killed_under_load(place: Places) -> None:
    at = place(type="quorum")
    nodes: list[Node] = [at.node("-c", "2", "-Q", at.queue, "-n", "zero")]
    names = at.send_notes(1000, 0.002)
    for number, count in enumerate((150, 400), 1):
        eventually(lambda count=count: sum(at.count("end").values()) >= count, 20)
        victim = nodes[-1]
        nodes.append(at.node("-c", "2", "-Q", at.queue, "-n", f"node{number}"))
        family = victim.family()
        victim.kill(signal.SIGKILL)
        eventually(lambda family=family: not alive(family), 5)

    everything_done(at, names)
    assert nodes[-1].stop() == 0
    assert at.depth() == at.depth(at.dead) == 0
    assert sum(at.count("start").values()) - len(names) <= 2 * 2 * 8


def test_what_a_task_forked_does_not_delay_redelivery(place: Places) -> None:
    at = place()
    node = at.node("-c", "2", "-Q", at.queue)
    at.send("leave_a_process", "x", ignore_result=True)
    at.saw("start", "x")
    first = at.pids()[0]
    os.kill(first, signal.SIGKILL)
    began = time.monotonic()
    eventually(lambda: at.count("start")["x"] == 2, 5)
    assert time.monotonic() - began < 2
    left = node.family()
    node.kill(signal.SIGKILL)
    eventually(lambda: not alive(left), 5)


def test_a_task_terminates_a_process_it_started(place: Places) -> None:
    at = place()
    node = at.node("-c", "1", "-Q", at.queue)
    pid = node.children()
    assert at.send("start_a_process").get(timeout=20) == -signal.SIGTERM
    assert at.send("add", 1, 2).get(timeout=10) == 3
    assert node.children() == pid
    assert node.stop() == 0
