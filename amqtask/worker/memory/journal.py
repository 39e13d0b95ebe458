"""The journal: which executions ended in this node a moment ago, in shared memory that all its children can read.

The broker redelivers a message whose ack it never saw. Whether its task has run is known to the child that ran it, but the
redelivery may go to any other. So each child writes, into a ring of its own, one word per execution: a hash of what
identifies it, and its state. The word is written before the slot says that the task ended, and changed when all that
follows from it is confirmed; so at no moment is an execution neither on the board nor in the journal. An execution from which
nothing follows but its ack is *safe* at once: acks leave a few milliseconds later, many together, and a child that the next
task kills takes them with it; the tasks before that one are not run again.

*Settled* is not enough to answer a redelivery: a message that somebody sent again on purpose under the same id, after the
first had ended, would then be acked without having run. What answers is *lost*: the execution's ack may not have reached the broker,
because the child's channel went, or the child died, within a minute of it; and that for five minutes only, in which whatever
the broker still had must have come. Everything else is believed to be acked, so what a child leaves that parted from the broker in order.

Every word has one writer at a time: the ring of a seat is its child's, and the supervisor's once that child is dead.
"""

from __future__ import annotations

import enum
import itertools
import mmap
import sys
import time

SIZE = 1024  # executions a child's ring holds, at least
WINDOW = 60.0  # seconds; twice what a silent connection needs to be found dead with the default heartbeat
ANSWERS = 300  # seconds for which an execution whose ack may be lost answers for a redelivery

_HEADER = 64  # bytes per seat
_END, _YOUNG, _OLD, _NEXT = 0, 1, 2, 3  # words of a header
_HASH = ~0xFF & (2**64 - 1)  # the low byte holds the state
# where the state's byte lies in a word, and the seven of the hash
_STATE_AT, _HASH_AT = (0, 1) if sys.byteorder == "little" else (7, 0)


class Ended(enum.IntEnum):
    """What the journal knows of an execution."""

    UNKNOWN = 0
    SETTLING = 1  # ran to its end; what follows from it is not confirmed yet
    ACKED = 2
    REJECTED = 3
    ACK_LOST = 4  # acked, and the broker may not know
    REJECT_LOST = 5
    SAFE = 6  # ran to its end, and nothing follows from it but an ack, which was not sent yet


_SETTLING, _ACKED, _REJECTED = int(Ended.SETTLING), int(Ended.ACKED), int(Ended.REJECTED)
_SAFE, _ACK_LOST = int(Ended.SAFE), int(Ended.ACK_LOST)
_TO_LOST = int(Ended.ACK_LOST) - _ACKED


def mark_of(identity: tuple[object, ...]) -> int:
    """Return the number that stands for an execution in the journal.

    Equal in all processes of a node, because they were forked from one; never to be stored or sent.
    """
    return hash(identity) & _HASH


