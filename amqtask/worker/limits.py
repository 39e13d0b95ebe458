"""Time limits inside a child: the soft limit raised in the slot, the hard one settled by the I/O thread.

The slot says what it runs; the I/O thread's timers fire against exactly that run, known by a number, so a timer that comes
late touches nothing that started after it. The supervisor is the backstop for a child whose I/O thread cannot move.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from amqtask.amqp.threaded.loop import IoThread
from amqtask.errors import SoftTimeLimitExceeded

SOFT_SIGNAL = signal.SIGRTMIN + 5  # real-time signals have no other meaning to a program


class MainThreadLimits:
    """Limits of the one slot on the main thread.

    ``install``, ``begin`` and ``end`` belong to the main thread, the rest to the I/O thread.

    Args:
        io: owns the timers.
        on_hard: called on the I/O thread when a run is still going at its hard deadline.
    """

    def __init__(self, io: IoThread, on_hard: Callable[[], None]) -> None:
        # Takes a soft limit that must not be raised where the main thread happens to be, and tells whether it did.
        self.divert: Callable[[BaseException], bool] | None = None  # main thread
        self._io = io
        self._on_hard = on_hard
        self._main = threading.main_thread().ident or 0
        # Holds the number of the current run. Whoever pops it owns the run's ending: popping is atomic, so the main
        # thread and the I/O thread never both settle one delivery.
        self._run: list[int] = []
        self._count = 0
        self._soft: float | None = None
        self._timers: list[Any] = []  # I/O thread

    def install(self) -> None:
        """Take the signal that carries the soft limit. Main thread."""
        signal.signal(SOFT_SIGNAL, self._raise)
        signal.siginterrupt(SOFT_SIGNAL, True)

    def begin(self, soft: float | None, hard: float | None) -> None:
        """A run with limits begins now; limits in seconds from now."""
        self._count += 1
        self._soft = soft
        run = self._count
        started = time.monotonic()
        self._io.post(lambda: self._arm(run, started, soft, hard))
        self._run.append(run)

    def end(self) -> bool:
        """The run is over. False when the hard limit took it: its settlement is not the slot's any more."""
        try:
            self._run.pop()
        except IndexError:
            return False
        return True

    def _raise(self, _signal: int, _frame: FrameType | None) -> None:
        if self._run:
            error = SoftTimeLimitExceeded(f"soft time limit of {self._soft:g} s passed")
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
            signal.pthread_kill(self._main, SOFT_SIGNAL)

    def _hard_passed(self, run: int) -> None:
        if self._run == [run] and self.end():
            self._on_hard()
