"""The same task bodies through Celery's own tracer and through ours: attempts, states, delays and the last error, side by side.

Celery runs as its worker does, on kombu's in-memory transport, and what it publishes is read back from there. Where amqtask
differs on purpose, the case says so with a result of its own.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple

import celery
import celery.app.trace
import celery.exceptions
import pytest

import amqtask
from amqtask.core.retry import Again
from amqtask.request import Request, current
from tests.test_task import make

THEIRS = SimpleNamespace(
    Retry=celery.exceptions.Retry,
    Ignore=celery.exceptions.Ignore,
    Reject=celery.exceptions.Reject,
    MaxRetriesExceededError=celery.exceptions.MaxRetriesExceededError,
)
OURS = SimpleNamespace(
    Retry=amqtask.Retry,
    Ignore=amqtask.Ignore,
    Reject=amqtask.Reject,
    MaxRetriesExceededError=amqtask.MaxRetriesExceededError,
)
MOST = 8  # attempts, after which a case counts as endless


class Broken(Exception):
    pass


class Worse(Broken):
    pass


class End(NamedTuple):
    """What became of a task: the delay of each retry in seconds, then the last state, and its error's class and text."""

    delays: list[float]
    state: str
    error: str = ""
    text: str = ""


Body = Callable[..., Any]


class Case(NamedTuple):
    """One task. ``ours`` is what amqtask makes of it where that differs from ``celery``."""

    options: dict[str, Any]
    body: Body
    celery: End
    ours: End | None = None


def broken(self: Any, lib: Any, *args: Any) -> None:
    raise Broken("why")


def worse(self: Any, lib: Any, *args: Any) -> None:
    raise Worse("why")


def twice_broken(self: Any, lib: Any, *args: Any) -> str:
    if self.request.retries < 2:
        raise Broken("why")
    return "done"


def asks(**arguments: Any) -> Body:
    def body(self: Any, lib: Any, *args: Any) -> None:
        raise self.retry(**arguments)

    return body


def asks_handling(**arguments: Any) -> Body:
    """Ask inside an ``except`` block."""

    def body(self: Any, lib: Any, *args: Any) -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise self.retry(**arguments)  # noqa: B904  # as users write it

    return body


def raises(name: str, *arguments: Any) -> Body:
    def body(self: Any, lib: Any, *args: Any) -> None:
        raise getattr(lib, name)(*arguments)

    return body


def asks_softly(self: Any, lib: Any, *args: Any) -> str:
    if self.request.retries < 1:
        self.retry(countdown=4, throw=False)
    return "done"


def asks_with_more(self: Any, lib: Any, *args: Any) -> str:
    if len(args) < 3:
        raise self.retry(args=(*self.request.args, "more"), countdown=1)
    return "done"


def swallows(self: Any, lib: Any, *args: Any) -> str:
    """Catch what ``retry`` raises: the retry was asked for all the same."""
    if self.request.retries < 1:
        try:
            self.retry(countdown=4)
        except lib.Retry:
            return "swallowed"
    return "done"


def asks_at(self: Any, lib: Any, *args: Any) -> None:
    raise self.retry(eta=datetime.now(UTC) + timedelta(seconds=30), max_retries=1)


def asks_at_naively(self: Any, lib: Any, *args: Any) -> None:
    moment = datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=30)
    raise self.retry(eta=moment, max_retries=1)


def limits_itself(self: Any, lib: Any, *args: Any) -> None:
    """A limit of one attempt's own, while the options retry too."""
    try:
        raise Broken("why")
    except Broken as error:
        raise self.retry(exc=error, max_retries=1, countdown=2) from None


FAILS = End([], "FAILURE", "Broken", "why")
TOO_MANY = "MaxRetriesExceededError"
CANNOT = "Can't retry m.t[ID] args:('a',) kwargs:{}"

