"""The hot frames that we send: messages, and verdicts on those that came."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from amqtask.amqp.frames.layout import (
    BASIC,
    BODY,
    FRAME_END,
    FRAME_OVERHEAD,
    HEADER,
    METHOD,
    frame_head,
    header_head,
)
from amqtask.amqp.frames.tables import encode_short
from amqtask.errors import PayloadTooLarge

# Bound here: to look up a method of something imported costs more.
_frame_head = frame_head.pack
_header_head = header_head.pack
_tag_frame = Struct(">BHIHHQBB").pack

_METHODS: dict[tuple[int, str, str, bool], bytes] = {}
_METHODS_LIMIT = 2048  # routes of an app are few; reply queues and delay keys come and go


WRITE_BYTES = 1024 * 1024  # what is worth a copy to save system calls


def joined(chunks: Sequence[bytes]) -> Sequence[bytes]:
    """The same bytes in one piece, unless that is large: then nothing is copied."""
    if len(chunks) > 1 and sum(map(len, chunks)) <= WRITE_BYTES:
        return (b"".join(chunks),)
    return chunks


def encode_publish(
    channel: int,
    exchange: str,
    routing_key: str,
    properties: bytes,
    body: bytes,
    frame_max: int,
    mandatory: bool,
) -> bytes:
    """Build ``basic.publish``, its content header and as many body frames as ``frame_max`` asks for.

    Args:
        channel: channel number.
        exchange: exchange name, empty for the default exchange.
        routing_key: routing key.
        properties: what ``encode_properties`` returned.
        body: message body; an empty one has no frame.
        frame_max: negotiated frame size in bytes, 0 for no limit.
        mandatory: ask the broker to return the message when no queue is bound.

    Raises:
        EncodeError: exchange or routing key over 255 bytes.
        PayloadTooLarge: the properties do not fit one frame, as AMQP demands.
    """
    method = _METHODS.get((channel, exchange, routing_key, mandatory))
    if method is None:
        method = _encode_method(channel, exchange, routing_key, mandatory)
    size = len(body)
    head = _header_head(HEADER, channel, 12 + len(properties), BASIC, 0, size)
    if frame_max:
        check_properties(properties, frame_max)
        room = frame_max - FRAME_OVERHEAD
        if size > room:
            pieces = [method, head, properties, b"\xce"]
            for start in range(0, size, room):
                part = body[start : start + room]
                pieces += (_frame_head(BODY, channel, len(part)), part, b"\xce")
            return b"".join(pieces)
    if not size:
        return b"%b%b%b\xce" % (method, head, properties)
    return b"%b%b%b\xce%b%b\xce" % (
        method,
        head,
        properties,
        _frame_head(BODY, channel, size),
        body,
    )


def check_properties(properties: bytes, frame_max: int) -> None:
    """Do nothing when the properties fit the one frame that AMQP gives them; ``frame_max`` 0 is no limit.

    Raises:
        PayloadTooLarge: they do not.
    """
    if frame_max and len(properties) + 12 + FRAME_OVERHEAD > frame_max:
        raise PayloadTooLarge(
            f"The message headers take {len(properties)} bytes; the broker accepts"
            f" {frame_max - 12 - FRAME_OVERHEAD}. Put large values into the body."
        )


def _encode_method(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    arguments = b"%b%b%b%b" % (
        b"\x00\x3c\x00\x28\x00\x00",  # basic.publish, one reserved short
        encode_short(exchange, "The exchange name"),
        encode_short(routing_key, "The routing key"),
        b"\x01" if mandatory else b"\x00",
    )
    frame = _frame_head(METHOD, channel, len(arguments)) + arguments + b"\xce"
    if len(_METHODS) >= _METHODS_LIMIT:
        _METHODS.clear()  # cheaper than keeping an order for a case that hardly happens
    _METHODS[channel, exchange, routing_key, mandatory] = frame
    return frame


def encode_ack(channel: int, tag: int, multiple: bool) -> bytes:
    """Build ``basic.ack``; ``multiple`` settles every open delivery up to ``tag``."""
    return _tag_frame(METHOD, channel, 13, BASIC, 80, tag, multiple, FRAME_END)


def encode_reject(channel: int, tag: int, requeue: bool) -> bytes:
    """Build ``basic.reject``: back into its queue with ``requeue``, else dead-lettered or dropped."""
    return _tag_frame(METHOD, channel, 13, BASIC, 90, tag, requeue, FRAME_END)


def encode_nack(channel: int, tag: int, multiple: bool, requeue: bool) -> bytes:
    """Build ``basic.nack``, which unlike reject can settle several and is not counted by quorum queues of 4.3."""
    return _tag_frame(METHOD, channel, 13, BASIC, 120, tag, multiple | requeue << 1, FRAME_END)
