"""What runs in a node though it was acked before it began, in shared memory that outlives the process that runs it.

And what follows from its end, until the broker has confirmed that: a process may be killed in between, and nobody else knows.

Every place has one writer at a time: the slot that runs something, and once its process is dead whoever takes the seat. What is
held is let go of by the I/O thread, which writes nothing but that a place is free.
"""

from __future__ import annotations

import mmap
import struct

ROOM = 8192  # bytes for each place; memory is used as it is written
ENDS = 8  # places of a slot for what has ended, beside that for what runs; and of the process for what it has taken over
MANY = 64  # places of a process for what has ended, about; one for each slot at least

_LENGTH = struct.Struct("@Q")
MOST = ROOM


class EarlyRuns:
    """The memory of one node. Make it before the first fork.

    Args:
        seats: how many children can exist at one time.
        slots: slots per child.
    """

    def __init__(self, seats: int, slots: int) -> None:
        self._memory = mmap.mmap(-1, seats * _seat_size(slots))
        self._slots = slots

    def seat(self, index: int) -> EarlySeat:
        """The places of one seat's slots."""
        return EarlySeat(self._memory, index * _seat_size(self._slots), self._slots)

    def close(self) -> None:
        """Unmap the memory in this process."""
        self._memory.close()


class EarlySeat:
    """The runs of one child. ``keep`` and ``drop`` are for whoever has the slot's run, ``lost`` for a child that has not begun."""

    def __init__(self, memory: mmap.mmap, at: int, slots: int) -> None:
        self._memory = memory
        self._at = at
        self._slots = slots
        self._ends = _ends(slots)

    def keep(self, slot: int, data: bytes) -> None:
        """Note what runs in a slot from now on: at most ``MOST`` bytes that tell of it."""
        self._write(slot, data)

    def drop(self, slot: int) -> None:
        """Note that the run in a slot has ended."""
        self.release(slot)

    def take_over(self, data: bytes) -> int | None:
        """Note what another process has left, until it is safe. One thread; else as ``hold``."""
        return self._take(self._slots * (1 + self._ends), ENDS, data)

    def hold(self, slot: int, data: bytes) -> int | None:
        """Note what follows from a run in a slot until it is safe, in at most ``MOST`` bytes; what has none is as it was said to run.

        The place, for ``release``; ``None`` when all are taken.
        """
        data = data or self._read(slot)
        if not data:
            return None
        return self._take(self._slots + slot * self._ends, self._ends, data)

    def _take(self, first: int, count: int, data: bytes) -> int | None:
        for place in range(first, first + count):
            if not self._length(place):
                self._write(place, data)
                return place
        return None

    def release(self, place: int) -> None:
        """Note that what is held in a place is safe, or nobody's concern any more. Any thread."""
        _LENGTH.pack_into(self._memory, self._at + place * _LENGTH.size, 0)

    def _length(self, place: int) -> int:
        length: int = _LENGTH.unpack_from(self._memory, self._at + place * _LENGTH.size)[0]
        return length

    def _room(self, place: int) -> int:
        return self._at + _head_size(self._slots) + place * ROOM

    def _read(self, place: int) -> bytes:
        at, length = self._room(place), self._length(place)
        return self._memory[at : at + length] if length <= MOST else b""

    def _write(self, place: int, data: bytes) -> None:
        at = self._room(place)
        # the length last: what has one is whole
        self._memory[at : at + len(data)] = data
        _LENGTH.pack_into(self._memory, self._at + place * _LENGTH.size, len(data))

    def lost(self) -> list[bytes]:
        """Take what ran in this seat, or had ended and was not safe yet, when its last process died."""
        found: list[bytes] = []
        for place in range(_places(self._slots)):
            if not self._length(place):
                continue
            if data := self._read(place):
                found.append(data)
            self.release(place)
        return found


def _ends(slots: int) -> int:
    """How many ends of each slot are kept: of many slots fewer."""
    return max(1, min(ENDS, MANY // slots))


def _places(slots: int) -> int:
    return slots * (1 + _ends(slots)) + ENDS


def _head_size(slots: int) -> int:
    """Bytes for the lengths of a seat's places. They stand together: memory that is only looked at is used, too."""
    return -(-_places(slots) * _LENGTH.size // mmap.PAGESIZE) * mmap.PAGESIZE


def _seat_size(slots: int) -> int:
    return _head_size(slots) + _places(slots) * ROOM
