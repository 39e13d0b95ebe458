"""Header tables of task messages: which names are whose, and the bytes that a table takes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from amqtask.core import serialization
from amqtask.core.codec.limits import SHORT_STRING_BYTES
from amqtask.core.message import Headers
from amqtask.errors import EncodeError

HEADER_DEPTH = 64  # as deep as the header table codec goes


PROTOCOL_HEADERS = frozenset(
    {
        "lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id",
        "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers",
        "stamps", "compression",
    }
)  # fmt: skip
COMPACT_HEADERS = frozenset({"lang", "task", "id", "origin", "ignore_result"})

# Written by the broker and its plugins about one passage of one message. Sent again they would count against the next
# passage: a message whose x-death already names a queue is taken for a cycle and dropped.
_BROKER_HEADERS = frozenset(
    {"x-death", "x-delivery-count", "x-acquired-count", "x-received-from", "x-delay"}
)
_BROKER_PREFIXES = (
    "x-first-death-",
    "x-last-death-",
    "x-opt-",
    "x-stream-",
    "x-shovelled",
    "x-shovel-",
)


def is_broker_header(name: object) -> bool:
    """Whether a header was written by the broker, and so is neither the user's nor to be sent again."""
    return isinstance(name, str) and (name in _BROKER_HEADERS or name.startswith(_BROKER_PREFIXES))


def headers_size(headers: Headers, *, depth: int = 0) -> int:
    """Bytes that a header table takes on the wire, its length field included; never less than what is sent.

    Raises:
        EncodeError: a name that is no string or too long, a value that AMQP has no form for, or tables nested too deeply.
    """
    total = 4
    for name, value in headers.items():
        if not isinstance(name, str):
            raise EncodeError(f"A header name must be a string, not {serialization.shown(name)}.")
        length = utf8_size(name)
        if length < 0 or length > SHORT_STRING_BYTES:
            raise EncodeError(
                f"Header name {serialization.shown(name)} takes {length} bytes; AMQP carries at most {SHORT_STRING_BYTES}."
                if length > 0
                else f"Header name {serialization.shown(name)} is not valid Unicode."
            )
        total += 1 + length + value_size(name, value, depth)
    return total


def value_size(name: str, value: object, depth: int) -> int:
    """Bytes that one value takes, its type included, in a table that is in ``depth`` others.

    Raises:
        EncodeError: as ``headers_size``.
    """
    if isinstance(value, str):
        length = utf8_size(value)
        if length < 0:
            raise EncodeError(
                f"Header {name!r} is text that is not valid Unicode: {serialization.shown(value)}."
            )
        return 5 + length
    if value is None or isinstance(value, bool):
        return 2
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise EncodeError(
                f"Header {name!r} is an integer of {value.bit_length()} bits; AMQP carries 64."
            )
        return 9
    if isinstance(value, float | datetime | Decimal):
        return 9
    if isinstance(value, bytes | bytearray):
        return 5 + len(value)
    if depth >= HEADER_DEPTH:
        raise EncodeError(f"Header {name!r} is nested more than {HEADER_DEPTH} levels deep.")
    if isinstance(value, Mapping):
        return 1 + headers_size(value, depth=depth + 1)
    if isinstance(value, list | tuple):
        return 5 + sum([value_size(name, item, depth + 1) for item in value])
    raise EncodeError(
        f"Header {name!r} is of type {serialization.type_name(value)}, which an AMQP header cannot carry."
    )


def utf8_size(text: str) -> int:
    """Length of the UTF-8 form, -1 where there is none (a lone surrogate)."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return -1
