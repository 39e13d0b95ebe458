"""What runs in a node though it was acked before it began, in shared memory that outlives the process that runs it.

Every place has one writer at a time: the slot that runs something, and once its process is dead whoever takes the seat.
"""

from __future__ import annotations

import mmap
import struct

ROOM = 8192  # bytes for each slot; memory is used as it is written

_LENGTH = struct.Struct("@Q")
MOST = ROOM - _LENGTH.size


class EarlyRuns:
    """The memory of one node. Make it before the first fork.

    Args:
        seats: how many children can exist at one time.
        slots: slots per child.
    """

    def __init__(self, seats: int, slots: int) -> None:
        self._memory = mmap.mmap(-1, seats * slots * ROOM)
        self._slots = slots

    def seat(self, index: int) -> EarlySeat:
        """The places of one seat's slots."""
        return EarlySeat(self._memory, index * self._slots * ROOM, self._slots)

    def close(self) -> None:
        """Unmap the memory in this process."""
        self._memory.close()


class EarlySeat:
    """The runs of one child. ``keep`` and ``drop`` are for whoever has the slot's run, ``lost`` for a child that has not begun."""

    def __init__(self, memory: mmap.mmap, at: int, slots: int) -> None:
        self._memory = memory
        self._at = at
        self._slots = slots

    def keep(self, slot: int, data: bytes) -> None:
        """Note what runs in a slot from now on: at most ``MOST`` bytes that tell of it."""
        at = self._at + slot * ROOM
        # the length last: what has one is whole
        self._memory[at + _LENGTH.size : at + _LENGTH.size + len(data)] = data
        _LENGTH.pack_into(self._memory, at, len(data))

    def drop(self, slot: int) -> None:
        """Note that the run in a slot has ended."""
        _LENGTH.pack_into(self._memory, self._at + slot * ROOM, 0)

    def lost(self) -> list[bytes]:
        """Take what ran in this seat when its last process died."""
        found: list[bytes] = []
        for slot in range(self._slots):
            at = self._at + slot * ROOM
            (length,) = _LENGTH.unpack_from(self._memory, at)
            if 0 < length <= MOST:
                found.append(self._memory[at + _LENGTH.size : at + _LENGTH.size + length])
            if length:
                self.drop(slot)
        return found
