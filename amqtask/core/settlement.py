"""What follows from an outcome: which publications must be confirmed, and how the delivery ends."""

from __future__ import annotations

from typing import assert_never

from amqtask.core.message import Publication
from amqtask.core.outcome import (
    Deferred,
    Failed,
    Ignored,
    Onward,
    Outcome,
    Rejected,
    Replaced,
    Retried,
    Revoked,
    Sequel,
    Settlement,
    Succeeded,
    Verdict,
)

DONE = Settlement(Verdict.ACK)


def decide(
    outcome: Outcome,
    result: Publication | None,
    letter: Publication | None,
    onward: Onward | None = None,
    sequel: Sequel | None = None,
) -> Settlement:
    """The settlement of an outcome.

    Args:
        outcome: what became of the delivery.
        result: the result to send, when the caller wants one.
        letter: the message as a dead letter, when its queue has a place for those. Without one a failed message is
            rejected, so that a dead-letter exchange set by a policy on the broker still gets it.
        onward: the message's next attempt, for an outcome that has one.
        sequel: what follows for the workflow that the task is part of.
    """
    results = () if result is None else (result,)
    match outcome:
        case Succeeded():
            if result is None and sequel is None:
                return DONE
            return Settlement(Verdict.ACK, results, sequel=sequel)
        case Revoked(expired=False):
            return Settlement(Verdict.ACK, results, sequel=sequel)
        case Failed() | Revoked():
            if letter is None:
                return Settlement(Verdict.REJECT, results, sequel=sequel)
            return Settlement(Verdict.ACK, results, letter, sequel=sequel)
        case Retried() | Deferred():
            return Settlement(Verdict.ACK, results, None, onward, sequel)
        case Ignored() | Replaced():
            if result is None and sequel is None:
                return DONE
            return Settlement(Verdict.ACK, results, sequel=sequel)
        case Rejected(requeue=True):
            return Settlement(Verdict.REJECT_REQUEUE)
        case Rejected():
            if letter is None:
                return Settlement(Verdict.REJECT, results, sequel=sequel)
            return Settlement(Verdict.ACK, results, letter, sequel=sequel)
        case _:
            assert_never(outcome)


def needs_letter(outcome: Outcome) -> bool:
    """Whether a message with this outcome goes to the dead letters."""
    match outcome:
        case Failed() | Revoked(expired=True) | Rejected(requeue=False):
            return True
        case _:
            return False
