"""Task messages to envelopes and back: Celery's task protocol 2, written compactly, read in every form Celery sends.

Sending leaves out every header that holds its default. Receiving is split in two, so that a worker can refuse a message
before its body is parsed: ``read_header`` looks at properties and headers, ``read_body`` at the body; ``decode`` does both.
Protocol 1 messages (everything in the body) and hybrids (headers and a protocol 1 body) are read too.

Decoding answers every malformed message with ``DecodeError`` or ``ContentRefused``, and never with another exception.
Nothing here keeps state or reads a clock; every function may be called from any thread.
"""

from __future__ import annotations

from amqtask.core.codec.body import load, read_body, read_plain
from amqtask.core.codec.fields import moment
from amqtask.core.codec.head import Content, Head, Identity, Pattern, identify
from amqtask.core.codec.headers import PROTOCOL_HEADERS, headers_size, is_broker_header
from amqtask.core.codec.limits import ACCEPT, LIMITS, Limits
from amqtask.core.codec.reading import decode, read_header, to_message
from amqtask.core.codec.writing import (
    LONGEST_EXPIRATION,
    check_headers,
    encode,
    encode_arguments,
)

__all__ = [
    "ACCEPT",
    "LIMITS",
    "LONGEST_EXPIRATION",
    "PROTOCOL_HEADERS",
    "Content",
    "Head",
    "Identity",
    "Limits",
    "Pattern",
    "check_headers",
    "decode",
    "encode",
    "encode_arguments",
    "headers_size",
    "identify",
    "is_broker_header",
    "load",
    "moment",
    "read_body",
    "read_header",
    "read_plain",
    "to_message",
]
