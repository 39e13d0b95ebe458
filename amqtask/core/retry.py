"""When a task that failed runs again, as values: policies, the rules of one task, and what they come to for one exception.

Everything is decided from what is passed in: how often the task has been retried, when its first attempt began, the time
now and a source of random numbers.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from amqtask.core.backoff import Random, exponential, full_jitter
from amqtask.errors import ConfigurationError, Directive, SoftTimeLimitExceeded


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a task is retried after one kind of exception: a value of the option ``retry_policies``.

    What is left out is as the task's own options have it. Times are seconds or a ``timedelta``.

    Args:
        max_retries: attempts after the first; ``None`` is without end. Left out beside ``retry_for``, it is without end too.
        delay: time between attempts; comes before a backoff of the task.
        backoff: ``True``, or the factor of an exponential delay: ``factor * 2**retries``.
        backoff_max: the longest such delay.
        jitter: draw the delay evenly from zero to what the backoff says.
        retry_for: no attempt begins later than this after the first; ``None`` is without end.

    Raises:
        ConfigurationError: a value that cannot work.
    """

    max_retries: int | UnsetType | None = UNSET
    delay: float | timedelta | UnsetType = UNSET
    backoff: bool | float | UnsetType = UNSET
    backoff_max: float | timedelta | UnsetType = UNSET
    jitter: bool | UnsetType = UNSET
    retry_for: float | timedelta | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        limit: object = self.max_retries
        if limit is not UNSET and limit is not None and not (type(limit) is int and limit >= 0):
            raise ConfigurationError(
                f"RetryPolicy: max_retries must be a whole number from 0, or None, not {limit!r}."
            )
        for name in ("delay", "backoff_max", "retry_for"):
            value: object = getattr(self, name)
            if value is UNSET or (name == "retry_for" and value is None):
                continue
            if seconds(value) is None:
                raise ConfigurationError(
                    f"RetryPolicy: {name} must be seconds or a timedelta from 0, not {value!r}."
                )
        factor: object = self.backoff
        if factor is not UNSET and not isinstance(factor, bool) and seconds(factor) is None:
            raise ConfigurationError(
                f"RetryPolicy: backoff must be True, False or a factor from 0, not {factor!r}."
            )
        if self.jitter is not UNSET and not isinstance(self.jitter, bool):
            raise ConfigurationError(
                f"RetryPolicy: jitter must be True or False, not {self.jitter!r}."
            )


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A policy with nothing left out. Times are seconds; ``backoff`` zero means a fixed ``delay``."""

    max_retries: int | None = 3
    delay: float = 180.0
    backoff: float = 0.0
    backoff_max: float = 600.0
    jitter: bool = True
    budget: float | None = None

    def under(self, policy: RetryPolicy) -> Plan:
        """This plan with what a policy says differently."""
        changes: dict[str, Any] = {}
        if policy.retry_for is not UNSET:
            changes["budget"] = None if policy.retry_for is None else seconds(policy.retry_for)
            if policy.retry_for is not None:
                changes["max_retries"] = None
        if policy.max_retries is not UNSET:
            changes["max_retries"] = policy.max_retries
        if policy.delay is not UNSET:
            changes["delay"] = seconds(policy.delay)
            changes["backoff"] = 0.0
        if policy.backoff is not UNSET:
            changes["backoff"] = float(policy.backoff)
        if policy.backoff_max is not UNSET:
            changes["backoff_max"] = seconds(policy.backoff_max)
        if policy.jitter is not UNSET:
            changes["jitter"] = policy.jitter
        return msgspec.structs.replace(self, **changes)

    def wait(self, retries: int, rng: Random) -> float:
        """Seconds before the next attempt of a task that was retried so often."""
        if not self.backoff:
            return self.delay
        longest = exponential(retries, self.backoff, self.backoff_max)
        return full_jitter(longest, rng) if self.jitter else longest


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """After which exceptions a task runs again by itself, and how.

    Args:
        plan: for the exceptions of ``retried``.
        retried: ``autoretry_for``.
        refused: ``dont_autoretry_for``; comes before everything.
        policies: plans of single exception classes; the most specific class counts, and comes before ``retried``.
        options: what is different in the next attempt's message.
    """

    plan: Plan = Plan()
    retried: tuple[type[BaseException], ...] = ()
    refused: tuple[type[BaseException], ...] = ()
    policies: Mapping[type[BaseException], Plan] = {}
    options: Mapping[str, Any] = {}

    def policy(self, error: BaseException | None) -> Plan | None:
        """The plan that ``retry_policies`` has for an exception."""
        if self.policies:
            for kind in type(error).__mro__:
                plan = self.policies.get(kind)
                if plan is not None and _meant(error, kind):
                    return plan
        return None

    def find(self, error: BaseException) -> Plan | None:
        """The plan for an exception that a task raised; ``None`` when it is not retried by itself."""
        if isinstance(error, (Directive, self.refused)):
            return None
        plan = self.policy(error)
        if plan is not None:
            return plan
        if any(isinstance(error, kind) and _meant(error, kind) for kind in self.retried):
            return self.plan
        return None


def _meant(error: BaseException | None, kind: type[BaseException]) -> bool:
    """A soft time limit is retried only when it is listed itself: ``Exception`` means what the task's own code raises."""
    return not isinstance(error, SoftTimeLimitExceeded) or issubclass(kind, SoftTimeLimitExceeded)


