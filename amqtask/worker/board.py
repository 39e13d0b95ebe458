"""The board: what a node's processes know about each other, in one piece of shared memory.

The supervisor makes it (an anonymous shared mapping) before it forks anything, so every process of the node inherits it and
nothing is left behind when they are gone. It holds

- per *seat* (the place one child occupies): pid, generation, state, resident memory;
- per slot of a seat: the task that runs there, its limits, how many tasks ended, and which run is to end;
- a ring of *verdicts*: task ids that killed their child or were killed at their hard limit.

Every word has one writer, so there are no locks: a slot is written by the thread that runs it, a child record by its child
(and cleared by the supervisor once the child is dead), verdicts and what a slot is asked by the supervisor. Readers detect a half-written record by a
sequence number that is written first and last. ``Slot.begin`` and ``Slot.end`` are on the path of every task: one ``pack_into``
each, no system call.
"""

from __future__ import annotations

import enum
import hashlib
import mmap
import struct

import msgspec

from amqtask.core.fleet import VerdictKind
from amqtask.worker import journal
from amqtask.worker.journal import Journal

ID_BYTES = 64
NAME_BYTES = 128

# Native alignment on purpose: eight-byte words are then single aligned stores, which a reader sees whole.
_HEADER = struct.Struct("@Q")  # number of verdicts ever written
_CHILD = struct.Struct("@iIB7xdQ")  # pid, generation, state, since, resident memory
_COUNTS = struct.Struct("@QQQ")  # done, failed, head: what `end` writes
_TASK = struct.Struct("@QdddBB64s128sQ")  # head, started, soft, hard, two lengths, id, name, tail
_ASKED = struct.Struct("@QQ")  # the run that is to end, and how
_VERDICT = struct.Struct("@QBIB64sQ")  # head, kind, count, length, id, tail

_HEADER_SIZE = 64
_CHILD_SIZE = 64
_SLOT_SIZE = 320
_TASK_AT = 16  # `_COUNTS` and `_TASK` share the head: ending a task is writing zero there
_ASKED_AT = 256
_VERDICT_SIZE = 128

_pack_counts = _COUNTS.pack_into
_pack_task = _TASK.pack_into


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


class Running(msgspec.Struct, frozen=True):
    """The task in one slot. Times are seconds of the monotonic clock, which all processes of a machine share."""

    task_id: str
    name: str
    started: float
    soft_deadline: float | None
    hard_deadline: float | None
    sequence: int  # tells two runs of the same task id in the same slot apart


class ChildStatus(msgspec.Struct, frozen=True):
    """One seat as a reader sees it. ``rss`` is bytes of resident memory, 0 before the child reported any."""

    pid: int
    generation: int
    state: ChildState
    since: float
    rss: int
    done: int
    failed: int


class Verdict(msgspec.Struct, frozen=True):
    """What this node knows against a task id: it did ``kind`` ``count`` times. Not ``core.outcome.Verdict``."""

    task_id: str
    kind: VerdictKind
    count: int


def _key(task_id: bytes | str) -> bytes:
    """Return at most 64 bytes that stand for a task id: the id itself, or its start and a hash of all of it."""
    raw = task_id.encode("utf-8", "replace") if isinstance(task_id, str) else task_id
    if len(raw) <= ID_BYTES:
        return raw
    return raw[:32] + hashlib.blake2b(raw, digest_size=16).hexdigest().encode()


