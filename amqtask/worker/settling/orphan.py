"""A delivery that outlives the process that ran it: of a task that was acked before it ran, which the broker gives to nobody else.

When its process is killed, whoever takes the seat tells that it was lost: its caller, its errbacks, its chord. Of one that is too
large to be kept whole the header is, which is enough for its caller and its chord. Of one that has ended it is what was to be
published, which whoever takes the seat publishes: whatever had been published of it before is there twice, with the same ids.
"""

from __future__ import annotations

from collections.abc import Container

import msgspec

from amqtask.amqp import frames
from amqtask.amqp.ports import Delivery
from amqtask.core import codec
from amqtask.core.codec import Head, Limits
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.core.outcome import Look, Onward, PartSent, Send, Sequel, Settlement
from amqtask.core.workflow import Part
from amqtask.errors import AmqtaskError
from amqtask.worker.memory.early import MOST


class _Kept(msgspec.Struct, array_like=True, tag="ran"):
    queue: str
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes


_Sent = tuple[str, str, bytes, bytes, bool]  # exchange, key, properties, body, mandatory


class _Ended(msgspec.Struct, array_like=True, tag="ended"):
    queue: str
    results: list[_Sent]
    dead_letter: _Sent | None
    onward: tuple[_Sent, str | None] | None
    plans: list[tuple[_Sent, str | None]]
    sends: list[tuple[_Sent, str | None]]
    told: list[_Sent]
    parts: list[tuple[_Sent, Part]]
    looks: list[tuple[str, int | None]]


class Orphan:
    """The delivery of a run whose process has died. Implements ``Delivery``; there is nothing left to settle."""

    epoch = -1
    tag = 0
    redelivered = True

    def __init__(self, kept: _Kept) -> None:
        self.queue = kept.queue
        self.names = kept.exchange, kept.routing_key
        self.exchange, self.routing_key = self.names
        self.properties: Properties = frames.decode_properties(kept.properties)
        self.body = kept.body

    def head(self, accept: Container[str], limits: Limits) -> Head:
        """As ``Delivery`` has it."""
        return codec.read_header(self.properties, self.body, accept=accept, limits=limits)


def written(delivery: Delivery) -> bytes:
    """A delivery in at most ``MOST`` bytes, without its body if need be; empty when there is no room, or it cannot be written."""
    try:
        properties = frames.encode_properties(delivery.properties)
    except AmqtaskError:
        return b""
    kept = _Kept(delivery.queue, delivery.exchange, delivery.routing_key, properties, delivery.body)
    for body in (delivery.body, b""):
        kept.body = body
        if len(body) < MOST and len(data := msgspec.msgpack.encode(kept)) <= MOST:
            return data
    return b""


def read(data: bytes) -> Orphan | tuple[Orphan, Settlement] | None:
    """What ``written`` has written, or ``written_end``; ``None`` when its process had damaged it."""
    try:
        kept = msgspec.msgpack.decode(data, type=_Kept | _Ended)
        if isinstance(kept, _Kept):
            return Orphan(kept)
        empty = frames.encode_properties(Properties())
        return Orphan(_Kept(kept.queue, "", "", empty, b"")), _settlement(kept)
    except (msgspec.MsgspecError, AmqtaskError):
        return None


def written_end(queue: str, settlement: Settlement) -> bytes:
    """What follows from the end of a run whose message is gone, in at most ``MOST`` bytes; empty when it has no room.

    What its sends start is left out: nobody hears of those that no queue takes if this has to be read.
    """
    sequel = settlement.sequel or Sequel()
    letter, onward = settlement.dead_letter, settlement.onward
    try:
        ended = _Ended(
            queue,
            [_sent(each) for each in settlement.results],
            None if letter is None else _sent(letter),
            None if onward is None else (_sent(onward.publication), onward.queue),
            [(_sent(each.publication), each.due_in) for each in sequel.plans],
            [(_sent(each.publication), each.due_in) for each in sequel.sends],
            [_sent(each) for each in sequel.results],
            [(_sent(each.publication), _bare(each.part)) for each in sequel.parts],
            [(each.group, each.size) for each in sequel.looks],
        )
        data = msgspec.msgpack.encode(ended)
    except (AmqtaskError, ValueError, TypeError, OverflowError):
        return b""
    return data if len(data) <= MOST else b""


def _sent(publication: Publication) -> _Sent:
    envelope = publication.envelope
    return (
        publication.exchange,
        publication.routing_key,
        publication.header or frames.encode_properties(envelope.properties),
        envelope.body,
        publication.mandatory,
    )


def _bare(part: Part) -> Part:
    return msgspec.structs.replace(part, result=None, traceback=None)


def _publication(sent: _Sent) -> Publication:
    exchange, key, properties, body, mandatory = sent
    return Publication(
        exchange, key, Envelope(body, frames.decode_properties(properties)), mandatory
    )


def _settlement(ended: _Ended) -> Settlement:
    onward, letter = ended.onward, ended.dead_letter
    return Settlement(
        None,
        tuple(map(_publication, ended.results)),
        None if letter is None else _publication(letter),
        None if onward is None else Onward(_publication(onward[0]), onward[1]),
        Sequel(
            tuple(Send(_publication(each), due_in) for each, due_in in ended.plans),
            tuple(Send(_publication(each), due_in) for each, due_in in ended.sends),
            tuple(map(_publication, ended.told)),
            tuple(PartSent(_publication(each), part) for each, part in ended.parts),
            tuple(Look(group, size) for group, size in ended.looks),
        )
        or None,
    )
