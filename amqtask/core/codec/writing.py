"""Task messages to envelopes: Celery's task protocol 2, without the headers that hold their defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from amqtask.core import compression, serialization
from amqtask.core.codec.fields import READERS, moment
from amqtask.core.codec.headers import (
    PROTOCOL_HEADERS,
    headers_size,
    is_broker_header,
    utf8_size,
    value_size,
)
from amqtask.core.codec.limits import LIMITS, SHORT_STRING_BYTES, Limits
from amqtask.core.message import Envelope, Headers, Message, Properties
from amqtask.errors import DecodeError, EncodeError, PayloadTooLarge

_reader = READERS.get  # bound here: to look up a method of something imported costs more

# The longest per-message TTL RabbitMQ takes, ten years (asked of 3.10 and 4.3); one above it closes the channel.
LONGEST_EXPIRATION = 315_360_000_000


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
    if utf8_size(task) < 0:
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
    size = utf8_size(value)
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
        read = _reader(name)
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
        widest = max(headers, key=lambda name: value_size(name, headers[name], 0))
        raise PayloadTooLarge(
            f"Task {task:.200}: the headers take {size} bytes, above headers_max_bytes ({limits.headers_max_bytes}); "
            f"the largest is {widest!r:.80}."
        )
