"""What came of a run: from what a task's function returned or raised, and what the task asked for, to its outcome."""

from __future__ import annotations

import time

from amqtask.core import result
from amqtask.core.outcome import (
    Failed,
    Ignored,
    Outcome,
    Rejected,
    Replaced,
    Retried,
    Revoked,
    Succeeded,
)
from amqtask.core.retry import Again
from amqtask.errors import Ignore, Reject, Retry, SoftTimeLimitExceeded
from amqtask.worker.slots.conclusion import AnyTask
from amqtask.worker.slots.underway import Underway

TERMINATED = Revoked("terminated")


def retried(retry: Retry, error: BaseException | None, runtime: float) -> Retried:
    """The outcome of a run that is to be tried again.

    Args:
        retry: asked for by the task or its options.
        error: what the run raised, if it did.
        runtime: seconds.
    """
    assert isinstance(retry.sig, Again)
    cause = retry.exc or (retry if error is None else error)
    traceback = None if error is None else result.format_traceback(error)
    return Retried(cause, traceback, retry.sig, runtime)


def outcome_of(underway: Underway, value: object) -> Outcome:
    """The outcome of a run that returned."""
    runtime = time.monotonic() - underway.started
    asked = underway.asked
    if not asked.changes:
        return Succeeded(value, runtime)
    if asked.replacement is not None:
        return Replaced(asked.replacement, runtime)
    if asked.retry is not None:
        return retried(asked.retry, None, runtime)
    return Succeeded(value, runtime, asked.children or ())


def outcome_of_error(error: BaseException, task: AnyTask, underway: Underway) -> Outcome:
    """The outcome of a run that raised."""
    request = underway.request
    runtime = time.monotonic() - underway.started
    follows = task.follows(request, error)
    if isinstance(follows, Retry):
        return retried(follows, error, runtime)
    if isinstance(follows, Ignore):
        replacement = request.asked.replacement
        return Ignored() if replacement is None else Replaced(replacement, runtime)
    if isinstance(follows, Reject):
        return Rejected(str(follows.reason), follows.requeue)
    reason = "failure"
    if isinstance(follows, SoftTimeLimitExceeded):
        reason = "soft time limit"
    elif isinstance(follows, TypeError) and not task.accepts(request.args, request.kwargs):
        reason = "wrong arguments"
    return Failed(follows, result.format_traceback(follows), reason, runtime)
