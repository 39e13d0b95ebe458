"""The prefetch follows the length of the tasks, within bounds and without jitter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.core.prefetch import MOST, bear, stay, target


@given(st.integers(1, 10_000), st.integers(0, 10_000), st.floats(0, 10_000), st.integers(1, 1000))
def test_between_one_and_the_most_per_slot(
    current: int, tasks: int, busy: float, slots: int
) -> None:
    found = target(current, tasks, busy, slots)

    assert found == current or slots <= found <= MOST * slots


@pytest.mark.parametrize(
    ("tasks", "busy", "expected"),
    [(1000, 0.02, 256), (100, 1.0, 10), (10, 1.0, 1), (1, 30.0, 1), (0, 0.0, 4)],
)
def test_about_a_tenth_of_a_second_of_work(tasks: int, busy: float, expected: int) -> None:
    assert target(4, tasks, busy, slots=1) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0503, 2_986), (0.2, 1_499), (2.0, 1_049), (60.0, 1_001)]
)
def test_where_many_slots_work_some_messages_wait_for_whichever_ends_first(
    seconds: float, expected: int
) -> None:
    assert target(6_000, 100, 100 * seconds, slots=1_000) == expected


def test_nothing_waits_behind_the_only_slot_that_is_busy_for_long() -> None:
    assert target(4, 10, 1.0, slots=1) == 1
    assert target(32, 10, 1.0, slots=8) == 15


def test_a_small_change_is_not_worth_a_round_trip() -> None:
    assert target(10, 100, 0.7, slots=1) == 10


@given(st.integers(1, 256), st.integers(1, 1000), st.floats(1e-6, 100))
def test_steady_work_settles(current: int, tasks: int, busy: float) -> None:
    first = target(current, tasks, busy, slots=1)

    assert target(first, tasks, busy, slots=1) == first


@pytest.mark.parametrize(
    ("waiting", "prefetch", "tasks", "busy", "expected"),
    [
        (80, 40, 20, 0.05, 80),  # a fifth of a second of work: let it be
        (80, 1, 1, 0.2, 1),
        (80, 2, 10, 0.5, 2),
        (1, 1, 1, 9.0, 1),
        (0, 1, 1, 9.0, 0),
    ],
)
def test_what_came_when_tasks_were_shorter_does_not_wait_for_long_ones(
    waiting: int, prefetch: int, tasks: int, busy: float, expected: int
) -> None:
    assert stay(waiting, prefetch, tasks, busy, slots=1) == expected


def test_more_may_stay_where_more_slots_work_on_it() -> None:
    assert stay(80, 10, 1, 0.02, slots=1) == 10
    assert stay(80, 10, 1, 0.02, slots=8) == 80


def test_what_a_held_up_child_can_do_soon_stays() -> None:
    assert bear(0, 0.5) == 0
    assert bear(1, 0.5) == 0
    assert bear(100, 0.5) == 50
