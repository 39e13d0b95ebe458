"""When a failed task runs again: pure decisions."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.core.retry import GiveUp, Plan, RetryIn, RetryPolicy, Rules, decide, seconds
from amqtask.errors import ConfigurationError, Ignore, Reject, Retry, SoftTimeLimitExceeded

RNG = random.Random(1)


def decision(rules: Rules, error: BaseException, **changes: Any) -> RetryIn | GiveUp | None:
    given: dict[str, Any] = {"retries": 0, "first": 0.0, "now": 0.0, "rng": RNG}
    return decide(rules, error, **given | changes)


# ------------------------------------------------------------ delays


def test_a_fixed_delay() -> None:
    assert [Plan(delay=5).wait(retries, RNG) for retries in (0, 3, 99)] == [5, 5, 5]


def test_exact_exponential_delays_without_jitter() -> None:
    plan = Plan(backoff=2, backoff_max=100, jitter=False)

    assert [plan.wait(retries, RNG) for retries in range(8)] == [2, 4, 8, 16, 32, 64, 100, 100]


@given(
    factor=st.floats(0.001, 1000),
    cap=st.floats(0, 10_000),
    retries=st.integers(0, 10_000),
    seed=st.integers(0, 1000),
)
def test_jitter_stays_between_zero_and_the_exact_delay(
    factor: float, cap: float, retries: int, seed: int
) -> None:
    exact = Plan(backoff=factor, backoff_max=cap, jitter=False).wait(retries, RNG)
    drawn = Plan(backoff=factor, backoff_max=cap).wait(retries, random.Random(seed))

    assert 0 <= drawn <= exact <= cap


@given(factor=st.floats(0.001, 1000), cap=st.floats(0, 10_000), retries=st.integers(0, 200))
def test_exact_delays_never_shrink(factor: float, cap: float, retries: int) -> None:
    plan = Plan(backoff=factor, backoff_max=cap, jitter=False)

    assert plan.wait(retries, RNG) <= plan.wait(retries + 1, RNG)


def test_jitter_uses_the_whole_width() -> None:
    plan = Plan(backoff=1, backoff_max=8)
    drawn = [plan.wait(3, RNG) for _ in range(1000)]

    assert min(drawn) < 0.5
    assert max(drawn) > 7.5
    assert 3.5 < sum(drawn) / 1000 < 4.5


# ------------------------------------------------------------ which exceptions


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (ConnectionError(), True),
        (ConnectionResetError(), False),
        (BrokenPipeError(), True),
        (TimeoutError(), False),
        (Ignore(), False),
        (Reject("no"), False),
        (Retry(), False),
    ],
)
def test_listed_exceptions_and_their_subclasses(error: BaseException, retried: bool) -> None:
    rules = Rules(retried=(ConnectionError, Ignore, Retry), refused=(ConnectionResetError,))

    assert (decision(rules, error) is not None) == retried


def test_no_directive_is_ever_retried() -> None:
    rules = Rules(retried=(BaseException,), policies={Exception: Plan()})

    assert [decision(rules, error) for error in (Ignore(), Reject(), Retry())] == [None] * 3


def test_a_soft_time_limit_must_be_listed_itself() -> None:
    error = SoftTimeLimitExceeded()

    assert decision(Rules(retried=(Exception,)), error) is None
    assert decision(Rules(policies={Exception: Plan()}), error) is None
    assert decision(Rules(retried=(SoftTimeLimitExceeded,)), error) is not None
    assert decision(Rules(policies={SoftTimeLimitExceeded: Plan()}), error) is not None


def test_the_most_specific_policy_counts_whatever_the_order() -> None:
    rules = Rules(
        policies={
            OSError: Plan(delay=1),
            ConnectionError: Plan(delay=2),
            Exception: Plan(delay=3),
        },
        retried=(ConnectionError,),
    )

    assert decision(rules, ConnectionResetError()) == RetryIn(2)
    assert decision(rules, FileNotFoundError()) == RetryIn(1)
    assert decision(rules, KeyError()) == RetryIn(3)


def test_dont_autoretry_for_comes_before_policies() -> None:
    rules = Rules(policies={OSError: Plan()}, refused=(FileNotFoundError,))

    assert decision(rules, FileNotFoundError()) is None
    assert decision(rules, PermissionError()) is not None


# ------------------------------------------------------------ limits


@given(limit=st.integers(0, 50), retries=st.integers(0, 100))
def test_so_many_retries_and_no_more(limit: int, retries: int) -> None:
    rules = Rules(retried=(OSError,), plan=Plan(max_retries=limit, delay=1))
    expected = RetryIn(1) if retries < limit else GiveUp.RETRIES

    assert decision(rules, OSError(), retries=retries) == expected


def test_without_end() -> None:
    rules = Rules(retried=(OSError,), plan=Plan(max_retries=None, delay=1))

    assert decision(rules, OSError(), retries=10**6) == RetryIn(1)


def test_a_limit_that_the_attempt_asked_for() -> None:
    rules = Rules(retried=(OSError,), plan=Plan(max_retries=10, delay=1))

    assert decision(rules, OSError(), retries=2, max_retries=2) is GiveUp.RETRIES
    assert decision(rules, OSError(), retries=2, max_retries=3) == RetryIn(1)


@given(budget=st.floats(0, 1000), delay=st.floats(0, 1000), passed=st.floats(0, 1000))
def test_no_attempt_begins_after_the_budget(budget: float, delay: float, passed: float) -> None:
    rules = Rules(retried=(OSError,), plan=Plan(max_retries=None, delay=delay, budget=budget))
    made = decision(rules, OSError(), retries=7, first=100.0, now=100.0 + passed)

    if made is not GiveUp.BUDGET:
        assert made == RetryIn(delay)
        assert 100.0 + passed + delay <= 100.0 + budget
    else:
        assert 100.0 + passed + delay > 100.0 + budget


# ------------------------------------------------------------ policies as users write them


def test_what_a_policy_leaves_out_is_the_tasks() -> None:
    own = Plan(max_retries=7, delay=9, backoff=2, backoff_max=50, jitter=False, budget=3600)

    assert own.under(RetryPolicy()) == own
    assert own.under(RetryPolicy(max_retries=None)).max_retries is None
    assert own.under(RetryPolicy(delay=30)) == Plan(
        max_retries=7, delay=30, backoff=0, backoff_max=50, jitter=False, budget=3600
    )
    assert own.under(RetryPolicy(backoff=True)).backoff == 1.0
    assert own.under(RetryPolicy(backoff=False)).backoff == 0.0
    assert own.under(RetryPolicy(backoff_max=timedelta(minutes=1), jitter=True)) == Plan(
        max_retries=7, delay=9, backoff=2, backoff_max=60, jitter=True, budget=3600
    )


def test_a_time_without_a_number_means_as_often_as_fits() -> None:
    own = Plan(max_retries=3)

    assert own.under(RetryPolicy(retry_for=timedelta(hours=1))) == Plan(
        max_retries=None, budget=3600
    )
    assert own.under(RetryPolicy(retry_for=60, max_retries=5)) == Plan(max_retries=5, budget=60)
    assert Plan(budget=5).under(RetryPolicy(retry_for=None)) == Plan(budget=None)


@pytest.mark.parametrize(
    "values",
    [
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"max_retries": True},
        {"delay": -1},
        {"delay": "5"},
        {"delay": None},
        {"backoff": -1},
        {"backoff": "yes"},
        {"backoff_max": float("nan")},
        {"jitter": 1},
        {"retry_for": timedelta(seconds=-1)},
        {"retry_for": float("inf")},
    ],
)
def test_a_policy_that_cannot_work_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=rf"RetryPolicy.*{next(iter(values))}"):
        RetryPolicy(**values)


def test_seconds() -> None:
    assert seconds(timedelta(minutes=2)) == 120
    assert seconds(3) == 3.0
    assert [seconds(value) for value in (True, -1, "3", None, float("nan"), 10**400)] == [None] * 6
