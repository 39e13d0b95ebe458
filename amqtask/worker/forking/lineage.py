"""How the processes of a node hang together: who dies with whom, and what a forked process must let go of.

Nothing of a node may outlive its supervisor, and nothing a task forked may outlive the child it ran in: a grandchild that keeps
a copy of the broker's socket delays the redelivery of the child's messages from milliseconds to three heartbeats.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

ASK_SIGNAL = signal.SIGRTMIN + 6  # to a child: look at the board, a run of yours is to end

_PR_SET_PDEATHSIG = 1


def _find_prctl() -> Callable[[int], bool] | None:
    """Return a function that sets the parent-death signal, None where the system has none (anything but Linux)."""
    if sys.platform != "linux":
        return None
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (AttributeError, OSError):
        return None
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    prctl.restype = ctypes.c_int
    return lambda number: prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) == 0


# Looked up at import: a process just forked should not load libraries.
_set_parent_death_signal = _find_prctl()


def die_with(parent: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """Have the kernel send ``number`` to this process when its parent dies; False where it cannot.

    Call in a forked process, with the pid its parent had: a parent that died before this call is noticed, and the process ends.
    """
    asked = _set_parent_death_signal is not None and _set_parent_death_signal(int(number))
    if os.getppid() != parent:
        os._exit(0)
    return asked


def die_with_pipe(lifeline: int) -> None:
    """Kill this process group when the other end of a pipe closes: ``die_with`` for systems that cannot. Starts a thread."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(lifeline, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, name="amqtask-lifeline", daemon=True).start()


def kill_group(leader: int) -> None:
    """SIGKILL a process and its group. The caller knows that ``leader`` has not been reaped."""
    for kill in (os.killpg, os.kill):
        # gone already, or not yet its own group: then the other call reaches it
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(leader, signal.SIGKILL)


def forget_exit_handlers() -> None:
    """Drop the ``atexit`` handlers a forked process inherited: they are its parent's to run."""
    atexit._clear()  # noqa: SLF001 - there is no public way; multiprocessing does the same


def run_exit_handlers() -> None:
    """Run the ``atexit`` handlers of this process, which will end by ``os._exit``."""
    atexit._run_exitfuncs()  # noqa: SLF001 - there is no public way; multiprocessing does the same


def _nothing(number: int, frame: object) -> None:
    """Do nothing in Python: the wakeup descriptor has the signal already."""


def ignore(*signals: signal.Signals) -> None:
    """Take no notice of signals, without passing that on to programs this process starts (as SIG_IGN would be)."""
    for number in signals:
        signal.signal(number, _nothing)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Hold back all signals while a process forks and the new one still has its parent's handlers and wakeup descriptor."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fork_clean(*signals: signal.Signals) -> None:
    """Have what this process forks from now on find ``signals`` at their default, and tell this process of none.

    Without it a forked process shares the wakeup descriptor: ``terminate()`` on a ``multiprocessing.Process`` that a task started
    would not end that process but drain ours. Signals are held back while the fork is under way, so that none comes too early.
    """
    before = threading.local()

    def hold_back() -> None:
        before.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    def let_through() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before.mask)

    def clean() -> None:
        signal.set_wakeup_fd(-1)
        for number in signals:
            signal.signal(number, signal.SIG_DFL)
        let_through()

    os.register_at_fork(before=hold_back, after_in_parent=let_through, after_in_child=clean)


class Wakeup:
    """Signals as bytes on a pipe, for a loop to wait on. The main thread only; one per process at a time.

    Args:
        signals: those to take; their Python handlers do nothing.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._before = [(number, signal.signal(number, _nothing)) for number in signals]
        self._before_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def fileno(self) -> int:
        """Return the descriptor to wait on for reading."""
        return self._read

    def arrived(self) -> list[int]:
        """Return the numbers of the signals that arrived since the last call, in order."""
        try:
            return list(os.read(self._read, 4096))
        except BlockingIOError:
            return []

    def restore(self) -> None:
        """Put back the handlers that were there before, and close the pipe."""
        signal.set_wakeup_fd(self._before_fd)
        for number, handler in self._before:
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self.drop()

    def drop(self) -> None:
        """Let go of the pipe in a forked process, and leave the handlers alone."""
        if signal.set_wakeup_fd(-1) not in (-1, self._write):
            raise AssertionError("the wakeup descriptor is another's")
        os.close(self._read)
        os.close(self._write)
