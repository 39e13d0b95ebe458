"""Coroutine tasks: an event loop for a slot that has none, and how a soft limit reaches a coroutine at its ``await``.

An exception that is raised wherever a thread happens to be strikes the event loop while the coroutine waits, which would lose
it or be torn by it. So a limit that comes then cancels the coroutine's asyncio task, and the cancellation is turned into the
limit's exception on its way into the coroutine.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import copy_context
from types import FrameType
from typing import Any

from amqtask.errors import SoftTimeLimitExceeded


class Evicted(asyncio.CancelledError):
    """Ends what still goes on in a slot from which the run was taken.

    To a coroutine it is a cancellation, so what it started, in a ``TaskGroup`` for example, ends with it.
    """


class Interruptible:
    """One coroutine, to be run once as the main task of an event loop.

    Args:
        coroutine: the task's own.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[object] | None = None
        self._inside = False  # the coroutine's own code is what runs now
        self._error: BaseException | None = None  # on its way to the coroutine

    async def run(self) -> object:
        """Run the coroutine; its value or its exception."""
        self._task = asyncio.current_task()
        return await self._steps()

    def interrupt(self, error: BaseException, frame: FrameType | None = None) -> bool:
        """Have the coroutine get ``error`` at its ``await``. False when the caller is to raise it right here instead.

        For a signal handler of the loop's thread.

        Args:
            error: what it gets.
            frame: what was interrupted.
        """
        task = self._task
        # Raised in our own step, on the way into the coroutine or out of it, it would not reach the coroutine.
        inside = self._inside and (frame is None or frame.f_code is not _STEPS)
        if inside or task is None or task.done():
            return False
        self._error = error
        task.cancel()
        task.get_loop().call_soon_threadsafe(_nothing)  # ends the loop's wait
        return True

    def interrupt_on_loop(self, error: BaseException) -> None:
        """Have the coroutine get ``error`` at its ``await``. In a callback of its event loop."""
        task = self._task
        if task is None:  # it has not begun, and gets it with its first step
            self._error = error
        elif not task.done():
            self._error = error
            task.cancel()

    def interrupt_from_outside(self, error: BaseException) -> None:
        """Have the coroutine get ``error`` at its ``await``. Any thread."""
        task = self._task
        if task is None:
            self._error = error
            task = self._task  # it may have begun just now, without looking
            if task is None:
                return
        try:
            task.get_loop().call_soon_threadsafe(self.interrupt_on_loop, error)
        except RuntimeError:
            pass  # the loop is closed: the coroutine has ended

    @types.coroutine
    def _steps(self) -> Generator[Any, Any, object]:
        coroutine = self._coroutine
        value: Any = None
        error = self._take()
        while True:
            self._inside = True
            try:
                waits_for = coroutine.send(value) if error is None else coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
            finally:
                self._inside = False
            value = error = None
            try:
                value = yield waits_for
            except asyncio.CancelledError as cancelled:
                error = self._take() or cancelled
                if error is not cancelled and self._task is not None:
                    self._task.uncancel()
            except BaseException as raised:  # noqa: BLE001  # handed on to whom it is for
                error = raised

    def _take(self) -> BaseException | None:
        error, self._error = self._error, None
        return error


_STEPS = Interruptible._steps.__code__  # noqa: SLF001  # our own


class SlotLoop:
    """An event loop for the coroutine tasks of one slot, which run one at a time. The slot's thread only.

    What a task leaves on the loop, a connection pool for example, is there for the next.

    Args:
        leave: closes what the app holds on the loop, before it ends.
    """

    def __init__(self, leave: Callable[[], Awaitable[None]]) -> None:
        self._leave = leave
        self._runner: asyncio.Runner | None = None

    def run(self, carried: Interruptible) -> object:
        """Run a coroutine to its end; its value or its exception."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        try:
            # In a context of its own: the runner's is that of the first task it ran, whose request it would show.
            return self._runner.run(carried.run(), context=copy_context())
        except (
            SoftTimeLimitExceeded,
            asyncio.CancelledError,
            SystemExit,
            KeyboardInterrupt,
        ):
            # What the coroutine had started on the loop would go on beside the next task.
            self.close()
            raise

    def close(self) -> None:
        """Close the loop, and what the app and its tasks opened on it."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.run(self._left())
            runner.close()

    async def _left(self) -> None:
        await self._leave()


def _nothing() -> None:
    """Something for the loop to wake up for."""
