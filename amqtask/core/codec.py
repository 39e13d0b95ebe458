"""Task messages to envelopes and back: Celery's task protocol 2, written compactly, read in every form Celery sends.

Sending leaves out every header that holds its default. Receiving is split in two, so that a worker can refuse a message
before its body is parsed: ``read_header`` looks at properties and headers, ``read_body`` at the body; ``decode`` does both.
Protocol 1 messages (everything in the body) and hybrids (headers and a protocol 1 body) are read too.

Decoding answers every malformed message with ``DecodeError`` or ``ContentRefused``, and never with another exception.
Nothing here keeps state or reads a clock; every function may be called from any thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn

import msgspec

from amqtask.core import compression, serialization
from amqtask.core.message import Envelope, Headers, Message, Properties
from amqtask.errors import DecodeError, EncodeError, MessageError, PayloadTooLarge

SHORT_STRING_BYTES = 255  # ids and header names travel as AMQP short strings
# The longest per-message TTL RabbitMQ takes, ten years (asked of 3.10 and 4.3); one above it closes the channel.
LONGEST_EXPIRATION = 315_360_000_000
HEADER_DEPTH = 64  # as deep as the header table codec goes

ACCEPT = frozenset({serialization.JSON, serialization.MSGPACK})
"""What is decoded unless the caller says otherwise; pickle must be asked for."""


class Limits(msgspec.Struct, frozen=True):
    """The sizes a message may have, in bytes; the settings of the same names."""

    message_max_bytes: int = 16 * 1024 * 1024
    headers_max_bytes: int = 64 * 1024
    decompressed_max_bytes: int = 64 * 1024 * 1024


LIMITS = Limits()

# ---------------------------------------------------------------- headers

PROTOCOL_HEADERS = frozenset(
    {
        "lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id",
        "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers",
        "stamps", "compression",
    }
)  # fmt: skip
_COMPACT_HEADERS = frozenset({"lang", "task", "id", "origin", "ignore_result"})

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
        length = _utf8_size(name)
        if length < 0 or length > SHORT_STRING_BYTES:
            raise EncodeError(
                f"Header name {serialization.shown(name)} takes {length} bytes; AMQP carries at most {SHORT_STRING_BYTES}."
                if length > 0
                else f"Header name {serialization.shown(name)} is not valid Unicode."
            )
        total += 1 + length + _value_size(name, value, depth)
    return total


def _value_size(name: str, value: object, depth: int) -> int:
    if isinstance(value, str):
        length = _utf8_size(value)
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
        return 5 + sum([_value_size(name, item, depth + 1) for item in value])
    raise EncodeError(
        f"Header {name!r} is of type {serialization.type_name(value)}, which an AMQP header cannot carry."
    )


def _utf8_size(text: str) -> int:
    """Length of the UTF-8 form, -1 where there is none (a lone surrogate)."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return -1


# ---------------------------------------------------------------- times


