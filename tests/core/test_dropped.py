"""What the broker says of a message that it dropped, and how its task has ended by that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.core.codec import Head, read_header
from amqtask.core.dropped import (
    FOUND_WITHIN,
    MANY,
    TIMELY,
    BrokerDeath,
    broker_deaths,
    deadly,
    death_in,
    may_run,
    outcome_of,
)
from amqtask.core.message import Properties
from amqtask.core.outcome import Failed, Rejected, Revoked
from amqtask.errors import WorkerLostError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def entry(reason: str, queue: str, seconds: float = 0.0) -> dict[str, object]:
    return {"reason": reason, "queue": queue, "count": 1, "time": NOW + timedelta(seconds=seconds)}


def death(reason: str, seconds: float = 0.0) -> BrokerDeath:
    return BrokerDeath(reason, "q", 1, NOW + timedelta(seconds=seconds))


def head(**headers: Any) -> Head:
    return read_header(
        Properties(
            headers={"lang": "py", "task": "shop.pay", "id": "abc", **headers},
            content_type="application/json",
            content_encoding="utf-8",
        )
    )


def test_the_newest_death_in_the_queue_counts() -> None:
    headers = {
        "x-death": [
            entry("expired", "amqtask.shop.delay.03", 5),
            entry("rejected", "q", 1),
            entry("expired", "q", 3),
            "nonsense",
        ]
    }

    found = death_in(headers, "q")

    assert found is not None
    assert (found.reason, found.time) == ("expired", NOW + timedelta(seconds=3))
    assert death_in(headers, "other") is None
    assert death_in({}, "q") is None


def test_of_one_second_the_queue_itself_is_the_newest() -> None:
    headers = {"x-death": [entry("expired", "delay"), entry("maxlen", "q")]}

    assert [each.queue for each in broker_deaths(headers, "q")] == ["q", "delay"]


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_no_header_is_too_strange(value: object) -> None:
    assert isinstance(broker_deaths({"x-death": value}, "q"), tuple)


def test_how_a_dropped_task_ended() -> None:
    known = head(expires="2026-11-22T11:00:00+00:00")

    assert outcome_of(death("expired"), known, None) == Revoked("expired at 2026-11-22T11:00:00+00:00", expired=True)  # fmt: skip
    assert outcome_of(death("expired"), head(), None) == Revoked("expired in queue 'q'", expired=True)  # fmt: skip
    assert outcome_of(death("rejected"), known, None) == Rejected("rejected by a consumer of queue 'q'", requeue=False)  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "limit", "ours", "text"),
    [
        ("delivery_limit", 2, "delivery limit", "Task shop.pay[abc] was handed out 3 times from queue 'q' and came back each time"),
        ("delivery_limit", None, "delivery limit", "was handed out from queue 'q' and"),
        ("maxlen", None, "overflow", "was dropped from queue 'q', which was full, before it could run"),
        ("something new", None, "something new", "was dropped by the broker from queue 'q' (something new)"),
    ],
)  # fmt: skip
def test_what_is_a_failure(reason: str, limit: int | None, ours: str, text: str) -> None:
    outcome = outcome_of(death(reason), head(), limit)

    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, WorkerLostError)
    assert text in str(outcome.error)
    assert (outcome.reason, outcome.traceback) == (ours, None)


def test_what_may_be_running_still() -> None:
    now = NOW.timestamp()
    early = head(expires=(NOW - timedelta(seconds=TIMELY + 1)).isoformat())
    timely = head(expires=(NOW - timedelta(seconds=TIMELY)).isoformat())

    assert may_run(death("delivery_limit"), head(), now)
    assert may_run(death("expired"), early, now)
    assert not may_run(death("expired"), timely, now)
    assert not may_run(death("expired"), head(), now)  # its queue's own limit
    assert not may_run(death("maxlen"), early, now)
    assert not may_run(death("rejected"), early, now)


def test_nobody_is_waited_for_long() -> None:
    later = NOW.timestamp() + FOUND_WITHIN

    assert not may_run(death("delivery_limit"), head(), later)
    assert not may_run(BrokerDeath("delivery_limit", "q", 1, None), head(), NOW.timestamp())


def test_what_may_kill_those_who_read_it() -> None:
    assert deadly(death("delivery_limit"), {}, False)
    assert not deadly(death("expired"), {"x-delivery-count": MANY}, False)
    assert not deadly(death("expired"), {"x-delivery-count": MANY - 1}, True)
    assert deadly(death("expired"), {"x-delivery-count": MANY}, True)
    assert deadly(death("maxlen"), {"x-acquired-count": MANY}, True)
