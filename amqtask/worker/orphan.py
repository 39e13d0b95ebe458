"""A delivery that outlives the process that ran it: of a task that was acked before it ran, which the broker gives to nobody else.

When its process is killed, whoever takes the seat tells that it was lost: its caller, its errbacks, its chord. Of one that is too
large to be kept whole the header is, which is enough for its caller and its chord.
"""

from __future__ import annotations

from collections.abc import Container

import msgspec

from amqtask.amqp import frames
from amqtask.amqp.ports import Delivery
from amqtask.core import codec
from amqtask.core.codec import Head, Limits
from amqtask.core.message import Properties
from amqtask.errors import AmqtaskError
from amqtask.worker.early import MOST


class _Kept(msgspec.Struct, array_like=True):
    queue: str
    exchange: str
    routing_key: str
    properties: bytes
    body: bytes


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


def read(data: bytes) -> Orphan | None:
    """What ``written`` has written; ``None`` when its process had damaged it."""
    try:
        return Orphan(msgspec.msgpack.decode(data, type=_Kept))
    except (msgspec.MsgspecError, AmqtaskError):
        return None
