"""A coroutine task under a soft limit: the exception reaches it at its ``await``, as it would reach a function.

A signal's exception strikes whatever the main thread does. While the coroutine waits that is the event loop, which would lose
the exception or be torn by it. So a limit that comes then cancels the coroutine's asyncio task, and the cancellation is turned
into the limit's exception on its way into the coroutine.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any


class Interruptible:
    """One coroutine, to be run once as the main task of an event loop on the main thread.

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

    def interrupt(self, error: BaseException) -> bool:
        """Have the coroutine get ``error`` at its ``await``. False when the caller is to raise it right here instead.

        For a signal handler of the main thread.
        """
        task = self._task
        if self._inside or task is None or task.done():
            return False
        self._error = error
        task.cancel()
        task.get_loop().call_soon_threadsafe(_nothing)  # ends the loop's wait
        return True

    @types.coroutine
    def _steps(self) -> Generator[Any, Any, object]:
        coroutine = self._coroutine
        value: Any = None
        error: BaseException | None = None
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
                error, self._error = self._error or cancelled, None
                if error is not cancelled and self._task is not None:
                    self._task.uncancel()
            except BaseException as raised:  # noqa: BLE001  # handed on to whom it is for
                error = raised


def _nothing() -> None:
    """Something for the loop to wake up for."""
