"""What is read unless somebody says otherwise, and the sizes that a message may have."""

from __future__ import annotations

import msgspec

from amqtask.core import serialization

SHORT_STRING_BYTES = 255  # ids and header names travel as AMQP short strings


ACCEPT = frozenset({serialization.JSON, serialization.MSGPACK})
"""What is decoded unless the caller says otherwise; pickle must be asked for."""


class Limits(msgspec.Struct, frozen=True):
    """The sizes a message may have, in bytes; the settings of the same names."""

    message_max_bytes: int = 16 * 1024 * 1024
    headers_max_bytes: int = 64 * 1024
    decompressed_max_bytes: int = 64 * 1024 * 1024


LIMITS = Limits()
