"""The board: what a node's processes know about each other, in one piece of shared memory.

The supervisor makes it (an anonymous shared mapping) before it forks anything, so every process of the node inherits it and
nothing is left behind when they are gone. It holds

- per *seat* (the place one child occupies): pid, generation, state, resident memory;
- per slot of a seat: the task that runs there, its limits, how many tasks ended, and which run is to end;
- the *standings*: what the verdicts of the cluster come to for a task id, found by hash.

Every word has one writer, so there are no locks: a slot is written by the thread that runs it (that it declines to end a run, by its child's I/O
thread), a child record by its child (and cleared by the supervisor once the child is dead), standings and what a slot is asked by the supervisor. Readers detect a half-written record by a
sequence number that is written first and last. ``Slot.begin`` and ``Slot.end`` are on the path of every task: one ``pack_into``
each, no system call. So is ``Board.standing``: one comparison while there are no verdicts.

The standings are a ring of records, each with the number of the record before it in the same bucket of a hash table. A change
is a new record, so nothing that a reader may be looking at is moved; the oldest record gives way, and a chain ends where it
leads to one that was overwritten. No process copies them: a child that was forked a moment ago knows as much as any other.
"""

from __future__ import annotations

import enum
import math
import mmap
import struct
import time
import zlib
from collections.abc import Mapping

import msgspec

from amqtask.core.verdicts import KEY_BYTES, RECENT, Standing, header_key, key
from amqtask.worker.memory import journal
from amqtask.worker.memory.early import EarlyRuns
from amqtask.worker.memory.journal import Journal

NAME_BYTES = 128

# Native alignment on purpose: eight-byte words are then single aligned stores, which a reader sees whole.
_HEADER = struct.Struct("@QQQQ")  # standings ever written, those by header, next offset, released
_WORD = struct.Struct("@Q")
_CHILD = struct.Struct("@iIB7xdQ")  # pid, generation, state, since, resident memory
_COUNTS = struct.Struct("@QQQ")  # done, failed, head: what `end` writes
_TASK = struct.Struct(
    "@QdddQBB64s128sQ"
)  # head, started, soft, hard, mark, two lengths, id, name, tail
_ASKED = struct.Struct("@QQ")  # the run that is to end, and how
_STANDING = struct.Struct(
    f"@QQII4d{RECENT}dBBBB64s64s80sQ"
)  # head, previous in the bucket, hash, crashes, times, recent crashes: how many, three lengths, key, cause, node, tail
_LINK = struct.Struct("@QQI")  # how a standing begins: all that a search looks at on its way

_NEVER = (0.0,) * RECENT

_HEADER_SIZE = 64
_CHILD_SIZE = 64
_SLOT_SIZE = 320
_TASK_AT = 16  # `_COUNTS` and `_TASK` share the head: ending a task is writing zero there
_ASKED_AT = 264
_DECLINED_AT = 280
_STANDING_SIZE = 344
_HEADERS_AT, _OFFSET_AT, _RELEASED_AT = 8, 16, 24

_pack_counts = _COUNTS.pack_into
_pack_task = _TASK.pack_into
_word = _WORD.unpack_from
_link = _LINK.unpack_from
_hash = zlib.crc32


class ChildState(enum.IntEnum):
    """What a child does, as it says itself. ``EMPTY``: nobody sits here."""

    EMPTY = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


class Ending(enum.IntEnum):
    """How a run is asked to end. ``ASKED``: an exception is raised in it; ``NOW``: it is settled where it stands."""

    ASKED = 1
    NOW = 2


_BY_HEADER = 4  # beside an Ending


class Running(msgspec.Struct, frozen=True):
    """The task in one slot. Times are seconds of the monotonic clock, which all processes of a machine share."""

    task_id: str
    name: str
    started: float
    soft_deadline: float | None
    hard_deadline: float | None
    sequence: int  # tells two runs of the same task id in the same slot apart
    mark: int = 0  # tells two messages with the same task id apart


class ChildStatus(msgspec.Struct, frozen=True):
    """One seat as a reader sees it. ``rss`` is bytes of resident memory, 0 before the child reported any."""

    pid: int
    generation: int
    state: ChildState
    since: float
    rss: int
    done: int
    failed: int


def stored(task_id: str) -> str:
    """What ``Running.task_id`` is for a task id."""
    return key(task_id).decode("utf-8", "replace")


def stored_name(name: str) -> bytes:
    """How a task's name stands on the board: ``Slot.begin`` takes it so, too."""
    return name.encode("utf-8", "replace")[:NAME_BYTES]


