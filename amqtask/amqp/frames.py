"""The hot frames of AMQP 0-9-1 and its header tables: bytes to values and back, pure.

Four things cross the wire for every task: ``basic.publish`` out, ``basic.deliver`` in, acks both ways. Building and
parsing just those here is several times faster than any Python client does it; everything else (handshake, declarations,
heartbeats, contents of several frames) stays with the client library, which gets the untouched frames.

The table codec is our own for a second reason: pika refuses floats in headers and truncates those it reads, pamqp narrows
them to single precision. Here a double arrives as the double that was sent.

Nothing in this module does I/O or holds a lock. Functions may be called from any thread; a ``Parser`` belongs to the
thread that reads its connection.
"""

from __future__ import annotations

import calendar
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from struct import Struct
from struct import error as StructError  # noqa: N812  # a class, named as one
from typing import Any, cast

from msgspec.structs import astuple

from amqtask.core.message import Properties
from amqtask.errors import ConnectionLost, DecodeError, EncodeError, PayloadTooLarge

FRAME_END = 0xCE
FRAME_OVERHEAD = 8  # type, channel, length and the end octet

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_BASIC = 60
# Class and method id of a method frame, read as one number.
_DELIVER = _BASIC << 16 | 60
_ACK = _BASIC << 16 | 80
_NACK = _BASIC << 16 | 120
_RETURN = _BASIC << 16 | 50

# RabbitMQ itself has no limit; a header table of the permitted size could be nested 20,000 deep and end the interpreter's
# stack. Real headers (x-death, signatures) stay below ten.
MAX_DEPTH = 64

_u8 = Struct(">B")
_i8 = Struct(">b")
_u16 = Struct(">H")
_i16 = Struct(">h")
_u32 = Struct(">I")
_i32 = Struct(">i")
_u64 = Struct(">Q")
_i64 = Struct(">q")
_f32 = Struct(">f")
_f64 = Struct(">d")
_decimal = Struct(">Bi")
_tagged_i32 = Struct(">ci").pack
_tagged_i64 = Struct(">cq").pack
_tagged_f64 = Struct(">cd").pack
_tagged_length = Struct(">cI").pack
_frame_head = Struct(">BHI")
_header_head = Struct(">BHIHHQ")  # frame head, class, weight, body size
_header_rest = Struct(">IHHQ")  # the same from the length on
_tag_and_flag = Struct(">QB")
_tag_frame = Struct(">BHIHHQBB").pack

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# ---------------------------------------------------------------- header tables: encode


def encode_table(mapping: Mapping[str, object]) -> bytes:
    """Encode an AMQP field table, its length first.

    Integers travel as 32 bits when they fit, else 64; floats as doubles; ``datetime`` as whole seconds (a naive one counts
    as UTC); tuples as arrays.

    Raises:
        EncodeError: a key is no string or longer than 255 bytes, a value has no AMQP form or does not fit it, or the table
            is nested more than ``MAX_DEPTH`` deep.
    """
    return _encode_table(mapping, 0)


def _encode_table(mapping: Mapping[str, object], depth: int) -> bytes:
    pieces: list[bytes] = []
    add = pieces.append
    for key, value in mapping.items():
        add(_KEYS.get(key) or _encode_key(key))
        if type(value) is str:  # most header values are
            raw = _utf8(value)
            add(_tagged_length(b"S", len(raw)))
            add(raw)
        else:
            add(_encode_value(value, depth))
    content = b"".join(pieces)
    return _u32.pack(len(content)) + content


_KEYS: dict[str, bytes] = {}
_KEYS_LIMIT = (
    512  # header names come from code, so few; names made from data must not grow it for ever
)


def _encode_key(key: object) -> bytes:
    if not isinstance(key, str):
        raise EncodeError(f"A header name must be a string, not {type(key).__name__}: {key!r:.80}")
    encoded = _encode_short(key, "A header name")
    if len(_KEYS) < _KEYS_LIMIT:
        _KEYS[key] = encoded
    return encoded


