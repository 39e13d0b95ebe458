"""The time that a delayed message waits before it is sent is taken off its delay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.amqp.ways import Refusal, Ways
from amqtask.core.barrier import plan_message, queue_name
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.core.refusals import Refusals, target_of
from amqtask.core.workflow import Barrier
from amqtask.errors import OperationRefused, TopologyConflict
from amqtask.topology.barrier import barrier_queue
from amqtask.topology.ladder import STEPS, TICK, Ladder
from amqtask.topology.plan import DeclareQueue

LADDER = Ladder("shop")


def delayed(seconds: float) -> Publication:
    return Publication(*LADDER.entry(seconds, "a.b"), Envelope(b"{}", Properties()))


def held(publication: Publication) -> float:
    """Seconds for which the ladder holds it."""
    return int(publication.routing_key[: 2 * STEPS].replace(".", ""), 2) * TICK


def test_what_goes_at_once_goes_as_it_is() -> None:
    publication = delayed(5.0)

    assert Ways(LADDER).in_time(publication, 100.0, 100.09) == (publication, 100.0)


def test_what_waited_is_held_for_less() -> None:
    sent, since = Ways(LADDER).in_time(delayed(5.0), 100.0, 101.25)

    assert sent == delayed(3.8)
    assert since == pytest.approx(101.2)
    again, since = Ways(LADDER).in_time(sent, since, 102.05)  # its channel was lost
    assert again == delayed(3.0)
    assert since == pytest.approx(102.0)


def test_what_is_overdue_is_held_for_one_tick() -> None:
    sent, _ = Ways(LADDER).in_time(delayed(5.0), 100.0, 170.0)

    assert sent == delayed(TICK)


@given(st.floats(0.1, 1e6), st.lists(st.floats(0, 1e4), min_size=1, max_size=5))
def test_never_early_and_never_a_tick_late(delay: float, waits: list[float]) -> None:
    publication, since, now = delayed(delay), 0.0, 0.0
    for wait in waits:
        now += wait
        publication, since = Ways(LADDER).in_time(publication, since, now)

    late = now + held(publication) - delay
    assert late >= -1e-6
    assert late <= 2 * TICK + 1e-6 or held(publication) == pytest.approx(TICK)


@pytest.mark.parametrize("delay", [0.1, 0.9, 1.7, 3600.0, 1e6])
def test_a_step_that_refuses_is_believed_though_each_try_enters_it_lower(delay: float) -> None:
    ways, refusals = Ways(LADDER), Refusals()
    publication, since, now, tries = delayed(delay), 0.0, 0.0, 0
    while True:
        publication, since = ways.in_time(publication, since, now)
        tries += 1
        wait = refusals.refused(target_of(publication, "a.b"), now)
        if wait is None:
            break
        now += max(wait, TICK)

    assert tries <= 15
    assert now <= 5
    assert len(refusals) <= 5


def test_what_goes_past_the_ladder_is_told_apart_by_its_key() -> None:
    first, second = (Publication("x", key, Envelope(b"", Properties())) for key in ("a", "b"))
    assert target_of(first, None) != target_of(second, None)


# ---------------------------------------------------------------- barriers


def barrier(name: str, delay: float = 0.0) -> DeclareQueue:
    return barrier_queue(name, 60.0 + delay, "quorum")


def test_a_barrier_lasts_longer_when_its_parts_are_put_off() -> None:
    ways, name = Ways(LADDER, barrier), queue_name("G")
    plan = plan_message(Barrier("G", 2, {}, delay=29.5))
    ways.expect(name, plan)
    for _ in range(2):  # the connection was lost in between
        _, paving = ways.begin([name], 0.0)
        assert next(paving) == (barrier(name, 30.0),)
    text = (
        "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'amqtask.join.G' in vhost '/': "
        "received the value '180000' of type 'signedint' but current is the value '182000' of type 'signedint'"
    )
    with pytest.raises(StopIteration) as end:  # it is there from an earlier try
        paving.send((OperationRefused(406, text), barrier(name, 30.0)))
    assert end.value.value == {}
    assert next(ways.begin([name], 0.0)[1]) == (barrier(name),)


def test_barriers_are_declared_each_time_together_and_nothing_of_the_ladder() -> None:
    ways, names = Ways(LADDER, barrier), [queue_name(group) for group in "GHI"]
    for _ in range(2):
        assert not ways.open(names[0], 0.0)
        queues, paving = ways.begin([names[0], "a.b", *names[1:]], 0.0)
        assert queues == names
        assert next(paving) == tuple(map(barrier, names))
        with pytest.raises(StopIteration) as end:
            paving.send(None)
        assert end.value.value == {}
    assert ways.begin(["a.b", *names], 0.0)[0] == ["a.b"]


def test_what_goes_to_a_barrier_is_sent_as_it_is() -> None:
    plan = Publication("", queue_name("G"), Envelope(b"{}", Properties()))

    assert Ways(LADDER).in_time(plan, 100.0, 170.0) == (plan, 100.0)
    other = Publication("", queue_name("H"), Envelope(b"{}", Properties()))
    assert target_of(plan, queue_name("G")) != target_of(other, queue_name("H"))


@pytest.mark.parametrize(
    ("code", "text", "error", "says"),
    [
        (403, "ACCESS_REFUSED - no", OperationRefused, "grant configure permission for amqtask"),
        (406, "PRECONDITION_FAILED - inequivalent arg", TopologyConflict, "amqtask.join.G"),
        (541, "INTERNAL_ERROR", OperationRefused, "not started"),
    ],
)
def test_a_barrier_that_is_refused_and_those_after_it(
    code: int, text: str, error: type[Exception], says: str
) -> None:
    names = [queue_name(group) for group in "FGH"]
    _, paving = Ways(LADDER, barrier).begin(names, 0.0)
    next(paving)
    refusal: Refusal = (OperationRefused(code, text), barrier(names[1]))
    assert paving.send(refusal) == (barrier(names[2]),)
    with pytest.raises(StopIteration) as end:
        paving.send(None)
    ((name, refused),) = end.value.value.items()
    assert name == names[1]
    assert isinstance(refused, error)
    assert says in str(refused)
