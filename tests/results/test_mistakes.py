"""What a caller does wrong with handles is one sentence, and never a wait for ever."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from amqtask import App, AsyncResult, EagerResult, GroupResult, ResultError, ResultSet
from amqtask.errors import ResultTimeout
from amqtask.request import Request, current
from amqtask.results import waiting
from amqtask.results.tree import result_from_tuple
from tests.results.table import Table

Attempt = Callable[[Any], object]


@pytest.fixture
def table() -> Table:
    return Table()


def handles(table: Table) -> list[Any]:
    """One of each kind, whose results are here."""
    table.arrives("a")
    eager: EagerResult[int] = EagerResult("e", 1, "SUCCESS")
    return [table.AsyncResult("a"), table.group("a"), ResultSet([table.AsyncResult("a")]), eager]


def one_sentence(caught: pytest.ExceptionInfo[Exception]) -> None:
    text = str(caught.value)
    assert text.endswith((".", "?")), text
    assert "\n" not in text


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("timeout", "kind"),
    [("x", TypeError), ([], TypeError), (True, TypeError), (-1, ValueError), (float("nan"), ValueError)],
)  # fmt: skip
def test_a_timeout_is_seconds(table: Table, timeout: Any, kind: type[Exception]) -> None:
    for each in handles(table):
        with pytest.raises(kind, match="A timeout is") as caught:
            each.get(timeout=timeout)
        one_sentence(caught)
        with pytest.raises(kind, match="A timeout is"):
            asyncio.run(each.aget(timeout=timeout))
        if isinstance(each, ResultSet):
            for attempt in (each.join, each.iterate, each.iter_native, each.as_completed):
                with pytest.raises(kind, match="A timeout is"):
                    list(attempt(timeout))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"intervall": 1}, r"takes no argument 'intervall'; did you mean 'interval'\?"),
        ({"interval": 0}, "An interval is a number of seconds above 0, not 0"),
        ({"interval": "1"}, "An interval is"),
        ({"on_message": 5}, "on_message is a function to call, not 5"),
        ({"on_interval": "tick"}, "on_interval is a function to call"),
        ({"no_ack": False}, r"no_ack=False\) is not possible"),
        ({"callback": 5}, "callback is a function to call, not 5"),
    ],
)
def test_what_else_a_wait_takes(table: Table, options: Any, said: str) -> None:
    for each in handles(table):
        with pytest.raises((TypeError, ValueError), match=said) as caught:
            each.get(**options)
        one_sentence(caught)
        with pytest.raises((TypeError, ValueError), match=said):
            asyncio.run(each.aget(**options))


@pytest.mark.parametrize("callback", [5, None, "print"])
def test_then_takes_a_function(table: Table, callback: Any) -> None:
    for each in handles(table):
        with pytest.raises(TypeError, match="is a function to call"):
            each.then(callback)
        if callback is not None:
            with pytest.raises(TypeError, match="on_error is a function to call"):
                each.then(print, callback)


@pytest.mark.parametrize("member", [1, None, "id", ["id"], object()])
def test_members_are_handles(table: Table, member: Any) -> None:
    empty = ResultSet([])
    attempts: list[Attempt] = [
        lambda each: ResultSet([each]),
        lambda each: GroupResult("x", [table.AsyncResult("a"), each]),
        empty.add,
        lambda each: empty.update([each]),
    ]
    for attempt in attempts:
        with pytest.raises(TypeError, match="A member of a group or a set of results is a handle") as caught:  # fmt: skip
            attempt(member)
        one_sentence(caught)
    assert not empty.results
    with pytest.raises(TypeError, match="What came before is a handle"):
        GroupResult("x", [], 5)  # type: ignore[arg-type]  # the mistake
    with pytest.raises(TypeError, match="a list of handles, not 5"):
        ResultSet(5)  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize("task_id", [None, "", 5, b"id"])
def test_an_id_is_a_text(task_id: Any) -> None:
    app = App("mistakes")
    attempts: list[Attempt] = [app.AsyncResult, lambda each: AsyncResult(each, app=app)]
    for attempt in attempts:
        with pytest.raises(ValueError, match="A task's id is a text that is not empty") as caught:
            attempt(task_id)
        one_sentence(caught)


def test_a_handle_belongs_to_an_app() -> None:
    app = App("mistakes")
    with pytest.raises(RuntimeError, match=r"write app\.AsyncResult\(id\), or AsyncResult\(id, app=app\)"):  # fmt: skip
        AsyncResult("id")

    made: AsyncResult[Any] = AsyncResult("id", app=app)
    assert (made, made.state, made.ignored) == (app.AsyncResult("id"), "PENDING", False)
    nothing: Any
    for nothing in (None, 5):
        with pytest.raises(TypeError, match=r"write result_from_tuple\(form, app\)"):
            result_from_tuple(("id", None), nothing)


def test_handles_are_not_pickled_and_say_what_to_pass_on(table: Table) -> None:
    for each in (table.AsyncResult("a"), table.group("a")):
        with pytest.raises(TypeError, match=r"pass its id on, or as_tuple\(\)"):
            pickle.dumps(each)
    assert copy.copy(table.AsyncResult("a")) == "a"
    eager: EagerResult[int] = EagerResult("e", 1, "SUCCESS", name="t")
    again = pickle.loads(pickle.dumps(eager))
    assert (again.id, again.get(), again.name, again.state) == ("e", 1, "t", "SUCCESS")


# ---------------------------------------------------------------- waits that could not end


def test_a_process_that_asked_for_nothing_waits_for_nothing() -> None:
    made: AsyncResult[Any] = App("mistakes").AsyncResult("id")
    for attempt in (
        made.get,
        lambda: made.get(timeout=30),
        lambda: asyncio.run(made.aget()),
        GroupResult("g", [made]).get,
        lambda: asyncio.run(GroupResult("g", [made]).aget()),
    ):
        with pytest.raises(ResultError, match="comes to the process that sent the task") as caught:
            attempt()
        one_sentence(caught)
    assert made.state == "PENDING"


class Answers(logging.Handler):
    """Has a result arrive when something is logged."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.said: list[str] = []
        self._table = table

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        self._table.arrives("strange", 7)


