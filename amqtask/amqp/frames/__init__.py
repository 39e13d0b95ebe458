"""The hot frames of AMQP 0-9-1 and its header tables: bytes to values and back, pure.

Four things cross the wire for every task: ``basic.publish`` out, ``basic.deliver`` in, acks both ways. Building and
parsing just those here is several times faster than any Python client does it; everything else (handshake, declarations,
heartbeats, contents of several frames) stays with the client library, which gets the untouched frames.

``writing`` builds frames and ``reading`` parses them; what a message's header consists of is in ``properties`` and ``tables``.

Nothing in this package does I/O or holds a lock. Functions may be called from any thread; a ``Parser`` belongs to the
thread that reads its connection.
"""

from __future__ import annotations

from amqtask.amqp.frames.properties import decode_properties, encode_properties
from amqtask.amqp.frames.reading import Contents, Deliver, Parser, Returned
from amqtask.amqp.frames.tables import MAX_DEPTH, decode_table, encode_table
from amqtask.amqp.frames.writing import (
    check_properties,
    encode_ack,
    encode_nack,
    encode_publish,
    encode_reject,
    joined,
)

__all__ = [
    "MAX_DEPTH",
    "Contents",
    "Deliver",
    "Parser",
    "Returned",
    "check_properties",
    "decode_properties",
    "decode_table",
    "encode_ack",
    "encode_nack",
    "encode_properties",
    "encode_publish",
    "encode_reject",
    "encode_table",
    "joined",
]
