"""How a run ends that does not end by itself: the soft limit raised in its slot, the hard one settled by the I/O thread.

The slot says what it runs; whoever ends a run from outside means exactly that run, known by a number, so what comes late
touches nothing that started after it. The supervisor is the backstop for a child whose I/O thread cannot move.

``Limits`` knows whose a run's ending is and when its deadlines are. How an exception gets into a slot is the subclass's:
a signal (``MainThreadLimits``), an asynchronous exception (``ThreadLimits``), a cancellation (``LoopLimits``).
"""

from __future__ import annotations

import abc
import asyncio
import ctypes
import signal
import threading
import time
from asyncio import Task
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from types import FrameType
from typing import Any

from amqtask.amqp.threaded.loop import IoThread
from amqtask.errors import SoftTimeLimitExceeded
from amqtask.worker.slots.coroutines import Driven, Evicted, Interruptible

SOFT_SIGNAL = signal.SIGRTMIN + 5  # real-time signals have no other meaning to a program

AGAIN_AFTER = 0.05  # seconds after which a signal is sent again; twice as long each time
AGAIN_UNTIL = 10.0

_SLOT, _OUTSIDE = "slot", "outside"
_NOTHING: tuple[int, list[str]] = (0, [_SLOT])


class Limits(abc.ABC):
    """The limits of one slot.

    ``begin`` and ``end`` belong to the slot, the rest to the I/O thread.

    Args:
        io: owns the timers.
        on_hard: called on the I/O thread with the number of a run that still goes on at its hard deadline.
    """

    def __init__(self, io: IoThread, on_hard: Callable[[int], None]) -> None:
        # The coroutine that runs in the slot: it takes an exception at its ``await``. Written by the slot.
        self.carried: Interruptible | None = None
        self._io = io
        self._on_hard = on_hard
        # The current run's number, and who has claimed its ending: the first claim counts. Appending is atomic, so the slot
        # and the I/O thread never both settle one delivery; and it may be repeated, so an exception between two
        # instructions of the slot does no harm. Each run has a list of its own: a late claim is for the run it means.
        self._run = _NOTHING
        self._soft: float | None = None
        self._asked = 0  # the run that ``interrupt`` meant last; written by the I/O thread
        self._timers: list[Any] = []  # I/O thread

    def begin(self, run: int, soft: float | None, hard: float | None) -> None:
        """A run begins now.

        Args:
            run: its number; no two runs of one slot have the same.
            soft: seconds from now, None without a limit.
            hard: the same.
        """
        self._soft = soft
        self._run = (
            run,
            [],
        )  # first: a deadline that has passed when it is looked at is this run's
        if soft is not None or hard is not None:
            if soft is not None:
                self._make_ready()
            started = time.monotonic()
            self._io.post(lambda: self._arm(run, started, soft, hard))

    def carry(self, coroutine: Coroutine[Any, Any, object]) -> Interruptible:
        """The run is a coroutine's from now on: what is raised in it is to come at an ``await``. The slot.

        Args:
            coroutine: not begun yet; what is returned is to be run instead.
        """
        carried = self.carried = Interruptible(coroutine)
        return carried

    def end(self) -> bool:
        """The run is over. False when it was taken from outside: its settlement is not the slot's any more. May be repeated."""
        claims = self._run[1]
        claims.append(_SLOT)
        return claims[0] is _SLOT

    def revoked(self, run: int) -> bool:
        """Whether the exception that ended this run was asked for with ``interrupt``. The slot."""
        return self._asked == run

    # ------------------------------------------------------------ the I/O thread

    @property
    def current(self) -> int:
        """The number of the run that goes on; 0 when none does. A hint, unless the caller claims it."""
        number, claims = self._run
        return 0 if claims else number

    def take(self, run: int) -> bool:
        """Take a run from the slot, whose end is then the caller's to settle. False when it does not go on (any more)."""
        number, claims = self._run
        if number != run or claims:
            return False
        claims.append(_OUTSIDE)
        return claims[0] is _OUTSIDE

    def left(self, run: int) -> bool:
        """Whether the slot has done with a run."""
        number, claims = self._run
        return number != run or _SLOT in claims

    def interrupt(self, run: int) -> bool:
        """Raise ``SoftTimeLimitExceeded`` in a run, once, as at a soft limit. False when it does not go on (any more)."""
        if self.current != run:
            return False
        if self._asked == run:
            return True
        self._asked = run
        self._strike(run)
        return True

    @abc.abstractmethod
    def evict(self, run: int) -> None:
        """Have the code of a run that was taken end, where it can be made to."""

    def _make_ready(self) -> None:  # noqa: B027  # most ways need nothing
        """See to it that a soft limit can be raised in the run that begins. The slot."""

    @abc.abstractmethod
    def _strike(self, run: int) -> None:
        """Raise ``SoftTimeLimitExceeded`` in a run."""

    def _text(self, run: int) -> str:
        if run == self._asked:
            return "the task was revoked"
        return f"soft time limit of {self._soft or 0.0:g} s passed"

    def _arm(self, run: int, started: float, soft: float | None, hard: float | None) -> None:
        for timer in self._timers:
            self._io.cancel(timer)
        self._timers = []
        elapsed = time.monotonic() - started
        if soft is not None:
            self._later(soft - elapsed, lambda: self._soft_passed(run))
        if hard is not None:
            self._later(hard - elapsed, lambda: self._hard_passed(run))

    def _later(self, delay: float, callback: Callable[[], None]) -> None:
        self._timers.append(self._io.call_later(max(0.0, delay), callback))

    def _soft_passed(self, run: int) -> None:
        if self.current == run:
            self._strike(run)

    def _hard_passed(self, run: int) -> None:
        if self.current == run:
            self._on_hard(run)


