"""Processes that are stopped by a signal: stopping one in a run, and noticing those that stay so."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from amqtask.worker.memory.board import Slot

STOPS_WITHIN = 0.05  # s to wait for a process to stop before it is killed


class Frozen:
    """Which processes count as frozen: stopped for too long. One thread.

    Args:
        timeout: seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._since: dict[int, float] = {}

    def why(self, pid: int, now: float) -> str | None:
        """Why a process counts as frozen, None when it does not."""
        if not is_stopped(pid):
            self._since.pop(pid, None)
        elif now - self._since.setdefault(pid, now) >= self._timeout:
            return f"stopped by a signal for {self._timeout:g} s"
        return None

    def forget(self, pid: int) -> None:
        """The process has died."""
        self._since.pop(pid, None)


def caught(pid: int, slot: Slot, sequence: int) -> bool:
    """Stop a child in a run, to be killed. False when the run has ended meanwhile: then the child goes on.

    Between a look and a kill one task can end and another begin, which is none of the kill's business.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + STOPS_WITHIN
        # one that sleeps in the kernel where no signal reaches it cannot begin another task either
        while not is_stopped(pid) and time.monotonic() < deadline:
            time.sleep(0.0005)
        task = slot.read()
        if task is not None and task.sequence == sequence:
            return True
        os.kill(pid, signal.SIGCONT)
    return False


def is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped by a signal; a debugger's stop does not count. False where there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rindex(b")") + 2 :].startswith(b"T")
