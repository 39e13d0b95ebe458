"""Verdicts: what every node of a cluster must know about task ids, as records of one stream.

A record is an event that happened once: revoked, crashed its child, ended at its hard limit, aborted. Nodes fold the events
into what holds for an id; ``event`` is unique, so a record that arrives twice counts once.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from amqtask.core.message import Envelope, Properties, Publication
from amqtask.errors import DecodeError

STREAM = "amqtask.verdicts"
KEY_BYTES = 64
RECENT = 8  # crashes of one task whose times are kept where it is looked up


class Kind(enum.Enum):
    """What a record says.

    ``MARK`` says nothing about tasks: a node publishes one at its start, and has read everything older when it comes back.
    """

    REVOKED = "revoked"
    CRASHED = "crashed"
    HARD_LIMIT = "hard-limit"
    ABORTED = "aborted"
    MARK = "mark"


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event.

    Args:
        kind: what happened.
        event: unique; two copies of one event have the same.
        origin: the node or process that says so.
        time: seconds since the epoch.
        ids: the tasks it is about.
        headers: ``REVOKED`` by headers: tasks one of whose headers has one of these values.
        terminate: ``REVOKED``: end the task where it runs.
        signal: ``REVOKED`` with ``terminate``: the signal's name, ``"TERM"``.
        cause: ``CRASHED``: how the child ended, for people: ``"signal 11 (SIGSEGV)"``, ``"exit code 3"``.
        task: ``CRASHED`` and ``HARD_LIMIT``: the task's name.
    """

    kind: Kind
    event: str
    origin: str
    time: float
    ids: tuple[str, ...] = ()
    headers: dict[str, list[str]] = {}
    terminate: bool = False
    signal: str = "TERM"
    cause: str | None = None
    task: str | None = None

    def concerns(self, task_id: str, *headers: Mapping[str, object] | None) -> bool:
        """Whether it is about a task, by its id or by one of its headers.

        Args:
            task_id: the task's.
            headers: the message's headers, and its stamps.
        """
        if task_id in self.ids:
            return True
        for name, values in self.headers.items():
            for mapping in headers:
                value = None if mapping is None else mapping.get(name)
                given = value if isinstance(value, list | tuple) else (value,)
                if value is not None and not set(map(str, given)).isdisjoint(values):
                    return True
        return False


def new_event() -> str:
    """A name no other event has."""
    return uuid.uuid4().hex


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def publication(record: Record) -> Publication:
    """The publication that adds a record to the stream."""
    return Publication(
        "",
        STREAM,
        Envelope(
            _encoder.encode(record),
            Properties(
                content_type="application/json",
                delivery_mode=2,
                message_id=record.event,
                type=f"amqtask.verdict.{record.kind.value}",
                timestamp=int(record.time),
            ),
        ),
    )


