"""Which processes belong to a node: everything that carries its mark in the environment.

A RabbitMQ node is several processes: the Erlang machine, its name daemon (epmd, which detaches
itself), resolver and disk helpers. They inherit one environment variable that names the node's
folder, so they are found whatever happened to the process that started them, and nothing else
ever is. Linux only: it reads ``/proc``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import msgspec

MARK = "AMQTASK_NODE"


class Process(msgspec.Struct, frozen=True):
    """One process, exactly: process ids are used again, a start time beside one is not."""

    pid: int
    started: int  # clock ticks since the machine booted

    def alive(self) -> bool:
        """Tell whether this very process still runs (a zombie does not)."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return parse_stat(stat) == self and _state(stat) not in "ZX"

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to this very process; nothing happens when it is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # The handle names one process for good, so what alive() sees is what is signalled.
            if self.alive():
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signum)
        finally:
            os.close(handle)

    def stands_still(self) -> bool:
        """Tell whether each of its threads is stopped by a signal (a debugger's stop does not count), or it is gone.

        A process is stopped thread by thread: those that run on another processor go on for a moment after SIGSTOP was sent.
        """
        try:
            states = [
                _state(stat.read_text()) for stat in Path(f"/proc/{self.pid}/task").glob("*/stat")
            ]
        except (FileNotFoundError, ProcessLookupError):
            return not self.alive()  # else a thread has ended meanwhile
        return all(state in "TZX" for state in states)


def wait_still(process: Process, timeout: float) -> None:
    """Wait until a process that was sent SIGSTOP stands still, or ``timeout`` seconds are over."""
    deadline = time.monotonic() + timeout
    while not process.stands_still() and time.monotonic() < deadline:
        time.sleep(0.001)


def parse_stat(stat: str) -> Process:
    """Read pid and start time from the text of ``/proc/<pid>/stat``.

    Raises:
        ValueError: the text is cut short or no such text.
    """
    # The second field is the program's name in brackets and may hold spaces and brackets itself.
    head, bracket, tail = stat.rpartition(")")
    fields = tail.split()
    if not bracket or len(fields) < 20:
        raise ValueError("not the text of a /proc stat file")
    return Process(pid=int(head.split(" ", 1)[0]), started=int(fields[19]))


def _state(stat: str) -> str:
    return stat.rpartition(")")[2].split()[0]


def marked(value: str, name: str = MARK) -> list[Process]:
    """Return the live processes that were started with ``name=value`` in their environment.

    Other users' processes cannot be read and are left out, unless the caller is root.
    """
    wanted = f"{name}={value}".encode()
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names alone; a Path for each is waste
        if not entry.isdigit():
            continue
        try:
            environment = Path(f"/proc/{entry}/environ").read_bytes()
            if wanted not in environment.split(b"\0"):
                continue
            process = parse_stat(Path(f"/proc/{entry}/stat").read_text())
        except (OSError, ValueError):
            continue  # ended meanwhile, or another user's
        if process.alive():
            found.append(process)
    return found


def end_all(value: str, timeout: float = 10.0, name: str = MARK) -> list[Process]:
    """Kill every process marked with ``value``; return those still alive after ``timeout``."""
    deadline = time.monotonic() + timeout
    while left := marked(value, name):
        for process in left:
            process.signal(signal.SIGKILL)
        if time.monotonic() > deadline:
            return left
        time.sleep(0.02)
    return []


def wait_gone(process: Process, timeout: float) -> bool:
    """Wait until ``process`` has ended; False when it has not within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while process.alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
