"""A message on its way to the dead letters and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from amqtask.core import dead
from amqtask.core.message import Properties
from amqtask.core.verdicts import Standing

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DEATH = dead.Death(
    reason="failure",
    exception="ValueError",
    message="no",
    traceback="Traceback …",
    queue="email",
    node="n1",
    attempts=4,
    time="2026-11-20T12:00:00+00:00",
)


def sent(**headers: object) -> Properties:
    return Properties(
        headers={"task": "t", "id": "1", "retries": 3, "mine": 1.5, **headers},
        content_type="application/json",
        user_id="me",
        expiration="5",
        priority=7,
        reply_to="replies",
        correlation_id="1",
    )


def died(properties: Properties) -> Properties:
    return dead.letter(b"body", properties, DEATH, ("", "email.dead")).envelope.properties


def test_a_letter_keeps_the_message_and_says_why() -> None:
    found = died(sent(**{"x-death": [], "x-delivery-count": 2}))

    headers = dict(found.headers or {})
    assert headers["amqtask-dead-exception"] == "ValueError"
    assert headers["amqtask-dead-first-time"] == DEATH.time
    assert headers["mine"] == 1.5
    assert not [name for name in headers if name.startswith("x-")]
    assert (found.expiration, found.user_id, found.priority) == (None, None, 7)


def test_a_letter_goes_back_as_if_it_had_never_been_tried() -> None:
    back = dead.revive(died(sent(**{"amqtask-first-time": DEATH.time})), NOW)

    assert back.headers == {
        "task": "t",
        "id": "1",
        "retries": 0,
        "mine": 1.5,
        "amqtask-dead-first-time": DEATH.time,
        "amqtask-dead-rounds": 1,
        "amqtask-dead-sent-back": NOW.isoformat(),
    }
    assert (back.reply_to, back.correlation_id, back.priority) == ("replies", "1", 7)
    assert back.timestamp == int(NOW.timestamp())


def test_lives_of_one_second_have_different_timestamps() -> None:
    first = dead.revive(died(sent()), NOW)
    second = dead.revive(died(first), NOW)
    third = dead.revive(died(second), NOW + timedelta(milliseconds=500))

    assert len({each.timestamp for each in (first, second, third)}) == 3
    odd = msgspec.structs.replace(sent(), timestamp=2**63 - 1)
    assert dead.revive(odd, NOW).timestamp == int(NOW.timestamp())


def test_rounds_are_counted_and_the_first_death_is_remembered() -> None:
    once = dead.revive(died(sent()), NOW)
    again = dead.letter(b"", once, msgspec.structs.replace(DEATH, time="2027-01-01T00:00:00+00:00"), ("", "d"))  # fmt: skip
    headers = dict(dead.revive(again.envelope.properties, NOW).headers or {})

    assert headers["amqtask-dead-rounds"] == 2
    assert headers["amqtask-dead-first-time"] == DEATH.time


def test_an_expiry_that_is_past_is_removed() -> None:
    past = (NOW - timedelta(seconds=1)).isoformat()
    coming = (NOW + timedelta(hours=1)).isoformat()

    assert dict(dead.revive(sent(expires=past), NOW).headers or {})["expires"] is None
    assert dict(dead.revive(sent(expires=coming), NOW).headers or {})["expires"] == coming
    kept = dead.revive(sent(expires=past), NOW, keep_expires=True)
    assert dict(kept.headers or {})["expires"] == past
    odd = dead.revive(sent(expires="soon"), NOW)
    assert dict(odd.headers or {})["expires"] == "soon"


def test_a_message_without_headers_goes_back() -> None:
    back = dead.revive(Properties(), NOW)

    assert dict(back.headers or {})["amqtask-dead-rounds"] == 1
    assert back.delivery_mode == 2


def test_a_doubtful_one_keeps_its_reason_until_it_is_sent_back() -> None:
    doubted = dead.doubtful(died(sent()), "why")

    assert dict(doubted.headers or {})["amqtask-dead-doubt"] == "why"
    assert dict(doubted.headers or {})["amqtask-dead-exception"] == "ValueError"
    assert dead.DOUBT not in (dead.revive(doubted, NOW).headers or {})
    assert dead.DOUBT not in (died(doubted).headers or {})


def test_what_was_known_of_an_earlier_life_does_not_count() -> None:
    before, after = NOW.timestamp() - 5, NOW.timestamp() + 5
    first = died(sent())
    crashed = lettered(Standing(crashes=3, time=before))
    second = dead.revive(crashed, NOW).headers
    known = Standing(revoked=before, crashes=3, time=before)

    assert dead.of_this_life(None, second) is None
    assert dead.of_this_life(known, first.headers) is known
    assert dead.of_this_life(known, second) is None
    again = dead.of_this_life(Standing(crashes=4, time=after), second)
    assert again == Standing(crashes=1, time=after)
    # the first three are too old to be known
    forgotten = Standing(crashes=1, time=after, recent=(after,))
    assert dead.of_this_life(forgotten, second) == forgotten


def lettered(standing: Standing) -> Properties:
    death = msgspec.structs.replace(DEATH, standing=standing)
    return dead.letter(b"", sent(), death, ("", "d")).envelope.properties


def test_a_crash_brings_no_verdict_of_a_former_life_back() -> None:
    before, after = NOW.timestamp() - 50, NOW.timestamp() + 5
    second = dead.revive(died(sent()), NOW).headers
    known = Standing(before, before, before, 1, "signal 9", "n", after, (after,))

    assert dead.of_this_life(known, second) == Standing(
        0.0, 0.0, 0.0, 1, "signal 9", "n", after, (after,)
    )
    revoked = dead.of_this_life(msgspec.structs.replace(known, revoked=after), second)
    assert revoked is not None
    assert (revoked.revoked, revoked.hard_limit) == (after, 0.0)


def test_what_the_letter_knew_is_over_whatever_the_clock_of_who_sends_it_back() -> None:
    said = NOW.timestamp() + 3600.000000123  # that clock is an hour behind
    known = Standing(hard_limit=said, crashes=2, time=said, recent=(said, said - 1))
    second = dead.revive(lettered(known), NOW).headers

    assert dead.of_this_life(known, second) is None
    ahead = dead.revive(lettered(known), NOW + timedelta(hours=2)).headers
    again = msgspec.structs.replace(known, crashes=3, recent=(said + 1, said, said - 1))
    left = dead.of_this_life(again, ahead)
    assert left is not None
    assert (left.crashes, left.hard_limit) == (1, 0.0)  # crashes count whatever it says


def test_a_letter_goes_back_as_one_that_was_never_sent_before() -> None:
    was = Properties(headers={dead.AGAIN: 1, "task": "t"})
    assert dead.AGAIN not in (dead.revive(was, NOW).headers or {})


def test_crashes_before_a_letter_that_the_broker_made_do_not_count() -> None:
    before, after = NOW.timestamp() - 5, NOW.timestamp() + 5
    once = dead.revive(lettered(Standing(crashes=1, time=before)), NOW - timedelta(hours=1))
    second = dead.revive(once, NOW).headers  # nothing of ours says why it died again
    known = Standing(crashes=3, time=before, recent=(before, before, before))

    assert dead.of_this_life(known, second) is None
    left = dead.of_this_life(
        msgspec.structs.replace(known, crashes=4, recent=(after, *known.recent)), second
    )
    assert left is not None
    assert left.crashes == 1