def _encode_value(value: object, depth: int) -> bytes:
    if value is None:
        return b"V"
    if value is True:
        return b"t\x01"
    if value is False:
        return b"t\x00"
    if isinstance(value, int):
        if -0x80000000 <= value <= 0x7FFFFFFF:
            return _tagged_i32(b"I", value)
        if -0x8000000000000000 <= value <= 0x7FFFFFFFFFFFFFFF:
            return _tagged_i64(b"l", value)
        raise EncodeError(f"An integer of {value.bit_length()} bits does not fit an AMQP header.")
    if isinstance(value, float):
        return _tagged_f64(b"d", value)
    if isinstance(value, str):
        raw = _utf8(value)
        return _tagged_length(b"S", len(raw)) + raw
    if isinstance(value, bytes | bytearray):
        return _tagged_length(b"x", len(value)) + bytes(value)
    if isinstance(value, datetime):
        return b"T" + _encode_timestamp(value)
    if isinstance(value, Decimal):
        return b"D" + _encode_decimal(value)
    if depth >= MAX_DEPTH:
        raise EncodeError(f"Headers are nested more than {MAX_DEPTH} levels deep.")
    if isinstance(value, Mapping):
        return b"F" + _encode_table(value, depth + 1)
    if isinstance(value, list | tuple):
        content = b"".join([_encode_value(item, depth + 1) for item in value])
        return _tagged_length(b"A", len(content)) + content
    raise EncodeError(
        f"A header value of type {type(value).__name__} has no AMQP form: {value!r:.80}"
    )


def _utf8(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise EncodeError(f"A string in the message is not valid Unicode: {error}.") from None


def _encode_timestamp(value: datetime) -> bytes:
    seconds = calendar.timegm(value.utctimetuple())
    if seconds < 0:
        raise EncodeError(f"A time before 1970 has no AMQP form: {value.isoformat()}")
    return _u64.pack(seconds)


def _encode_decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):  # NaN and infinities name themselves here
        raise EncodeError(f"The decimal {value} has no AMQP form.")
    if exponent > 9:  # ten digits are all that fit; do not build a number of a billion digits first
        if any(digits):
            raise EncodeError(f"The decimal {value} does not fit an AMQP header.")
        exponent = 0
    unscaled = int("".join(map(str, digits)) or "0") * 10 ** max(exponent, 0)
    unscaled = -unscaled if sign else unscaled
    scale = max(-exponent, 0)
    if scale > 255 or not -0x80000000 <= unscaled <= 0x7FFFFFFF:
        raise EncodeError(f"The decimal {value} does not fit an AMQP header.")
    return _decimal.pack(scale, unscaled)


def _encode_short(value: str, what: str) -> bytes:
    raw = _utf8(value)
    if len(raw) > 255:
        raise EncodeError(f"{what} is {len(raw)} bytes long; AMQP allows 255: {value!r:.80}")
    return _u8.pack(len(raw)) + raw


# ---------------------------------------------------------------- header tables: decode


def decode_table(buffer: bytes, offset: int = 0, end: int | None = None) -> dict[str, object]:
    """Decode the field table that starts at ``offset`` with its length.

    Strings that are not UTF-8 come as ``bytes``; timestamps as aware ``datetime`` (as ``int`` seconds when beyond the year
    9999, which is legal on the wire).

    Args:
        buffer: bytes that hold the table.
        offset: where the table's length starts.
        end: where the table must end; the end of ``buffer`` when left out.

    Raises:
        DecodeError: malformed in any way; no other exception.
    """
    end = len(buffer) if end is None else min(end, len(buffer))
    start, stop = _extent(buffer, offset, end)
    if stop != end:
        raise DecodeError(f"{end - stop} bytes follow the header table.")
    return _decode_fields(buffer, start, stop, 0)


def _extent(buffer: bytes, offset: int, end: int) -> tuple[int, int]:
    """Read a 32 bit length at ``offset``: where its content starts and stops, inside ``end``."""
    start = offset + 4
    if offset < 0 or start > end:
        raise DecodeError("A header table is cut short.")
    stop = start + _u32.unpack_from(buffer, offset)[0]
    if stop > end:
        raise DecodeError("A header table is cut short.")
    return start, stop


