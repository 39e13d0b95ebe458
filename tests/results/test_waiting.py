"""What is called while a result is waited for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from amqtask import EagerResult, GroupResult, ResultTimeout
from tests.results.table import Table


@pytest.fixture
def table() -> Table:
    return Table()


def by_turns(table: Table, task_id: str, seen: list[Any]) -> Callable[[dict[str, Any]], None]:
    """Has the next record arrive when one has been heard of."""

    def heard(meta: dict[str, Any]) -> None:
        seen.append((meta["task_id"], meta["status"], meta["result"]))
        match len(seen):
            case 1:
                table.arrives(task_id, {"percent": 50}, "PROGRESS")
            case 2:
                table.arrives(task_id, "end")

    return heard


EXPECTED = [("a", "STARTED", None), ("a", "PROGRESS", {"percent": 50}), ("a", "SUCCESS", "end")]


def test_every_state_is_told(table: Table) -> None:
    handle, seen = table.AsyncResult("a"), list[Any]()
    timer = threading.Timer(0.02, table.arrives, ("a", None, "STARTED"))
    timer.start()

    assert handle.get(timeout=10, on_message=by_turns(table, "a", seen)) == "end"

    assert seen == EXPECTED
    assert table.listeners("a") == 0
    timer.join()


def test_every_state_is_told_to_coroutines(table: Table) -> None:
    handle, seen = table.AsyncResult("a"), list[Any]()
    table.arrives("a", None, "STARTED")

    async def wait() -> Any:
        return await handle.aget(timeout=10, on_message=by_turns(table, "a", seen))

    assert asyncio.run(wait()) == "end"
    assert seen == EXPECTED
    assert table.listeners("a") == 0


def test_a_group_tells_of_every_task(table: Table) -> None:
    parent = table.AsyncResult("p")
    group = GroupResult("g", [table.AsyncResult("a"), table.group("b", "c")], parent)
    for task_id in ("p", "a", "b", "c"):
        table.arrives(task_id, task_id)
    seen: list[str] = []

    def heard(meta: dict[str, Any]) -> None:
        seen.append(meta["task_id"])

    assert group.get(timeout=1, on_message=heard) == ["a", ["b", "c"]]
    assert asyncio.run(group.aget(timeout=1, on_message=heard)) == ["a", ["b", "c"]]
    assert dict(group.iter_native(timeout=1, on_message=heard)).keys() == {"a", "g"}
    assert sorted(seen) == sorted([*"abc"] * 3)


def test_intervals_pass_while_nothing_comes(table: Table) -> None:
    handle, ticks = table.AsyncResult("a"), list[float]()

    def tick() -> None:
        ticks.append(time.monotonic())
        if len(ticks) == 3:
            table.arrives("a", "end")

    began = time.monotonic()
    assert handle.get(timeout=10, interval=0.02, on_interval=tick) == "end"
    assert len(ticks) == 3
    assert ticks[-1] - began >= 0.06
    ticks.clear()
    other = table.AsyncResult("b")
    with pytest.raises(ResultTimeout, match=r"within 0\.05 s"):
        other.get(timeout=0.05, interval=0.02, on_interval=lambda: ticks.append(0))
    assert len(ticks) in (1, 2)


def test_intervals_pass_for_coroutines_and_groups(table: Table) -> None:
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 2:
            table.arrives("a", "end")

    group = table.group("a")
    assert asyncio.run(group.aget(timeout=10, interval=0.01, on_interval=tick)) == ["end"]
    assert len(ticks) == 2
    with pytest.raises(ResultTimeout):
        asyncio.run(table.group("b").aget(timeout=0.02, interval=0.015, on_interval=tick))
    assert table.listeners("a", "b") == 0


def test_what_a_callback_raises_ends_the_wait_and_leaves_nothing_behind(table: Table) -> None:
    def broken(*_: object) -> None:
        raise KeyError("mine")

    table.arrives("a", None, "STARTED")
    for wait in (
        lambda: table.AsyncResult("a").get(on_message=broken),
        lambda: asyncio.run(table.AsyncResult("a").aget(on_message=broken)),
        lambda: table.group("a", "b").get(on_message=broken),
        lambda: table.AsyncResult("b").get(interval=0.01, on_interval=broken),
        lambda: asyncio.run(table.group("b").aget(interval=0.01, on_interval=broken)),
    ):
        with pytest.raises(KeyError, match="mine"):
            wait()
    assert table.listeners("a", "b") == 0


def test_a_callback_gets_id_and_value(table: Table) -> None:
    table.arrives("a", 5)
    table.fails("b", KeyError("x"))
    eager: EagerResult[int] = EagerResult("e", 7, "SUCCESS")
    seen: list[Any] = []

    def note(task_id: str | None, value: Any) -> None:
        seen.append((task_id, value))

    assert table.AsyncResult("a").get(callback=note) == 5
    assert asyncio.run(table.AsyncResult("a").aget(callback=note)) == 5
    assert eager.get(callback=note) == 7
    with pytest.raises(KeyError):
        table.AsyncResult("b").get(callback=note)
    assert table.AsyncResult("a").maybe_throw(callback=note) == 5
    table.group("a").maybe_throw(note)
    assert seen == [("a", 5), ("a", 5), ("e", 7), ("a", 5), ("a", 5)]


def test_cancelled_and_broken_off_waits_leave_nothing_behind(table: Table) -> None:
    parent = table.AsyncResult("p")
    group = GroupResult("g", [table.AsyncResult("a"), table.AsyncResult("b")], parent)
    tail = table.AsyncResult("t", parent=parent)
    table.arrives("a", 1)

    async def run() -> None:
        async def iterate() -> list[Any]:
            return [value async for value in group]

        async def collect() -> list[Any]:
            return [pair async for pair in group.acollect()]

        waits = [
            asyncio.ensure_future(each)
            for each in (group.aget(), group.ajoin(), iterate(), collect(), tail.aget(), parent.aget())
        ]  # fmt: skip
        for _ in range(3):
            await asyncio.sleep(0)
        assert table.listeners("p", "b", "t") >= 6
        for each in waits:
            each.cancel()
        ended = await asyncio.gather(*waits, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended)
        assert table.listeners("p", "a", "b", "t") == 0
        async for value in group:
            assert value == 1
            break

    asyncio.run(run())
    assert table.listeners("p", "a", "b", "t") == 0
