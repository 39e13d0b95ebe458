"""A nack is believed after a while, doubted again later, and forgotten with the first confirm."""

from __future__ import annotations

from amqtask.core.refusals import BELIEVED, FORGOTTEN, LATEST, SOONEST, Refusals

FULL = ("", "full")


def test_a_nack_is_believed_after_a_while() -> None:
    refusals, now, waits = Refusals(), 100.0, []
    while (wait := refusals.refused(FULL, now)) is not None:
        waits.append(wait)
        now += wait

    assert 100 + BELIEVED <= now <= 100 + BELIEVED + LATEST
    assert waits[0] == SOONEST
    assert waits == sorted(waits)
    assert len(waits) <= 5
    assert refusals.refused(FULL, now) is None


def test_another_target_is_another_matter() -> None:
    refusals = Refusals()
    refusals.refused(FULL, 100)
    assert refusals.refused(FULL, 100 + BELIEVED) is None
    assert refusals.refused(("", "other"), 100 + BELIEVED) == SOONEST


def test_a_believed_nack_is_doubted_again() -> None:
    refusals = Refusals()
    refusals.refused(FULL, 100)
    assert refusals.refused(FULL, 105) is None
    # counted from when it was believed
    assert refusals.refused(FULL, 105 + FORGOTTEN - 0.1) is None
    assert refusals.refused(FULL, 105 + FORGOTTEN) == SOONEST


def test_a_nack_that_nobody_asked_about_again_is_forgotten() -> None:
    refusals = Refusals()
    refusals.refused(FULL, 100)
    assert refusals.refused(FULL, 100 + FORGOTTEN) == SOONEST


def test_targets_that_are_never_met_again_are_forgotten() -> None:
    refusals = Refusals()
    for number in range(1000):
        refusals.refused(("orders", f"order.{number}"), 100 + number)
        refusals.refused(FULL, 100 + number)
    assert len(refusals) <= FORGOTTEN + 1


def test_a_confirm_ends_it() -> None:
    refusals = Refusals()
    assert not refusals
    refusals.refused(FULL, 100)
    assert refusals
    refusals.accepted(FULL)
    assert not refusals
    assert refusals.refused(FULL, 100 + BELIEVED) == SOONEST
