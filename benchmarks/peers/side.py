"""What the modules of the frameworks share. Standard library only: it runs in the environment of each.

A module's words, each printing one JSON object as its last line:

``describe``
    ``workers``: by what they are for (see below) a ``command`` with a ``label``, an ``env``, and how many ``processes`` of it
    to start; ``{number}`` in it tells them apart. ``publish``: ways to publish, with a label. ``queues`` and ``exchanges``: everything the framework may leave on the broker.
    ``versions``: of the packages. ``imports``: the statement a program begins with. ``results``: where results go, or null.
``setup``
    Declares the queues, and leaves those for tasks empty as far as the framework can.
``publish way=… tasks=…``
    Publishes so many no-op tasks from this process and tells how long it took.
``fill tasks=… task=…``
    Publishes so many tasks, as fast as the framework can, for a worker that starts afterwards.
``chords parts=… rounds=…``
    Chords of so many no-op parts, one after another, each with its body's value awaited; how long one takes.
``calls calls=…`` and ``flight tasks=…``
    One call after another, each with its result awaited; and so many sent at once, all results awaited.

Workers are for: ``drain`` (as shipped, two processes), ``best`` (the same work at the best setting known), ``quorum``
(as ``drain``, on a quorum queue), ``results``, ``chords``, ``sleeping`` (1,000 tasks at a time that sleep 50 ms),
``sleeping-gevent`` and ``sleeping-eventlet`` (the same on greenlets), ``sleeping-threads`` (200 on threads), ``eight``
(eight child processes). What a framework does not have is left out.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import mmap
import os
import resource
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

URL = os.environ.get("AMQTASK_BROKER_URL", "amqp://guest:guest@127.0.0.1:5672//")
FOLDER = "BENCH_FOLDER"  # where the processes of a worker count their tasks
BROKER = "BENCH_BROKER_PID"  # the broker's process, where it is on this machine
QUORUM = bool(os.environ.get("BENCH_QUORUM"))
SUFFIX = ".quorum" if QUORUM else ""
PREFIX = os.environ.get("BENCH_PREFIX", "bench")  # of all names on the broker; one for each run
NAP = 0.05  # seconds a sleeping task sleeps

RECORD = struct.Struct("<qqq")  # tasks ended; when the first began and the last ended, monotonic ns
MARK = "@@"  # begins the line with the answer, whatever a framework prints besides

_lock = threading.Lock()
_memory: mmap.mmap | None = None
_first = 0
_next: Callable[[], int] = itertools.count(1).__next__


def begin() -> None:
    """Note that a task begins, for tasks that take time; ``hit`` is enough for the others."""
    if _memory is None:
        _open()


def hit() -> None:
    """Count one task of this process: half a microsecond in shared memory, the same for every framework."""
    memory = _memory or _open()
    with _lock:
        RECORD.pack_into(memory, 0, _next(), _first, time.monotonic_ns())


def _open() -> mmap.mmap:
    global _memory, _first
    with _lock:
        if _memory is None:
            _first = time.monotonic_ns()
            path = Path(os.environ[FOLDER], f"{os.getpid()}.count")
            with path.open("w+b") as file:
                file.truncate(RECORD.size)
                _memory = mmap.mmap(file.fileno(), RECORD.size)
        return _memory


def _after_fork() -> None:
    global _memory, _lock, _next
    _memory, _lock, _next = None, threading.Lock(), itertools.count(1).__next__


os.register_at_fork(after_in_child=_after_fork)


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of these distributions."""
    return {package: version(package) for package in packages}


def broker_cpu() -> float:
    """Seconds of CPU the broker has used, or 0 when it is not on this machine."""
    pid = os.environ.get(BROKER)
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def timed(tasks: int) -> Iterator[dict[str, float]]:
    """Time a block that sends ``tasks`` tasks: its rate, and what each cost this process and the broker in microseconds."""
    answer: dict[str, float] = {}
    used, broker, start = _cpu(), broker_cpu(), time.monotonic()
    yield answer
    seconds = time.monotonic() - start
    answer["rate"] = tasks / seconds
    answer["client_us"] = (_cpu() - used) / tasks * 1e6
    if BROKER in os.environ:
        answer["broker_us"] = (broker_cpu() - broker) / tasks * 1e6


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def latencies(seconds: list[float]) -> dict[str, float]:
    """Percentiles of calls, in milliseconds."""
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3

    return {"p50_ms": at(0.5), "p95_ms": at(0.95), "p99_ms": at(0.99)}


def chunks(total: int, size: int) -> Iterator[int]:
    """``total`` in pieces of at most ``size``."""
    for start in range(0, total, size):
        yield min(size, total - start)


def main(**words: Callable[..., Any]) -> None:
    """Carry out the word on the command line and print its answer. Does not return."""
    # What a framework opened is closed by its own means, also when the run is broken off.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    word, *rest = sys.argv[1:]
    arguments = dict(item.split("=", 1) for item in rest)
    function = words[word]
    wanted = inspect.signature(function).parameters
    answer = function(
        **{
            name: int(value) if value.isdigit() else value
            for name, value in arguments.items()
            if name in wanted
        }
    )
    print(f"\n{MARK}{json.dumps(answer or {})}", flush=True)
    sys.exit(0)
