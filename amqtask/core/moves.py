"""The journal of a queue of dead letters: what a command that moves them leaves behind for the one that comes after it.

To move is to publish a copy, wait until it is safe, and only then take the letter away. A command that is killed in between has
left both; so before and with each batch it writes entries into a journal, a queue beside the dead letters:

- ``INTENT`` before, twice: once to last, and once as a message that the broker forgets when it restarts (*alive*);
- ``SENT`` in one transaction with the copies, so that it is there if they were published and not if they were not;
- ``MOVED`` in one transaction with the acks, when the copies are known to be safe;
- ``FAILED`` where a queue refused copies.

``Journal`` folds them into what is to become of a letter that lies among the dead.
"""

from __future__ import annotations

import enum
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType

import msgspec

from amqtask.core import codec, letters
from amqtask.core.letters import Letter
from amqtask.core.message import Properties
from amqtask.errors import DecodeError

KEEP = 7 * 86_400_000  # milliseconds an entry is kept
_NAME = "amqtask.moves."


def journal_of(queue: str) -> str:
    """The name of the journal of a queue of dead letters."""
    name = _NAME + queue
    raw = name.encode()
    if len(raw) <= 255:
        return name
    return raw[:200].decode(errors="ignore") + hashlib.sha256(raw).hexdigest()[:32]


class Step(enum.Enum):
    """What an entry says of its batch. ``MARK`` says nothing: who writes it has read all before when it comes back."""

    INTENT = "intent"
    ALIVE = "alive"
    SENT = "sent"
    MOVED = "moved"
    FAILED = "failed"
    MARK = "mark"


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One entry: a step of one batch, and the marks of its letters where the step needs them.

    ``INTENT`` has all of them and the queues they go to. ``MOVED`` has those that were moved, none for all of the intent's.
    ``FAILED`` has those of which it is not known.
    """

    step: Step
    batch: str
    marks: tuple[bytes, ...] = ()
    targets: tuple[str, ...] = ()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)
encode = _encoder.encode


def decode(body: bytes) -> Entry:
    """Read an entry.

    Raises:
        DecodeError: it is none.
    """
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"Not an entry of the journal: {error}.") from None


def mark(properties: Properties | None, body: bytes, letter: Letter) -> bytes:
    """16 bytes that tell a letter from the others, the same whenever it is read."""
    digest = hashlib.sha256(letters.fingerprint(properties or Properties(), body).encode())
    if letter.broker:
        newest = letter.broker[0]
        digest.update(repr((newest.reason, newest.queue, newest.count, newest.time)).encode())
    return digest.digest()[:16]


def alone(letter: Letter, properties: Properties | None) -> bool:
    """Whether no two letters with one mark can be different tasks: it tells an id of its own, and when it died."""
    return (
        properties is not None
        and letter.time is not None
        and codec.identify(properties).id is not None
    )


class Fate(enum.Enum):
    """What is known of a letter that is among the dead.

    ``STAYS``: nothing was done about it. ``MOVED``: its copy is where it should be; take it away. ``DOUBT``: its copy may be there.
    """

    STAYS = "stays"
    MOVED = "moved"
    DOUBT = "doubt"


class _Batch:
    """What the journal says of one batch."""

    __slots__ = ("alive", "failed", "marks", "moved", "sent", "targets")

    def __init__(self) -> None:
        self.marks: Counter[bytes] = Counter()
        self.targets: tuple[str, ...] = ()
        self.alive = False
        self.sent = False
        self.failed: frozenset[bytes] | None = None
        self.moved: frozenset[bytes] | None = None


class Journal:
    """The fold of a journal. Pure; one thread.

    Args:
        entries: of the journal, in order.
        known: batches whose copies this process itself knows to be safe, with their marks.
    """

    def __init__(
        self,
        entries: Iterable[Entry] = (),
        known: Mapping[str, frozenset[bytes]] = MappingProxyType({}),
    ) -> None:
        self._batches: dict[str, _Batch] = {}
        self._by_mark: dict[bytes, list[str]] = {}
        for entry in entries:
            self._add(entry)
        self._known = known

    def __len__(self) -> int:
        return len(self._batches)

    def _add(self, entry: Entry) -> None:
        if entry.step is Step.MARK:
            return
        batch = self._batches.setdefault(entry.batch, _Batch())
        match entry.step:
            case Step.INTENT:
                batch.marks = Counter(entry.marks)
                batch.targets = entry.targets
                for each in batch.marks:
                    self._by_mark.setdefault(each, []).append(entry.batch)
            case Step.ALIVE:
                batch.alive = True
            case Step.SENT:
                batch.sent = True
            case Step.FAILED:
                batch.failed = frozenset(entry.marks)
            case Step.MOVED:
                batch.moved = frozenset(entry.marks or batch.marks)

    def unverified(self) -> frozenset[str]:
        """The queues to which a batch was sent whose writer was killed before it could see whether they took it."""
        return frozenset(
            target
            for name, batch in self._batches.items()
            if self._unverified(name, batch)
            for target in batch.targets
        )

    def distrust(self, targets: Collection[str]) -> None:
        """Take it as not known whether these queues took what nobody saw them take: they are gone, or can be full."""
        for name, batch in self._batches.items():
            if self._unverified(name, batch) and not set(targets).isdisjoint(batch.targets):
                batch.failed = frozenset(batch.marks)

    def _unverified(self, name: str, batch: _Batch) -> bool:
        return (
            batch.sent
            and batch.alive
            and batch.moved is None
            and batch.failed is None
            and name not in self._known
        )

    def fate(self, which: bytes, alone: Callable[[], bool]) -> tuple[Fate, str]:
        """What is known of a letter with this mark, and from which batch; to be asked once for each letter that is there.

        Args:
            which: its mark.
            alone: whether no other task can have the same.
        """
        result = Fate.STAYS, ""
        for name in reversed(self._by_mark.get(which, ())):
            batch = self._batches[name]
            if batch.marks[which] <= 0:
                continue
            fate = self._in(name, batch, which, alone)
            if fate is Fate.MOVED:
                batch.marks[which] -= 1
                return fate, name
            if fate is Fate.DOUBT:
                result = fate, name
        return result

    def _in(self, name: str, batch: _Batch, which: bytes, alone: Callable[[], bool]) -> Fate:
        if batch.moved is not None:
            if batch.alive or which not in batch.moved:
                return Fate.STAYS  # that one was taken away: this is another; or it was refused
            # a broker that has restarted may have forgotten that it was taken away
            return Fate.MOVED if alone() else Fate.DOUBT
        if name in self._known:
            return Fate.MOVED if which in self._known[name] else Fate.STAYS
        if batch.failed is not None:
            return Fate.DOUBT if which in batch.failed else Fate.STAYS
        if not batch.alive:
            return Fate.DOUBT
        return Fate.MOVED if batch.sent else Fate.STAYS
