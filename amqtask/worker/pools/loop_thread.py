"""Coroutine tasks of a pool of greenlets: one event loop in a native thread of the child, on which they run beside each other.

An event loop of the greenlet's own is not possible: a thread runs one loop at a time, and the greenlets share theirs. The
greenlet of a coroutine task waits for it like for anything else, so the other slots go on.

It is asyncio's own loop, never uvloop: that takes SIGCHLD for itself when a coroutine starts a process, and no greenlet would hear
of the end of its own processes any more.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context

from amqtask.amqp.waits import closed_gate
from amqtask.log import get_logger
from amqtask.worker.slots.coroutines import Interruptible, wind_up
from amqtask.worker.slots.process import end_copy

log = get_logger("amqtask.worker")

CLOSE_WITHIN = 5.0  # seconds that what is left on the loop may take to end


class LoopThread:
    """The loop. ``run`` and ``close`` belong to the thread of the greenlets.

    Args:
        leave: closes what the app holds on the loop, before it ends.
    """

    def __init__(self, leave: Callable[[], Awaitable[None]]) -> None:
        self._leave = leave
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._pid = os.getpid()
        self._unheard = False  # the loop has not come yet to what `ask` asked
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps no hold of them

    def run(self, carried: Interruptible) -> object:
        """Run a coroutine to its end, in a copy of the caller's context; its value or its exception."""
        loop = self._loop or self._begin()
        gate = closed_gate()
        context = copy_context()
        ended: list[tuple[object, BaseException | None]] = []

        async def whole() -> None:
            try:
                ended.append((await carried.run(), None))
            except BaseException as error:  # noqa: BLE001  # SystemExit too, which would end the loop, is that task's alone
                ended.append((None, error))
            finally:
                if os.getpid() != self._pid:  # nobody is there who would end the copy as elsewhere
                    end_copy()
                gate.release()

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not ended:  # a task has cancelled all there are, and this one had not begun
                start()

        def start() -> None:
            task = loop.create_task(whole(), context=context)
            self._tasks.add(task)
            task.add_done_callback(over)

        loop.call_soon_threadsafe(start)
        try:
            gate.acquire()
        except BaseException as error:
            carried.interrupt_from_outside(error)  # it was meant for the task, which is over there
            raise
        ((value, raised),) = ended
        if raised is not None:
            raise raised
        return value

    @property
    def hung(self) -> bool:
        """Whether the loop has not come to what it was asked. Any thread."""
        return self._unheard

    def ask(self) -> None:
        """Ask the loop whether it turns; ``hung`` tells. Any thread."""
        loop = self._loop
        if loop is not None:
            self._unheard = True
            try:
                loop.call_soon_threadsafe(self._heard)
            except RuntimeError:
                self._unheard = False  # it has ended

    def _heard(self) -> None:
        self._unheard = False

    def close(self) -> None:
        """End the loop, and what the app and its tasks hold on it. May be repeated."""
        loop, self._loop = self._loop, None
        if loop is not None and self._thread is not None:
            self._closing = True
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(CLOSE_WITHIN)

    def _begin(self) -> asyncio.AbstractEventLoop:
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._serve, args=(loop,), name="amqtask-loop", daemon=True
        )
        self._thread.start()
        return loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._closing:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # Raised in an asyncio task that a task started: whoever awaits that one gets it, and nobody else.
                log.warning("something that a task started has tried to end the process")
        loop.run_until_complete(self._close_app())
        wind_up(loop)

    async def _close_app(self) -> None:
        await self._leave()
