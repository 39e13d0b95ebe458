"""What follows an attempt of a task that did not succeed: asked for by the task itself, or by the task's options.

``Task.retry`` asks; ``Task.apply`` and the worker ask for what the options say. All of them get a ``Retry``, whose ``sig`` is the
next attempt. Nothing is published here. Any thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from amqtask.call import check_options, named, positional
from amqtask.core.codec import moment
from amqtask.core.retry import (
    Again,
    GiveUp,
    Plan,
    RetryIn,
    Rules,
    decide,
    exhausted,
    seconds,
)
from amqtask.errors import MaxRetriesExceededError, Retry
from amqtask.request import Request


def first_time(request: Request, now: float) -> float:
    """When the first attempt of the running task began, in seconds since the epoch."""
    if request.first_time is not None:
        try:
            return moment(request.first_time)
        except ValueError:
            pass  # somebody else's header
    return now - (time.monotonic() - request.started) if request.started else now


def asked(
    request: Request,
    plan: Plan,
    *,
    exc: BaseException | None,
    eta: object,
    countdown: object,
    max_retries: int | None,
    args: Sequence[object] | None,
    kwargs: Mapping[str, object] | None,
    options: Mapping[str, Any],
) -> Retry | GiveUp:
    """What a task that asks to be retried gets.

    Args:
        request: the running task's.
        plan: the limits, and the delay when none is given.
        exc: why.
        eta: when; comes before ``countdown``. Without a time zone it is UTC.
        countdown: seconds from now.
        max_retries: a limit for this attempt, instead of the plan's.
        args: new positional arguments, ``None`` for the same.
        kwargs: new keyword arguments, ``None`` for the same.
        options: ``RetryOptions``.

    Raises:
        TypeError, ValueError: an argument that makes no sense.
    """
    now = time.time()
    when: float | datetime
    if eta is not None:
        if not isinstance(eta, datetime):
            raise TypeError(
                f"eta must be a datetime, not {type(eta).__name__}; for seconds write countdown."
            )
        if eta.tzinfo is None:
            eta = eta.replace(tzinfo=UTC)
        when, due = eta, eta.timestamp()
    else:
        if countdown is None:
            import random  # loaded where something is retried, not with amqtask

            countdown = round(plan.wait(request.retries, random), 3)
        span = countdown.total_seconds() if isinstance(countdown, timedelta) else countdown
        late = isinstance(span, float | int) and span < 0
        delay = 0.0 if late else seconds(span)
        if delay is None:
            raise ValueError(f"countdown must be seconds from now, not {countdown!r}.")
        when, due = countdown if isinstance(countdown, float | int) else delay, now + delay
    try:
        iso(due)
    except (OverflowError, ValueError, OSError):
        raise ValueError(f"countdown lies outside the calendar: {countdown!r}.") from None
    first = first_time(request, now)
    again = Again(
        due=due,
        first=first,
        args=None if args is None else positional(args, "retry"),
        kwargs=None if kwargs is None else named(kwargs, "retry"),
        options=check_options(options),
    )
    if max_retries is not None:
        request.asked.max_retries = max_retries
        plan = Plan(max_retries=max_retries, budget=plan.budget)
    given_up = exhausted(
        plan,
        retries=request.retries,
        first=first,
        now=now,
        delay=max(0.0, due - now),
    )
    if given_up is not None:
        return given_up
    retry = Retry(exc=exc, when=when, is_eager=request.is_eager, sig=again)
    request.asked.retry = retry
    request.asked.changes = True
    return retry


def automatic(request: Request, rules: Rules, error: BaseException) -> Retry | GiveUp | None:
    """What the task's options say to an exception it has raised; ``None`` when they do not retry it."""
    import random

    now = time.time()
    first = first_time(request, now)
    decision = decide(
        rules,
        error,
        retries=request.retries,
        first=first,
        now=now,
        rng=random,
        max_retries=request.asked.max_retries,
    )
    if not isinstance(decision, RetryIn):
        return decision
    return Retry(
        exc=error,
        when=round(decision.delay, 3),
        is_eager=request.is_eager,
        sig=Again(due=now + decision.delay, first=first, options=rules.options),
    )


def raised(request: Request, plan: Plan, retry: Retry) -> Retry | BaseException:
    """What a task that raised a ``Retry`` of its own making gets: the retry, or what it fails with instead.

    Args:
        request: the running task's.
        plan: the limits, and the delay when the task named none.
        retry: as the task raised it.
    """
    if isinstance(retry.sig, Again):
        return retry
    when = retry.when
    try:
        made = asked(
            request,
            plan,
            exc=retry.exc,
            eta=when if isinstance(when, datetime) else None,
            countdown=None if isinstance(when, datetime) else when,
            max_retries=None,
            args=None,
            kwargs=None,
            options={},
        )
    except (TypeError, ValueError) as error:
        return error
    if isinstance(made, GiveUp):
        return retry.exc or too_many(request, made, request.args, request.kwargs)
    return Retry(retry.message, retry.exc or retry.excs, made.when, made.is_eager, made.sig)


def too_many(
    request: Request, why: GiveUp, args: Sequence[object], kwargs: Mapping[str, object]
) -> MaxRetriesExceededError:
    """The error of a task that asked for one retry too many."""
    args = tuple(args)  # as Celery writes it
    text = f"Can't retry {request.task}[{request.id}] args:{args} kwargs:{kwargs}"
    if why is GiveUp.BUDGET:
        text += ": the time of its retry_for is over"
    return MaxRetriesExceededError(text, task_args=args, task_kwargs=kwargs)


def iso(at: float) -> str:
    """A moment as it travels in headers."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