class MainThreadLimits(Limits):
    """Limits of the one slot on the main thread: a signal interrupts it, in most system calls too.

    ``install`` belongs to the main thread, like ``begin`` and ``end``.
    """

    def __init__(self, io: IoThread, on_hard: Callable[[int], None]) -> None:
        super().__init__(io, on_hard)
        self._main = threading.main_thread().ident or 0
        # The run that the signal on its way means. A task may have held signals back: what comes late raises in no other.
        # Written by the I/O thread, and put back to 0 by the main thread.
        self._meant = 0

    def install(self) -> None:
        """Take the signal that carries the soft limit. Main thread."""
        signal.signal(SOFT_SIGNAL, self._raise)
        signal.siginterrupt(SOFT_SIGNAL, True)

    @property
    def installed(self) -> bool:
        """Whether that signal still comes here."""
        return signal.getsignal(SOFT_SIGNAL) == self._raise

    def evict(self, run: int) -> None:
        """Nothing: the process ends with the run."""

    def _strike(self, run: int) -> None:
        self._meant = run
        self._send(run, AGAIN_AFTER)

    def _send(self, run: int, again: float) -> None:
        """Send the signal, and again until it was taken: one that comes just before a system call does not end that call."""
        if self._meant != run or self.current != run:
            return
        signal.pthread_kill(self._main, SOFT_SIGNAL)
        if again < AGAIN_UNTIL:  # a task that holds signals back would pile them up
            self._io.post(lambda: self._io.call_later(again, partial(self._send, run, 2 * again)))

    def _make_ready(self) -> None:
        """Have the soft limit's signal arrive, whatever an earlier task did to handlers and mask."""
        if not self.installed:
            self.install()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (SOFT_SIGNAL,))

    def _raise(self, _signal: int, _frame: FrameType | None) -> None:
        run = self.current
        if run and run == self._meant:
            self._meant = 0
            error = SoftTimeLimitExceeded(self._text(run))
            if self.carried is None or not self.carried.interrupt(error):
                raise error