def moment(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 time; one without an offset is UTC, as in Celery.

    Raises:
        ValueError: the text is no such time.
    """
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return parsed.timestamp()


# ---------------------------------------------------------------- encode

_EMPTY_BODY = b"[[],{},{}]"
_ROOTS = ("args", "kwargs", "embed")
# Below these sizes the headers of a message without the user's own cannot reach the limit, and are not measured.
_SMALL_TEXT = 1024
_SMALL_HEADERS = 16 * 1024


def encode(
    message: Message,
    *,
    now: float | None = None,
    sent: float | None = None,
    priority: int = 0,
    limits: Limits = LIMITS,
) -> Envelope:
    """Make the envelope of a task message: compact protocol 2, persistent, always with a priority.

    Args:
        message: the task message.
        now: seconds since the epoch, needed to turn ``message.expires`` into the AMQP expiration. ``None`` sends no
            expiration property: for messages on their way through delay queues, which would drop them early. The
            ``expires`` header is sent either way.
        sent: seconds since the epoch, for the AMQP timestamp: tells this sending from another one under the same id. ``None``
            sends no timestamp.
        priority: for messages that name none.
        limits: sizes that must not be exceeded.

    Raises:
        EncodeError: something in the message has no form on the wire.
        PayloadTooLarge: body or headers are above their limit.
        ConfigurationError: unknown serializer or compression.
    """
    task, task_id = message.task, message.id
    if type(task) is not str or not task or type(task_id) is not str or not task_id:
        _refuse_identity(task, task_id)
    _check_short(task, "id", task_id)
    if _utf8_size(task) < 0:
        raise EncodeError(
            f"The name of a task must be valid Unicode, not {serialization.shown(task)}."
        )
    headers: dict[str, object] = {"lang": "py", "task": task, "id": task_id}
    measure = _add_headers(headers, message)
    serializer = serialization.serializer(message.serializer)
    body = _encode_body(message, serializer)
    if message.compression is not None:
        kind = compression.mime_type(message.compression)
        body = compression.compress(body, kind)
        headers["compression"] = kind
    _check_size(task, body, limits)
    if measure or len(task) > _SMALL_TEXT or limits.headers_max_bytes < _SMALL_HEADERS:
        check_headers(headers, task, limits)
    if message.priority is not None:
        priority = message.priority
    if type(priority) is not int or not 0 <= priority <= 255:
        raise EncodeError(
            f"Task {task}: the priority must be an integer from 0 to 255, not {serialization.shown(priority)}."
        )
    correlation_id = message.correlation_id
    if correlation_id is None:
        correlation_id = task_id
    else:
        _check_short(task, "correlation_id", correlation_id)
    if message.reply_to is not None:
        _check_short(task, "reply_to", message.reply_to)
    return Envelope(
        body,
        Properties(
            content_type=serializer.content_type,
            content_encoding=serializer.content_encoding,
            headers=headers,
            delivery_mode=2,
            priority=priority,
            correlation_id=correlation_id,
            reply_to=message.reply_to,
            expiration=None if message.expires is None else _expiration(message, now),
            timestamp=None if sent is None else int(sent),
        ),
    )


def encode_arguments(
    task: str, args: object, kwargs: object, serializer: str, limits: Limits = LIMITS
) -> bytes:
    """Make the body of a task message that has nothing but arguments, and is not compressed.

    Args:
        task: the task's name, for error messages.
        args: positional arguments.
        kwargs: keyword arguments.
        serializer: its name.
        limits: sizes that must not be exceeded.

    Raises:
        EncodeError: an argument has no form on the wire.
        PayloadTooLarge: the body is above its limit.
    """
    body = _encode_arguments(task, args, kwargs, {}, serializer)
    if len(body) > limits.message_max_bytes:
        _check_size(task, body, limits)
    return body


def _check_size(task: str, body: bytes, limits: Limits) -> None:
    if len(body) > limits.message_max_bytes:
        raise PayloadTooLarge(
            f"Task {task}: the body is {len(body)} bytes, above message_max_bytes ({limits.message_max_bytes}); "
            "store the data elsewhere and pass a reference to it."
        )


def _add_headers(headers: dict[str, object], message: Message) -> bool:
    """Add what differs from its default; return whether the table is worth checking and measuring."""
    harmless = 3
    if message.retries:
        headers["retries"] = message.retries
    if message.origin is not None:
        headers["origin"] = message.origin
        harmless += type(message.origin) is str and len(message.origin) <= _SMALL_TEXT
    if message.ignore_result is not None:
        headers["ignore_result"] = message.ignore_result
        harmless += type(message.ignore_result) is bool
    if message.time_limit is not None or message.soft_time_limit is not None:
        headers["timelimit"] = [message.time_limit, message.soft_time_limit]
    if message.eta is not None:
        headers["eta"] = message.eta
    if message.expires is not None:
        headers["expires"] = message.expires
    if message.root_id is not None and message.root_id != message.id:
        headers["root_id"] = message.root_id
    if message.parent_id is not None:
        headers["parent_id"] = message.parent_id
    if message.group is not None:
        headers["group"] = message.group
    if message.group_index is not None:
        headers["group_index"] = message.group_index
    if message.shadow is not None:
        headers["shadow"] = message.shadow
    if message.argsrepr is not None:
        headers["argsrepr"] = message.argsrepr
    if message.kwargsrepr is not None:
        headers["kwargsrepr"] = message.kwargsrepr
    if message.replaced_task_nesting:
        headers["replaced_task_nesting"] = message.replaced_task_nesting
    if message.stamped_headers is not None:
        headers["stamped_headers"] = list(message.stamped_headers)
    if message.stamps:
        headers["stamps"] = dict(message.stamps)
    if message.headers:
        _add_user_headers(headers, message.task, message.headers)
    return len(headers) > harmless


def _add_user_headers(headers: dict[str, object], task: str, extra: object) -> None:
    if not isinstance(extra, Mapping):
        raise EncodeError(
            f"Task {task}: headers must be a mapping, not {serialization.type_name(extra)}."
        )
    for name, value in extra.items():
        if name in PROTOCOL_HEADERS:
            raise EncodeError(
                f"Task {task}: header {name!r} belongs to the message protocol; choose another name."
            )
        # x-delay is the one that a sender writes, for the delayed message plugin
        if name == "x-delay" or not is_broker_header(name):
            headers[name] = value


def _encode_body(message: Message, serializer: serialization.Serializer) -> bytes:
    embed: dict[str, object] = {}
    if message.callbacks is not None:
        embed["callbacks"] = message.callbacks
    if message.errbacks is not None:
        embed["errbacks"] = message.errbacks
    if message.chain is not None:
        embed["chain"] = message.chain
    if message.chord is not None:
        embed["chord"] = message.chord
    return _encode_arguments(message.task, message.args, message.kwargs, embed, serializer.name)


def _encode_arguments(
    task: str, args: object, kwargs: object, embed: dict[str, object], serializer: str
) -> bytes:
    if type(args) is not list and type(args) is not tuple:
        args = _listed(task, args)
    if kwargs != {}:
        kwargs = _named(task, kwargs)
    if not args and not kwargs and not embed and serializer == "json":
        return _EMPTY_BODY
    return serialization.dumps(
        [args, kwargs, embed], serializer, subject=f"Task {task}", roots=_ROOTS
    )


def _refuse_identity(task: object, task_id: object) -> NoReturn:
    if not isinstance(task, str) or not task:
        raise EncodeError(
            f"A task message needs the name of its task, not {serialization.shown(task)}."
        )
    raise EncodeError(
        f"Task {task}: the id must be a string that is not empty, not {serialization.shown(task_id)}."
    )


def _listed(task: str, args: object) -> Sequence[object]:
    if isinstance(args, list | tuple):
        return args
    if isinstance(args, Sequence) and not isinstance(args, str | bytes | bytearray | memoryview):
        return list(args)
    raise EncodeError(
        f"Task {task}: args must be a list or tuple, not {serialization.type_name(args)}."
    )


def _named(task: str, kwargs: object) -> dict[str, object]:
    if not isinstance(kwargs, Mapping):
        raise EncodeError(
            f"Task {task}: kwargs must be a mapping, not {serialization.type_name(kwargs)}."
        )
    for name in kwargs:
        if not isinstance(name, str):
            raise EncodeError(
                f"Task {task}: the names in kwargs must be strings, not {serialization.shown(name)}."
            )
    return dict(kwargs)


def _expiration(message: Message, now: float | None) -> str | None:
    try:
        expires = moment(message.expires or "")
    except (ValueError, TypeError):
        raise EncodeError(
            f"Task {message.task}: expires must be an ISO 8601 time, not {serialization.shown(message.expires)}."
        ) from None
    if now is None:
        return None
    milliseconds = max(0, int((expires - now) * 1000))
    # Beyond what the broker can time, the worker's own check of the header is enough.
    return str(milliseconds) if milliseconds <= LONGEST_EXPIRATION else None


def _check_short(task: str, what: str, value: object) -> None:
    if not isinstance(value, str):
        raise EncodeError(
            f"Task {task}: the {what} must be a string, not {serialization.shown(value)}."
        )
    size = _utf8_size(value)
    if size > SHORT_STRING_BYTES:
        raise EncodeError(
            f"Task {task}: the {what} takes {size} bytes, and AMQP carries at most {SHORT_STRING_BYTES}."
        )
    if size < 0:
        raise EncodeError(
            f"Task {task}: the {what} is not valid Unicode: {serialization.shown(value)}."
        )


def check_headers(headers: Headers, task: str, limits: Limits) -> None:
    """Refuse what no receiver would accept: fields of the wrong type, tables that are too large.

    Raises:
        EncodeError, PayloadTooLarge: likewise.
    """
    for name, value in headers.items():
        read = _READERS.get(name)
        if read is not None and value is not None:  # Celery sends null for what is not set
            try:
                read(name, value)
            except DecodeError as error:
                raise EncodeError(f"Task {task:.200}: {error}") from None
    try:
        size = headers_size(headers)
    except EncodeError as error:
        raise EncodeError(f"Task {task:.200}: {error}") from None
    if size > limits.headers_max_bytes:
        widest = max(headers, key=lambda name: _value_size(name, headers[name], 0))
        raise PayloadTooLarge(
            f"Task {task:.200}: the headers take {size} bytes, above headers_max_bytes ({limits.headers_max_bytes}); "
            f"the largest is {widest!r:.80}."
        )


# ---------------------------------------------------------------- decode: the header


class Content(NamedTuple):
    """A parsed body. ``embed`` may hold ``callbacks``, ``errbacks``, ``chain`` and ``chord``."""

    args: list[object] | tuple[object, ...]
    kwargs: dict[str, object]
    embed: dict[str, Any]


class Head(msgspec.Struct, frozen=True):
    """All of a task message that is not in its body; the fields mean what they mean in ``Message``.

    ``eta`` and ``expires`` always carry an offset and ``root_id`` and ``correlation_id`` are always set. ``sent`` is the AMQP
    timestamp. ``plain`` says that the body is JSON and not compressed. ``content`` is there only for messages whose body had to
    be parsed to learn the rest (protocol 1).

    Give arguments by name; only ``Pattern``, where it counts, goes by their order.
    """

    id: str
    task: str
    correlation_id: str
    root_id: str
    sent: int | None = None
    reply_to: str | None = None
    priority: int | None = None
    retries: int = 0
    eta: str | None = None
    expires: str | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    ignore_result: bool | None = None
    origin: str | None = None
    shadow: str | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    replaced_task_nesting: int = 0
    stamped_headers: Sequence[str] | None = None
    stamps: Mapping[str, object] | None = None
    headers: Headers = {}
    plain: bool = False
    content: Content | None = None

    def eta_at(self) -> float | None:
        """``eta`` as seconds since the epoch."""
        return None if self.eta is None else moment(self.eta)

    def expires_at(self) -> float | None:
        """``expires`` as seconds since the epoch."""
        return None if self.expires is None else moment(self.expires)


class Pattern:
    """The headers of messages that are like one that was read, but for id and time: most of those of one task.

    Args:
        known: that one's. Its id is its correlation id too, and none of its headers can be changed by who has them.
    """

    __slots__ = ("_own_root", "_rest", "_root_id", "_task")

    def __init__(self, known: Head) -> None:
        self._task = known.task
        self._own_root = known.root_id == known.id
        self._root_id = known.root_id
        self._rest = msgspec.structs.astuple(known)[5:]  # from ``reply_to`` on

    def head(self, task_id: str, sent: int | None) -> Head:
        """What ``read_header`` would make of one of them.

        Args:
            task_id: its id.
            sent: its timestamp.
        """
        root_id = task_id if self._own_root else self._root_id
        return Head(task_id, self._task, task_id, root_id, sent, *self._rest)


class Identity(msgspec.Struct, frozen=True):
    """What can be known of a message that cannot be read: where to report, and about what."""

    id: str | None
    task: str | None
    correlation_id: str | None
    reply_to: str | None


def identify(properties: Properties) -> Identity:
    """Who sent a message and what it is, as far as its properties tell. Never raises; ``id`` falls back to
    ``correlation_id``."""
    headers = properties.headers or {}
    task_id, task = headers.get("id"), headers.get("task")
    correlation_id = properties.correlation_id or None
    if not isinstance(task_id, str) or not 0 < _utf8_size(task_id) <= SHORT_STRING_BYTES:
        task_id = correlation_id
    return Identity(
        id=task_id,
        task=task if isinstance(task, str) and task else None,
        correlation_id=correlation_id or task_id,
        reply_to=properties.reply_to or None,
    )


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
    content = _content_of_fields(fields)
    if "task" in headers:
        fields = fields | dict(headers)
    return _head(properties, fields, headers, content)


def _head(
    properties: Properties, fields: Mapping[str, object], headers: Headers, content: Content | None
) -> Head:
    task_id, task = fields.get("id"), fields.get("task")
    if type(task_id) is not str or type(task) is not str or not task_id or not task:
        _refuse_names(fields)
    if _utf8_size(task) < 0:
        raise _wrong("task", "valid Unicode", task)
    if not 0 < _utf8_size(task_id) <= SHORT_STRING_BYTES:
        raise DecodeError(
            f"The task id is longer than {SHORT_STRING_BYTES} bytes or not valid Unicode: {serialization.shown(task_id)}."
        )
    correlation_id = properties.correlation_id or task_id
    reply_to = properties.reply_to or None
    priority = properties.priority
    if len(fields) <= len(_COMPACT_HEADERS) and fields.keys() <= _COMPACT_HEADERS:
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
            ignore_result=None if ignore_result is None else _flag("ignore_result", ignore_result),
            origin=None if (origin := fields.get("origin")) is None else _text("origin", origin),
            content=content,
        )
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if value is not None:
            read = _READERS.get(name)
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
    raise _wrong(name, "a string", value)


def _wrong(name: str, expected: str, value: object) -> DecodeError:
    return DecodeError(
        f"The message's {name!r} must be {expected}, not {serialization.shown(value)}."
    )


def _text(name: str, value: object) -> str | None:
    if type(value) is not str:
        raise _wrong(name, "a string", value)
    if _utf8_size(value) < 0:  # from a protocol 1 body; it could not be sent on
        raise _wrong(name, "valid Unicode", value)
    return value or None


def _count(name: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise _wrong(name, "a whole number from 0", value)
    return value


def _flag(name: str, value: object) -> bool:
    if value is not True and value is not False and value not in (0, 1):
        raise _wrong(name, "true, false or null", value)
    return bool(value)


def _time(name: str, value: object) -> str | None:
    if value == "":
        return None
    if isinstance(
        value, datetime
    ):  # an AMQP timestamp, or kombu's JSON extension in a protocol 1 body
        parsed, text = value, value.isoformat()
    elif type(value) is not str:
        raise _wrong(name, "an ISO 8601 time", value)
    else:
        text = value
        try:
            parsed = datetime.fromisoformat(text)
        except ValueError:
            raise _wrong(name, "an ISO 8601 time", value) from None
    return text if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC).isoformat()


def _time_limits(name: str, value: object) -> tuple[float | None, float | None]:
    if not isinstance(value, list | tuple) or len(value) not in (0, 2):
        raise _wrong(name, "[hard, soft]", value)
    hard, soft = value or (None, None)
    return _seconds(name, hard, value), _seconds(name, soft, value)


def _seconds(name: str, value: object, limits: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise _wrong(name, "two numbers or nulls", limits)
    try:
        seconds = float(value)
    except (OverflowError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise _wrong(name, "two numbers from 0 or nulls", limits)
    # Celery reads 0 as "the task's own limit"
    return seconds or None


def _names(name: str, value: object) -> Sequence[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise _wrong(name, "a list of strings", value)
    return value


def _table(name: str, value: object) -> Mapping[str, object] | None:
    if not isinstance(value, Mapping):
        raise _wrong(name, "a table", value)
    return value or None


_READERS: dict[str, Callable[[str, object], object]] = {
    "retries": _count,
    "eta": _time,
    "expires": _time,
    "timelimit": _time_limits,
    "root_id": _text,
    "parent_id": _text,
    "group": _text,
    "group_index": _count,
    "ignore_result": _flag,
    "origin": _text,
    "shadow": _text,
    "argsrepr": _text,
    "kwargsrepr": _text,
    "replaced_task_nesting": _count,
    "stamped_headers": _names,
    "stamps": _table,
}


# ---------------------------------------------------------------- decode: the body


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
            return _content_of_fields(value)
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


def _content_of_fields(fields: dict[str, object]) -> Content:
    """The content of a protocol 1 body; other languages' clients send null for no arguments."""
    args, kwargs = fields.get("args"), fields.get("kwargs")
    embed = {
        name: fields[name]
        for name in ("callbacks", "errbacks", "chord")
        if fields.get(name) is not None
    }
    return _content([] if args is None else args, {} if kwargs is None else kwargs, embed)


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
