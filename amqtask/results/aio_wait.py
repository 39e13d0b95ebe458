"""Waiting for a result in an event loop. Loaded with the first ``aget``."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence

from amqtask.results.loops import running_loop
from amqtask.results.pending import Awaited
from amqtask.results.waiting import NOBODY, Listener
from amqtask.results.watch import Watch


async def wait(awaited: Awaited, timeout: float | None) -> bool:  # noqa: ASYNC109  # the answer is a value, not an error
    """``Awaited.wait`` for coroutines: false when ``timeout`` seconds passed first. Cancelling it leaves nothing behind."""
    if timeout is None:
        await _settled(awaited)
        return True
    try:
        async with asyncio.timeout(timeout):
            await _settled(awaited)
    except TimeoutError:
        return awaited.settled()
    return True


async def _settled(awaited: Awaited) -> None:
    """Return when the entry is settled; woken by a callback from whatever thread files the reply."""
    loop = asyncio.get_running_loop()
    while not awaited.settled():
        bell = loop.create_future()

        def ring(bell: asyncio.Future[None] = bell) -> None:
            if running_loop() is loop:  # its own reply queue, most often
                _ring(bell)
                return
            try:
                loop.call_soon_threadsafe(_ring, bell)
            except RuntimeError:
                pass  # the loop has closed, and with it whoever waited

        awaited.on_change(ring)
        try:
            # Looked at again after the registration: what another thread decoded in between rang no bell of ours.
            if awaited.settled():
                return
            await bell
        finally:
            awaited.discard(ring)


def _ring(bell: asyncio.Future[None]) -> None:
    if not bell.done():
        bell.set_result(None)


async def arrivals(
    entries: Sequence[Awaited | None],
    timeout: float | None,  # noqa: ASYNC109  # the answer is a value, not an error
    listener: Listener = NOBODY,
) -> AsyncGenerator[int | None]:
    """``watch.arrivals`` for coroutines. However many arrive together, the loop is woken once."""
    loop = asyncio.get_running_loop()
    deadline = math.inf if timeout is None else loop.time() + timeout
    tick = math.inf if listener.on_interval is None else loop.time() + listener.interval
    bell: asyncio.Future[None] | None = None
    rung = False

    def wake() -> None:
        if bell is not None:
            _ring(bell)

    def ring() -> None:
        nonlocal rung
        if rung:
            return
        rung = True
        if running_loop() is loop:
            wake()
            return
        try:
            loop.call_soon_threadsafe(wake)
        except RuntimeError:
            pass  # the loop has closed, and with it whoever waited

    watch = Watch(entries, ring, listener.on_change)
    try:
        watch.start()
        while watch.left:
            rung = False  # before the look: what comes after it rings again
            index = watch.next()
            if index is not None:
                yield index
                continue
            bell = loop.create_future()
            if rung:
                continue
            until = min(deadline, tick)
            try:
                async with asyncio.timeout_at(None if until == math.inf else until):
                    await bell
            except TimeoutError:
                if watch.changed:
                    continue
                if until == deadline:
                    yield None
                    return
                assert listener.on_interval is not None  # else nothing ticks
                listener.on_interval()
                tick = loop.time() + listener.interval
    finally:
        watch.close()
