"""Settlements on their way from a slot to the broker: none waits for the slot, whatever the slot does next."""

from __future__ import annotations

import math
import threading
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
from amqtask.worker.memory.journal import Ended, Journal, mark_of
from amqtask.worker.settling.followups import REPLY_WITHIN, RefusedReplies
from amqtask.worker.settling.settle import LINGER, Settler
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
    """A publisher whose broker takes nothing, or nothing before it was asked so often."""

    def __init__(self, takes: float = math.inf) -> None:
        self.asked = 0
        self._takes = takes

    def submit(self, publication: Publication, on_settled: Any, *, due_in: Any = None) -> None:
        self.asked += 1
        on_settled(PublishNacked("full") if self.asked < self._takes else None)


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


class Acks(Verdicts):
    """Keeps how often its publisher had been asked when a verdict came."""

    def __init__(self, publisher: Refusing) -> None:
        super().__init__()
        self.after: list[int] = []
        self._publisher = publisher

    def stale(self, _delivery: Any) -> bool:
        return False

    def settle(self, delivery: Any, verdict: Verdict) -> None:
        self.after.append(self._publisher.asked)
        super().settle(delivery, verdict)


RESULT = Settlement(Verdict.ACK, (Publication("", "reply", Envelope(b"1", Properties())),))


def _settled(io: IoThread, publisher: Refusing) -> tuple[Settler, Acks]:
    """A settler that has been given one task with a result."""
    acks = Acks(publisher)
    settler = Settler(io, cast(Any, acks), cast(Any, publisher), 10, Journal(1).seat(0))
    settler.post(cast(Any, SimpleNamespace(name="x")), RESULT, None)
    settler.flush()
    return settler, acks


def test_a_task_is_not_acked_before_its_reply_queue_takes_the_result(io: IoThread) -> None:
    _, acks = _settled(io, Refusing(takes=2))
    eventually(lambda: acks.after == [2], 5)


def test_a_child_that_ends_does_not_wait_long_for_a_reply_queue(
    io: IoThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amqtask.worker.settling.settle.REPLY_WITHIN_STOP", 0.1)
    publisher = Refusing()
    settler, acks = _settled(io, publisher)
    eventually(lambda: publisher.asked, 5)
    assert not acks.after
    idle = threading.Event()
    io.post(lambda: settler.when_idle(idle.set))
    assert idle.wait(5)
    assert acks.given == ["x"]


def test_a_reply_queue_is_waited_for_once_and_not_once_for_every_result() -> None:
    replies = RefusedReplies()
    now = 1000.0
    assert replies.refused("away", now)
    assert replies.refused("away", now + 59)
    assert not replies.refused("away", now + 60)
    assert not replies.refused("away", now + 100)  # for whatever result
    assert replies.refused("other", now + 100)

    replies.answered("away")
    assert replies.refused("away", now + 101)
    assert replies.refused("away", now + 101 + 2 * REPLY_WITHIN)  # long ago: a first time again


def test_reply_queues_that_refused_long_ago_are_forgotten() -> None:
    replies = RefusedReplies()
    for number in range(100):
        replies.refused(f"reply-{number}", number * REPLY_WITHIN)
    assert len(replies._since) == 1