class Slot:
    """One place where a task runs. Written by the one thread that runs it; read by anyone.

    Get it from ``ChildRecord.slot`` and keep it: the object holds the counters and must exist once per process.
    """

    __slots__ = ("_at", "_done", "_failed", "_memory", "_sequence")

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._memory = memory
        self._at = at
        # counts of this process since it was forked, owned by the thread that runs the slot
        self._done = 0
        self._failed = 0
        self._sequence = 0

    def begin(
        self,
        task_id: bytes | str,
        name: bytes | str,
        started: float,
        soft_deadline: float | None = None,
        hard_deadline: float | None = None,
        mark: int = 0,
    ) -> int:
        """Say that a task starts here now; return the number of this run.

        Call before any of its code runs; only from the slot's thread.

        Args:
            task_id: stored whole up to 64 bytes of UTF-8, as its start and a hash beyond that.
            name: stored up to 128 bytes; bytes are what ``stored_name`` made of it.
            started: monotonic seconds.
            soft_deadline: monotonic seconds, None without a limit.
            hard_deadline: monotonic seconds; shortly after it the supervisor kills the child if the same task is still here.
            mark: what the journal calls this execution.
        """
        if type(task_id) is str:
            task_id = task_id.encode("utf-8", "replace")
        if len(task_id) > KEY_BYTES:
            task_id = key(task_id)
        if type(name) is str:
            name = stored_name(name)
        self._sequence = sequence = self._sequence + 1
        _pack_task(
            self._memory,
            self._at + _TASK_AT,
            sequence,
            started,
            soft_deadline or 0.0,
            hard_deadline or 0.0,
            mark,
            len(task_id),
            len(name),
            task_id,
            name,
            sequence,
        )
        return sequence

    def end(self, failed: bool = False) -> None:
        """Say that the task here ended and count it. Only from the slot's thread, once per ``begin``."""
        if failed:
            self._failed += 1
        else:
            self._done += 1
        _pack_counts(self._memory, self._at, self._done, self._failed, 0)

    def read(self) -> Running | None:
        """Return the task that runs here, None when there is none (or it changes faster than it can be read)."""
        memory = self._memory
        start = self._at + _TASK_AT
        stop = start + _TASK.size
        for _ in range(8):
            raw = memory[start:stop]
            head, started, soft, hard, mark, id_length, name_length, task_id, name, tail = (
                _TASK.unpack(raw)
            )
            if head == 0:
                return None
            # a writer stores head first and tail last: equal ends and no change since the copy mean a whole record
            if head == tail and memory[start:stop] == raw:
                return Running(
                    task_id=task_id[:id_length].decode("utf-8", "replace"),
                    name=name[:name_length].decode("utf-8", "replace"),
                    started=started,
                    soft_deadline=soft or None,
                    hard_deadline=hard or None,
                    sequence=head,
                    mark=mark,
                )
        return None

    def ask(self, sequence: int, how: Ending, by_header: bool = False) -> None:
        """Ask for the end of one run. The supervisor only, which then signals the child; a run that has ended is not touched.

        Args:
            sequence: the run.
            how: how it is to end.
            by_header: only if its task was revoked by a header, which the child alone can tell.
        """
        _ASKED.pack_into(
            self._memory, self._at + _ASKED_AT, sequence, how | (_BY_HEADER if by_header else 0)
        )

    def asked(self) -> tuple[int, Ending, bool] | None:
        """Return the run that was asked to end last, and whether by a header only; None when none was. Any thread of the child."""
        sequence, how = _ASKED.unpack_from(self._memory, self._at + _ASKED_AT)
        if not sequence:
            return None
        return sequence, Ending(how & ~_BY_HEADER), bool(how & _BY_HEADER)

    def decline(self, sequence: int) -> None:
        """Answer that a run that was asked to end is not meant: it goes on. The child's I/O thread only."""
        _WORD.pack_into(self._memory, self._at + _DECLINED_AT, sequence)

    def declined(self, sequence: int) -> bool:
        """Whether the child answered so for this run. From any process."""
        return bool(_word(self._memory, self._at + _DECLINED_AT)[0] == sequence)

    def counts(self) -> tuple[int, int]:
        """Return (done, failed) of the child that sits here now."""
        done, failed, _ = _COUNTS.unpack_from(self._memory, self._at)
        return done, failed