def _decode_fields(buffer: bytes, offset: int, end: int, depth: int) -> dict[str, object]:
    table: dict[str, object] = {}
    while offset < end:
        start = offset + 1
        offset = start + buffer[offset]
        if offset >= end:
            raise DecodeError("A header name is cut short.")
        raw = buffer[start:offset]
        try:
            key = raw.decode()
        except UnicodeDecodeError:
            raise DecodeError(f"A header name is not UTF-8: {raw!r:.80}") from None
        if buffer[offset] != 0x53:
            table[key], offset = _decode_value(buffer, offset, end, depth)
            continue
        # Texts, as `_decode_value` has them, without a call: they are most of what every task carries.
        start = offset + 5
        if start > end:
            raise DecodeError("A header table is cut short.")
        stop = start + _u32.unpack_from(buffer, offset + 1)[0]
        if stop > end:
            raise DecodeError("A header table is cut short.")
        raw = buffer[start:stop]
        try:
            table[key] = raw.decode()
        except UnicodeDecodeError:  # py-amqp sends bytes under the same type
            table[key] = raw
        offset = stop
    return table


def _decode_value(buffer: bytes, offset: int, end: int, depth: int) -> tuple[object, int]:
    """Decode the value whose type octet is at ``offset``: the value and where the next one starts."""
    kind = buffer[offset]
    offset += 1
    if kind == 0x53:  # S
        start, stop = _extent(buffer, offset, end)
        raw = buffer[start:stop]
        try:
            return raw.decode(), stop
        except UnicodeDecodeError:  # py-amqp sends bytes under the same type
            return raw, stop
    fixed = _FIXED.get(kind)
    if fixed is not None:
        stop = offset + fixed.size
        if stop > end:
            raise DecodeError("A header value is cut short.")
        return fixed.unpack_from(buffer, offset)[0], stop
    match kind:
        case 0x56:  # V
            return None, offset
        case 0x74:  # t
            if offset >= end:
                raise DecodeError("A header value is cut short.")
            return buffer[offset] != 0, offset + 1
        case 0x46:  # F
            start, stop = _nested(buffer, offset, end, depth)
            return _decode_fields(buffer, start, stop, depth + 1), stop
        case 0x41:  # A
            start, stop = _nested(buffer, offset, end, depth)
            items: list[object] = []
            while start < stop:
                item, start = _decode_value(buffer, start, stop, depth + 1)
                items.append(item)
            return items, stop
        case 0x78:  # x
            start, stop = _extent(buffer, offset, end)
            return buffer[start:stop], stop
        case 0x54:  # T
            if offset + 8 > end:
                raise DecodeError("A header value is cut short.")
            return _decode_timestamp(_u64.unpack_from(buffer, offset)[0]), offset + 8
        case 0x44:  # D
            if offset + 5 > end:
                raise DecodeError("A header value is cut short.")
            scale, unscaled = _decimal.unpack_from(buffer, offset)
            return Decimal(f"{unscaled}E-{scale}"), offset + 5
        case _:
            raise DecodeError(f"Unknown header value type {bytes((kind,))!r}.")


_FIXED: dict[int, Struct] = {
    ord("b"): _i8,
    ord("B"): _u8,
    ord("s"): _i16,
    ord("u"): _u16,
    ord("I"): _i32,
    ord("i"): _u32,
    ord("l"): _i64,
    ord("L"): _i64,  # RabbitMQ reads both as signed
    ord("f"): _f32,
    ord("d"): _f64,
}


def _nested(buffer: bytes, offset: int, end: int, depth: int) -> tuple[int, int]:
    if depth >= MAX_DEPTH:
        raise DecodeError(f"Headers are nested more than {MAX_DEPTH} levels deep.")
    return _extent(buffer, offset, end)


def _decode_timestamp(seconds: int) -> datetime | int:
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return seconds


# ---------------------------------------------------------------- basic properties


# Property name, flag bit, kind of its value; in wire order, which also is the order of the struct's fields.
_PROPERTIES = (
    ("content_type", 0x8000, "short"),
    ("content_encoding", 0x4000, "short"),
    ("headers", 0x2000, "table"),
    ("delivery_mode", 0x1000, "octet"),
    ("priority", 0x0800, "octet"),
    ("correlation_id", 0x0400, "short"),
    ("reply_to", 0x0200, "short"),
    ("expiration", 0x0100, "short"),
    ("message_id", 0x0080, "short"),
    ("timestamp", 0x0040, "time"),
    ("type", 0x0020, "short"),
    ("user_id", 0x0010, "short"),
    ("app_id", 0x0008, "short"),
    ("cluster_id", 0x0004, "short"),
)
_UNKNOWN_FLAGS = 0x0003
_NO_PROPERTIES = Properties()


