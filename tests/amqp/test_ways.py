"""The time that a delayed message waits before it is sent is taken off its delay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.amqp.ways import Ways
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.topology.ladder import STEPS, TICK, Ladder

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