def stored(task_id: str) -> str:
    """What ``Running.task_id`` is for a task id."""
    return _key(task_id).decode("utf-8", "replace")


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
        name: str,
        started: float,
        soft_deadline: float | None = None,
        hard_deadline: float | None = None,
    ) -> int:
        """Say that a task starts here now; return the number of this run.

        Call before any of its code runs; only from the slot's thread.

        Args:
            task_id: stored whole up to 64 bytes of UTF-8, as its start and a hash beyond that.
            name: stored up to 128 bytes.
            started: monotonic seconds.
            soft_deadline: monotonic seconds, None without a limit.
            hard_deadline: monotonic seconds; shortly after it the supervisor kills the child if the same task is still here.
        """
        if type(task_id) is str:
            task_id = task_id.encode("utf-8", "replace")
        if len(task_id) > ID_BYTES:
            task_id = _key(task_id)
        encoded = name.encode("utf-8", "replace")[:NAME_BYTES]
        self._sequence = sequence = self._sequence + 1
        _pack_task(
            self._memory,
            self._at + _TASK_AT,
            sequence,
            started,
            soft_deadline or 0.0,
            hard_deadline or 0.0,
            len(task_id),
            len(encoded),
            task_id,
            encoded,
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
            head, started, soft, hard, id_length, name_length, task_id, name, tail = _TASK.unpack(
                raw
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
                )
        return None

    def ask(self, sequence: int, how: Ending) -> None:
        """Ask for the end of one run. The supervisor only, which then signals the child; a run that has ended is not touched."""
        _ASKED.pack_into(self._memory, self._at + _ASKED_AT, sequence, how)

    def asked(self) -> tuple[int, Ending] | None:
        """Return the run that was asked to end last, None when none was. Any thread of the child."""
        sequence, how = _ASKED.unpack_from(self._memory, self._at + _ASKED_AT)
        return (sequence, Ending(how)) if sequence else None

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
        verdicts: how many verdicts the ring keeps; the oldest gives way.
        executions: how many ended executions the journal keeps of each seat.

    Attributes:
        journal: the executions that ended in this node a moment ago.
    """

    def __init__(
        self, seats: int, slots: int, verdicts: int = 1024, executions: int = journal.SIZE
    ) -> None:
        self.journal = Journal(seats, executions)
        self.seats = seats
        self.slots = slots
        self._seat_size = seat_size = _CHILD_SIZE + _SLOT_SIZE * slots
        self._ring_at = _HEADER_SIZE + seat_size * seats
        self._ring = verdicts
        self._memory = mmap.mmap(-1, self._ring_at + _VERDICT_SIZE * verdicts)
        self._children = tuple(
            ChildRecord(self._memory, _HEADER_SIZE + seat_size * index, index, slots)
            for index in range(seats)
        )
        # what this process has read of the ring so far; in the supervisor, what it wrote. One thread per process.
        self._seen = 0
        self._known: dict[bytes, Verdict] = {}

    def child(self, index: int) -> ChildRecord:
        """Return the record of seat ``index``: always the same object in one process."""
        return self._children[index]

    def runs(self, task_id: bytes | str) -> bool:
        """Tell whether a task of this id runs in any slot of the node now.

        Any thread. For redelivered messages only: it searches the memory of all slots.
        """
        key = _key(task_id)
        memory = self._memory
        at = memory.find(key, _HEADER_SIZE, self._ring_at)
        while at >= 0:
            seat, within = divmod(at - _HEADER_SIZE, self._seat_size)
            number = (within - _CHILD_SIZE) // _SLOT_SIZE
            if number >= 0:
                task = self._children[seat].slot(number).read()
                if task is not None and task.task_id.encode("utf-8", "replace") == key:
                    return True
            at = memory.find(key, at + 1, self._ring_at)
        return False

    def charge(self, task_id: bytes | str, kind: VerdictKind) -> Verdict:
        """Record a verdict against a task id and return it with its count. The supervisor only."""
        key = _key(task_id)
        before = self._known.get(key)
        count = before.count + 1 if before is not None and before.kind is kind else 1
        verdict = Verdict(key.decode("utf-8", "replace"), kind, count)
        (written,) = _HEADER.unpack_from(self._memory, 0)
        sequence = written + 1
        at = self._ring_at + _VERDICT_SIZE * (written % self._ring)
        _VERDICT.pack_into(
            self._memory, at, sequence, kind.value, min(count, 2**32 - 1), len(key), key, sequence
        )
        _HEADER.pack_into(self._memory, 0, sequence)
        self._remember(key, verdict)
        self._seen = sequence
        return verdict

    def verdict(self, task_id: bytes | str) -> Verdict | None:
        """Return the newest verdict against a task id, None when there is none.

        For redelivered messages only: a task that never ran has none. Costs a dictionary lookup unless verdicts were added.
        Call from one thread per process.
        """
        (written,) = _HEADER.unpack_from(self._memory, 0)
        if written != self._seen:
            self._catch_up(written)
        return self._known.get(_key(task_id))

    def _catch_up(self, written: int) -> None:
        for sequence in range(max(self._seen, written - self._ring) + 1, written + 1):
            at = self._ring_at + _VERDICT_SIZE * ((sequence - 1) % self._ring)
            head, kind, count, length, key, tail = _VERDICT.unpack_from(self._memory, at)
            # a record the supervisor overwrote meanwhile has a newer sequence: it is read in its own turn, next time
            if head == tail == sequence:
                self._remember(
                    key[:length],
                    Verdict(key[:length].decode("utf-8", "replace"), VerdictKind(kind), count),
                )
        self._seen = written

    def _remember(self, key: bytes, verdict: Verdict) -> None:
        # newest last, so that what is forgotten first is what the ring forgets first
        self._known.pop(key, None)
        self._known[key] = verdict
        if len(self._known) > self._ring:
            del self._known[next(iter(self._known))]

    def close(self) -> None:
        """Unmap the memory in this process. Afterwards no method may be called."""
        self.journal.close()
        self._memory.close()