def encode_properties(properties: Properties) -> bytes:
    """Encode what follows the body size in a content header: the property flags and the values.

    Raises:
        EncodeError: a string over 255 bytes, a number outside its field, or a header that has no AMQP form.
    """
    flags = 0
    pieces = [b""]
    for (name, flag, kind), value in zip(_PROPERTIES, astuple(properties), strict=True):
        if value is None:
            continue
        flags |= flag
        if kind == "short":
            pieces.append(_encode_short(value, name))
        elif kind == "table":
            pieces.append(_encode_table(value, 0))
        else:
            limit = 0xFF if kind == "octet" else 0xFFFFFFFFFFFFFFFF
            if not 0 <= value <= limit:
                raise EncodeError(f"{name} must be from 0 to {limit}, not {value}.")
            pieces.append((_u8 if kind == "octet" else _u64).pack(value))
    pieces[0] = _u16.pack(flags)
    return b"".join(pieces)


def decode_properties(buffer: bytes) -> Properties:
    """Decode the property flags and values of a content header (the bytes that follow the body size).

    Raises:
        DecodeError: malformed in any way; no other exception.
    """
    try:
        usual = _decode_usual(buffer)
    except (IndexError, UnicodeDecodeError, StructError):
        usual = None  # cut short, or no text: the way that looks at each property says which
    return _decode_each(buffer) if usual is None else usual


_RARE = 0x013F  # flags of the properties that no task needs, and of unknown ones


def _decode_usual(buffer: bytes) -> Properties | None:
    """Decode the properties that tasks have, in one go: every delivery comes through here.

    ``None`` when there are others, and for most of what is malformed. Raises what reading past the end raises.
    """
    flags = _u16.unpack_from(buffer)[0]
    if flags & _RARE:
        return None
    content_type = content_encoding = correlation_id = reply_to = message_id = None
    headers = delivery_mode = priority = timestamp = None
    offset = 2
    if flags & 0x8000:
        start = offset + 1
        offset = start + buffer[offset]
        content_type = buffer[start:offset].decode()
    if flags & 0x4000:
        start = offset + 1
        offset = start + buffer[offset]
        content_encoding = buffer[start:offset].decode()
    if flags & 0x2000:
        start = offset + 4
        offset = start + _u32.unpack_from(buffer, offset)[0]
        if offset > len(buffer):
            return None
        headers = _decode_fields(buffer, start, offset, 0)
    if flags & 0x1000:
        delivery_mode = buffer[offset]
        offset += 1
    if flags & 0x0800:
        priority = buffer[offset]
        offset += 1
    if flags & 0x0400:
        start = offset + 1
        offset = start + buffer[offset]
        correlation_id = buffer[start:offset].decode()
    if flags & 0x0200:
        start = offset + 1
        offset = start + buffer[offset]
        reply_to = buffer[start:offset].decode()
    if flags & 0x0080:
        start = offset + 1
        offset = start + buffer[offset]
        message_id = buffer[start:offset].decode()
    if flags & 0x0040:
        timestamp = _u64.unpack_from(buffer, offset)[0]
        offset += 8
    if offset != len(buffer):  # also when a text reached past the end
        return None
    return Properties(
        content_type=content_type,
        content_encoding=content_encoding,
        headers=headers,
        delivery_mode=delivery_mode,
        priority=priority,
        correlation_id=correlation_id,
        reply_to=reply_to,
        message_id=message_id,
        timestamp=timestamp,
    )


def _decode_each(buffer: bytes) -> Properties:
    """Decode any properties, one after the other; what is malformed is told by its name."""
    end = len(buffer)
    if end < 2:
        raise DecodeError("The message properties are cut short.")
    flags = _u16.unpack_from(buffer)[0]
    if flags & _UNKNOWN_FLAGS:
        raise DecodeError(f"Unknown message property flags {flags:#06x}.")
    values: dict[str, object] = {}
    offset = 2
    for name, _, kind in _present(flags):
        if kind == "table":
            start, stop = _extent(buffer, offset, end)
            values[name] = _decode_fields(buffer, start, stop, 0)
        else:
            if offset >= end:
                raise DecodeError(f"The message property {name} is cut short.")
            if kind == "short":
                stop = offset + 1 + buffer[offset]
                raw = buffer[offset + 1 : stop]
                try:
                    values[name] = raw.decode()
                except UnicodeDecodeError:
                    raise DecodeError(
                        f"The message property {name} is not UTF-8: {raw!r:.80}"
                    ) from None
            elif kind == "octet":
                stop = offset + 1
                values[name] = buffer[offset]
            else:
                stop = offset + 8
                values[name] = int.from_bytes(buffer[offset:stop])
            if stop > end:
                raise DecodeError(f"The message property {name} is cut short.")
        offset = stop
    if offset != end:
        raise DecodeError(f"{end - offset} bytes follow the message properties.")
    if not values:
        return _NO_PROPERTIES
    return _make_properties(**values)


