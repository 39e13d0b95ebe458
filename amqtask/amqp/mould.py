"""Property blocks that are like others before them: decoded but for what differs. The reading side of ``stencil``.

Of the messages of one task nearly all differ in id and time only. One of them is decoded by the codec as any block is, and its
bytes are kept, cut where the id and the time stand; a block that has the same bytes around them needs no more than its own two.
"""

from __future__ import annotations

from amqtask.amqp import frames
from amqtask.core import codec
from amqtask.core.codec import Head, Pattern
from amqtask.core.message import Properties
from amqtask.errors import MessageError

_ID = b"\x02idS\x00\x00\x00\x24"  # the header ``id``, a text of 36 bytes: a UUID
_ID_BYTES = 36
_TIME_BYTES = 8  # of a timestamp, which comes last
_SCALARS = (str, int, float, bytes, type(None))

MOST = 512  # kinds of blocks that are remembered
STALE = 64  # blocks that a mould does not fit, before another is made of one


class Mould:
    """What the blocks of one kind have in common.

    A block is given to it that begins as those of its kind; what comes behind the id is compared in one piece.

    Args:
        pieces: their bytes before, between and after the id as a header and the id as correlation id.
        known: one of them, decoded.
    """

    __slots__ = ("_after", "_between", "_id", "_known", "_pattern", "_tail", "_timed", "misfits")

    def __init__(self, pieces: tuple[bytes, bytes, bytes], known: Properties) -> None:
        before, self._between, after = pieces
        self._timed = known.timestamp is not None
        self._after = after[:-_TIME_BYTES] if self._timed else after
        at = len(before)
        self._id = slice(at, at + _ID_BYTES)
        self._tail = slice(at + _ID_BYTES, -_TIME_BYTES if self._timed else None)
        self._known = known
        self._pattern = _pattern_of(known)
        self.misfits = 0

    def cast(self, block: bytes) -> Properties | None:
        """Decode a block; ``None`` when it is of another kind."""
        raw = block[self._id]
        if block[self._tail] != self._between + raw + self._after:
            return None
        try:
            task_id = raw.decode()
        except UnicodeDecodeError:
            return None
        known = self._known
        return Properties(
            content_type=known.content_type,
            content_encoding=known.content_encoding,
            headers={**(known.headers or {}), "id": task_id},
            delivery_mode=known.delivery_mode,
            priority=known.priority,
            correlation_id=task_id,
            reply_to=known.reply_to,
            message_id=known.message_id,
            timestamp=int.from_bytes(block[-_TIME_BYTES:]) if self._timed else None,
        )

    def head(self, block: bytes) -> Head | None:
        """What the properties of a block say of its task; ``None`` when it is of another kind, or says nothing."""
        raw = block[self._id]
        if self._pattern is None or block[self._tail] != self._between + raw + self._after:
            return None
        try:
            task_id = raw.decode()
        except UnicodeDecodeError:
            return None
        sent = int.from_bytes(block[-_TIME_BYTES:]) if self._timed else None
        return self._pattern.head(task_id, sent)


def _pattern_of(known: Properties) -> Pattern | None:
    try:
        return Pattern(codec.read_header(known))
    except MessageError:  # no task's, or one that is refused
        return None


class Moulds:
    """Decodes property blocks. Any thread."""

    def __init__(self) -> None:
        self._moulds: dict[bytes, Mould] = {}  # by what comes before the id

    def decode(self, block: bytes) -> Properties:
        """Decode a block, as ``frames.decode_properties`` would.

        Raises:
            DecodeError: as there.
        """
        at = block.find(_ID) + len(_ID)
        if at < len(_ID):
            return frames.decode_properties(block)
        mould = self._moulds.get(block[:at])
        if mould is not None:
            properties = mould.cast(block)
            if properties is not None:
                mould.misfits = 0
                return properties
            mould.misfits += 1
        properties = frames.decode_properties(block)
        if mould is None or mould.misfits > STALE:
            self._learn(block, at, properties)
        return properties

    def head(self, block: bytes) -> Head | None:
        """What ``codec.read_header`` would make of a block and a body that is a list; ``None`` when no mould knows it."""
        mould = self._moulds.get(block[: block.find(_ID) + len(_ID)])
        return None if mould is None else mould.head(block)

    def _learn(self, block: bytes, at: int, known: Properties) -> None:
        """Make a mould of a block, if it is of a kind that has one."""
        headers = known.headers or {}
        task_id = headers.get("id")
        raw = block[at : at + _ID_BYTES]
        pieces = block.split(raw)
        if (
            len(pieces) == 3  # it stands nowhere else
            and len(pieces[0]) == at
            and isinstance(task_id, str)
            and task_id.encode() == raw
            and known.correlation_id == task_id
            and (known.timestamp is None or len(pieces[2]) >= _TIME_BYTES)
            and (known.expiration, known.type, known.user_id, known.app_id, known.cluster_id)
            == (None,) * 5
            # Others could be changed by who has them.
            and all(isinstance(value, _SCALARS) for value in headers.values())
        ):
            if len(self._moulds) >= MOST:
                self._moulds.clear()  # cheaper than an order, for a case that hardly happens
            self._moulds[block[:at]] = Mould((pieces[0], pieces[1], pieces[2]), known)
