"""Waiting for a result in an event loop. Loaded with the first ``aget``."""

from __future__ import annotations

import asyncio

from amqtask.results.loops import running_loop
from amqtask.results.pending import Awaited


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
