"""What follows an attempt: retries as a task asks for them and as its options order them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from amqtask.attempt import iso
from amqtask.core.retry import Again, RetryPolicy
from amqtask.errors import (
    AmqtaskError,
    ConfigurationError,
    Directive,
    Ignore,
    MaxRetriesExceededError,
    Reject,
    Retry,
)
from amqtask.request import Request, current
from amqtask.task import Task
from tests.test_task import make


def work(a: int, b: int = 2, *, c: int = 3) -> tuple[int, int, int]:
    return a, b, c


@contextmanager
def running(task: Task[..., Any], **fields: Any) -> Iterator[Request]:
    """Be a worker that runs the task."""
    request = Request(
        task=task.name,
        called_directly=False,
        started=time.monotonic(),
        **{"id": "x", "args": (1,), **fields},
    )
    token = current.set(request)
    try:
        yield request
    finally:
        current.reset(token)


def asked(call: Callable[[], object]) -> Retry:
    with pytest.raises(Retry) as caught:
        call()
    return caught.value


def next_of(retry: object) -> Again:
    assert isinstance(retry, Retry)
    assert isinstance(retry.sig, Again)
    return retry.sig


# ------------------------------------------------------------ self.retry


def test_it_raises_what_comes_next() -> None:
    task = make(work)
    error = OSError("down")
    with running(task) as request:
        retry = asked(lambda: task.retry(exc=error, countdown=5))

    assert (retry.exc, retry.when, retry.humanize()) == (error, 5, "in 5s")
    assert str(retry) == "Retry in 5s: OSError('down')"
    assert request.asked.retry is retry
    again = next_of(retry)
    assert abs(again.due - time.time() - 5) < 1
    assert abs(again.first - time.time()) < 1
    assert (again.args, again.kwargs, again.options) == (None, None, {})


def test_without_throw_it_is_returned() -> None:
    task = make(work, default_retry_delay=7)
    with running(task) as request:
        retry = task.retry(throw=False)

    assert retry.when == 7
    assert request.asked.retry is retry


def test_a_moment_comes_before_a_countdown() -> None:
    task = make(work)
    at = datetime.now(UTC) + timedelta(minutes=5)
    with running(task):
        retry = asked(lambda: task.retry(eta=at, countdown=1))

    assert retry.when == at
    assert next_of(retry).due == at.timestamp()
    assert str(retry) == f"Retry at {at}"


def test_a_moment_without_a_zone_is_utc() -> None:
    task = make(work)
    with running(task):
        retry = asked(lambda: task.retry(eta=datetime(2030, 1, 1)))  # noqa: DTZ001  # as in Celery

    assert next_of(retry).due == datetime(2030, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("countdown", [-3, 0, timedelta(0), timedelta(-1), float("-inf")])
def test_a_time_that_has_passed_is_now(countdown: Any) -> None:
    task = make(work)
    with running(task):
        assert next_of(asked(lambda: task.retry(countdown=countdown))).due <= time.time()


def test_directly_called_it_raises_what_went_wrong() -> None:
    task = make(work)
    error = KeyError("k")

    with pytest.raises(KeyError) as caught:
        task.retry(exc=error)
    assert caught.value is error
    with pytest.raises(Retry, match="Task can be retried"):
        task.retry()


def test_directly_called_in_an_except_block() -> None:
    task = make(work)

    def call() -> None:
        try:
            raise OSError("theirs")
        except OSError:
            task.retry(exc=KeyError("mine"))

    with pytest.raises(KeyError, match="mine") as caught:
        call()

    assert isinstance(caught.value.__cause__, OSError)


def test_one_too_many_without_an_exception() -> None:
    task = make(work, max_retries=2)
    with (
        running(task, retries=2, kwargs={"c": 4}) as request,
        pytest.raises(task.MaxRetriesExceededError) as caught,
    ):
        task.retry()

    error = caught.value
    assert str(error) == "Can't retry m.work[x] args:(1,) kwargs:{'c': 4}"
    assert isinstance(error, MaxRetriesExceededError)
    assert isinstance(error, AmqtaskError)
    assert not isinstance(error, Directive)
    assert (error.task_args, error.task_kwargs) == ((1,), {"c": 4})
    assert request.asked.retry is None


def test_one_too_many_raises_the_exception_given() -> None:
    task = make(work, max_retries=0)
    error = OSError("down")

    def call() -> None:
        try:
            raise error
        except OSError as handled:
            task.retry(exc=handled)

    with running(task), pytest.raises(OSError, match="down") as caught:
        call()

    assert caught.value is error
    assert error.__cause__ is None


def test_limits_of_one_call_and_of_none() -> None:
    task = make(work, max_retries=2)
    with running(task, retries=5):
        assert asked(lambda: task.retry(max_retries=6)).when == 180
        with pytest.raises(MaxRetriesExceededError):
            task.retry(max_retries=5)
    endless = make(work, max_retries=None)
    with running(endless, retries=1000):
        assert asked(endless.retry).when == 180


def test_the_time_for_retries_runs_from_the_first_attempt() -> None:
    task = make(work, retry_for=timedelta(seconds=60))
    assert task.max_retries is None
    with running(task, retries=40, first_time=iso(time.time() - 50)):
        assert asked(lambda: task.retry(countdown=5)).when == 5
        with pytest.raises(MaxRetriesExceededError, match="retry_for is over"):
            task.retry(countdown=30)
        with pytest.raises(OSError, match="down"):
            task.retry(countdown=30, exc=OSError("down"))


def test_a_foreign_first_time_is_passed_over() -> None:
    task = make(work, retry_for=60)
    with running(task, first_time="yesterday"):
        assert abs(next_of(asked(lambda: task.retry(countdown=5))).first - time.time()) < 1


def test_the_policy_of_the_exception_given() -> None:
    task = make(work, retry_policies={OSError: RetryPolicy(delay=9, max_retries=1)})
    with running(task):
        assert asked(lambda: task.retry(exc=TimeoutError())).when == 9
        assert asked(lambda: task.retry(exc=TimeoutError(), countdown=1)).when == 1
        assert asked(lambda: task.retry(exc=KeyError())).when == 180
    with running(task, retries=1), pytest.raises(TimeoutError):
        task.retry(exc=TimeoutError())


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ({"args": (9,)}, ((9,), {"b": 5, "c": 6})),
        ({"args": (9, 8)}, ((9, 8), {"c": 6})),
        ({"kwargs": {"c": 7}}, ([1], {"c": 7})),
        ({"kwargs": {"a": 7}}, ([7], {})),
        ({"args": (9,), "kwargs": {"b": 8}}, ((9,), {"b": 8})),
        ({"args": []}, None),
    ],
)
def test_new_arguments_beside_old_ones(new: dict[str, Any], expected: Any) -> None:
    task = make(work)
    with running(task, kwargs={"b": 5, "c": 6}):
        if expected is None:
            with pytest.raises(TypeError, match=r"work\(\)"):
                task.retry(**new)
            return
        again = next_of(asked(lambda: task.retry(**new)))

    assert (again.args, again.kwargs) == expected


def test_options_of_the_next_message() -> None:
    task = make(work)
    with running(task):
        again = next_of(asked(lambda: task.retry(queue="slow", priority=3, shadow=None)))
        assert again.options == {"queue": "slow", "priority": 3}
        with pytest.raises(TypeError, match=r"'prioritty'.*Did you mean 'priority'"):
            task.retry(prioritty=3)  # type: ignore[call-arg]  # the misspelling
        with pytest.raises(ValueError, match="priority"):
            task.retry(priority=300)
        with pytest.raises(ValueError, match="'id' belongs to the message protocol"):
            task.retry(headers={"id": "another"})
        with pytest.raises(ValueError, match="countdown"):
            task.retry(countdown=float("nan"))
        with pytest.raises(ValueError, match="calendar"):
            task.retry(countdown=1e300)
        with pytest.raises(TypeError, match="write countdown"):
            task.retry(eta=5)  # type: ignore[arg-type]  # the mistake


# ------------------------------------------------------------ what a run comes to


def test_an_exception_that_is_not_listed_stays() -> None:
    task = make(work, autoretry_for=(OSError,))
    error = KeyError()
    with running(task) as request:
        assert task.follows(request, error) is error


def test_a_listed_exception_is_retried() -> None:
    task = make(work, autoretry_for=(OSError,), retry_backoff=4, retry_jitter=False)
    error = TimeoutError("slow")
    with running(task, retries=2) as request:
        retry = task.follows(request, error)

    assert isinstance(retry, Retry)
    assert (retry.exc, retry.when) == (error, 16)
    assert abs(next_of(retry).due - time.time() - 16) < 1


def test_retry_kwargs() -> None:
    task = make(
        work,
        autoretry_for=(OSError,),
        retry_kwargs={"max_retries": 5, "countdown": 3, "queue": "slow"},
    )
    with running(task, retries=4) as request:
        retry = task.follows(request, OSError())
        assert isinstance(retry, Retry)
        assert (retry.when, next_of(retry).options) == (3, {"queue": "slow"})
    error = OSError()
    with running(task, retries=5) as request:
        assert task.follows(request, error) is error


def test_arguments_that_do_not_fit_are_not_retried() -> None:
    task = make(work, autoretry_for=(Exception,))
    error = TypeError("work() missing 1 required positional argument: 'a'")
    with running(task, args=()) as request:
        assert task.follows(request, error) is error
    with running(task) as request:
        assert isinstance(task.follows(request, TypeError("another")), Retry)


def test_a_limit_given_to_retry_holds_for_the_options_too() -> None:
    task = make(work, autoretry_for=(OSError,), max_retries=10)
    error = OSError("down")
    with running(task, retries=3) as request:
        with pytest.raises(OSError, match="down"):
            task.retry(exc=error, max_retries=3)
        assert task.follows(request, error) is error


def test_a_retry_asked_for_holds_whatever_is_raised_after_it() -> None:
    task = make(work)
    with running(task) as request:
        first = task.retry(throw=False, countdown=1)
        assert task.follows(request, KeyError()) is first
        assert task.follows(request, Ignore()) is first
        second = task.retry(throw=False, countdown=2)
        assert task.follows(request, KeyError()) is second
        reject = Reject("no")
        assert task.follows(request, reject) is reject


def test_a_retry_of_the_tasks_own_making() -> None:
    task = make(work, max_retries=1, default_retry_delay=11)
    error = OSError("down")
    at = datetime.now(UTC) + timedelta(hours=1)
    with running(task) as request:
        made = task.follows(request, Retry("busy", exc=error, when=4))
        assert isinstance(made, Retry)
        assert (str(made), made.exc, made.when) == ("busy", error, 4)
        assert abs(next_of(made).due - time.time() - 4) < 1
        assert next_of(task.follows(request, Retry(when=at))).due == at.timestamp()
        assert abs(next_of(task.follows(request, Retry())).due - time.time() - 11) < 1
        assert str(task.follows(request, Retry(exc="text", when=1))) == "Retry in 1s: text"
        assert isinstance(task.follows(request, Retry(when=float("nan"))), ValueError)
    with running(task, retries=1) as request:
        assert task.follows(request, Retry(exc=error)) is error
        assert isinstance(task.follows(request, Retry()), MaxRetriesExceededError)


# ------------------------------------------------------------ apply()


def test_apply_retries_at_once() -> None:
    seen = []

    def flaky(self: Task[..., Any], what: str) -> str:
        seen.append((what, self.request.retries, self.request.is_eager))
        if len(seen) < 3:
            raise self.retry(args=(what + "!",), countdown=3600)
        return what

    result = make(flaky, bind=True).apply(("a",))

    assert (result.get(), result.state) == ("a!!", "SUCCESS")
    assert seen == [("a", 0, True), ("a!", 1, True), ("a!!", 2, True)]


def test_apply_retries_what_the_options_say_until_the_limit() -> None:
    calls = []

    def fails() -> None:
        calls.append(1)
        raise OSError("down")

    task = make(fails, autoretry_for=(OSError,), max_retries=4)
    result = task.apply()

    assert (len(calls), result.state, str(result.result)) == (5, "FAILURE", "down")
    with pytest.raises(OSError, match="down"):
        task.apply(throw=True)
    assert len(calls) == 10
    task.apply(retries=4)
    assert len(calls) == 11


def test_apply_counts_the_delays_against_the_time() -> None:
    calls = []

    def fails() -> None:
        calls.append(1)
        raise OSError("down")

    task = make(
        fails, autoretry_for=(OSError,), retry_for=100, retry_backoff=10, retry_jitter=False
    )
    task.apply()

    assert len(calls) == 4  # after 10, 20 and 40 s; the next one would begin at 150 s


def test_apply_retries_what_was_asked_for_without_throw() -> None:
    seen = []

    def once_more(self: Task[..., Any]) -> int:
        seen.append(1)
        if self.request.retries == 0:
            self.retry(throw=False)
        return len(seen)

    assert make(once_more, bind=True).apply().get() == 2


def test_a_coroutine_task_asks_like_a_function() -> None:
    async def later(self: Task[..., Any]) -> int:
        await asyncio.sleep(0)
        if self.request.retries < 2:
            self.retry()
        return self.request.retries

    task = make(later, bind=True)
    task.is_coroutine = True

    assert task.apply().get() == 2


# ------------------------------------------------------------ options


@pytest.mark.parametrize(
    "values",
    [
        {"retry_kwargs": {"max_retrys": 3}},
        {"retry_kwargs": {"max_retries": -1}},
        {"retry_kwargs": {"countdown": "soon"}},
        {"retry_kwargs": {"priority": 999}},
        {"retry_for": -1},
        {"retry_for": "1h"},
        {"retry_policies": [OSError]},
        {"retry_policies": {OSError: 3}},
        {"retry_policies": {"OSError": RetryPolicy()}},
        {"retry_policies": {(OSError, KeyError): RetryPolicy()}},
    ],
)
def test_options_that_cannot_work(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"Task t.*{next(iter(values))}"):
        make(work, **values)


def test_a_task_that_retries_nothing_has_no_rules() -> None:
    assert make(work).retry_rules is None
    assert make(work, retry_backoff=True).retry_rules is None