@lru_cache(maxsize=64)  # an application sends its messages with few combinations
def _present(flags: int) -> tuple[tuple[str, int, str], ...]:
    return tuple(entry for entry in _PROPERTIES if flags & entry[1])


# The names are those of the table above, the types those its kinds produce: checked by the round trip tests.
_make_properties = cast("Callable[..., Properties]", Properties)


# ---------------------------------------------------------------- frames out


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
    head = _header_head.pack(_HEADER, channel, 12 + len(properties), _BASIC, 0, size)
    if frame_max:
        check_properties(properties, frame_max)
        room = frame_max - FRAME_OVERHEAD
        if size > room:
            pieces = [method, head, properties, b"\xce"]
            for start in range(0, size, room):
                part = body[start : start + room]
                pieces += (_frame_head.pack(_BODY, channel, len(part)), part, b"\xce")
            return b"".join(pieces)
    if not size:
        return b"%b%b%b\xce" % (method, head, properties)
    return b"%b%b%b\xce%b%b\xce" % (
        method,
        head,
        properties,
        _frame_head.pack(_BODY, channel, size),
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
        _encode_short(exchange, "The exchange name"),
        _encode_short(routing_key, "The routing key"),
        b"\x01" if mandatory else b"\x00",
    )
    frame = _frame_head.pack(_METHOD, channel, len(arguments)) + arguments + b"\xce"
    if len(_METHODS) >= _METHODS_LIMIT:
        _METHODS.clear()  # cheaper than keeping an order for a case that hardly happens
    _METHODS[channel, exchange, routing_key, mandatory] = frame
    return frame


def encode_ack(channel: int, tag: int, multiple: bool) -> bytes:
    """Build ``basic.ack``; ``multiple`` settles every open delivery up to ``tag``."""
    return _tag_frame(_METHOD, channel, 13, _BASIC, 80, tag, multiple, FRAME_END)


def encode_reject(channel: int, tag: int, requeue: bool) -> bytes:
    """Build ``basic.reject``: back into its queue with ``requeue``, else dead-lettered or dropped."""
    return _tag_frame(_METHOD, channel, 13, _BASIC, 90, tag, requeue, FRAME_END)


def encode_nack(channel: int, tag: int, multiple: bool, requeue: bool) -> bytes:
    """Build ``basic.nack``, which unlike reject can settle several and is not counted by quorum queues of 4.3."""
    return _tag_frame(_METHOD, channel, 13, _BASIC, 120, tag, multiple | requeue << 1, FRAME_END)


# ---------------------------------------------------------------- frames in


_names: dict[bytes, tuple[str, str]] = {}  # of routes, which are few
_NAMES_LIMIT = 512  # but keys may be made from data


def _names_of(route: bytes) -> tuple[str, str]:
    # Names are free bytes to the broker. One that is not UTF-8 must not stop a worker, so it is shown escaped.
    end = 1 + route[0]
    names = (
        route[1:end].decode(errors="backslashreplace"),
        route[end + 1 :].decode(errors="backslashreplace"),
    )
    if len(_names) >= _NAMES_LIMIT:
        _names.clear()
    _names[route] = names
    return names


class Deliver:
    """One message as it came off the wire, undecoded where decoding costs.

    Attributes:
        channel: channel number.
        consumer_tag: raw bytes of the consumer tag.
        tag: delivery tag.
        redelivered: the broker has handed it out before.
        header: property bytes for ``decode_properties``.
        body: message body.
        route: exchange and routing key as two short strings.
    """

    __slots__ = ("body", "channel", "consumer_tag", "header", "redelivered", "route", "tag")

    def __init__(
        self,
        channel: int,
        consumer_tag: bytes,
        tag: int,
        redelivered: bool,
        route: bytes,
        header: bytes,
        body: bytes,
    ) -> None:
        self.channel = channel
        self.consumer_tag = consumer_tag
        self.tag = tag
        self.redelivered = redelivered
        self.route = route
        self.header = header
        self.body = body

    @property
    def names(self) -> tuple[str, str]:
        """Exchange and routing key it was published with."""
        return _names.get(self.route) or _names_of(self.route)

    @property
    def exchange(self) -> str:
        """Exchange the message was published to."""
        return self.names[0]

    @property
    def routing_key(self) -> str:
        """Routing key it was published with."""
        return self.names[1]

    def __repr__(self) -> str:
        return (
            f"<Deliver channel={self.channel} tag={self.tag} exchange={self.exchange!r}"
            f" routing_key={self.routing_key!r} body={len(self.body)} bytes>"
        )