CASES = {
    "an exception": Case({}, broken, FAILS),
    "an expected exception": Case({"throws": (Broken,)}, broken, FAILS),
    "autoretry": Case(
        {"autoretry_for": (Broken,)}, broken, End([180.0] * 3, "FAILURE", "Broken", "why")
    ),
    "autoretry of a subclass": Case(
        {"autoretry_for": (Broken,), "default_retry_delay": 9, "max_retries": 1},
        worse,
        End([9], "FAILURE", "Worse", "why"),
    ),
    "autoretry until it succeeds": Case(
        {"autoretry_for": (Exception,), "default_retry_delay": 5},
        twice_broken,
        End([5, 5], "SUCCESS"),
    ),
    "another exception": Case({"autoretry_for": (KeyError,)}, broken, FAILS),
    "dont_autoretry_for": Case(
        {"autoretry_for": (Exception,), "dont_autoretry_for": (Broken,)}, worse,
        End([], "FAILURE", "Worse", "why"),
    ),
    "retry_kwargs": Case(
        {"autoretry_for": (Broken,), "retry_kwargs": {"max_retries": 2, "countdown": 7}},
        broken,
        End([7, 7], "FAILURE", "Broken", "why"),
    ),
    "backoff": Case(
        {"autoretry_for": (Broken,), "retry_backoff": True, "retry_jitter": False, "max_retries": 5},
        broken,
        End([1, 2, 4, 8, 16], "FAILURE", "Broken", "why"),
    ),
    "backoff with a factor": Case(
        {"autoretry_for": (Broken,), "retry_backoff": 3, "retry_jitter": False},
        broken,
        End([3, 6, 12], "FAILURE", "Broken", "why"),
    ),
    "backoff with a cap": Case(
        {"autoretry_for": (Broken,), "retry_backoff": True, "retry_backoff_max": 5,
         "retry_jitter": False, "max_retries": 5},
        broken,
        End([1, 2, 4, 5, 5], "FAILURE", "Broken", "why"),
    ),
    "backoff below a second": Case(
        {"autoretry_for": (Broken,), "retry_backoff": 0.5, "retry_jitter": False},
        broken,
        End([1, 2, 4], "FAILURE", "Broken", "why"),
        End([0.5, 1, 2], "FAILURE", "Broken", "why"),
    ),
    "backoff before countdown": Case(
        {"autoretry_for": (Broken,), "retry_backoff": 2, "retry_jitter": False,
         "retry_kwargs": {"countdown": 100, "max_retries": 2}},
        broken,
        End([2, 4], "FAILURE", "Broken", "why"),
    ),
    "no retries": Case({"autoretry_for": (Broken,), "max_retries": 0}, broken, FAILS),
    "retries without end": Case(
        {"autoretry_for": (Broken,), "max_retries": None, "default_retry_delay": 1},
        broken,
        End([1.0] * MOST, "RETRY"),
    ),
    "asked": Case({}, asks(), End([180.0] * 3, "FAILURE", TOO_MANY, CANNOT)),
    "asked for an error": Case(
        {"max_retries": 1}, asks(exc=Broken("mine")), End([180], "FAILURE", "Broken", "mine")
    ),
    "asked while handling": Case(
        {"max_retries": 1}, asks_handling(countdown=3), End([3], "FAILURE", TOO_MANY, CANNOT)
    ),
    "asked for an error while handling": Case(
        {"max_retries": 1}, asks_handling(exc=Broken("mine")), End([180], "FAILURE", "Broken", "mine")
    ),
    "asked at once": Case(
        {"max_retries": 2}, asks(countdown=0), End([0, 0], "FAILURE", TOO_MANY, CANNOT)
    ),
    "asked with a limit of its own": Case(
        {"max_retries": 5}, asks(countdown=2, max_retries=1), End([2], "FAILURE", TOO_MANY, CANNOT)
    ),
    "asked with a higher limit": Case(
        {"max_retries": 1}, asks(countdown=2, max_retries=3),
        End([2, 2, 2], "FAILURE", TOO_MANY, CANNOT),
    ),
    "asked without a limit means the task's": Case(
        {"max_retries": 1}, asks(countdown=2, max_retries=None), End([2], "FAILURE", TOO_MANY, CANNOT)
    ),
    "asked for a moment": Case({}, asks_at, End([30], "FAILURE", TOO_MANY, CANNOT)),
    "asked for a moment without a zone": Case(
        {}, asks_at_naively, End([30], "FAILURE", TOO_MANY, CANNOT)
    ),
    "asked with other arguments": Case({}, asks_with_more, End([1, 1], "SUCCESS")),
    "asked, and the options retry too": Case(
        {"autoretry_for": (Exception,), "max_retries": 5, "default_retry_delay": 50},
        limits_itself,
        End([2], "FAILURE", "Broken", "why"),
    ),
    "asked without throw": Case({}, asks_softly, End([4], "SUCCESS")),
    "ignored": Case({}, raises("Ignore"), End([], "IGNORED")),
    "ignored though everything is retried": Case(
        {"autoretry_for": (Exception,)}, raises("Ignore"), End([], "IGNORED")
    ),
    "rejected": Case({}, raises("Reject", "no", False), End([], "REJECTED")),
    "raised by hand": Case(
        {"max_retries": 1, "default_retry_delay": 6},
        raises("Retry", "busy"),
        End([], "RETRY"),
        End([6], "FAILURE", TOO_MANY, CANNOT),
    ),
    "swallowed": Case({}, swallows, End([4], "SUCCESS")),
}  # fmt: skip