class ThreadLimits(Limits):
    """Limits of a slot that is a thread: an asynchronous exception, raised before its next instruction.

    What waits in C code hears of it when that returns. ``adopt`` belongs to the slot, like ``begin`` and ``end``.
    """

    def __init__(self, io: IoThread, on_hard: Callable[[int], None]) -> None:
        super().__init__(io, on_hard)
        self._thread = 0
        self._lock = threading.Lock()
        self._struck = False  # an exception may be on its way to the thread
        self._error: BaseException = Evicted()  # what it stands for

    def adopt(self) -> None:
        """The calling thread is the slot's from now on."""
        self._thread = threading.get_ident()

    def carry(self, coroutine: Coroutine[Any, Any, object]) -> Interruptible:
        """As in ``Limits``; what is still on its way to the thread, which would strike the event loop, comes to the coroutine."""
        carried = super().carry(coroutine)
        # The I/O thread says that it strikes before it looks for a coroutine, we tell of it before we look whether it strikes.
        if self._struck:
            with self._lock:
                if self._struck:
                    _throw(self._thread, None)
                    self._struck = False
                    carried.interrupt_from_outside(self._error)
        return carried

    def end(self) -> bool:
        """As in ``Limits``; what is still on its way to the thread is called off."""
        while True:
            try:
                mine = super().end()
                # The I/O thread says that it strikes before it looks for claims, we claim before we look whether it strikes.
                if self._struck:
                    with self._lock:
                        _throw(self._thread, None)
                        self._struck = False
                return mine
            except (SoftTimeLimitExceeded, Evicted):
                pass  # it came just now; the run is over all the same

    def evict(self, run: int) -> None:
        """Raise ``Evicted`` in a run that was taken."""
        self._throw(run, Evicted(), Evicted)

    def _strike(self, run: int) -> None:
        text = self._text(run)
        self._throw(run, SoftTimeLimitExceeded(text), _telling(text))

    def _throw(self, run: int, error: BaseException, kind: type[BaseException]) -> None:
        """Raise in a run: ``error`` in its coroutine, or ``kind`` in its thread."""
        with self._lock:
            self._error = error
            self._struck = True  # first: a coroutine that begins after the look sees it
            carried = self.carried
            number, claims = self._run  # after that: a later run's coroutine is not meant
            goes_on = number == run and _SLOT not in claims
            if goes_on and carried is None:
                _throw(self._thread, kind)
                return
            self._struck = False
            if goes_on and carried is not None:
                carried.interrupt_from_outside(error)


class LoopLimits(Limits):
    """Limits of a coroutine on the event loop that all slots of a child share: the exception reaches it at its ``await``.

    ``begin`` and ``end`` are called on the loop.

    Args:
        io: owns the timers.
        on_hard: as in ``Limits``.
        loop: the event loop.
        number: the slot's, for whoever looks at the loop's tasks.
    """

    def __init__(
        self,
        io: IoThread,
        on_hard: Callable[[int], None],
        loop: asyncio.AbstractEventLoop,
        number: int,
    ) -> None:
        super().__init__(io, on_hard)
        self._loop = loop
        # What the slot does now, and the asyncio task that was made of it: the loop keeps no hold of that.
        self._driven: tuple[Driven, asyncio.Task[None]] | None = None
        self._name = f"amqtask-slot-{number}"

    def drive(self, coroutine: Coroutine[Any, Any, None], context: Context) -> None:
        """Run a coroutine on the loop, in which a run of the slot begins, waits and ends. On the loop.

        Args:
            coroutine: not begun yet. It waits for nothing but the task's own coroutine.
            context: of the run.
        """
        # for asyncio's types, a coroutine is what inherits from one
        driven: Any = Driven(coroutine.send, coroutine)
        # Made as a loop without a task factory makes it, but for the name: to count asyncio's tasks in theirs costs as much as
        # to make one. A factory is for what tasks make.
        task = Task(driven, loop=self._loop, name=self._name, context=context)
        self._driven = (driven, task)

    def evict(self, run: int) -> None:
        """Raise ``Evicted`` in a run that was taken."""
        self._loop.call_soon_threadsafe(self._throw, run, Evicted())

    def _strike(self, run: int) -> None:
        error = SoftTimeLimitExceeded(self._text(run))
        self._loop.call_soon_threadsafe(self._throw, run, error)

    def _throw(self, run: int, error: BaseException) -> None:
        # on the loop, where the run cannot end at the same time: it is at an `await` of the task's
        number, claims = self._run
        if number == run and _SLOT not in claims and self._driven is not None:
            driven, task = self._driven
            driven.interrupt(task, error)


def _throw(thread: int, error: type[BaseException] | None) -> None:
    """Have a thread raise an exception before its next instruction; ``None`` calls it off."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error)
    )


def _telling(text: str) -> type[SoftTimeLimitExceeded]:
    """A ``SoftTimeLimitExceeded`` that says something: an asynchronous exception is made by its class, without arguments."""

    def begin(self: SoftTimeLimitExceeded) -> None:
        SoftTimeLimitExceeded.__init__(self, text)

    return type(
        SoftTimeLimitExceeded.__name__,
        (SoftTimeLimitExceeded,),
        {
            "__init__": begin,
            "__module__": SoftTimeLimitExceeded.__module__,
            "__qualname__": SoftTimeLimitExceeded.__qualname__,
        },
    )
