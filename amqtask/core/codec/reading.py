"""Envelopes to task messages. ``read_header`` and ``body.read_body`` are the two halves; ``decode`` does both."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, NoReturn

from amqtask.core import serialization
from amqtask.core.codec.body import content_of_fields, load, read_body
from amqtask.core.codec.fields import READERS, read_flag, read_text, wrong
from amqtask.core.codec.head import Content, Head
from amqtask.core.codec.headers import (
    COMPACT_HEADERS,
    PROTOCOL_HEADERS,
    is_broker_header,
    utf8_size,
)
from amqtask.core.codec.limits import ACCEPT, LIMITS, SHORT_STRING_BYTES, Limits
from amqtask.core.message import Envelope, Headers, Message, Properties
from amqtask.errors import DecodeError, MessageError

_reader = READERS.get  # bound here: to look up a method of something imported costs more

# How a dictionary begins in JSON and in MessagePack, where a v2 body begins with a list.
_MAP_STARTS = frozenset({b"{", b"\xde", b"\xdf", *(bytes((0x80 | size,)) for size in range(16))})


def read_header(
    properties: Properties,
    body: bytes = b"",
    *,
    accept: Container[str] = ACCEPT,
    limits: Limits = LIMITS,
) -> Head:
    """Read everything but the arguments. The body is touched only when the headers name no task (protocol 1).

    Args:
        properties: the AMQP properties.
        body: the body, for messages of protocol 1.
        accept: names or mime types of the serializers that may be read; ``serialization.accepted`` makes the fastest form.
        limits: sizes that a body may have.

    Raises:
        DecodeError: this is no task message; the text says what is wrong with it.
        ContentRefused: the body was needed and its content type is not in ``accept``.
    """
    headers = properties.headers
    if headers and "task" in headers and "id" in headers:
        if body[:1] in _MAP_STARTS and properties.content_type != serialization.PICKLE:
            # perhaps a hybrid: what its headers lack is in the body
            return _read_hybrid(properties, body, accept, limits)
        return _head(properties, headers, headers, None)
    fields = load(properties, body, accept, limits)
    if not isinstance(fields, dict):
        missing = "task" if not headers or "task" not in headers else "id"
        raise DecodeError(
            f"The message has no {missing!r} header, and its body is not of protocol 1."
        )
    return _from_fields(properties, fields)


def _read_hybrid(
    properties: Properties, body: bytes, accept: Container[str], limits: Limits
) -> Head:
    """The header of a message with headers and a dictionary for a body. A body that cannot be read is left to
    ``read_body``: the headers alone are enough to report it."""
    headers = properties.headers or {}
    try:
        fields = load(properties, body, accept, limits)
        if isinstance(fields, dict):
            return _from_fields(properties, fields)
    except MessageError:
        pass
    return _head(properties, headers, headers, None)


def _from_fields(properties: Properties, fields: dict[str, object]) -> Head:
    """The header of a message with a protocol 1 body; where both name a field, the message's headers win."""
    headers = properties.headers or {}
    if "taskset" in fields and not fields.get("group"):
        fields = fields | {"group": fields["taskset"]}
    content = content_of_fields(fields)
    if "task" in headers:
        fields = fields | dict(headers)
    return _head(properties, fields, headers, content)