# ------------------------------------------------------------ Celery


@pytest.fixture(scope="module")
def their_app() -> Iterator[celery.Celery]:
    app = celery.Celery(
        "theirs", broker="memory://", backend="cache+memory://", set_as_current=False
    )
    yield app
    app.close()


def through_celery(app: celery.Celery, case: Case) -> End:
    def function(self: Any, *args: Any) -> Any:
        return case.body(self, THEIRS, *args)

    queue = uuid.uuid4().hex
    app.conf.task_default_queue = queue
    task = app.task(name="m.t", bind=True, shared=False, lazy=False, **case.options)(function)
    try:
        tracer = celery.app.trace.build_tracer(task.name, task, app=app)
        now = datetime.now(UTC)
        app.now = lambda: now  # it counts a countdown from there
        delays: list[float] = []
        identity, args, retries = "ID", ["a"], 0
        while True:
            request = {
                "id": identity, "task": "m.t", "retries": retries, "args": args, "kwargs": {},
                "delivery_info": {"exchange": "", "routing_key": queue}, "is_eager": False,
                "called_directly": False, "hostname": "h", "ignore_result": False,
            }  # fmt: skip
            ended = tracer(identity, list(args), {}, request)
            state = ended.info.state if ended.info is not None else "SUCCESS"
            message = next_message(app, queue)
            if message is None:
                error = ended.info.retval if state == "FAILURE" else None
                return end(delays, state, error)
            headers = message.headers
            assert headers["id"] == identity
            assert headers["retries"] == retries + 1
            eta = headers["eta"]
            delays.append(0.0 if eta is None else rounded(datetime.fromisoformat(eta), now))
            if len(delays) == MOST:
                return End(delays, state)
            retries, args = headers["retries"], message.payload[0]
    finally:
        app.tasks.pop("m.t", None)


def next_message(app: celery.Celery, queue: str) -> Any:
    with app.connection_for_read() as connection:
        simple = connection.SimpleQueue(queue)
        try:
            message = simple.get_nowait()
            message.ack()
            return message
        except simple.Empty:
            return None
        finally:
            simple.close()


def rounded(moment: datetime, now: datetime) -> float:
    """Seconds until then; half a minute is one, however long the case took to begin."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = (moment - now).total_seconds()
    return 30.0 if 30 <= seconds < 45 else round(seconds, 3)


# ------------------------------------------------------------ amqtask


def through_amqtask(case: Case) -> End:
    def function(*args: Any) -> Any:
        return case.body(task, OURS, *args)

    function.__name__ = "t"
    task = make(function, **case.options)
    delays: list[float] = []
    args: list[object] = ["a"]
    retries = 0
    while True:
        request = Request(
            id="ID", task="m.t", args=args, kwargs={}, retries=retries, called_directly=False,
            started=time.monotonic(),
        )  # fmt: skip
        now = datetime.now(UTC)
        outcome = attempt(task, request)
        if not isinstance(outcome, amqtask.Retry):
            state = {amqtask.Ignore: "IGNORED", amqtask.Reject: "REJECTED", type(None): "SUCCESS"}
            name = state.get(type(outcome), "FAILURE")
            return end(delays, name, outcome if name == "FAILURE" else None)
        again = outcome.sig
        assert isinstance(again, Again)
        when = outcome.when
        delays.append(rounded(when, now) if isinstance(when, datetime) else float(when or 0))
        if len(delays) == MOST:
            return End(delays, "RETRY")
        retries += 1
        args = args if again.args is None else list(again.args)


def attempt(task: Any, request: Request) -> BaseException | None:
    token = current.set(request)
    try:
        task.run(*request.args, **request.kwargs)
    except Exception as error:  # noqa: BLE001  # whatever it raises is its outcome
        outcome: BaseException = task.follows(request, error)
        return outcome
    finally:
        current.reset(token)
    return request.asked.retry


def end(delays: list[float], state: str, error: Any) -> End:
    if error is None:
        return End(delays, state)
    return End(delays, state, type(error).__name__, str(error))


# ------------------------------------------------------------ both


@pytest.mark.parametrize("name", CASES)
def test_side_by_side(their_app: celery.Celery, name: str) -> None:
    case = CASES[name]

    assert through_celery(their_app, case) == case.celery
    assert through_amqtask(case) == (case.ours or case.celery)
