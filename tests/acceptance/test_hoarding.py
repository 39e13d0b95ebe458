"""The prefetch autopilot: no slow slot hoards what an idle one could run, whatever order short and long tasks come in.

Each case has a node of its own with two slots, and all nodes work at the same time: their tasks sleep, so that they do not slow
each other down. How long each task took is measured by the task itself. From these lengths a pure function tells how long two
slots would need that never wait, taking the tasks in the order they were sent in; the node may need 15 % more. What this machine
needs for a task beside the task's own time, of which a busy one makes milliseconds, is measured too, and belongs to the lengths.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.acceptance.nodes import Node, Place
from tests.brokers import Broker
from tests.waiting import eventually

SLOTS = Path(__file__).with_name("slots.py")
SHORT, LONG = 0.001, 5.0
AT_MOST = 1.15  # times the ideal
IDLE = 0.2 * LONG  # seconds that a slot may wait for a task that another could have left to it
COST = 0.05  # seconds at most that a task may need beside its own time; more is a slot that waits

pytestmark = [
    pytest.mark.exact("measures how long the work takes"),
    pytest.mark.timeout(240),  # the first test waits for the work of all
]


def ideal(lengths: Sequence[float], slots: int) -> float:
    """How long so many slots need that take tasks in this order, each as soon as it is free."""
    free = [0.0] * slots
    for length in lengths:
        heapq.heappush(free, heapq.heappop(free) + length)
    return max(free)


def idle(spans: Sequence[tuple[int, float, float]]) -> float:
    """The longest time that a slot ran nothing, up to the start of the last task.

    Args:
        spans: slot, begin and end of each task.
    """
    last = max(began for _, began, _ in spans)
    free = dict.fromkeys((slot for slot, _, _ in spans), min(b for _, b, _ in spans))
    longest = 0.0
    for slot, began, ended in sorted(spans, key=lambda span: span[1]):
        longest = max(longest, began - free[slot])
        free[slot] = max(free[slot], ended)
    return max(longest, *(last - since for since in free.values()))


def cost(spans: Sequence[tuple[int, float, float]]) -> float:
    """What a task took beside its own time: the mean from the end of one to the begin of the next in its slot."""
    ended: dict[int, float] = {}
    between = []
    for slot, began, end in sorted(spans, key=lambda span: span[1]):
        if slot in ended:
            between.append(min(COST, began - ended[slot]))
        ended[slot] = end
    return statistics.mean(between)


def shuffled(seed: int) -> list[float]:
    """Long tasks somewhere between short ones."""
    found = [LONG] * 2 + [SHORT] * 300
    random.Random(seed).shuffle(found)
    return found


PREFORK, THREADS = ("-c2",), ("-Pthreads", "-c2")
TWO = ("-Pthreads", "-c1", "--processes", "2")
LOOPS, HUBS = ("-Pasyncio", "-c10", "--processes", "2"), ("-Pgevent", "-c10", "--processes", "2")


class Case(NamedTuple):
    """Work for one node."""

    flags: tuple[str, ...]
    lengths: list[float]
    type: str = "quorum"
    task: str = "timed"


CASES = {
    "slow first": Case(PREFORK, [LONG] * 2 + [SHORT] * 300),
    "slow last": Case(PREFORK, [SHORT] * 300 + [LONG] * 2),
    "slow last, classic": Case(PREFORK, [SHORT] * 300 + [LONG] * 2, "classic"),
    "middling last": Case(PREFORK, [SHORT] * 300 + [0.24] * 48),
    "interleaved": Case(PREFORK, ([SHORT] * 75 + [LONG / 2]) * 4),
    "one by one": Case(PREFORK, [SHORT, LONG / 2] * 4),
    "only slow": Case(PREFORK, [LONG / 2] * 4),
    **{f"seed {seed}": Case(PREFORK, shuffled(seed)) for seed in (1, 2)},
    "threads": Case(THREADS, shuffled(3)),
    "two processes": Case(TWO, [SHORT] * 300 + [0.24] * 48),
    # Slots that are free but held up, by the one that does not give way: each process is one slot.
    "a held loop": Case(LOOPS, [LONG] + [SHORT] * 300, task="aheld"),
    "held now and then": Case(LOOPS, [0.24] * 48, task="aheld"),
    "a held hub": Case(HUBS, [LONG] + [SHORT] * 300, task="held"),
}


class Work:
    """One case at work."""

    def __init__(self, case: Case, at: Place, node: Node) -> None:
        self._case = case
        self._at = at
        self.node = node
        with at.app.batch():
            for number, length in enumerate(case.lengths):
                at.send(case.task, number, length, ignore_result=True)

    def done(self) -> list[tuple[int, float, float]]:
        """Wait for the end; slot, begin and end of each task, in the order they were sent in."""
        times = self._at.path / "times"
        count = len(self._case.lengths)

        def ended() -> list[str]:
            lines = times.read_text().splitlines() if times.exists() else []
            return lines if len(lines) >= count else []

        lines = eventually(ended, 30 + sum(self._case.lengths), interval=0.2)
        found = {}
        for number, slot, began, end in map(str.split, lines):
            found[int(number)] = int(slot), float(began), float(end)
        assert len(found) == len(lines) == count  # each ran once
        return [found[number] for number in range(count)]

    def dead(self) -> int:
        """How many messages became dead letters."""
        return self._at.depth(self._at.dead)


@pytest.fixture(scope="module")
def works(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Work]]:
    """All cases, at work."""
    with ExitStack() as stack:
        nodes = {}
        for name, case in CASES.items():
            folder = tmp_path_factory.mktemp("place")
            at = stack.enter_context(Place(folder, broker, tasks=SLOTS, type=case.type))
            nodes[name] = at, at.node(*case.flags, "-Q", at.queue, ready=False)
        for _, node in nodes.values():
            node.wait_ready()
        yield {name: Work(CASES[name], *pair) for name, pair in nodes.items()}


@pytest.mark.parametrize("name", CASES)
def test_no_slot_hoards_what_an_idle_one_could_run(works: dict[str, Work], name: str) -> None:
    spans = works[name].done()
    took = max(ended for _, _, ended in spans) - min(began for _, began, _ in spans)
    lengths = [ended - began + cost(spans) for _, began, ended in spans]

    assert took <= AT_MOST * ideal(lengths, 2)
    assert idle(spans) <= IDLE
    assert works[name].node.stop() == 0
    assert (
        works[name].dead() == 0
    )  # given back again and again, by a broker's count, but never too often


def test_the_ideal() -> None:
    assert ideal([5, 1, 1, 1], 2) == 5
    assert ideal([1, 1, 5], 2) == 6
    assert ideal([3, 3, 3], 2) == 6
    assert ideal([1, 2, 3], 1) == 6


def test_idle() -> None:
    assert idle([(1, 0.0, 5.0), (2, 0.0, 2.0), (2, 2.0, 9.0)]) == 0
    assert idle([(1, 0.0, 5.0), (2, 1.0, 2.0), (1, 6.0, 7.0)]) == 4  # 2 could have had the last
    assert idle([(1, 0.0, 5.0), (2, 3.0, 4.0), (2, 6.0, 7.0)]) == 3


def test_cost() -> None:
    spans = [(1, 0.0, 5.0), (1, 5.002, 6.0), (1, 6.004, 7.0), (2, 0.0, 1.0), (2, 1.0, 2.0)]
    assert cost(spans) == pytest.approx(0.002)
    assert cost([*spans, (2, 6.0, 7.0)]) == pytest.approx((0.006 + COST) / 4)