def test_who_waits_for_an_id_that_was_not_sent_here_hears_it(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.pending.sending("mine")
    strange = AsyncResult.of(table.pending.expect("strange"), "strange")
    for each in (strange, GroupResult("g", [strange])):
        with pytest.raises(ResultTimeout, match="does not remember having sent it"):
            each.get(timeout=0)
    with pytest.raises(ResultTimeout, match=r"PENDING\.$"):
        table.AsyncResult("mine").get(timeout=0)

    monkeypatch.setattr(waiting, "PATIENCE", 0.01)
    logger = logging.getLogger("amqtask.results")
    waits: list[Callable[[], object]] = [
        lambda: strange.get(),
        lambda: asyncio.run(strange.aget()),
        lambda: GroupResult("g", [strange]).get()[0],
        lambda: asyncio.run(GroupResult("g", [strange]).aget())[0],
    ]
    for wait in waits:
        table = Table()
        table.pending.sending("mine")
        strange = AsyncResult.of(table.pending.expect("strange"), "strange")
        answers = Answers(table)
        logger.addHandler(answers)
        try:
            assert wait() == 7
        finally:
            logger.removeHandler(answers)
        assert len(answers.said) == 1
        assert "waiting for ever, maybe in vain" in answers.said[0]


def test_what_was_forgotten_does_not_come_again(table: Table) -> None:
    table.arrives("a", 1)
    made = table.AsyncResult("a")
    assert made.get(timeout=1) == 1
    made.forget()

    with pytest.raises(ResultError, match="was forgotten here, and comes once only"):
        made.get()
    table.arrives("a", 2)  # as when the task is sent again under its id
    assert made.get() == 2


def test_forgetting_what_has_not_come_waits_for_it(table: Table) -> None:
    made = table.AsyncResult("a")
    made.forget()
    table.arrives("a", 1)
    assert made.get(timeout=1) == 1


def test_waiting_inside_a_task_is_refused_where_asked(table: Table) -> None:
    token = current.set(Request(id="t", called_directly=False))
    try:
        for each in handles(table):
            each.get(timeout=1)
            each.get(timeout=1, disable_sync_subtasks=False)
            with pytest.raises(RuntimeError, match="inside a task waits while it holds a slot"):
                each.get(timeout=1, disable_sync_subtasks=True)
    finally:
        current.reset(token)
    assert table.AsyncResult("a").get(disable_sync_subtasks=True) is None
