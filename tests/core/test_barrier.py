"""The barrier of a chord as values: its messages, and what they amount to in whatever order they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.core import codec
from amqtask.core.barrier import (
    ADDED,
    Broken,
    Complete,
    Deadline,
    Kind,
    Late,
    State,
    Tally,
    Unable,
    done_message,
    late,
    more_message,
    part_message,
    plan_message,
    queue_name,
    read_note,
)
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.core.workflow import Barrier, More, Part
from amqtask.errors import ChordError, EncodeError, PayloadTooLarge

PLAN = {"body": {"task": "sum"}, "chain": None}


def plan(size: int) -> Publication:
    return plan_message(Barrier("g", size, PLAN))


def part(
    index: int, value: object = None, state: str = "SUCCESS", task_id: str = ""
) -> Publication:
    return part_message(
        Part(
            group="g",
            index=index,
            size=None,
            task_id=task_id or f"t{index}",
            state=state,
            result=value,
        )
    )


def tally_of(*publications: Publication) -> Tally:
    tally = Tally("g")
    for tag, each in enumerate(publications, 1):
        tally.add(tag, each.envelope.properties, each.envelope.body)
    return tally


def test_messages_go_to_the_queue_of_the_group_and_are_kept() -> None:
    for each in (plan(1), part(0), more_message(More("g", "x"))):
        assert (each.exchange, each.routing_key) == ("", queue_name("g"))
        assert each.mandatory
        assert each.envelope.properties.delivery_mode == 2


def test_a_part_is_read_as_it_was_written() -> None:
    note = read_note(part(3, "x", "FAILURE").envelope.properties)

    assert (note.kind, note.key, note.ok) == (Kind.PART, 3, False)


def test_results_come_by_index() -> None:
    tally = tally_of(part(2, "c"), part(0, "a"), plan(3), part(1, "b"))

    assert tally.state is State.COMPLETE
    assert tally.conclude() == Complete("g", PLAN, ("a", "b", "c"))


def test_without_a_plan_nothing_is_complete() -> None:
    assert tally_of(part(0), part(1)).state is State.NO_PLAN


def test_a_chord_of_none_is_complete_at_once() -> None:
    assert tally_of(plan(0)).conclude() == Complete("g", PLAN, ())


def test_duplicates_are_spare() -> None:
    tally = tally_of(plan(2), part(0), part(0), plan(2), part(0))

    assert tally.state is State.INCOMPLETE
    assert tally.spare == [3, 4, 5]
    assert tally.messages == 3


def test_a_success_beats_a_failure_whichever_came_first() -> None:
    for parts in (
        (part(0, state="FAILURE"), part(0, 7)),
        (part(0, 7), part(0, state="FAILURE")),
    ):
        tally = tally_of(plan(1), *parts)

        assert tally.state is State.COMPLETE
        assert len(tally.spare) == 1
        assert tally.conclude() == Complete("g", PLAN, (7,))


def test_a_failed_part_ends_the_chord_before_the_others() -> None:
    tally = tally_of(plan(9), part(4, {"exc_type": "E"}, "FAILURE"))

    assert tally.state is State.FAILED
    ending = tally.conclude()
    assert isinstance(ending, Broken)
    assert (ending.part.index, ending.part.task_id, ending.part.state) == (4, "t4", "FAILURE")


def test_added_parts_count_and_come_last() -> None:
    more = more_message(More("g", "new"))
    parts = [plan(1), more, more, part(ADDED, "added", task_id="new")]

    assert tally_of(*parts).state is State.INCOMPLETE
    tally = tally_of(*parts, part(0, "own"))

    assert tally.state is State.COMPLETE
    assert tally.messages == 4
    assert tally.conclude() == Complete("g", PLAN, ("own", "added"))


def test_parts_that_nobody_expects_complete_nothing() -> None:
    assert tally_of(plan(2), part(0), part(7)).state is State.INCOMPLETE
    assert tally_of(plan(1), part(ADDED, task_id="stranger")).state is State.INCOMPLETE


def test_a_part_that_cannot_be_read_is_a_failed_part() -> None:
    good = part(0)
    damaged = Publication("", good.routing_key, Envelope(b"{", good.envelope.properties))
    ending = tally_of(plan(1), damaged).conclude()

    assert isinstance(ending, Broken)
    assert ending.part.task_id == "t0"
    assert isinstance(ending.part.result, dict)
    assert ending.part.result["exc_type"] == "DecodeError"


def test_a_plan_that_cannot_be_read_says_nothing() -> None:
    for body in (b"{", b"[]"):
        damaged = Publication("", "q", Envelope(body, plan(0).envelope.properties))

        assert tally_of(damaged).conclude() is None


def test_what_has_been_concluded_is_over() -> None:
    outer = Part(group="outer", index=3, size=9, task_id="t", state="FAILURE")
    done = done_message("g", [outer])
    tally = tally_of(plan(2), part(0), done, part(1))

    assert tally.state is State.DONE
    assert tally.outer == (outer,)
    assert (
        done.envelope.properties.delivery_mode == 1
    )  # a broker that was killed may have lost the rest


def test_what_is_no_message_of_a_barrier_is_spare() -> None:
    tally = Tally("g")

    assert tally.add(1, Properties(), b"x").kind is Kind.OTHER
    assert tally.add(2, Properties(headers={"amqtask-part": "0"}), b"x").kind is Kind.OTHER
    assert tally.add(3, Properties(headers={"amqtask-part": -1}), b"x").kind is Kind.OTHER
    assert tally.spare == [1, 2, 3]


def test_a_plan_above_the_limit_is_refused() -> None:
    limits = codec.Limits(message_max_bytes=100)

    with pytest.raises(PayloadTooLarge, match="chord g"):
        plan_message(Barrier("g", 1, {"body": "x" * 200}), limits=limits)
    with pytest.raises(EncodeError, match="chord g"):
        plan_message(Barrier("g", 1, {"body": object()}))


@pytest.mark.parametrize(
    ("seconds", "delay", "expiration"),
    [(60.0, 0.0, "60000"), (60.0, 29.5, "90000"), (0.0001, 0.0, "1"), (3.2e8, 0, "315360000000")],
)
def test_a_plan_is_dropped_at_the_deadline_of_its_chord(
    seconds: float, delay: float, expiration: str
) -> None:
    sent = plan_message(Barrier("g", 2, PLAN, delay=delay), Deadline(seconds, "told"))

    properties = sent.envelope.properties
    assert properties.expiration == expiration
    assert properties.headers is not None
    assert properties.headers["CC"] == ["told"]
    assert read_note(properties).kind is Kind.PLAN


def test_a_plan_that_the_broker_dropped_fails_its_chord() -> None:
    sent = plan_message(Barrier("g", 2, PLAN), Deadline(60.0, "told")).envelope

    found = late(sent.properties, sent.body)
    assert found is not None
    ending = found.ending
    assert ending is not None
    assert (ending.group, ending.plan) == ("g", PLAN)
    assert isinstance(ending.error, ChordError)


@pytest.mark.parametrize(
    ("size", "there", "told"),
    [
        (1, [], "of its 1 part, counted from 0, 0 has neither"),
        (3, [1], "of its 3 parts, counted from 0, 0 and 2 have neither"),
        (3, [1, 7], "of its 3 parts, counted from 0, 0 and 2 have neither"),
        (40, [0], "counted from 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 29 more have neither"),
    ],
)
def test_a_chord_whose_time_is_over_names_the_parts_that_have_not_ended(
    size: int, there: list[int], told: str
) -> None:
    tally = Tally("g")
    tally.expire(Late("g", size, plan(size).envelope.body))
    for tag, each in enumerate(map(part, there), 1):
        tally.add(tag, each.envelope.properties, each.envelope.body)

    assert tally.state is State.LATE
    ending = tally.conclude()
    assert isinstance(ending, Unable)
    assert told in str(ending.error)


def test_what_is_there_counts_when_the_time_is_over() -> None:
    def ended(*publications: Publication) -> object:
        tally = Tally("g")
        tally.expire(Late("g", 2, plan(2).envelope.body))
        for tag, each in enumerate(publications, 1):
            tally.add(tag, each.envelope.properties, each.envelope.body)
        return tally.state

    more = more_message(More("g", "x"))
    assert ended(part(0), part(1)) is State.COMPLETE
    assert ended(part(0), part(1), more) is State.LATE
    assert ended(part(0, None, "FAILURE")) is State.FAILED
    assert ended(part(0), done_message("g")) is State.DONE


def test_nothing_else_is_a_plan_that_was_dropped() -> None:
    sent = plan_message(Barrier("g", 2, PLAN)).envelope

    assert late(Properties(), b"x") is None
    assert late(sent.properties, b"no JSON") is None
    assert late(sent.properties, b"[]") is None
    assert late(part(0).envelope.properties, part(0).envelope.body) is None


def test_results_that_no_message_could_carry_are_let_go_of() -> None:
    tally = Tally("g", codec.Limits(message_max_bytes=10_000))
    for tag, each in enumerate((plan(20), *(part(i, "x" * 3_000) for i in range(20))), 1):
        tally.add(tag, each.envelope.properties, each.envelope.body)

    assert tally.state is State.COMPLETE
    ending = tally.conclude()
    assert isinstance(ending, Unable)
    assert isinstance(ending.error, PayloadTooLarge)
    assert "20 parts of chord g" in str(ending.error)


@given(st.data())
def test_order_and_repetition_change_nothing(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 6))
    messages = [plan(size), *(part(i, i * i) for i in range(size))]
    extra = data.draw(st.lists(st.sampled_from(messages), max_size=10))
    shuffled = data.draw(st.permutations(messages + extra))
    tally = Tally("g")
    for tag, each in enumerate(shuffled, 1):
        tally.add(tag, each.envelope.properties, each.envelope.body)
        assert tally.held - len(tally.spare) <= 1 + size

    assert tally.held - len(tally.spare) == tally.messages
    assert len(tally.spare) == len(extra)
    assert tally.conclude() == Complete("g", PLAN, tuple(i * i for i in range(size)))
