"""Header tables: mappings to bytes and back.

The codec is our own because pika refuses floats in headers and truncates those it reads, and pamqp narrows them to single
precision. Here a double arrives as the double that was sent.
"""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from struct import Struct

from amqtask.errors import DecodeError, EncodeError

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

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# ---------------------------------------------------------------- encode


def encode_table(mapping: Mapping[str, object], depth: int = 0) -> bytes:
    """Encode an AMQP field table, its length first.

    Integers travel as 32 bits when they fit, else 64; floats as doubles; ``datetime`` as whole seconds (a naive one counts
    as UTC); tuples as arrays.

    Args:
        mapping: the table.
        depth: how many others it is in.

    Raises:
        EncodeError: a key is no string or longer than 255 bytes, a value has no AMQP form or does not fit it, or the table
            is nested more than ``MAX_DEPTH`` deep.
    """
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
    encoded = encode_short(key, "A header name")
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
        return b"F" + encode_table(value, depth + 1)
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


def encode_short(value: str, what: str) -> bytes:
    """Encode a short string, its length first; ``what`` names it in the error.

    Raises:
        EncodeError: it is over 255 bytes, or no valid Unicode.
    """
    raw = _utf8(value)
    if len(raw) > 255:
        raise EncodeError(f"{what} is {len(raw)} bytes long; AMQP allows 255: {value!r:.80}")
    return _u8.pack(len(raw)) + raw


# ---------------------------------------------------------------- decode


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
    start, stop = extent(buffer, offset, end)
    if stop != end:
        raise DecodeError(f"{end - stop} bytes follow the header table.")
    return decode_fields(buffer, start, stop, 0)


def extent(buffer: bytes, offset: int, end: int) -> tuple[int, int]:
    """Read a 32 bit length at ``offset``: where its content starts and stops, inside ``end``.

    Raises:
        DecodeError: it does not fit.
    """
    start = offset + 4
    if offset < 0 or start > end:
        raise DecodeError("A header table is cut short.")
    stop = start + _u32.unpack_from(buffer, offset)[0]
    if stop > end:
        raise DecodeError("A header table is cut short.")
    return start, stop


def decode_fields(buffer: bytes, offset: int, end: int, depth: int) -> dict[str, object]:
    """Decode the fields from ``offset`` to ``end``, of a table that is in ``depth`` others.

    Raises:
        DecodeError: malformed in any way.
        IndexError: cut short behind a name's length.
    """
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
        start, stop = extent(buffer, offset, end)
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
            return decode_fields(buffer, start, stop, depth + 1), stop
        case 0x41:  # A
            start, stop = _nested(buffer, offset, end, depth)
            items: list[object] = []
            while start < stop:
                item, start = _decode_value(buffer, start, stop, depth + 1)
                items.append(item)
            return items, stop
        case 0x78:  # x
            start, stop = extent(buffer, offset, end)
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
    return extent(buffer, offset, end)


def _decode_timestamp(seconds: int) -> datetime | int:
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return seconds
