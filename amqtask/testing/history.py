"""What happened in a run, as lines that many processes append to files of one folder.

One line is one ``write`` to a file opened for appending, so lines of different processes do not mix, and a process that is
killed leaves whole lines. Times are of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Event(NamedTuple):
    """One line.

    Attributes:
        time: seconds of the monotonic clock.
        pid: whose line it is.
        what: ``attempted``, ``acknowledged``, ``refused``, ``awaits``, ``result``, ``revoking``, ``revoked``, ``started``,
            ``finished``, ``raised``, ``discarded``, ``dead``, ``pending``.
        id: the task's id.
        note: more: the task's kind, its number of retries, a reason.
    """

    time: float
    pid: int
    what: str
    id: str
    note: str


class Writer:
    """Appends events to a file. Any thread; a fork shares the file."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, what: str, task_id: str, note: object = "") -> None:
        """Append one event, now."""
        text = str(note).replace("\n", " ")
        line = f"{time.monotonic():.6f} {os.getpid()} {what} {task_id} {text}\n"
        os.write(self._descriptor, line.encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Reader:
    """Reads what has been appended to the files of a folder since the last look."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}

    def new(self) -> Iterator[Event]:
        """The events that are new, file by file."""
        for file in sorted(self._folder.glob("*.history")):
            with file.open("rb") as stream:
                stream.seek(self._read.get(file, 0))
                data = stream.read()
            whole = data.rfind(b"\n") + 1
            self._read[file] = self._read.get(file, 0) + whole
            for line in data[:whole].decode(errors="replace").splitlines():
                yield parse(line)


def parse(line: str) -> Event:
    """Read one line.

    Raises:
        ValueError: it is none.
    """
    at, pid, what, task_id, *note = line.split(" ", 4)
    return Event(float(at), int(pid), what, task_id, note[0] if note else "")