class Returned:
    """A mandatory message that the broker gave back because no queue is bound for it.

    Attributes:
        channel: channel number.
        code: reply code, 312 for no route.
        text: reply text.
        exchange: exchange it was published to.
        routing_key: routing key it was published with.
        header: property bytes for ``decode_properties``.
        body: message body.
    """

    __slots__ = ("body", "channel", "code", "exchange", "header", "routing_key", "text")

    def __init__(
        self,
        channel: int,
        code: int,
        text: str,
        exchange: str,
        routing_key: str,
        header: bytes,
        body: bytes,
    ) -> None:
        self.channel = channel
        self.code = code
        self.text = text
        self.exchange = exchange
        self.routing_key = routing_key
        self.header = header
        self.body = body


class Contents:
    """Puts together what ``Parser`` leaves in frames: deliveries of several body frames, and returned messages.

    For a client library that has no use for them itself. Give it each frame of ``on_other``. Without ``on_return`` the
    frames of returned messages are left to the client library. ``make``: as for ``Parser``.
    """

    __slots__ = ("_make", "_on_deliver", "_on_return", "_open")

    def __init__(
        self,
        on_deliver: Callable[[Any], None],
        on_return: Callable[[Returned], None] | None = None,
        make: type[Deliver] = Deliver,
    ) -> None:
        self._make = make
        self._on_deliver = on_deliver
        self._on_return = on_return
        self._open: dict[int, _Content] = {}  # by channel

    def take(self, frame: bytes) -> bool:
        """Take a frame that belongs to a content; False for any other, which then is the caller's.

        Raises:
            ConnectionLost: the frame does not continue the content before it.
        """
        kind = frame[0]
        channel = _u16.unpack_from(frame, 1)[0]
        if kind == _METHOD and len(frame) >= 12:
            method = _u32.unpack_from(frame, 7)[0]
            if method != _DELIVER and (method != _RETURN or self._on_return is None):
                return False
            self._open[channel] = _Content(frame[7:-1])
            return True
        content = self._open.get(channel)
        if content is None or kind not in (_HEADER, _BODY):
            return False
        if kind == _HEADER:
            if len(frame) < 22:
                raise ConnectionLost("The broker sent a malformed content header frame.")
            content.left = _u64.unpack_from(frame, 11)[0]
            content.header = frame[19:-1]
        else:
            content.left -= len(frame) - FRAME_OVERHEAD
            content.parts.append(frame[7:-1])
        if content.left < 0:
            raise ConnectionLost("The broker sent a body that is longer than announced.")
        if content.left == 0:
            del self._open[channel]
            self._finish(channel, content)
        return True

    def _finish(self, channel: int, content: _Content) -> None:
        method, header, body = content.method, content.header, b"".join(content.parts)
        returned = deliver = None
        try:
            if _u32.unpack_from(method)[0] == _RETURN:
                text_at = 7 + method[6]
                exchange_at = text_at + 1 + method[text_at]
                returned = Returned(
                    channel,
                    _u16.unpack_from(method, 4)[0],
                    method[7:text_at].decode(errors="backslashreplace"),
                    method[text_at + 1 : exchange_at].decode(errors="backslashreplace"),
                    method[exchange_at + 1 : exchange_at + 1 + method[exchange_at]].decode(
                        errors="backslashreplace"
                    ),
                    header,
                    body,
                )
            else:
                tag_at = 5 + method[4]
                names = method[tag_at + 9 :]
                if len(names) != 2 + names[0] + names[1 + names[0]]:
                    raise IndexError
                deliver = self._make(
                    channel,
                    method[5:tag_at],
                    _u64.unpack_from(method, tag_at)[0],
                    method[tag_at + 8] != 0,
                    names,
                    header,
                    body,
                )
        except (IndexError, StructError):
            raise ConnectionLost("The broker sent a malformed basic method frame.") from None
        if returned is not None and self._on_return is not None:
            self._on_return(returned)
        elif deliver is not None:
            self._on_deliver(deliver)


