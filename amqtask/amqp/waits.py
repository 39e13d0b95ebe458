"""Waiting until another thread, most often the I/O thread, says so.

Everything in amqtask that makes a caller wait for the broker waits here: a publish for its confirm, ``get()`` for the result, a
batch for its rest. A plain thread waits at a lock. Where many greenlets share a thread that would stop them all, so a pool of
greenlets installs gates of its own kind with ``use``; whoever opens a gate need not know which kind it is.

Locks that are held for a moment, without waiting for anything inside, stay plain locks: no greenlet is switched while it
holds one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol


class Gate(Protocol):
    """One waits, another lets it through, once. A ``threading.Lock`` that is held is one."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Wait until it opens, at most ``timeout`` seconds (-1: for ever); whether it has."""
        ...

    def release(self) -> None:
        """Open it. Any thread, once."""
        ...


_make: Callable[[], Gate] | None = None


def use(make: Callable[[], Gate] | None) -> None:
    """Have gates made by ``make`` from now on, for the thread that asks; ``None``: plain ones again. Before anybody waits."""
    global _make
    _make = make


def closed_gate() -> Gate:
    """A gate for the caller to wait at."""
    if _make is not None:
        return _make()
    gate = threading.Lock()
    gate.acquire()
    return gate


class Condition:
    """``threading.Condition`` with gates to wait at, and a plain lock, which its owner must not take twice.

    Attributes:
        lock: the same lock, to be taken by itself where only it is needed and every step counts.
    """

    __slots__ = ("_gates", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._gates: list[Gate] = []  # guarded by lock

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Let the lock go, wait for ``notify_all``, take the lock again. False when ``timeout`` seconds passed first."""
        gate = closed_gate()
        self._gates.append(gate)
        self.lock.release()
        try:
            return gate.acquire(timeout=-1 if timeout is None else _bounded(timeout))
        finally:
            self.lock.acquire()

    def notify_all(self) -> None:
        """Wake everybody who waits. The lock must be held."""
        gates, self._gates = self._gates, []
        for gate in gates:
            gate.release()


class Flag:
    """``threading.Event`` with gates to wait at. Any thread."""

    __slots__ = ("_changed", "_up")

    def __init__(self) -> None:
        self._changed = Condition()
        self._up = False

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._up

    def set(self) -> None:
        """Set it and wake everybody who waits."""
        with self._changed:
            self._up = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Take it back."""
        self._up = False

    def wait(self, timeout: float) -> bool:
        """Wait until it is set, at most ``timeout`` seconds; whether it is."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._up:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return self._up


def _bounded(timeout: float) -> float:
    """A time that a lock accepts."""
    return min(max(timeout, 0.0), threading.TIMEOUT_MAX)
