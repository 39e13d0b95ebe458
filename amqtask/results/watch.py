"""Waiting for many results together: which of them have settled, in the order in which they do.

Nothing polls: an entry of the table rings when something new is there, and each is looked at only then. So waiting for ten
thousand is ten thousand looks, in whatever order they come.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from amqtask.amqp.waits import Flag
from amqtask.results.pending import Awaited, Changed
from amqtask.results.waiting import NOBODY, Listener


class Watch:
    """Entries of the table, and which of them have settled. One thread or event loop, but for the ringing.

    Args:
        entries: what to watch; ``None`` has settled.
        ring: called by any thread when it is worth calling ``next``; must neither block nor raise.
        on_change: called in ``start`` and ``next`` with the place of an entry of which something new is known.
    """

    __slots__ = ("_changed", "_entries", "_on_change", "_ring", "_waiting")

    def __init__(
        self,
        entries: Sequence[Awaited | None],
        ring: Changed,
        on_change: Callable[[int], object] | None = None,
    ) -> None:
        self._entries = entries
        self._ring = ring
        self._on_change = on_change
        self._changed: deque[int] = deque()  # filled by whoever files or decodes a reply
        self._waiting: dict[int, Changed | None] = {}

    @property
    def left(self) -> int:
        """How many have not been returned by ``next``."""
        return len(self._waiting)

    @property
    def changed(self) -> bool:
        """Whether it is worth calling ``next``."""
        return bool(self._changed)

    def start(self) -> None:
        """Begin to watch."""
        for index, entry in enumerate(self._entries):
            self._waiting[index] = None
            if entry is None or entry.settled():
                self._changed.append(index)
            else:
                self._listen(index, entry)
                if self._on_change is not None and entry.latest() is not None:
                    self._on_change(index)

    def next(self) -> int | None:
        """The place of an entry that has settled, each one once; ``None`` when there is no other at present."""
        changed, waiting = self._changed, self._waiting
        while changed:
            index = changed.popleft()
            if index not in waiting:
                continue
            entry = self._entries[index]
            if entry is not None and not entry.settled():
                self._listen(index, entry)  # a state on the way
                if self._on_change is not None:
                    self._on_change(index)
                continue
            callback = waiting.pop(index)
            if entry is not None and callback is not None:
                entry.discard(callback)
            if entry is not None and self._on_change is not None:
                self._on_change(index)
            return index
        return None

    def close(self) -> None:
        """Stop watching."""
        for index, callback in self._waiting.items():
            entry = self._entries[index]
            if entry is not None and callback is not None:
                entry.discard(callback)
        self._waiting.clear()

    def _listen(self, index: int, entry: Awaited) -> None:
        before = self._waiting[index]
        if before is not None:
            entry.discard(before)
        callback = self._waiting[index] = partial(self._mark, index)
        entry.on_change(callback)
        # Looked at again after the registration: what another thread decoded in between rang no bell of ours.
        if entry.settled():
            self._changed.append(index)

    def _mark(self, index: int) -> None:
        self._changed.append(index)
        self._ring()


def arrivals(
    entries: Sequence[Awaited | None], timeout: float | None, listener: Listener = NOBODY
) -> Iterator[int | None]:
    """The places of entries as they settle; ``None``, and the end, when ``timeout`` seconds passed first.

    Any thread but an I/O thread.

    Args:
        entries: what to watch.
        timeout: seconds for all.
        listener: who is called meanwhile, in this thread.
    """
    now = time.monotonic()
    deadline = math.inf if timeout is None else now + timeout
    tick = math.inf if listener.on_interval is None else now + listener.interval
    flag = Flag()

    def ring() -> None:
        if not flag.is_set():
            flag.set()

    watch = Watch(entries, ring, listener.on_change)
    try:
        watch.start()
        while watch.left:
            flag.clear()  # before the look: what comes after it rings again
            index = watch.next()
            if index is not None:
                yield index
                continue
            until = min(deadline, tick)
            if flag.wait(until - time.monotonic()):
                continue
            if until != deadline:
                assert listener.on_interval is not None  # else nothing ticks
                listener.on_interval()
                tick = time.monotonic() + listener.interval
                continue
            index = watch.next()  # what came with the last moment
            yield index
            if index is None:
                return
    finally:
        watch.close()
