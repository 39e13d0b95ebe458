"""What follows in a workflow, on its way to the broker: in order, again when refused, and something else when it cannot be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from amqtask.amqp.threaded.loop import IoThread
from amqtask.core import codec
from amqtask.core.barrier import Late
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.core.outcome import Look, PartSent, Send, Sequel, Settlement, Verdict
from amqtask.core.workflow import Part
from amqtask.errors import ConnectionLost, PayloadTooLarge, PublishNacked, Unroutable
from amqtask.topology.ladder import Ladder
from amqtask.worker.memory.journal import Journal
from amqtask.worker.settling.reminders import COVERS, LATER, Reminders
from amqtask.worker.settling.settle import Settler
from tests.waiting import eventually


def to(key: str) -> Publication:
    return Publication("", key, Envelope(b"", Properties()))


class Broker:
    """Stands where the publisher stands: settles each publication as it was told to, by its key."""

    def __init__(self, **answers: list[Exception | None]) -> None:
        self.sent: list[str] = []
        self.waiting: dict[str, Callable[[Exception | None], None]] = {}
        self._answers = answers

    def submit(self, publication: Publication, on_settled: Any, *, due_in: Any = None) -> None:
        key = publication.routing_key
        self.sent.append(key)
        answers = self._answers.get(key)
        if answers is None:
            on_settled(None)
        elif answers:
            on_settled(answers.pop(0))
        else:
            self.waiting[key] = on_settled


class Joins:
    """Stands where the joiner stands."""

    def __init__(self, error: Exception | None = None) -> None:
        self.looks: list[tuple[str, int | None, bool, bool]] = []
        self._error = error

    def look(
        self,
        group: str,
        size: int | None,
        failed: bool,
        on_done: Callable[[Exception | None], None],
        again: bool = False,
        late: Late | None = None,
    ) -> None:
        self.looks.append((group, size, failed, again))
        on_done(self._error)


class Workflows:
    """Says that something else follows."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, str]] = []

    def refused(self, started: object, error: Exception) -> Sequel:
        self.asked.append((started, type(error).__name__))
        return Sequel(results=(to("sorry"),), sends=(Send(to("errback"), None, "errback"),))


class Consumer:
    """Keeps the verdicts."""

    def __init__(self) -> None:
        self.given: list[Verdict] = []

    def stale(self, _delivery: Any) -> bool:
        return False

    def settle(self, _delivery: Any, verdict: Verdict) -> None:
        self.given.append(verdict)


@pytest.fixture
def io() -> Iterator[IoThread]:
    thread = IoThread("test-followups")
    thread.start()
    yield thread
    thread.stop()


class Settling:
    """A settler that has been given one task with a sequel."""

    def __init__(
        self,
        io: IoThread,
        broker: Broker,
        sequel: Sequel,
        joins: Joins | None = None,
        verdict: Verdict | None = Verdict.ACK,
    ) -> None:
        self.consumer, self.joins, self.workflows = Consumer(), joins or Joins(), Workflows()
        settler = Settler(io, cast(Any, self.consumer), cast(Any, broker), 10, Journal(1).seat(0))
        settler.joins, settler.workflows = self.joins, self.workflows
        settler.reminders = Reminders(Ladder(), codec.LIMITS)
        self.settler, self._io = settler, io
        delivery = SimpleNamespace(redelivered=True, queue="work")
        settler.post(cast(Any, delivery), Settlement(verdict, sequel=sequel), None)
        settler.flush()

    def acked(self) -> None:
        eventually(lambda: self.consumer.given == [Verdict.ACK], 5)

    def idle(self) -> bool:
        """Whether everything has ended once the child is told to stop."""
        ended: list[bool] = []
        self._io.post(lambda: self.settler.when_idle(lambda: ended.append(True)))
        eventually(lambda: ended, 5)
        return bool(ended)


PART = PartSent(to("part"), Part(group="g", index=0, size=2, task_id="t", state="FAILURE"))
ALL = Sequel(
    (Send(to("plan"), "plan"),), (Send(to("next"), None, "call"),), (to("record"),), (PART,)
)


def test_plans_are_confirmed_before_anything_else_is_sent(io: IoThread) -> None:
    broker = Broker(plan=[])
    settling = Settling(io, broker, ALL)
    eventually(lambda: "plan" in broker.waiting, 5)
    assert (broker.sent, settling.consumer.given) == (["plan"], [])
    io.post(lambda: broker.waiting["plan"](None))
    settling.acked()
    assert sorted(broker.sent[1:]) == ["next", "part", "record"]
    assert settling.joins.looks == [("g", 2, True, True)]


