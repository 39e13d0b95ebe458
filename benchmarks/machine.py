"""What Linux tells of processes: who descends from whom, CPU, memory, and who listens on a port. Reads /proc only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

_TICK = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
_LISTENS = "0A"  # TCP state, as the kernel writes it


class Memory(NamedTuple):
    """MiB of some processes together. ``pss`` shares shared pages out; ``uss`` is what each alone holds."""

    pss: float
    uss: float


def describe() -> dict[str, Any]:
    """The machine, for a report."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "model": model,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


@contextlib.contextmanager
def alone(name: str) -> Iterator[bool]:
    """Whether nobody else on this machine is in here under the same name, as far as this user can see."""
    path = Path(tempfile.gettempdir(), f"amqtask-{name}-{os.getuid()}.lock")
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def cpu(pid: int) -> float:
    """Seconds of CPU a process has used, of user and system; 0 when it is gone."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICK if fields else 0.0


def tree(roots: Iterable[int]) -> list[int]:
    """These processes and all that descend from them, those that live."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        if fields := _stat(pid):
            children.setdefault(int(fields[1]), []).append(pid)
    found: list[int] = []
    waiting = [pid for pid in roots if _stat(pid)]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def leaves(pids: Iterable[int]) -> list[int]:
    """Those of some processes that have no children among them."""
    pids = list(pids)
    parents = {int(fields[1]) for pid in pids if (fields := _stat(pid))}
    return [pid for pid in pids if pid not in parents]


def memory(pids: Iterable[int]) -> Memory:
    """What these processes hold together."""
    pss = uss = 0
    for pid in pids:
        for name, kib in _rollup(pid):
            if name == "Pss":
                pss += kib
            elif name in ("Private_Clean", "Private_Dirty"):
                uss += kib
    return Memory(pss / 1024, uss / 1024)


def listener(port: int, name: str = "beam") -> int | None:
    """The process whose command begins with ``name`` and that listens on a TCP port here, if it can be seen."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    if not sockets:
        return None
    for pid in _pids():
        try:
            if not (_PROC / str(pid) / "comm").read_text().startswith(name):
                continue
            for descriptor in (_PROC / str(pid) / "fd").iterdir():
                if str(descriptor.readlink()) in sockets:
                    return pid
        except OSError:
            continue  # it has ended, or belongs to another user
    return None


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on, or ``None``; a zombie counts as gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields


def _rollup(pid: int) -> Iterator[tuple[str, int]]:
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB":
            yield words[0].rstrip(":"), int(words[1])


def _listening(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if words[3] == _LISTENS and int(words[1].rpartition(":")[2], 16) == port:
                yield words[9]
