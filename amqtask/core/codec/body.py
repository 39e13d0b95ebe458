"""Bodies of task messages: ``[args, kwargs, embed]``, or the dictionary of protocol 1."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from amqtask.core import compression, serialization
from amqtask.core.codec.head import Content, Head
from amqtask.core.codec.limits import ACCEPT, LIMITS, Limits
from amqtask.core.message import Properties
from amqtask.errors import DecodeError


def read_plain(
    head: Head, body: bytes, limits: Limits = LIMITS
) -> tuple[list[Any], dict[str, Any], dict[str, Any]] | None:
    """What ``read_body`` makes of a body that is as nearly all are, in a fraction of the time; ``None`` for all others.

    Args:
        head: what ``read_header`` returned.
        body: the body as received. JSON must be accepted.
        limits: sizes that a body may have.
    """
    if head.plain and head.content is None and len(body) <= limits.message_max_bytes:
        found = serialization.plain_arguments(body)
        if found is not None and not found[2]:  # what follows in a workflow has more to be checked
            return found
    return None


def read_body(
    head: Head,
    properties: Properties,
    body: bytes,
    *,
    accept: Container[str] = ACCEPT,
    limits: Limits = LIMITS,
) -> Content:
    """Parse the arguments of a message whose header was read.

    Args:
        head: what ``read_header`` returned.
        properties: the AMQP properties.
        body: the body as received.
        accept: names or mime types of the serializers that may be read.
        limits: sizes that a body may have.

    Raises:
        ContentRefused: content type, encoding or compression is not acceptable; the body has not been decoded.
        DecodeError: the body is too large, damaged, or no ``[args, kwargs, embed]``.
    """
    if head.content is not None:
        return head.content
    value = load(properties, body, accept, limits)
    if type(value) is not list and type(value) is not tuple:
        if isinstance(value, dict):
            return content_of_fields(value)
        raise DecodeError(
            f"The body must be [args, kwargs, embed], not a value of type {serialization.type_name(value)}."
        )
    if len(value) != 3:
        raise DecodeError(f"The body must be [args, kwargs, embed], not {len(value)} elements.")
    args, kwargs, embed = value
    if type(args) is list and type(kwargs) is dict and type(embed) is dict and not embed:
        if kwargs:
            _check_names(kwargs)
        return Content(args, kwargs, embed)
    return _content(args, kwargs, embed)


def load(properties: Properties, body: bytes, accept: Container[str], limits: Limits) -> object:
    """Decode a received body of any kind, after every check that needs no decoder.

    Args:
        properties: the AMQP properties, with a ``compression`` header where the body is compressed.
        body: the body as received.
        accept: names or mime types of the serializers that may be read.
        limits: sizes that a body may have, as received and decompressed.

    Raises:
        ContentRefused: content type, encoding or compression is not acceptable.
        DecodeError: the body is too large, damaged, or not what its content type says.
    """
    serializer = serialization.choose(properties.content_type, properties.content_encoding, accept)
    if len(body) > limits.message_max_bytes:
        raise DecodeError(
            f"The body is {len(body)} bytes, above message_max_bytes ({limits.message_max_bytes})."
        )
    headers = properties.headers
    if headers:
        kind = headers.get("compression")
        if kind is not None:
            body = compression.decompress(body, kind, limits.decompressed_max_bytes)
    return serializer.decode(body)


def _content(args: object, kwargs: object, embed: object) -> Content:
    if not isinstance(args, list | tuple):
        raise DecodeError(
            f"The args must be a list, not a value of type {serialization.type_name(args)}."
        )
    if not isinstance(kwargs, dict):
        raise DecodeError(
            f"The kwargs must be a mapping, not a value of type {serialization.type_name(kwargs)}."
        )
    _check_names(kwargs)
    if embed is None:
        embed = {}
    elif not isinstance(embed, dict):
        raise DecodeError(
            f"The embed must be a mapping or null, not a value of type {serialization.type_name(embed)}."
        )
    for name in ("callbacks", "errbacks", "chain"):
        value = embed.get(name)
        if value is not None and not isinstance(value, list | tuple):
            raise DecodeError(
                f"The embed's {name!r} must be a list or null, not {serialization.shown(value)}."
            )
    chord = embed.get("chord")
    if chord is not None and not isinstance(chord, dict):
        raise DecodeError(f"The embed's 'chord' must be a mapping or null, not {chord!r:.80}.")
    return Content(args, kwargs, embed)


def _check_names(kwargs: dict[str, object]) -> None:
    for name in kwargs:
        if not isinstance(name, str):
            raise DecodeError(
                f"The names in kwargs must be strings, not {serialization.shown(name)}."
            )


def content_of_fields(fields: dict[str, object]) -> Content:
    """The content of a protocol 1 body; other languages' clients send null for no arguments."""
    args, kwargs = fields.get("args"), fields.get("kwargs")
    embed = {
        name: fields[name]
        for name in ("callbacks", "errbacks", "chord")
        if fields.get(name) is not None
    }
    return _content([] if args is None else args, {} if kwargs is None else kwargs, embed)
