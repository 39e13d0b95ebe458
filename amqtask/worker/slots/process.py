"""What befalls the process in which tasks run: copies of it, descriptors that are closed or used up, memory that grows."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import NoReturn

from amqtask.core.codec import Head
from amqtask.log import get_logger
from amqtask.worker.forking.prepared import ChildExit

log = get_logger("amqtask.worker")


def end_copy() -> None:
    """End a process that a task forked off and that came back to us: the message is the original's to settle."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(0)


def end_cut_off(head: Head) -> NoReturn:
    """End a process whose descriptors a task has closed, while the board says that it runs: the crash is charged to it alone."""
    log.critical(
        "a task has closed the file descriptors of this process, which ends",
        task_name=head.task,
        task_id=head.id,
    )
    os._exit(int(ChildExit.SOFTWARE))


def starved(error: BaseException) -> bool:
    """Whether an error says that there are no more file descriptors, which every next task in this process would hear, too."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def resident_kib() -> int:
    """Resident memory of this process in KiB; 0 where /proc does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  # once per task: a Path object costs more than the read
            pages = int(file.read().split()[1])
    except OSError:
        return 0
    return pages * 4
