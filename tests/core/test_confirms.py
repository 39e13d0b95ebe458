"""Publishes in flight settle once each, in order, and what is lost is sent again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amqtask.core.confirms import InFlight


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=40), st.integers(0, 30))
def test_each_entry_settles_exactly_once(confirms: list[tuple[int, bool]], count: int) -> None:
    flight: InFlight[int] = InFlight()
    for entry in range(1, count + 1):
        assert flight.sent(entry) == entry
    settled: list[int] = []
    expected: set[int] = set()

    for number, multiple in confirms:
        settled += [entry for entry, _ in flight.confirmed(number, multiple)]
        covered = range(1, number + 1) if multiple else (number,)
        expected |= {entry for entry in covered if entry <= count}

    assert len(settled) == len(set(settled))
    assert set(settled) == expected
    assert flight.lost() == [entry for entry in range(1, count + 1) if entry not in expected]


def test_a_returned_message_settles_with_its_reason() -> None:
    flight: InFlight[str] = InFlight()
    flight.sent("a")
    flight.sent("b")
    flight.sent("b")

    assert flight.returned(lambda entry: entry == "b", "312 NO_ROUTE")

    assert flight.confirmed(3, multiple=True) == [("a", None), ("b", "312 NO_ROUTE"), ("b", None)]


def test_a_return_that_matches_nothing_is_reported() -> None:
    flight: InFlight[str] = InFlight()
    flight.sent("a")

    assert not flight.returned(lambda entry: entry == "z", "312")


def test_numbers_start_again_on_a_new_channel() -> None:
    flight: InFlight[str] = InFlight()
    flight.sent("a")
    flight.sent("b")

    assert flight.lost() == ["a", "b"]
    assert flight.sent("a") == 1
    assert flight.confirmed(1, multiple=False) == [("a", None)]


def test_what_is_given_up_is_not_settled_later() -> None:
    flight: InFlight[str] = InFlight()
    flight.sent("a")
    flight.sent("b")

    assert flight.give_up(lambda entry: entry == "a") == ["a"]
    assert flight.confirmed(2, multiple=True) == [("b", None)]


@given(st.integers(2, 200))
def test_multiple_confirms_cost_what_they_cover(count: int) -> None:
    flight: InFlight[int] = InFlight()
    for entry in range(count):
        flight.sent(entry)

    first = flight.confirmed(count // 2, multiple=True)
    second = flight.confirmed(count, multiple=True)

    assert [entry for entry, _ in first + second] == list(range(count))


def test_the_oldest_without_an_answer() -> None:
    flight = InFlight[str]()
    assert flight.oldest == flight.next == 1
    for entry in "abc":
        flight.sent(entry)
    flight.confirmed(1, False)
    assert (flight.oldest, flight.next) == (2, 4)
    flight.confirmed(3, True)
    assert (flight.oldest, flight.next) == (4, 4)
