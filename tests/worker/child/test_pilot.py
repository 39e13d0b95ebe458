"""The autopilot looks on as long as anything could be hoarded, and gives it back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from amqtask.worker.child import pilot
from amqtask.worker.child.pilot import HOARD, Pilot


class Slot:
    """What the autopilot sees of a slot."""

    def __init__(self) -> None:
        self.ended = 0
        self.busy = 0.0
        self.running_since = 0.0


class Child:
    """A child: what it holds, what it was told, and when its autopilot looks next. One slot works, and may hold up the others."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = [Slot() for _ in range(slots)]
        self.slot = self.slots[0]
        self.comes = True  # the slots come to what is handed over
        self.held: list[Any] = []  # and not started
        self.running = 0
        self.given: list[Any] = []
        self.prefetches: list[int] = []
        self.consumes = True
        self.look: Callable[[], None] | None = None
        child = cast("Any", self)
        self.pilot = Pilot(
            child,
            child.slots,
            child,
            self.prefetches.append,
            self.pause,
            self.resume,
            self.unsettled,
        )

    def arrive(self, *deliveries: Any) -> None:
        self.held += deliveries
        self.pilot.wake()

    def start(self, ago: float = 0.0) -> None:
        self.held.pop(0)
        self.running = 1
        self.slot.running_since = time.monotonic() - ago

    def end(self, seconds: float, count: int = 1) -> None:
        self.running = 0
        self.slot.running_since = 0.0
        self.slot.ended += count
        self.slot.busy += seconds

    def looks(self) -> bool:
        """Carry out the next look, if there will be one."""
        look, self.look = self.look, None
        if look is not None:
            look()
        return look is not None

    # what the autopilot asks for

    def call_later(self, _seconds: float, look: Callable[[], None]) -> None:
        assert self.look is None
        self.look = look

    def take_back(self) -> list[Any]:
        taken, self.held = self.held, []
        return taken

    def hand_over(self, batch: list[Any]) -> None:
        self.held += batch

    def waiting(self) -> int:
        return len(self.held)

    def heard(self) -> bool:
        return self.comes

    def pause(self, given: Any) -> None:
        self.consumes = False
        self.given += given

    def resume(self) -> None:
        self.consumes = True

    def unsettled(self) -> int:
        return len(self.held) + self.running


def test_what_has_not_begun_is_looked_at_again() -> None:
    child = Child()
    child.arrive("long", "waits")
    assert child.looks()  # too early: the slot has not even found them
    child.start(ago=HOARD + 0.1)
    assert child.looks()
    assert child.given == ["waits"]
    assert not child.consumes

    child.end(5.0)
    assert child.looks()
    assert child.consumes


def test_nobody_looks_when_there_is_nothing_to_see() -> None:
    child = Child()
    child.arrive("one")
    child.start()
    child.end(0.05)
    while child.looks():
        pass
    assert child.unsettled() == 0


def test_what_came_when_tasks_were_shorter_is_given_back() -> None:
    child = Child()
    child.arrive(*range(300))
    child.held = child.held[200:]
    child.end(0.2, count=200)
    assert child.looks()
    assert child.prefetches == [100]
    child.held = child.held[1:]
    child.end(0.24)
    assert child.looks()
    assert child.prefetches == [100, 1]
    assert (child.held, child.given) == ([201], [*range(202, 300)])
    assert child.consumes


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits beside free slots from one look to the next has waited for long."""
    monkeypatch.setattr(pilot, "STUCK", 0.0)


@pytest.mark.usefixtures("at_once")
def test_what_waits_for_a_loop_that_is_held_up_is_given_back() -> None:
    child = Child(10)
    child.arrive("holds it up", *range(30))
    child.start()
    child.comes = False
    assert child.looks()
    assert child.looks()
    assert (child.held, child.given) == ([], [*range(30)])
    assert child.prefetches == [2]
    child.arrive("late")
    assert child.looks()
    assert child.given[-1] == "late"
    for _ in range(3):  # as long as the loop does not move, with nine free slots
        assert not child.consumes
        assert child.looks()

    child.comes = True  # it waits for something now, and lets the others go on
    assert child.looks()
    assert child.consumes


@pytest.mark.usefixtures("at_once")
def test_little_is_consumed_until_nothing_waits() -> None:
    child = Child(10)
    child.arrive("holds it up", *range(30))
    child.start()
    assert child.looks()
    assert child.looks()
    for _ in range(5):
        child.end(0.5)
        assert child.looks()
    assert child.prefetches == [2, 4, 8, 11]  # what runs, and a tenth of a second of work more


@pytest.mark.usefixtures("at_once")
def test_what_waits_for_a_loop_that_goes_on_stays() -> None:
    child = Child(10)
    child.arrive(*range(30))
    for _ in range(5):
        assert child.looks()
        child.end(0.001, count=1_000_000)
    assert (child.held, child.given) == ([*range(30)], [])
