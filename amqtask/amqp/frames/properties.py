"""The properties of a message: flags and values, as they stand in its content header."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from struct import Struct
from struct import error as StructError  # noqa: N812  # a class, named as one
from typing import cast

from msgspec.structs import astuple

from amqtask.amqp.frames.tables import decode_fields, encode_short, encode_table, extent
from amqtask.core.message import Properties
from amqtask.errors import DecodeError, EncodeError

_u8 = Struct(">B")
_u16 = Struct(">H")
_u32 = Struct(">I")
_u64 = Struct(">Q")

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
            pieces.append(encode_short(value, name))
        elif kind == "table":
            pieces.append(encode_table(value))
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
        headers = decode_fields(buffer, start, offset, 0)
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
            start, stop = extent(buffer, offset, end)
            values[name] = decode_fields(buffer, start, stop, 0)
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