def test_what_is_refused_for_a_moment_is_sent_again(io: IoThread) -> None:
    broker = Broker(next=[PublishNacked("full"), None])
    Settling(io, broker, ALL).acked()
    assert broker.sent.count("next") == 2


@pytest.mark.parametrize("error", [Unroutable("no queue"), PayloadTooLarge("too large")])
def test_something_else_follows_what_cannot_be_started(io: IoThread, error: Exception) -> None:
    broker = Broker(next=[error])
    settling = Settling(io, broker, ALL)
    settling.acked()
    assert settling.workflows.asked == [("call", type(error).__name__)]
    assert {"sorry", "errback"} <= set(broker.sent)


def test_a_plan_that_cannot_be_made_fails_what_it_was_for(io: IoThread) -> None:
    broker = Broker(plan=[PayloadTooLarge("too large")])
    settling = Settling(io, broker, ALL)
    settling.acked()
    assert [name for _, name in settling.workflows.asked] == []  # this plan names nothing
    assert "next" in broker.sent


def test_a_part_of_a_chord_that_has_ended_is_done(io: IoThread) -> None:
    broker = Broker(part=[Unroutable("gone")])
    settling = Settling(io, broker, ALL)
    settling.acked()
    assert settling.joins.looks == []


@pytest.mark.parametrize("lost", ["plan", "next", "record", "part"])
def test_nothing_is_acked_while_something_has_no_confirm(io: IoThread, lost: str) -> None:
    answers: dict[str, list[Exception | None]] = {lost: [ConnectionLost("closing")]}
    settling = Settling(io, Broker(**answers), ALL)
    assert settling.idle()
    assert settling.consumer.given == []


def test_a_look_that_was_given_up_keeps_the_task(io: IoThread) -> None:
    settling = Settling(io, Broker(), ALL, Joins(ConnectionLost("closing")))
    assert settling.idle()
    assert settling.consumer.given == []


LATER_LOOK = Ladder().entry(LATER, "work").routing_key


def test_a_part_that_does_not_come_again_has_somebody_look_later_first(io: IoThread) -> None:
    broker = Broker(**{LATER_LOOK: []})
    early = Settling(io, broker, Sequel(parts=(PART,)), verdict=None)
    eventually(lambda: LATER_LOOK in broker.waiting, 5)
    assert broker.sent == [LATER_LOOK]
    io.post(lambda: broker.waiting[LATER_LOOK](None))
    assert early.idle()
    assert broker.sent == [LATER_LOOK, "part"]
    assert early.joins.looks == [("g", 2, True, True)]
    reminders = early.settler.reminders
    assert reminders is not None
    now = time.monotonic()
    assert reminders.covers("g", now)  # so the next parts need none
    assert not reminders.covers("g", now + COVERS)
    assert not reminders.covers("other", now)


def test_a_part_goes_though_nobody_can_be_asked_to_look_later(io: IoThread) -> None:
    answers: dict[str, list[Exception | None]] = {LATER_LOOK: [Unroutable("no such queue")]}
    broker = Broker(**answers)
    early = Settling(io, broker, Sequel(parts=(PART,)), verdict=None)
    assert early.idle()
    assert broker.sent == [LATER_LOOK, "part"]
    assert early.joins.looks == [("g", 2, True, True)]


def test_a_part_of_a_task_that_comes_again_needs_no_look_later(io: IoThread) -> None:
    broker = Broker()
    Settling(io, broker, Sequel(parts=(PART,))).acked()
    assert broker.sent == ["part"]


def test_a_look_is_over_before_its_task_is_acked(io: IoThread) -> None:
    broker = Broker()
    looking = Settling(io, broker, Sequel(looks=(Look("g", 3),)))
    looking.acked()
    assert looking.joins.looks == [("g", 3, False, True)]


def test_no_more_chords_are_remembered_than_end_parts_now() -> None:
    reminders = Reminders(Ladder(), codec.LIMITS)
    for number in range(100):
        reminders.sent(str(number), float(number))
    assert [number for number in range(100) if reminders.covers(str(number), 99.5)] == list(
        range(92, 100)
    )
    assert len(reminders._sent) < 15
