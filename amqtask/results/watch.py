"""Waiting for many results together: which of them have settled, in the order in which they do.

Nothing polls: an entry of the table rings when something new is there, and each is looked at only then. So waiting for ten
thousand is ten thousand looks, in whatever order they come.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

from amqtask.amqp.waits import Flag
from amqtask.results.pending import Awaited, Changed


class Watch:
    """Entries of the table, and which of them have settled. One thread or event loop, but for the ringing.

    Args:
        entries: what to watch; ``None`` has settled.
        ring: called by any thread when it is worth calling ``next``; must neither block nor raise.
    """

    __slots__ = ("_changed", "_entries", "_ring", "_waiting")

    def __init__(self, entries: Sequence[Awaited | None], ring: Changed) -> None:
        self._entries = entries
        self._ring = ring
        self._changed: deque[int] = deque()  # filled by whoever files or decodes a reply
        self._waiting: dict[int, Changed | None] = {}

    @property
    def left(self) -> int:
        """How many have not been returned by ``next``."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to watch."""
        for index, entry in enumerate(self._entries):
            self._waiting[index] = None
            if entry is None or entry.settled():
                self._changed.append(index)
            else:
                self._listen(index, entry)

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
                continue
            callback = waiting.pop(index)
            if entry is not None and callback is not None:
                entry.discard(callback)
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


def arrivals(entries: Sequence[Awaited | None], timeout: float | None) -> Iterator[int | None]:
    """The places of entries as they settle; ``None``, and the end, when ``timeout`` seconds passed first.

    Any thread but an I/O thread.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    flag = Flag()

    def ring() -> None:
        if not flag.is_set():
            flag.set()

    watch = Watch(entries, ring)
    try:
        watch.start()
        while watch.left:
            flag.clear()  # before the look: what comes after it rings again
            index = watch.next()
            if index is not None:
                yield index
            elif not flag.wait(deadline - time.monotonic()):
                index = watch.next()  # what came with the last moment
                yield index
                if index is None:
                    return
    finally:
        watch.close()
