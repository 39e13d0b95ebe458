"""Processes killed at any instant: nothing lost, duplicates bounded, replaced at once, nobody left."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.acceptance.nodes import Place
from tests.waiting import eventually

Places = Callable[..., Place]

# What a killed child may leave to run again: the task under way, and short ones that had ended but whose acks waited a few
# milliseconds for company.
PER_CHILD = 8


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_killed_children_lose_nothing(place: Places, kind: str) -> None:
    at = place(type=kind)
    node = at.node("-c", "2", "-Q", at.queue)
    names = at.send_notes(1500, 0.002)
    rng = random.Random(5)
    kills = 6
    took = []
    for kill in range(kills):
        # at any instant of the load: after some more have been done, whatever runs now
        at.finished((kill + 1) * 100)
        victim = rng.choice(node.whole(2))
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        node.whole(2, without=victim)
        took.append(time.monotonic() - began)
    assert min(took) < 1  # a busy machine may have been slow now and then

    at.everything_done(names)
    assert node.stop() == 0

    assert set(at.count("end")) == set(names)
    assert at.depth() == at.depth(at.dead) == 0
    assert sum(at.count("start").values()) - len(names) <= kills * PER_CHILD
    crashes = node.records("child crashed")
    assert len(crashes) == kills
    assert {record["signal"] for record in crashes} == {"SIGKILL"}


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_second_node_takes_over_from_a_killed_supervisor(place: Places, kind: str) -> None:
    at = place(type=kind)
    first = at.node("-c", "2", "-Q", at.queue, "-n", "first")
    for _ in range(2):
        at.send("hold", "stuck", "go", ignore_result=True)
    eventually(lambda: at.count("start")["stuck"] == 2, 10)
    second = at.node("-c", "2", "-Q", at.queue, "-n", "second")
    held = at.send_notes(16, prefix="held-")  # some of them prefetched by the first
    family = first.family()

    first.kill(signal.SIGKILL)
    killed = time.monotonic()
    eventually(lambda: at.count("start")["stuck"] == 4, 5)
    redelivered = time.monotonic() - killed
    first.gone(family)
    at.release("go")
    at.everything_done([*held, "stuck"])
    assert second.stop() == 0

    assert redelivered < 2
    assert at.count("end") == dict.fromkeys(held, 1) | {"stuck": 2}
    assert at.depth() == at.depth(at.dead) == 0


def test_a_supervisor_killed_under_load(place: Places) -> None:
    at = place(type="quorum")
    node = at.node("-c", "2", "-Q", at.queue, "-n", "zero")
    names = at.send_notes(1000, 0.002)
    for number, count in enumerate((150, 400), 1):
        at.finished(count)
        victim, node = node, at.node("-c", "2", "-Q", at.queue, "-n", f"node{number}")
        family = victim.family()
        victim.kill(signal.SIGKILL)
        victim.gone(family)

    at.everything_done(names)
    assert node.stop() == 0
    assert at.depth() == at.depth(at.dead) == 0
    assert sum(at.count("start").values()) - len(names) <= 2 * 2 * PER_CHILD


def test_what_a_task_forked_does_not_delay_redelivery(place: Places) -> None:
    at = place()
    node = at.node("-c", "2", "-Q", at.queue)
    at.send("leave_a_process", "x", ignore_result=True)
    at.saw("start", "x")
    family = node.family()

    os.kill(at.pids()[0], signal.SIGKILL)
    began = time.monotonic()
    eventually(lambda: at.count("start")["x"] == 2, 5)
    assert time.monotonic() - began < 2

    family += node.family()
    node.kill(signal.SIGKILL)
    node.gone(family)


def test_a_task_terminates_a_process_it_started(place: Places) -> None:
    at = place()
    node = at.node("-c", "1", "-Q", at.queue)
    pid = node.children()
    assert at.send("start_a_process").get(timeout=20) == -signal.SIGTERM
    assert at.send("add", 1, 2).get(timeout=10) == 3
    assert node.children() == pid
    assert node.stop() == 0


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_killed_between_the_results_confirm_and_the_ack(place: Places, kind: str) -> None:
    at = place(type=kind)
    node = at.node("-c", "1", "-Q", at.queue)
    result = at.send("dies_with_its_result_out", "x")
    assert result.get(timeout=20) == "x"  # it is out before the ack, so never lost
    node.says("child crashed")
    # the message comes again, to a process that reads what the dead one had finished
    node.says("finished before, not run again")
    assert at.send("add", 1, 2).get(timeout=20) == 3
    assert node.stop() == 0
    assert at.depth() == at.depth(at.dead) == 0
    assert at.count("start") == {"x": 1}
