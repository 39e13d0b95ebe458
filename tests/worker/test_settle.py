"""Settlements on their way from a slot to the broker: none waits for the slot, whatever the slot does next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from amqtask.amqp.threaded.loop import IoThread
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.core.outcome import Settlement, Verdict
from amqtask.core.settlement import DONE
from amqtask.errors import PublishNacked
from amqtask.worker.journal import Ended, Journal, mark_of
from amqtask.worker.settle import LINGER, Settler
from tests.waiting import eventually


class Verdicts:
    """Stands where the consumer stands and keeps what it is told: there is no broker in these tests."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def settle(self, delivery: Any, verdict: Verdict) -> None:
        assert verdict is Verdict.ACK
        self.given.append(delivery.name)


@pytest.fixture
def io() -> Iterator[IoThread]:
    thread = IoThread("test-settle")
    thread.start()
    yield thread
    thread.stop()


def _pause(seconds: float) -> None:
    """Be a task of so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_what_follows_a_second_wake_closely_is_settled_while_the_slot_is_busy(io: IoThread) -> None:
    verdicts = Verdicts()
    settler = Settler(io, cast(Any, verdicts), cast(Any, None), 10, Journal(1).seat(0))
    settler.set_window(4)

    def post(name: str) -> None:
        settler.post(cast(Any, SimpleNamespace(name=name)), DONE, None)

    for _ in range(20):
        verdicts.given.clear()
        post("first")  # wakes the I/O thread, which looks again one LINGER later
        _pause(LINGER * 0.8)
        post("second")
        settler.flush()  # wakes it again just before that look, which then finds nothing
        _pause(LINGER * 0.5)
        post("third")  # too soon for another wake; and now the slot has nothing to say for an hour
        eventually(lambda: verdicts.given == ["first", "second", "third"], 5)
        _pause(LINGER * 3)


class Refusing:
    """A publisher whose broker takes nothing."""

    def __init__(self) -> None:
        self.asked = 0

    def submit(self, publication: Publication, on_settled: Any, *, due_in: Any = None) -> None:
        self.asked += 1
        on_settled(PublishNacked("full"))


def test_nothing_waits_for_a_run_whose_dead_letter_was_given_up(io: IoThread) -> None:
    journal = Journal(1)
    mark = mark_of(("id",))
    publisher = Refusing()
    gone = SimpleNamespace(stale=lambda delivery: publisher.asked > 1)  # so is the channel, then
    settler = Settler(io, cast(Any, gone), cast(Any, publisher), 10, journal.seat(0))
    letter = Publication("", "dead", Envelope(b"", Properties()))
    place = journal.seat(0).begin(mark)

    settler.post(cast(Any, None), Settlement(Verdict.ACK, dead_letter=letter), ("id", mark), place)
    settler.flush()
    eventually(lambda: publisher.asked == 1, 5)
    assert journal.find(mark) is Ended.SETTLING

    eventually(lambda: journal.find(mark) is Ended.UNKNOWN, 5)
    assert publisher.asked == 2
