"""A task: callable here, sendable elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from amqtask.call import Call
from amqtask.options import Options
from amqtask.request import DIRECT, Request, current
from amqtask.results.handle import AsyncResult
from amqtask.settings import Settings
from amqtask.task import CoroutineTask, Sender, Task


class Recorder:
    """A sender that keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def send(self, call: Call) -> AsyncResult[Any]:
        self.calls.append(call)
        return AsyncResult.of(None, call.id, call.task)

    def send_many(self, calls: Iterator[Call]) -> list[AsyncResult[Any]]:
        return [self.send(call) for call in calls]

    async def asend(self, call: Call) -> AsyncResult[Any]:
        return self.send(call)

    async def asend_many(self, calls: Iterator[Call]) -> list[AsyncResult[Any]]:
        return self.send_many(calls)


def add(a: int, b: int = 10) -> int:
    """Add two numbers."""
    return a + b


async def aadd(a: int) -> int:
    return a + 1


def seen(self: Task[..., Any], a: int) -> tuple[object, int]:
    return self.request, a


def fails() -> None:
    raise KeyError("no")


def make(
    function: Callable[..., Any], sender: Sender | None = None, settings: Settings | None = None,
    **options: Any,
) -> Task[..., Any]:  # fmt: skip
    kind = CoroutineTask if function is aadd else Task
    return kind(
        function,
        name=f"m.{function.__name__}",
        options=Options.parse(options, "t"),
        settings=settings or Settings(),
        sender=sender or Recorder(),
    )


def test_calling_it_calls_the_function() -> None:
    assert make(add)(1) == 11
    assert make(add)(1, b=2) == 3


def test_it_looks_like_the_function() -> None:
    task = make(add)

    assert (task.__name__, task.__doc__, task.__module__) == ("add", "Add two numbers.", __name__)  # type: ignore[attr-defined]  # copied from the function
    assert repr(task) == "<Task m.add>"


def test_delay_sends_the_arguments_as_given() -> None:
    sender = Recorder()

    result = make(add, sender).delay(1, b=2)

    (call,) = sender.calls
    assert (call.task, call.args, call.kwargs) == ("m.add", (1,), {"b": 2})
    assert (result.id, result.name) == (call.id, "m.add")


def test_arguments_are_checked_before_anything_is_sent() -> None:
    sender = Recorder()
    task = make(add, sender)

    for attempt in (
        lambda: task.delay(),
        lambda: task.delay(1, 2, 3),
        lambda: task.apply_async((1,), {"c": 2}),
        lambda: task.delay_many([(1,), ()]),
        lambda: task.apply((1, 2, 3)),
    ):
        with pytest.raises(TypeError, match=r"^add\(\) "):
            attempt()

    assert sender.calls == []


def test_typing_false_sends_what_it_is_given() -> None:
    sender = Recorder()

    make(add, sender, typing=False).delay(1, 2, 3)

    assert sender.calls[0].args == (1, 2, 3)


def test_a_bound_task_gets_itself_and_callers_do_not_give_it() -> None:
    sender = Recorder()
    task = make(seen, sender, bind=True)

    assert task(5) == (DIRECT, 5)
    task.delay(5)
    assert sender.calls[0].args == (5,)
    with pytest.raises(TypeError, match="seen"):
        task.delay(task, 5)


def test_request_is_that_of_this_task_only() -> None:
    task = make(seen, bind=True)
    token = current.set(Request(id="x", task="m.seen", called_directly=False))
    try:
        assert task.request.id == "x"
        assert make(add).request is DIRECT
    finally:
        current.reset(token)
    assert task.request.called_directly


def test_own_options_start_every_call() -> None:
    sender = Recorder()
    task = make(add, sender, priority=7, queue="q", time_limit=3)

    task.delay(1)
    task.apply_async((1,), priority=1)

    assert [(c.priority, c.queue, c.time_limit) for c in sender.calls] == [(7, "q", 3), (1, "q", 3)]


@pytest.mark.parametrize(
    ("option", "setting", "travels"),
    [(None, False, None), (None, True, True), (True, False, True), (False, True, None)],
)
def test_ignored_results_are_said_in_the_message(
    option: bool | None, setting: bool, travels: bool | None
) -> None:
    sender = Recorder()

    make(add, sender, Settings(task_ignore_result=setting), ignore_result=option).delay(1)

    assert sender.calls[0].ignore_result is travels


def test_many_takes_tuples_and_mappings() -> None:
    sender = Recorder()

    results = make(add, sender).delay_many([(1,), {"a": 2}, [3, 4]])

    assert [(tuple(c.args), dict(c.kwargs)) for c in sender.calls] == [
        ((1,), {}), ((), {"a": 2}), ((3, 4), {}),
    ]  # fmt: skip
    assert [result.id for result in results] == [call.id for call in sender.calls]


def test_many_names_the_item_that_is_wrong() -> None:
    sender = Recorder()

    with pytest.raises(
        TypeError, match=r"item 1 is of type int: for one argument write \(value,\)"
    ):
        make(add, sender).delay_many([(1,), 2])  # type: ignore[list-item]  # the mistake under test
    with pytest.raises(TypeError, match=r"\(item 2\)"):
        make(add, sender).delay_many([(1,), (2,), (1, 2, 3)])

    assert sender.calls == []


async def _send_each_way(task: Task[..., Any]) -> None:
    await task.adelay(1)
    await task.aapply_async((2,), priority=1)
    await task.adelay_many([(3,), (4,)])


def test_the_async_twins_send_the_same() -> None:
    import asyncio

    sender = Recorder()

    asyncio.run(_send_each_way(make(add, sender)))

    assert [call.args[0] for call in sender.calls] == [1, 2, 3, 4]


def test_apply_runs_here_as_a_worker_would() -> None:
    result = make(seen, bind=True).apply((1,), task_id="me")

    request, value = result.get()
    assert value == 1
    assert (request.id, request.is_eager, request.called_directly) == ("me", True, False)
    assert current.get() is None


def test_apply_keeps_a_failure_or_throws_it() -> None:
    result = make(fails).apply()

    assert (result.state, result.failed(), result.successful()) == ("FAILURE", True, False)
    assert isinstance(result.get(propagate=False), KeyError)
    assert result.traceback is not None
    assert "KeyError" in result.traceback
    with pytest.raises(KeyError):
        result.get()
    with pytest.raises(KeyError):
        make(fails).apply(throw=True)


def test_apply_runs_a_coroutine_to_its_end() -> None:
    assert make(aadd).apply((1,)).get() == 2


def test_apply_of_a_coroutine_task_in_a_running_loop_is_refused() -> None:
    import asyncio

    async def attempt() -> None:
        with pytest.raises(RuntimeError, match="await it"):
            make(aadd).apply((1,))

    asyncio.run(attempt())


def test_whether_arguments_are_accepted() -> None:
    task = make(add, typing=False)

    assert task.accepts((1,), {})
    assert not task.accepts((), {})


@pytest.mark.parametrize(
    ("own", "setting", "answer"), [(None, True, True), (False, True, False), (True, False, True)]
)
def test_whether_it_tracks_its_start(own: bool | None, setting: bool, answer: bool) -> None:
    task = make(add, track_started=own)

    assert task.tracks_started(Settings(task_track_started=setting)) is answer
