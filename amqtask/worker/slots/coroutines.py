"""Coroutine tasks: an event loop for a slot that has none, and how a soft limit reaches a coroutine at its ``await``.

An exception that is raised wherever a thread happens to be strikes the event loop while the coroutine waits, which would lose
it or be torn by it. So a limit that comes then cancels the coroutine's asyncio task, and the cancellation is turned into the
limit's exception on its way into the coroutine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import copy_context
from typing import Any

import msgspec

from amqtask.errors import SoftTimeLimitExceeded
from amqtask.log import get_logger

log = get_logger("amqtask.worker")

CLOSE_WITHIN = 3.0  # seconds that what tasks have left on an event loop may take to end


class Evicted(asyncio.CancelledError):
    """Ends what still goes on in a slot from which the run was taken.

    To a coroutine it is a cancellation, so what it started, in a ``TaskGroup`` for example, ends with it.
    """


class Interruptible(Generator[Any, Any, object]):
    """One coroutine, to be awaited once by the main task of an event loop.

    It stands between the two without a step of its own: what the loop sends goes into the coroutine as it is, and only a
    cancellation is looked at on its way.

    Args:
        coroutine: the task's own.
    """

    __slots__ = ("_coroutine", "_error", "_send", "_task")

    def __init__(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._coroutine: Any = coroutine
        self._send = coroutine.send
        self._task: asyncio.Task[object] | None = None
        self._error: BaseException | None = None  # on its way to the coroutine

    @property
    def goes_on(self) -> bool:
        """Whether it has begun and not ended. Thread of the loop."""
        return self._task is not None and not self._task.done()

    async def run(self) -> object:
        """Run the coroutine; its value or its exception. For who needs a coroutine and not something to await."""
        return await self

    def interrupt(self, error: BaseException) -> bool:
        """Have the coroutine get ``error`` at its ``await``. False when the caller is to raise it right here instead.

        For a signal handler of the loop's thread.
        """
        task = self._task
        # Raised in our own step, on the way into the coroutine or out of it, it would not reach the coroutine.
        if self._coroutine.cr_running or task is None or task.done():
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

    # ------------------------------------------------------------ the asyncio task's side

    def __await__(self) -> Interruptible:
        self._task = asyncio.current_task()
        error = self._take()
        if error is not None:
            self._coroutine.close()
            raise error
        return self

    def __next__(self) -> Any:
        return self._send(None)

    def send(self, value: Any) -> Any:
        """Let the coroutine go on."""
        return self._send(value)

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        """Let the coroutine go on with an exception: a cancellation may stand for the one that was meant."""
        error = typ if val is None else val
        if isinstance(error, asyncio.CancelledError):
            meant = self._take()
            if meant is not None:
                error = meant
                if self._task is not None:
                    self._task.uncancel()
        return self._coroutine.throw(error)

    def close(self) -> None:
        """End the coroutine where it is."""
        self._coroutine.close()

    def _take(self) -> BaseException | None:
        error, self._error = self._error, None
        return error


class Driven(msgspec.Struct, eq=False):
    """The coroutine that an asyncio task is made of, where everything about it happens on the loop.

    It is the outermost: what the loop sends goes into the coroutine without a step of ours, and what is thrown takes the way
    through ``throw``. So it costs nothing at an ``await``, but must be there when the task is made.

    Attributes:
        send: the coroutine's own.
        coroutine: not begun yet.
        meant: what the next cancellation stands for.
    """

    send: Callable[[Any], Any]
    coroutine: Any
    meant: BaseException | None = None

    def interrupt(self, task: asyncio.Task[None], error: BaseException) -> None:
        """Have the coroutine get ``error`` at its ``await``. In a callback of its event loop.

        Args:
            task: what was made of it.
            error: for the coroutine.
        """
        if not task.done():
            self.meant = error
            task.cancel()

    def throw(self, typ: Any, val: Any = None, tb: Any = None) -> Any:
        """Let the coroutine go on with an exception: a cancellation may stand for the one that was meant.

        One that comes before the coroutine has begun, from a task that cancels all there are, would be the end of the slot.
        """
        error = typ if val is None else val
        if isinstance(error, asyncio.CancelledError):
            begun = self.coroutine.cr_suspended
            if self.meant is not None or not begun:
                error, self.meant = self.meant, None
                task = asyncio.current_task()
                if task is not None:
                    task.uncancel()
                if not begun:
                    return self.send(None)
        return self.coroutine.throw(error)

    def close(self) -> None:
        """End the coroutine where it is."""
        self.coroutine.close()

    def __await__(self) -> Any:
        return self.coroutine.__await__()

    # What asyncio shows of a task: its stack, and where it was made.

    @property
    def cr_code(self) -> Any:
        """The coroutine's own, as the others."""
        return self.coroutine.cr_code

    @property
    def cr_frame(self) -> Any:
        """Where it is; ``None`` when it has ended."""
        return self.coroutine.cr_frame

    @property
    def cr_running(self) -> bool:
        """Whether it runs just now."""
        return bool(self.coroutine.cr_running)

    @property
    def cr_await(self) -> Any:
        """What it waits for."""
        return self.coroutine.cr_await


Coroutine.register(Driven)  # by inheritance, a class may not have ``send`` as a value


def wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """End what tasks have left on an event loop, and close it; within ``CLOSE_WITHIN``, whatever that does. Its thread; it must not run.

    A thread that a task had it start (``asyncio.to_thread``) is not waited for: nothing can end it, and it may take hours.

    Args:
        loop: what is still on it is cancelled; what does not end then is left behind.
    """
    try:
        loop.run_until_complete(_end_all(loop))
    except (SystemExit, KeyboardInterrupt):
        log.warning("something that a task started has tried to end the process")
    finally:
        loop.close()


async def _end_all(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in left:
        task.cancel()
    try:
        async with asyncio.timeout(CLOSE_WITHIN):
            if left:
                await asyncio.wait(left)
            await loop.shutdown_asyncgens()
    except TimeoutError:
        log.warning(
            "what tasks have left on an event loop does not end, and is left behind",
            asyncio_tasks=sum(not task.done() for task in left),
        )


_TORN = (SoftTimeLimitExceeded, asyncio.CancelledError, SystemExit, KeyboardInterrupt)


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
        except BaseException as error:
            # What the coroutine had started on the loop, or the coroutine itself where it stopped that, would go on beside the
            # next task.
            if isinstance(error, _TORN) or carried.goes_on:
                self.close()
            raise

    def close(self) -> None:
        """Close the loop, and what the app and its tasks opened on it."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.run(self._left())
            wind_up(runner.get_loop())
            asyncio.set_event_loop(None)  # it was, as long as the runner had it

    async def _left(self) -> None:
        await self._leave()


def _nothing() -> None:
    """Something for the loop to wake up for."""