def _head(
    properties: Properties, fields: Mapping[str, object], headers: Headers, content: Content | None
) -> Head:
    task_id, task = fields.get("id"), fields.get("task")
    if type(task_id) is not str or type(task) is not str or not task_id or not task:
        _refuse_names(fields)
    if utf8_size(task) < 0:
        raise wrong("task", "valid Unicode", task)
    if not 0 < utf8_size(task_id) <= SHORT_STRING_BYTES:
        raise DecodeError(
            f"The task id is longer than {SHORT_STRING_BYTES} bytes or not valid Unicode: {serialization.shown(task_id)}."
        )
    correlation_id = properties.correlation_id or task_id
    reply_to = properties.reply_to or None
    priority = properties.priority
    if len(fields) <= len(COMPACT_HEADERS) and fields.keys() <= COMPACT_HEADERS:
        ignore_result = fields.get("ignore_result")
        return Head(
            id=task_id,
            task=task,
            correlation_id=correlation_id,
            root_id=task_id,
            sent=properties.timestamp,
            plain=_plain(properties),
            reply_to=reply_to,
            priority=priority,
            ignore_result=None
            if ignore_result is None
            else read_flag("ignore_result", ignore_result),
            origin=None
            if (origin := fields.get("origin")) is None
            else read_text("origin", origin),
            content=content,
        )
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if value is not None:
            read = _reader(name)
            if read is not None:
                found[name] = read(name, value)
    limits = found.pop("timelimit", None)
    if limits is not None:
        found["time_limit"], found["soft_time_limit"] = limits
    return Head(
        id=task_id,
        task=task,
        correlation_id=correlation_id,
        root_id=found.pop("root_id", None) or task_id,
        sent=properties.timestamp,
        plain=_plain(properties),
        reply_to=reply_to,
        priority=priority,
        headers=_foreign(headers),
        content=content,
        **found,
    )


def _plain(properties: Properties) -> bool:
    """Whether a body is JSON and not compressed."""
    return (
        properties.content_type == serialization.JSON
        and properties.content_encoding == "utf-8"
        and (properties.headers is None or properties.headers.get("compression") is None)
    )


_NO_HEADERS: Headers = {}


def _foreign(headers: Headers) -> Headers:
    if headers.keys() <= PROTOCOL_HEADERS:
        return _NO_HEADERS
    return {
        name: value
        for name, value in headers.items()
        if name not in PROTOCOL_HEADERS and not is_broker_header(name)
    }


def _refuse_names(fields: Mapping[str, object]) -> NoReturn:
    name = "id" if type(fields.get("task")) is str and fields["task"] else "task"
    value = fields.get(name)
    if value is None or value == "":
        raise DecodeError(f"The message names no {name!r}.")
    raise wrong(name, "a string", value)


def decode(
    envelope: Envelope, *, accept: Container[str] = ACCEPT, limits: Limits = LIMITS
) -> Message:
    """Read a whole task message. ``encode`` of the result sends the same task again.

    Args:
        envelope: body and properties as received.
        accept: names or mime types of the serializers that may be read.
        limits: sizes that a body may have.

    Raises:
        DecodeError, ContentRefused: as ``read_header`` and ``read_body``; nothing else.
    """
    properties, body = envelope.properties, envelope.body
    head = read_header(properties, body, accept=accept, limits=limits)
    return to_message(
        head, read_body(head, properties, body, accept=accept, limits=limits), envelope
    )


def to_message(head: Head, content: Content, envelope: Envelope) -> Message:
    """Put a message together from its parts; serializer and compression are the received ones."""
    properties = envelope.properties
    serializer = serialization.of_content_type(properties.content_type).name
    kind = None if properties.headers is None else properties.headers.get("compression")
    if serializer == "pickle" and (kind is not None or b"cloudpickle" in envelope.body):
        # only cloudpickle can write again what it has written by value; inside a compressed body it may have
        serializer = "cloudpickle"
    embed = content.embed
    return Message(
        id=head.id,
        task=head.task,
        args=content.args,
        kwargs=content.kwargs,
        retries=head.retries,
        eta=head.eta,
        expires=head.expires,
        time_limit=head.time_limit,
        soft_time_limit=head.soft_time_limit,
        root_id=head.root_id,
        parent_id=head.parent_id,
        group=head.group,
        group_index=head.group_index,
        callbacks=embed.get("callbacks"),
        errbacks=embed.get("errbacks"),
        chain=embed.get("chain"),
        chord=embed.get("chord"),
        reply_to=head.reply_to,
        correlation_id=head.correlation_id,
        priority=head.priority,
        ignore_result=head.ignore_result,
        origin=head.origin,
        shadow=head.shadow,
        argsrepr=head.argsrepr,
        kwargsrepr=head.kwargsrepr,
        replaced_task_nesting=head.replaced_task_nesting,
        stamped_headers=head.stamped_headers,
        stamps=head.stamps,
        headers=head.headers,
        serializer=serializer,
        compression=kind if isinstance(kind, str) else None,
    )
