"""How a run ends that does not end by itself: the soft limit raised in the slot, the hard one settled by the I/O thread.

The slot says what it runs; whoever ends a run from outside means exactly that run, known by a number, so what comes late
touches nothing that started after it. The supervisor is the backstop for a child whose I/O thread cannot move.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from amqtask.amqp.threaded.loop import IoThread
from amqtask.errors import SoftTimeLimitExceeded

SOFT_SIGNAL = signal.SIGRTMIN + 5  # real-time signals have no other meaning to a program

AGAIN_AFTER = 0.05  # seconds after which a signal is sent again; twice as long each time
AGAIN_UNTIL = 10.0


class MainThreadLimits:
    """Limits of the one slot on the main thread.

    ``install``, ``begin`` and ``end`` belong to the main thread, the rest to the I/O thread.

    Args:
        io: owns the timers.
        on_hard: called on the I/O thread when a run is still going at its hard deadline; the run is then its to settle.
    """

    def __init__(self, io: IoThread, on_hard: Callable[[], None]) -> None:
        # Takes a soft limit that must not be raised where the main thread happens to be, and tells whether it did.
        self.divert: Callable[[BaseException], bool] | None = None  # main thread
        self._io = io
        self._on_hard = on_hard
        self._main = threading.main_thread().ident or 0
        # Holds the number of the current run. Whoever removes it owns the run's ending: removing is atomic, so the main
        # thread and the I/O thread never both settle one delivery.
        self._run: list[int] = []
        self._soft: float | None = None
        self._asked = 0  # the run that ``interrupt`` meant last; written by the I/O thread
        # The run that the signal on its way means. A task may have held signals back: what comes late raises in no other.
        # Written by the I/O thread, and put back to 0 by the main thread.
        self._meant = 0
        self._timers: list[Any] = []  # I/O thread

    def install(self) -> None:
        """Take the signal that carries the soft limit. Main thread."""
        signal.signal(SOFT_SIGNAL, self._raise)
        signal.siginterrupt(SOFT_SIGNAL, True)

    @property
    def installed(self) -> bool:
        """Whether that signal still comes here."""
        return signal.getsignal(SOFT_SIGNAL) == self._raise

    def begin(self, run: int, soft: float | None, hard: float | None) -> None:
        """A run begins now.

        Args:
            run: its number; no two runs of one process have the same.
            soft: seconds from now, None without a limit.
            hard: the same.
        """
        self._soft = soft
        if soft is not None or hard is not None:
            if soft is not None:
                self._restore()
            started = time.monotonic()
            self._io.post(lambda: self._arm(run, started, soft, hard))
        self._run.append(run)

    def end(self) -> bool:
        """The run is over. False when it was taken from outside: its settlement is not the slot's any more."""
        try:
            self._run.pop()
        except IndexError:
            return False
        return True

    def revoked(self, run: int) -> bool:
        """Whether the exception that ended this run was asked for with ``interrupt``. Main thread."""
        return self._asked == run

    # ------------------------------------------------------------ the I/O thread

    def take(self, run: int) -> bool:
        """Take a run from the slot, whose end is then the caller's to settle. False when it does not go on (any more)."""
        try:
            self._run.remove(run)
        except ValueError:
            return False
        return True

    def interrupt(self, run: int) -> bool:
        """Raise ``SoftTimeLimitExceeded`` in a run, once, as at a soft limit. False when it does not go on (any more)."""
        if self._run != [run]:
            return False
        if self._asked == run:
            return True
        self._asked = run
        self._signal(run)
        return True

    def _signal(self, run: int) -> None:
        self._meant = run
        self._send(run, AGAIN_AFTER)

    def _send(self, run: int, again: float) -> None:
        """Send the signal, and again until it was taken: one that comes just before a system call does not end that call."""
        if self._meant != run or self._run != [run]:
            return
        signal.pthread_kill(self._main, SOFT_SIGNAL)
        if again < AGAIN_UNTIL:  # a task that holds signals back would pile them up
            self._io.post(lambda: self._io.call_later(again, partial(self._send, run, 2 * again)))

    def _restore(self) -> None:
        """Have the soft limit's signal arrive, whatever an earlier task did to handlers and mask."""
        if not self.installed:
            self.install()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (SOFT_SIGNAL,))

    def _raise(self, _signal: int, _frame: FrameType | None) -> None:
        run = self._run
        if run and run == [self._meant]:
            self._meant = 0
            error = SoftTimeLimitExceeded(
                "the task was revoked"
                if run == [self._asked]
                else f"soft time limit of {self._soft or 0.0:g} s passed"
            )
            if self.divert is None or not self.divert(error):
                raise error

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
        if self._run == [run]:
            self._signal(run)

    def _hard_passed(self, run: int) -> None:
        if self.take(run):
            self._on_hard()