class RetryIn(msgspec.Struct, frozen=True):
    """The task runs again in ``delay`` seconds."""

    delay: float


class GiveUp(enum.Enum):
    """Why a task that would be retried is not."""

    RETRIES = "max_retries"
    BUDGET = "retry_for"


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """The next attempt of a task.

    Args:
        due: when it is to start, in seconds since the epoch.
        first: when the first attempt began.
        args: new positional arguments; ``None`` keeps the message's own.
        kwargs: new keyword arguments; ``None`` keeps the message's own.
        options: what else is different, by the name of the option of ``retry``.
    """

    due: float
    first: float
    args: Sequence[object] | None = None
    kwargs: Mapping[str, object] | None = None
    options: Mapping[str, Any] = {}


def decide(
    rules: Rules,
    error: BaseException,
    *,
    retries: int,
    first: float,
    now: float,
    rng: Random,
    max_retries: int | None = None,
) -> RetryIn | GiveUp | None:
    """What an exception of a task comes to; ``None`` when the task is not retried after it.

    Args:
        rules: the task's.
        error: what it raised.
        retries: how often it has been retried.
        first: when its first attempt began, in the units of ``now``.
        now: the time.
        rng: draws the jitter.
        max_retries: a limit that this attempt asked for itself.
    """
    plan = rules.find(error)
    if plan is None:
        return None
    if max_retries is not None:
        plan = msgspec.structs.replace(plan, max_retries=max_retries)
    delay = plan.wait(retries, rng)
    return exhausted(plan, retries=retries, first=first, now=now, delay=delay) or RetryIn(delay)


def exhausted(plan: Plan, *, retries: int, first: float, now: float, delay: float) -> GiveUp | None:
    """Why one more attempt in ``delay`` seconds would be one too many; ``None`` when it would not.

    Args:
        plan: the limits.
        retries: how often the task has been retried.
        first: when its first attempt began.
        now: the time.
        delay: seconds until the next attempt.
    """
    if plan.max_retries is not None and retries >= plan.max_retries:
        return GiveUp.RETRIES
    if plan.budget is not None and now + delay > first + plan.budget:
        return GiveUp.BUDGET
    return None


def seconds(value: object) -> float | None:
    """A number of seconds or a ``timedelta`` as seconds; ``None`` for anything else, and for what lies below zero."""
    if isinstance(value, timedelta):
        return value.total_seconds() if value >= timedelta(0) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