def decode(body: bytes) -> Record:
    """Read a record.

    Raises:
        DecodeError: it is none; a reader logs that and goes on.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"Not a verdict: {error}.") from None


# ---------------------------------------------------------------- what the events come to


def key(task_id: str | bytes) -> bytes:
    """At most 64 bytes that stand for a task id: the id itself, or the start and a hash of one that is longer.

    The key of a key is the key, so that one may be passed around as an id.
    """
    raw = task_id.encode("utf-8", "replace") if isinstance(task_id, str) else task_id
    if len(raw) <= KEY_BYTES:
        return raw
    start = bytes(byte if 32 <= byte < 127 else 63 for byte in raw[:32])
    return start + _digest(raw)


def header_key(name: str, value: str) -> bytes:
    """The key under which a revoke by header stands. No task id has it: it begins with a zero byte."""
    text = f"{name}\0{value}".encode("utf-8", "replace")
    return b"\0" + _digest(text)


def _digest(raw: bytes) -> bytes:
    import hashlib  # it loads OpenSSL, which takes longer than most of what else ``import amqtask`` does

    return hashlib.blake2b(raw, digest_size=16).hexdigest().encode()


class Standing(msgspec.Struct, frozen=True):
    """What holds for one task id. Times are seconds since the epoch, 0 for what never happened.

    Each thing has a time of its own, because a task that was sent back from the dead letters has more than one life: what is
    new must not bring back what was said of a former one.

    Args:
        revoked: when it was revoked last; it must not run.
        aborted: when it was asked last to stop by itself.
        hard_limit: when it was killed last at its hard limit.
        crashes: how often it killed the process that ran it, on all nodes.
        cause: what the last of those died of, for people.
        node: where.
        time: of the newest event.
        recent: when it crashed last, the newest ``RECENT`` first.
    """

    revoked: float = 0.0
    aborted: float = 0.0
    hard_limit: float = 0.0
    crashes: int = 0
    cause: str = ""
    node: str = ""
    time: float = 0.0
    recent: tuple[float, ...] = ()


class _Entry:
    """What a book knows of one key: since when each thing holds, and the crashes by event."""

    __slots__ = ("aborted", "crashes", "hard_limit", "revoked", "time")

    def __init__(self) -> None:
        self.revoked = 0.0
        self.aborted = 0.0
        self.hard_limit = 0.0
        self.crashes: dict[str, tuple[float, str, str, str]] = {}
        self.time = 0.0

    def standing(self) -> Standing:
        # the newest by its time, then by its event: the same on every node, in whatever order they came
        newest = sorted(self.crashes.values(), reverse=True)
        _, _, cause, node = newest[0] if newest else (0.0, "", "", "")
        return Standing(
            self.revoked,
            self.aborted,
            self.hard_limit,
            len(self.crashes),
            cause,
            node,
            self.time,
            tuple(crash[0] for crash in newest[:RECENT]),
        )


class Book:
    """The fold of the events: what holds for every id, newest kept. Pure but for being filled; one thread.

    The same events give the same standings, in any order and however often each one comes, as long as none is forgotten.

    Args:
        limit: ids kept; the one that was longest without news gives way.
        max_age: seconds after which an event means nothing any more.
    """

    def __init__(self, limit: int = 50_000, max_age: float = 7 * 86400.0) -> None:
        self._limit = limit
        self._max_age = max_age
        self._entries: dict[bytes, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def standing(self, task_id: str | bytes) -> Standing | None:
        """What holds for an id, ``None`` when nothing does."""
        entry = self._entries.get(key(task_id))
        return None if entry is None else entry.standing()

    def add(self, record: Record, now: float) -> list[tuple[bytes, Standing]]:
        """Take an event in; return what holds now for each key it changed.

        Args:
            record: the event.
            now: seconds since the epoch.
        """
        if record.kind is Kind.MARK or record.time < now - self._max_age:
            return []
        changed = []
        for each in _keys(record):
            # taken out and put in again: the front of the dictionary is what is forgotten first
            entry = self._entries.pop(each, None)
            if entry is None or entry.time < now - self._max_age:
                entry = _Entry()
            self._entries[each] = entry
            if _apply(entry, record):
                changed.append((each, entry.standing()))
        while len(self._entries) > self._limit:
            del self._entries[next(iter(self._entries))]
        return changed


def _keys(record: Record) -> Iterator[bytes]:
    yield from map(key, record.ids)
    for name, values in record.headers.items():
        for value in values:
            yield header_key(name, value)


def _apply(entry: _Entry, record: Record) -> bool:
    """Let one event act on what is known; whether that changed anything."""
    before = (entry.revoked, entry.aborted, entry.hard_limit, len(entry.crashes))
    match record.kind:
        case Kind.REVOKED:
            entry.revoked = max(entry.revoked, record.time)
        case Kind.ABORTED:
            entry.aborted = max(entry.aborted, record.time)
        case Kind.HARD_LIMIT:
            entry.hard_limit = max(entry.hard_limit, record.time)
        case Kind.CRASHED:
            entry.crashes[record.event] = (
                record.time,
                record.event,
                record.cause or "",
                record.origin,
            )
        case Kind.MARK:
            return False
    after = (entry.revoked, entry.aborted, entry.hard_limit, len(entry.crashes))
    newer = record.time > entry.time
    entry.time = max(entry.time, record.time)
    return newer or after != before


def parts(record: Record, size: int) -> Iterable[Record]:
    """The same event in pieces of at most ``size`` ids, for a channel that takes no larger ones."""
    if len(record.ids) <= size:
        return (record,)
    return tuple(
        msgspec.structs.replace(record, ids=record.ids[start : start + size])
        for start in range(0, len(record.ids), size)
    )