class ChildRecord:
    """One seat: the record of the child that occupies it, and its slots."""

    __slots__ = ("_at", "_memory", "_opened", "_slots", "index")

    def __init__(self, memory: mmap.mmap, at: int, index: int, slots: int) -> None:
        self.index = index
        self._memory = memory
        self._at = at
        self._opened = (
            0,
            0,
            0.0,
        )  # pid, generation, since: owned by the child that opened the seat
        base = at + _CHILD_SIZE
        self._slots = tuple(Slot(memory, base + _SLOT_SIZE * number) for number in range(slots))

    def slot(self, number: int) -> Slot:
        """Return slot ``number`` of this seat: always the same object."""
        return self._slots[number]

    def open(self, pid: int, generation: int, now: float) -> None:
        """Take the seat as a starting child. Called once by the child after its fork."""
        self._opened = (pid, generation, now)
        _CHILD.pack_into(self._memory, self._at, pid, generation, ChildState.STARTING, now, 0)

    def update(self, state: ChildState, rss: int = 0) -> None:
        """Write the child's state and its resident memory in bytes. One thread of the child only."""
        pid, generation, since = self._opened
        _CHILD.pack_into(self._memory, self._at, pid, generation, state, since, rss)

    def read(self) -> ChildStatus:
        """Return what the record says; ``state`` EMPTY when nobody sits here. From any process."""
        pid, generation, state, since, rss = _CHILD.unpack_from(self._memory, self._at)
        done = failed = 0
        for slot in self._slots:
            slot_done, slot_failed = slot.counts()
            done += slot_done
            failed += slot_failed
        return ChildStatus(pid, generation, ChildState(state), since, rss, done, failed)

    def running(self) -> tuple[Running, ...]:
        """Return the tasks that run in this seat now. From any process."""
        return tuple(task for slot in self._slots if (task := slot.read()) is not None)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All slots of this seat."""
        return self._slots

    def clear(self) -> None:
        """Empty the seat. The supervisor only, after the child is dead."""
        size = _CHILD_SIZE + _SLOT_SIZE * len(self._slots)
        self._memory[self._at : self._at + size] = bytes(size)


class Board:
    """The shared memory of one node. Make it before the first fork; every forked process uses the object it inherited.

    Args:
        seats: how many children can exist at one time, overlap of a reload included.
        slots: slots per child.
        standings: how many changes of what is known about task ids are kept; the oldest gives way. Memory is used as they come.
        executions: how many ended executions the journal keeps of each seat.
        max_age: seconds after which what is known of a task id, with no news since, means nothing any more.

    Attributes:
        journal: the executions that ended in this node a moment ago.
        early: the runs that were acked before they began.
    """

    def __init__(
        self,
        seats: int,
        slots: int,
        standings: int = 65_536,
        executions: int = journal.SIZE,
        max_age: float = math.inf,
    ) -> None:
        self._max_age = max_age
        self.journal = Journal(seats, executions)
        self.early = EarlyRuns(seats, slots)
        self.seats = seats
        self.slots = slots
        self._seat_size = seat_size = _CHILD_SIZE + _SLOT_SIZE * slots
        buckets = 4 << (standings - 1).bit_length()  # many, so that most searches end at the first
        self._mask = buckets - 1
        self._buckets_at = _HEADER_SIZE + seat_size * seats
        self._ring_at = self._buckets_at + _WORD.size * buckets
        self._ring = standings
        self._memory = mmap.mmap(-1, self._ring_at + _STANDING_SIZE * standings)
        # the head's words and the buckets, which every delivery looks at
        self._words = memoryview(self._memory)[:_HEADER_SIZE].cast("Q")
        self._buckets = memoryview(self._memory)[self._buckets_at : self._ring_at].cast("Q")
        self._children = tuple(
            ChildRecord(self._memory, _HEADER_SIZE + seat_size * index, index, slots)
            for index in range(seats)
        )

    def child(self, index: int) -> ChildRecord:
        """Return the record of seat ``index``: always the same object in one process."""
        return self._children[index]

    def lost_early(self) -> list[bytes]:
        """Take what processes have left that died in seats which nobody has now: runs that were acked before they began, and their ends.

        A seat is not always taken anew, as there are more of them than children. Two that ask in the same instant may both get it.
        """
        empty = (each.index for each in self._children if each.read().state is ChildState.EMPTY)
        return [data for index in empty for data in self.early.seat(index).lost()]

    def first_taken(self) -> int | None:
        """The first seat that a child has."""
        taken = (each.index for each in self._children if each.read().state is not ChildState.EMPTY)
        return next(taken, None)

    def runs(self, task_id: bytes | str, mark: int) -> bool:
        """Tell whether this execution of a task runs in any slot of the node now.

        Any thread. For redelivered messages only: it searches the memory of all slots.
        """
        wanted = key(task_id)
        memory, end = self._memory, self._buckets_at
        at = memory.find(wanted, _HEADER_SIZE, end)
        while at >= 0:
            seat, within = divmod(at - _HEADER_SIZE, self._seat_size)
            number = (within - _CHILD_SIZE) // _SLOT_SIZE
            if number >= 0:
                task = self._children[seat].slot(number).read()
                if (
                    task is not None
                    and task.mark == mark
                    and task.task_id.encode("utf-8", "replace") == wanted
                ):
                    return True
            at = memory.find(wanted, at + 1, end)
        return False

    # ------------------------------------------------------------ standings

    def put(self, which: bytes, standing: Standing) -> None:
        """Show what holds for a key from now on. The one process that follows the verdicts only."""
        memory = self._memory
        (written,) = _word(memory, 0)
        sequence = written + 1
        hashed = _hash(which)
        bucket = self._buckets_at + 8 * (hashed & self._mask)
        (previous,) = _word(memory, bucket)
        cause = standing.cause.encode("utf-8", "replace")[:64]
        node = standing.node.encode("utf-8", "replace")[:80]
        recent = standing.recent[:RECENT]
        _STANDING.pack_into(
            memory,
            self._ring_at + _STANDING_SIZE * (written % self._ring),
            sequence,
            previous,
            hashed,
            min(standing.crashes, 2**32 - 1),
            standing.time,
            standing.revoked,
            standing.aborted,
            standing.hard_limit,
            *recent,
            *_NEVER[len(recent) :],
            len(recent),
            len(which),
            len(cause),
            len(node),
            which,
            cause,
            node,
            sequence,
        )
        # the record first, then the ways to it
        _WORD.pack_into(memory, bucket, sequence)
        if which[:1] == b"\0":
            (headers,) = _word(memory, _HEADERS_AT)
            _WORD.pack_into(memory, _HEADERS_AT, headers + 1)
        _WORD.pack_into(memory, 0, sequence)

    def news(self) -> int:
        """Grows with whatever is learnt of any task; 0 while nothing is known. From any process and thread; for every delivery."""
        return self._words[0]

    def standing(self, task_id: bytes | str) -> Standing | None:
        """Return what holds for a task id, None when nothing is known. From any process and thread.

        One comparison while nothing is known of any task, a fraction of a microsecond when nothing is known of this one.
        """
        if not self._words[0]:
            return None
        which = key(task_id)
        hashed = _hash(which)
        sequence = self._buckets[hashed & self._mask]
        if not sequence:
            return None
        found = self._search(sequence, which, hashed)
        if found is not None and found.time < time.time() - self._max_age:
            return None
        return found

    @property
    def revokes_by_header(self) -> bool:
        """Whether any tasks were revoked by their headers."""
        return self._words[_HEADERS_AT // 8] != 0

    def revoked_by_header(self, headers: Mapping[str, object]) -> bool:
        """Tell whether tasks with one of these headers were revoked. One comparison while none were by header."""
        (by_header,) = _word(self._memory, _HEADERS_AT)
        if not by_header:
            return False
        for name, value in headers.items():
            for each in value if isinstance(value, list | tuple) else (value,):
                standing = self.standing(header_key(name, str(each)))
                if standing is not None and standing.revoked:
                    return True
        return False

    def _search(self, sequence: int, which: bytes, hashed: int) -> Standing | None:
        """Follow a chain to the newest standing of a key."""
        memory, ring_at, ring = self._memory, self._ring_at, self._ring
        while sequence:
            at = ring_at + _STANDING_SIZE * ((sequence - 1) % ring)
            head, previous, found = _link(memory, at)
            if head != sequence:
                return None  # overwritten, and so is all that is older in this bucket
            if found == hashed:
                (head, _, _, crashes, time, revoked, aborted, hard_limit, *more) = (
                    _STANDING.unpack_from(memory, at)
                )
                count, *lengths, name, cause, node, tail = more[RECENT:]
                if head != sequence or tail != sequence:
                    return None
                if name[: lengths[0]] == which:
                    return Standing(
                        revoked,
                        aborted,
                        hard_limit,
                        crashes,
                        cause[: lengths[1]].decode("utf-8", "replace"),
                        node[: lengths[2]].decode("utf-8", "replace"),
                        time,
                        tuple(more[:count]),
                    )
            sequence = previous
        return None

    # ------------------------------------------------------------ where the node is in the stream

    @property
    def offset(self) -> int:
        """The offset of the stream from which nothing was read yet."""
        return int(_word(self._memory, _OFFSET_AT)[0])

    @offset.setter
    def offset(self, value: int) -> None:
        _WORD.pack_into(self._memory, _OFFSET_AT, value)

    @property
    def released(self) -> bool:
        """Whether children may run tasks: the verdicts were read once, or it was given up to wait for them."""
        return bool(_word(self._memory, _RELEASED_AT)[0])

    def release(self) -> None:
        """Let children run tasks. The one process that follows the verdicts only."""
        _WORD.pack_into(self._memory, _RELEASED_AT, 1)

    def close(self) -> None:
        """Unmap the memory in this process. Afterwards no method may be called."""
        self.journal.close()
        self.early.close()
        self._words.release()
        self._buckets.release()
        self._memory.close()