class _Content:
    """What has arrived of a content; ``left`` counts the body bytes to come, unknown (1) before the header."""

    __slots__ = ("header", "left", "method", "parts")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self.header = b""
        self.left = 1
        self.parts: list[bytes] = []


# Of the method frame of a delivery: its bytes before the tag; those behind the flag, with what the header frame behind it
# begins with; its length; channel, consumer tag and route.
_KnownDeliver = tuple[bytes, bytes, int, int, bytes, bytes]
_NO_DELIVER: _KnownDeliver = (b"\0", b"\0", 0, 0, b"", b"")  # no frame begins with a zero


class Parser:
    """Cuts the byte stream of one connection into events.

    A delivery whose method, header and only body frame follow one another becomes ``on_deliver(Deliver)``. A confirm of the
    broker becomes ``on_confirm(channel, tag, multiple, ok)``. Every other frame goes to ``on_other(frame)`` whole and in
    order: among them all frames of a delivery with several body frames or with foreign frames in between, so that the
    client library can put those together as it always does. Callbacks run inside ``feed`` and must not raise.

    Set ``frame_max`` to the negotiated size to have larger frames refused before they are buffered; 0 allows any. ``make``
    is what deliveries are made as. ``on_deliver`` may be set anew at any time.
    """

    __slots__ = (
        "_chunks",
        "_held",
        "_known",
        "_make",
        "_needed",
        "_on_confirm",
        "_on_other",
        "frame_max",
        "on_deliver",
    )

    def __init__(
        self,
        on_deliver: Callable[[Any], None],
        on_confirm: Callable[[int, int, bool, bool], None],
        on_other: Callable[[bytes], None],
        frame_max: int = 0,
        make: type[Deliver] = Deliver,
    ) -> None:
        self.frame_max = frame_max
        self.on_deliver = on_deliver
        self._make = make
        self._known = _NO_DELIVER  # the last method frame of a delivery
        self._on_confirm = on_confirm
        self._on_other = on_other
        # What has arrived of an incomplete unit. Chunks are joined only when the unit (or its next readable part) is here,
        # so a body of many megabytes is copied once, not once per read.
        self._chunks: list[bytes] = []
        self._held = 0
        self._needed = 0

    def feed(self, data: bytes) -> None:
        """Take the bytes of one read and report what they complete.

        Raises:
            ConnectionLost: the bytes are no AMQP frames; the parser is of no use afterwards.
        """
        if self._chunks:
            self._chunks.append(data)
            self._held += len(data)
            if self._held < self._needed:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
        position = self._walk(data)
        if position < len(data):
            rest = data[position:] if position else data
            self._chunks.append(rest)
            self._held = len(rest)

    def _walk(self, data: bytes) -> int:
        """Report all complete units in ``data``; return where the first incomplete one starts."""
        unpack_head = _frame_head.unpack_from
        on_other = self._on_other
        make = self._make
        before, between, size_of_method, known_channel, consumer_tag, route = self._known
        known_tag_at = len(before)
        end = len(data)
        position = 0
        while True:
            # Most often the next delivery comes to the same consumer by the same way: then nothing is new in its method frame
            # but the tag, and all that is looked at below was looked at before.
            after = position + size_of_method
            if (
                data.startswith(before, position)
                and data.startswith(between, position + known_tag_at + 9)
                and end - after >= 19
            ):
                length, _, _, body_size = _header_rest.unpack_from(data, after + 3)
                body_at = after + length + FRAME_OVERHEAD
                done = body_at + body_size + FRAME_OVERHEAD
                if (
                    done <= end
                    and length >= 14
                    and unpack_head(data, body_at) == (_BODY, known_channel, body_size)
                    and data[body_at - 1] == FRAME_END
                    and data[done - 1] == FRAME_END
                ):
                    tag, redelivered = _tag_and_flag.unpack_from(data, position + known_tag_at)
                    self.on_deliver(
                        make(
                            known_channel,
                            consumer_tag,
                            tag,
                            redelivered != 0,
                            route,
                            data[after + 19 : body_at - 1],
                            data[body_at + 7 : done - 1],
                        )
                    )
                    position = done
                    continue
            if end - position < 7:
                self._needed = 7
                return position
            kind, channel, size = unpack_head(data, position)
            after = position + size + FRAME_OVERHEAD
            if after > end:
                self._check_head(kind, size, data, position)
                self._needed = after - position
                return position
            if data[after - 1] != FRAME_END:
                raise self._broken(kind, size, data, position)
            if kind != _METHOD or size < 13:  # no method reported here is shorter
                self._check_head(kind, size, data, position)
                on_other(data[position:after])
                position = after
                continue
            method = _u32.unpack_from(data, position + 7)[0]
            if method == _DELIVER:
                # A content header must follow, so waiting for its first bytes cannot wait for ever.
                if end - after < 19:
                    self._needed = after - position + 19
                    return position
                kind, owner, length, _, _, body_size = _header_head.unpack_from(data, after)
                body_at = after + length + FRAME_OVERHEAD
                if kind != _HEADER or owner != channel or length < 14:
                    on_other(data[position:after])
                    position = after
                    continue
                if body_at > end:
                    self._check_head(kind, length, data, after)
                    self._needed = body_at - position
                    return position
                if data[body_at - 1] != FRAME_END:
                    raise self._broken(kind, length, data, after)
                if body_size:
                    if end - body_at < 7:
                        self._needed = body_at - position + 7
                        return position
                    kind, owner, length = unpack_head(data, body_at)
                    if length != body_size or kind != _BODY or owner != channel:
                        # Several body frames, or other channels in between: the general path. The header and the
                        # bodies take the same way when the loop comes to them, because only a method starts a unit.
                        on_other(data[position:after])
                        position = after
                        continue
                    done = body_at + length + FRAME_OVERHEAD
                    if done > end:
                        self._check_head(kind, length, data, body_at)
                        self._needed = done - position
                        return position
                    if data[done - 1] != FRAME_END:
                        raise self._broken(kind, length, data, body_at)
                    body = data[body_at + 7 : done - 1]
                else:
                    done = body_at
                    body = b""
                tag_at = position + 12 + data[position + 11]
                # Tag, flag and the two lengths must lie inside the method frame, and the names fill it exactly.
                names_at = tag_at + 9
                if (
                    names_at + 2 >= after
                    or names_at + 1 + data[names_at] >= after - 1
                    or names_at + 2 + data[names_at] + data[names_at + 1 + data[names_at]]
                    != after - 1
                ):
                    raise ConnectionLost("The broker sent a malformed basic.deliver frame.")
                consumer_tag = data[position + 12 : tag_at]
                route = data[names_at : after - 1]
                self.on_deliver(
                    make(
                        channel,
                        consumer_tag,
                        _u64.unpack_from(data, tag_at)[0],
                        data[tag_at + 8] != 0,
                        route,
                        data[after + 19 : body_at - 1],
                        body,
                    )
                )
                before, between = data[position:tag_at], data[names_at : after + 3]
                known_tag_at = len(before)
                size_of_method = after - position
                known_channel = channel
                self._known = (before, between, size_of_method, channel, consumer_tag, route)
                position = done
            elif size == 13 and method in (_ACK, _NACK):
                self._on_confirm(
                    channel,
                    _u64.unpack_from(data, position + 11)[0],
                    data[position + 19] & 1 != 0,
                    method == _ACK,
                )
                position = after
            else:
                on_other(data[position:after])
                position = after

    def _check_head(self, kind: int, size: int, data: bytes, position: int) -> None:
        """Refuse what cannot start a frame before its length makes us wait for bytes that never come."""
        if kind not in (_METHOD, _HEADER, _BODY, _HEARTBEAT):
            raise self._broken(kind, size, data, position)
        if self.frame_max and size + FRAME_OVERHEAD > self.frame_max:
            raise ConnectionLost(
                f"The broker sent a frame of {size} bytes; the agreed limit is {self.frame_max}."
            )

    def _broken(self, kind: int, size: int, data: bytes, position: int) -> ConnectionLost:
        if data[position : position + 4] == b"AMQP":
            return ConnectionLost(
                "The server speaks another version of AMQP than 0-9-1; check host and port."
            )
        return ConnectionLost(
            f"The connection carries bytes that are no AMQP frame (type {kind}, length {size})."
        )