class SeatJournal:
    """The ring of one seat. ``begin`` may be called from any thread of its child, the rest on its I/O thread.

    Args:
        header: places, see above.
        ring: the words.
        since: for each word, the second of the monotonic clock in which its ack was lost, if it was.
    """

    __slots__ = ("_header", "_next", "_ring", "_since", "_size", "_turned")

    def __init__(self, header: memoryview, ring: memoryview, since: memoryview) -> None:
        self._header = header
        self._ring = ring
        self._since = since
        self._size = len(ring)
        self.open()

    def open(self) -> None:
        """Go on where the seat's last child stopped. Called once by a child after its fork."""
        # Slots write the next place in any order, the I/O thread the end of what was settled in one.
        begin = max(self._header[_NEXT], self._header[_END])
        self._next = itertools.count(begin).__next__
        self._turned = time.monotonic()

    def begin(self, mark: int, safe: bool = False) -> int:
        """Note that an execution ended and is being settled; return its place. Call before ``Slot.end``.

        Args:
            mark: what it is called.
            safe: nothing follows from it but its ack. Its settlement is to be handed over next.
        """
        place = self._next()
        self._ring[place % self._size] = mark | (_SAFE if safe else _SETTLING)
        self._header[_NEXT] = place + 1
        return place

    def safe(self, place: int, mark: int) -> None:
        """Note that nothing follows from an execution but its ack. Call before the settlement is handed over."""
        self._ring[place % self._size] = mark | _SAFE

    def settled(self, place: int, mark: int, *, acked: bool, lost: bool) -> None:
        """Note that everything that follows from an execution is safe. Call before the verdict is sent.

        Args:
            place: what ``begin`` returned.
            mark: what it was given.
            acked: False when the message is rejected.
            lost: the delivery's channel is gone, so that the broker will not hear of it.
        """
        at = place % self._size
        word = self._ring[at]
        if word == mark | _SAFE or word == mark | _SETTLING:
            # else so many others ended meanwhile that it was overwritten
            state = _ACKED if acked else _REJECTED
            if lost:
                self._since[at] = int(time.monotonic())  # first: whoever sees the word reads it
                state += _TO_LOST
            self._ring[at] = mark | state
        if place >= self._header[_END]:
            self._header[_END] = place + 1

    def withdraw(self, place: int, mark: int) -> None:
        """Forget an execution: its message is to come again."""
        at = place % self._size
        if self._ring[at] in (mark | _SETTLING, mark | _SAFE):
            self._ring[at] = 0

    def turn(self, now: float) -> None:
        """Let what is older than a window be safe. Call now and then, with monotonic seconds."""
        if now - self._turned > WINDOW:
            self._turned = now
            self._header[_OLD] = self._header[_YOUNG]
            self._header[_YOUNG] = self._header[_END]

    def parted(self) -> None:
        """The broker has confirmed that the connection is closed, and so has read every ack before."""
        self._header[_OLD] = self._header[_YOUNG] = self._header[_END]

    def lose(self) -> None:
        """The channel is gone: whatever ended within the last minute may come again."""
        ring, size, end = self._ring, self._size, self._header[_END]
        now = int(time.monotonic())
        for place in range(max(self._header[_OLD], end - size), end):
            at = place % size
            state = ring[at] & 0xFF
            if state in (_ACKED, _REJECTED):
                self._since[at] = now
                ring[at] += _TO_LOST

    def bury(self) -> None:
        """The child is dead: what it was settling is lost with it, what was safe may come again. The supervisor only."""
        ring = self._ring
        now = int(time.monotonic())
        for at, word in enumerate(ring):
            state = word & 0xFF
            if state == _SETTLING:
                ring[at] = 0
            elif state == _SAFE:
                self._since[at] = now
                ring[at] += _ACK_LOST - _SAFE
        self.lose()

    def release(self) -> None:
        """Let go of the memory, which can then be unmapped."""
        self._header.release()
        self._ring.release()
        self._since.release()


class Journal:
    """The rings of all seats of a node. Make it before the first fork.

    Args:
        seats: as many as the board has.
        size: executions that each ring holds; twice what a child may hold unacked is enough.
    """

    def __init__(self, seats: int, size: int = SIZE) -> None:
        self._since_at = _HEADER * seats
        self._rings_at = self._since_at + 8 * size * seats  # last, and so all that a search passes
        self._memory = mmap.mmap(-1, self._rings_at + 8 * size * seats)
        self._view = memoryview(self._memory)
        words = self._view.cast("Q")
        since = self._since_at // 8
        first = self._rings_at // 8
        self._seats = tuple(
            SeatJournal(
                words[8 * index : 8 * index + 8],
                words[first + size * index : first + size * (index + 1)],
                words[since + size * index : since + size * (index + 1)],
            )
            for index in range(seats)
        )
        words.release()

    def seat(self, index: int) -> SeatJournal:
        """Return the ring of seat ``index``: always the same object in one process."""
        return self._seats[index]

    def find(self, mark: int) -> Ended:
        """Return what the node knows of an execution, never ``SAFE``; any thread. Costs some microseconds per child: for redeliveries only."""
        memory = self._memory
        pattern = mark.to_bytes(8, sys.byteorder)[_HASH_AT : _HASH_AT + 7]
        found = Ended.UNKNOWN
        at = memory.find(pattern, self._rings_at)
        while at >= 0:
            word = at - _HASH_AT
            if word % 8 == 0:
                state = memory[word + _STATE_AT]
                if state in (Ended.ACK_LOST, Ended.REJECT_LOST):
                    if self._answers(word):
                        return Ended(state)
                    state -= _TO_LOST
                if state and found is not Ended.SETTLING:
                    # for whoever asks, safe is settling: its child, or the supervisor, will tell how it ended
                    found = Ended.SETTLING if state == _SAFE else Ended(state)
            at = memory.find(pattern, at + 1)
        return found

    def _answers(self, word: int) -> bool:
        """Whether the ack of an execution was lost so lately that the broker may be about to hand its message out."""
        at = self._since_at + word - self._rings_at
        since = int.from_bytes(self._memory[at : at + 8], sys.byteorder)
        return time.monotonic() - since < ANSWERS

    def close(self) -> None:
        """Unmap the memory in this process. Afterwards no method may be called."""
        for seat in self._seats:
            seat.release()
        self._view.release()
        self._memory.close()
