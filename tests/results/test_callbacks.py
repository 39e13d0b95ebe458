"""Callbacks of results: when, where and how often they are called."""

from __future__ import annotations

import asyncio
import gc
import queue
import threading

import pytest

from amqtask import AsyncResult, EagerResult
from amqtask.results import callbacks
from tests.results.table import Table
from tests.waiting import eventually


@pytest.fixture
def table() -> Table:
    return Table()


def test_a_callback_is_called_once_in_the_thread_of_callbacks(table: Table) -> None:
    called: queue.Queue[tuple[str, object]] = queue.Queue()

    def note(result: AsyncResult[object]) -> None:
        called.put((threading.current_thread().name, result.get()))

    table.AsyncResult("a").then(note)
    gc.collect()  # nobody holds the handle but the callback
    table.arrives("a", None, status="STARTED")
    table.arrives("a", 1)
    table.arrives("a", 2)
    assert called.get(timeout=10) == ("amqtask callbacks", 1)
    handle = table.AsyncResult("a").then(note)  # it has ended: at once

    assert called.get(timeout=10) == ("amqtask callbacks", 1)
    assert called.empty()
    assert handle == "a"
    assert not callbacks._waiting


def test_a_group_calls_when_all_have_ended(table: Table) -> None:
    called: queue.Queue[object] = queue.Queue()
    group = table.group("a", "b").then(lambda result: called.put(result.get()))

    table.arrives("b", 2)
    table.arrives("a", 1)

    assert called.get(timeout=10) == [1, 2]
    assert group == "g"


def test_what_the_callback_raises_goes_to_on_error(table: Table) -> None:
    raised: queue.Queue[Exception] = queue.Queue()
    table.fails("a", KeyError("sold out"))

    table.AsyncResult("a").then(lambda result: result.get(), raised.put)

    assert isinstance(raised.get(timeout=10), KeyError)


def test_callbacks_that_fail_stop_no_others(table: Table) -> None:
    called: queue.Queue[str] = queue.Queue()
    eager: EagerResult[int] = EagerResult("x", 1, "SUCCESS", name="t")

    def fail(_: object) -> None:
        raise ValueError("mine")

    eager.then(fail)
    eager.then(fail, fail)
    eager.then(lambda result: called.put(result.id))

    assert called.get(timeout=10) == "x"


def test_a_callback_that_exits_stops_no_others(table: Table) -> None:
    called: queue.Queue[str] = queue.Queue()
    table.AsyncResult("a").then(lambda result: called.put(result.id))

    def leave(_: object) -> None:
        called.put("leaves")
        raise SystemExit

    EagerResult("x", 1, "SUCCESS", name="t").then(leave)
    assert called.get(timeout=10) == "leaves"
    eventually(lambda: not callbacks._thread._runs)
    table.arrives("a", 1)

    assert called.get(timeout=10) == "a"


def test_no_result_is_an_end_too(table: Table) -> None:
    raised: queue.Queue[Exception] = queue.Queue()
    table.AsyncResult("a").then(lambda result: result.get(), raised.put)

    table.pending.close(RuntimeError("closed"))

    assert str(raised.get(timeout=10)) == "closed"


def test_in_an_event_loop_it_is_called_there(table: Table) -> None:
    async def wait() -> tuple[bool, object]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[bool, object]] = loop.create_future()

        def note(result: AsyncResult[object]) -> None:
            done.set_result((asyncio.get_running_loop() is loop, result.outcome()))

        table.AsyncResult("a").then(note)
        timer = threading.Timer(0.02, table.arrives, ("a", 1))
        timer.start()
        found = await done
        timer.join()
        return found

    assert asyncio.run(wait()) == (True, 1)


def test_a_loop_that_has_closed_is_left_alone(table: Table) -> None:
    async def begin() -> None:
        table.AsyncResult("a").then(lambda _: None)
        await asyncio.sleep(0)

    asyncio.run(begin())
    table.arrives("a", 1)

    assert table.AsyncResult("a").get(timeout=1) == 1
    callbacks._waiting.clear()


def test_a_thousand_callbacks_share_a_thread(table: Table) -> None:
    called: queue.Queue[object] = queue.Queue()
    before = threading.active_count()
    for number in range(1000):
        table.AsyncResult(str(number)).then(lambda result: called.put(result.get()))
    assert threading.active_count() <= before + 1

    for number in range(1000):
        table.arrives(str(number), number)

    assert sorted(called.get(timeout=10) for _ in range(1000)) == list(range(1000))  # type: ignore[type-var]  # numbers
