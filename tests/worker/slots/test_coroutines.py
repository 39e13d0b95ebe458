"""What a task does to the other asyncio tasks of its loop ends no slot."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from amqtask.worker.pools.loop_thread import LoopThread
from amqtask.worker.slots import coroutines
from amqtask.worker.slots.coroutines import Driven, Interruptible, SlotLoop


async def leave() -> None:
    """Nothing is held on the loop."""


async def cancel_all() -> str:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    return "cancelled"


def test_a_cancellation_before_the_beginning_is_not_its_end() -> None:
    async def slot() -> str:
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return f"went on, {task.cancelling()}"

    async def main() -> str:
        coroutine = slot()
        driven: Any = Driven(coroutine.send, coroutine)
        task: asyncio.Task[str] = asyncio.get_running_loop().create_task(driven)
        task.cancel()
        return await task

    assert asyncio.run(main()) == "went on, 0"


def test_a_cancellation_after_it_is_the_tasks() -> None:
    async def main() -> None:
        coroutine = asyncio.sleep(10)
        driven: Any = Driven(coroutine.send, coroutine)
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(driven)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


@contextmanager
def a_loop() -> Iterator[LoopThread]:
    loop = LoopThread(leave)
    try:
        yield loop
    finally:
        loop.close()


def test_what_was_cancelled_before_it_began_begins_in_a_loop_for_all() -> None:
    with a_loop() as loop:
        loop.run(Interruptible(leave()))  # it turns
        there = threading.Event()
        first, last = threading.Event(), []

        async def block() -> None:
            first.set()
            there.wait(
                5
            )  # both others are made in the next turn of the loop, and the first of them cancels the second

        def run(coroutine: Any) -> None:
            last.append(loop.run(Interruptible(coroutine)))

        blocking = threading.Thread(target=run, args=(block(),))
        blocking.start()
        assert first.wait(5)
        others = [
            threading.Thread(target=run, args=(each,))
            for each in (cancel_all(), asyncio.sleep(0, "begun"))
        ]
        for thread in others:
            thread.start()
        there.set()
        for thread in (blocking, *others):
            thread.join(5)
            assert not thread.is_alive()
        assert sorted(map(str, last)) == ["None", "begun", "cancelled"]


def test_a_coroutine_that_stops_its_loop_does_not_go_on_beside_the_next() -> None:
    seen: list[str] = []

    async def stops() -> None:
        asyncio.get_running_loop().stop()
        try:
            await asyncio.sleep(0.01)
            seen.append("went on")
        finally:
            seen.append("ended")

    loop = SlotLoop(leave)
    with pytest.raises(RuntimeError, match="stopped"):
        loop.run(Interruptible(stops()))
    loop.run(Interruptible(asyncio.sleep(0.03)))
    loop.close()
    assert seen == ["ended"]


def test_what_does_not_end_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(coroutines, "CLOSE_WITHIN", 0.1)
    seen: list[str] = []

    async def stays() -> None:
        while len(seen) < 1000:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                seen.append("cancelled")

    async def goes() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            seen.append("gone")

    async def starts() -> list[asyncio.Task[None]]:
        found = [asyncio.create_task(each) for each in (stays(), goes())]
        await asyncio.sleep(0)
        return found

    loop = asyncio.new_event_loop()
    staying, going = loop.run_until_complete(starts())
    coroutines.wind_up(loop)
    assert loop.is_closed()
    assert going.cancelled()
    assert sorted(seen) == ["cancelled", "gone"]
    assert "is left behind" in caplog.text
    # so that its end is no complaint of asyncio's here
    staying._log_destroy_pending = False  # type: ignore[attr-defined]  # there is no public way
    staying.get_coro().close()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_copy_of_the_process_that_a_coroutine_makes_ends_with_it() -> None:
    async def forks() -> int:
        copy = os.fork()
        if copy == 0:
            return 0  # it comes back, where nobody waits for it
        return os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])  # noqa: ASYNC222  # for a moment

    with a_loop() as loop:
        assert loop.run(Interruptible(forks())) == 0
