"""Results on the wire: the record a worker sends back, and exceptions as data.

The format is Celery's: a reply is one message whose body is the record as a mapping, and an exception in it is
``{"exc_type", "exc_message", "exc_module"}``. Received names never lead to a call of anything but a subclass of
``Exception``: a result queue is data, not a program.

All functions are pure except ``exception_from_wire``, which may import a module its caller allowed. Any thread.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Collection, Container, Mapping, Sequence
from types import ModuleType, TracebackType
from typing import Any

import msgspec

from amqtask import errors
from amqtask.core import codec, serialization
from amqtask.core.message import Envelope, Properties
from amqtask.errors import (
    AmqtaskError,
    DecodeError,
    Directive,
    PayloadTooLarge,
    TaskFailed,
)

PENDING = "PENDING"
RECEIVED = "RECEIVED"
STARTED = "STARTED"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
REJECTED = "REJECTED"
RETRY = "RETRY"
IGNORED = "IGNORED"

READY_STATES = frozenset({SUCCESS, FAILURE, REVOKED})
"""States after which nothing more comes."""
EXCEPTION_STATES = frozenset({RETRY, FAILURE, REVOKED})
"""States whose ``result`` is an exception in its wire form."""

TRACEBACK_CHARS = 64 * 1024
"""How much of a traceback travels; a recursion over several functions prints megabytes."""


MOST_LEVELS = 100
"""How far the tree of what a task has started travels with its result: serializers end at a few hundred nested values."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says about one task, once for every state it reports.

    ``result`` is the return value, an exception in wire form (``EXCEPTION_STATES``), or what the task gave
    ``update_state``. ``date_done`` is ISO 8601, set in ready states. ``name`` to ``queue`` are Celery's extended fields,
    sent only when set.
    """

    task_id: str
    status: str
    result: object = None
    traceback: str | None = None
    children: Sequence[object] = ()
    date_done: str | None = None
    group_id: str | None = None
    parent_id: str | None = None
    name: str | None = None
    args: object = None
    kwargs: object = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None


def trimmed(tree: Any, levels: int = MOST_LEVELS) -> Any:
    """A result in Celery's tuple form without what is further away from its root than so many steps.

    Args:
        tree: ``((id, parent or None), None or [children])``.
        levels: steps to a parent or to a member.
    """
    (task_id, parent), members = tree
    if not levels:
        return ((task_id, None), None if members is None else [])
    return (
        (task_id, None if parent is None else trimmed(parent, levels - 1)),
        None if members is None else [trimmed(member, levels - 1) for member in members],
    )


def encode_result(
    record: Record,
    serializer: str = "json",
    *,
    correlation_id: str | None = None,
    limits: codec.Limits = codec.LIMITS,
) -> Envelope:
    """Make the reply message of a record: persistent, priority 0, for the queue that ``reply_to`` named.

    Args:
        record: what to report.
        serializer: name of the serializer.
        correlation_id: the task message's own; ``None`` means the task id.
        limits: ``message_max_bytes`` bounds the body.

    Raises:
        EncodeError: the return value has no form in this serializer; nothing was sent, so a failure can be sent instead.
        PayloadTooLarge: the record is above the limit; likewise.
    """
    content: dict[str, object] = {
        "status": record.status,
        "result": record.result,
        "traceback": record.traceback,
        "children": record.children,
        "date_done": record.date_done,
        "task_id": record.task_id,
    }
    if record.group_id is not None:
        content["group_id"] = record.group_id
    if record.parent_id is not None:
        content["parent_id"] = record.parent_id
    if record.name is not None:
        content["name"] = record.name
    if record.args is not None:
        content["args"] = record.args
    if record.kwargs is not None:
        content["kwargs"] = record.kwargs
    if record.worker is not None:
        content["worker"] = record.worker
    if record.retries is not None:
        content["retries"] = record.retries
    if record.queue is not None:
        content["queue"] = record.queue
    form = serialization.serializer(serializer)
    try:
        body = form.encode(content)
    except Exception:  # noqa: BLE001 - users' __json__ and __reduce__ methods run here
        # Encode the return value alone first: then the sentence is about it, not about the record.
        serialization.dumps(
            record.result, serializer, subject=f"The result of task {record.task_id}"
        )
        body = serialization.dumps(
            content, serializer, subject=f"The record of task {record.task_id}"
        )
    if len(body) > limits.message_max_bytes:
        raise PayloadTooLarge(
            f"The result of task {record.task_id} is {len(body)} bytes, above message_max_bytes "
            f"({limits.message_max_bytes}); store the data elsewhere and return a reference to it."
        )
    return Envelope(
        body,
        Properties(
            content_type=form.content_type,
            content_encoding=form.content_encoding,
            delivery_mode=2,
            priority=0,
            correlation_id=correlation_id or record.task_id,
        ),
    )


def decode_result(
    properties: Properties,
    body: bytes,
    *,
    accept: Container[str] = codec.ACCEPT,
    limits: codec.Limits = codec.LIMITS,
) -> Record:
    """Read a reply, from amqtask or from Celery.

    Args:
        properties: the AMQP properties; ``correlation_id`` stands in for a missing ``task_id``.
        body: the body as received.
        accept: names or mime types of the serializers that may be read.
        limits: sizes that a body may have.

    Raises:
        DecodeError: this is no result record.
        ContentRefused: content type, encoding or compression is not acceptable; the body has not been decoded.
    """
    content = codec.load(properties, body, accept, limits)
    if not isinstance(content, dict):
        raise DecodeError(
            f"A result must be a mapping, not a value of type {serialization.type_name(content)}."
        )
    task_id = content.get("task_id") or properties.correlation_id
    if not isinstance(task_id, str) or not task_id:
        raise DecodeError(f"A result must name its task, not {serialization.shown(task_id)}.")
    status = content.get("status")
    if not isinstance(status, str) or not status:
        raise DecodeError(
            f"The status of a result must be a string, not {serialization.shown(status)}."
        )
    children = content.get("children")
    if children is None:
        children = ()
    elif not isinstance(children, list | tuple):
        raise DecodeError(
            f"The children of a result must be a list, not {serialization.shown(children)}."
        )
    retries = content.get("retries")
    return Record(
        task_id=task_id,
        status=status,
        result=content.get("result"),
        traceback=_text(content, "traceback"),
        children=children,
        date_done=_text(content, "date_done"),
        group_id=_text(content, "group_id"),
        parent_id=_text(content, "parent_id"),
        name=_text(content, "name"),
        args=content.get("args"),
        kwargs=content.get("kwargs"),
        worker=_text(content, "worker"),
        retries=retries if type(retries) is int else None,
        queue=_text(content, "queue"),
    )


def _text(content: Mapping[object, object], name: str) -> str | None:
    value = content.get(name)
    if value is None or isinstance(value, str):
        return value
    isoformat = getattr(
        value, "isoformat", None
    )  # kombu's JSON extension may have made a datetime of it
    return str(isoformat() if callable(isoformat) else value)


# ---------------------------------------------------------------- exceptions out


def exception_to_wire(error: BaseException, serializer: str = "json") -> dict[str, object]:
    """An exception as data, as Celery's backends write it. Never raises for any exception.

    Arguments of the exception that the serializer cannot write travel as their ``repr``. A ``TaskFailed`` travels as the
    exception it stands for.

    Raises:
        ConfigurationError: unknown serializer.
    """
    form = serialization.serializer(serializer)
    if isinstance(error, TaskFailed):
        return {
            "exc_type": error.exc_type,
            "exc_message": [error.message],
            "exc_module": error.exc_module,
        }
    kind = type(error)
    module: object = kind.__module__  # a class may have put anything there
    return {
        "exc_type": kind.__qualname__,
        "exc_message": [_writable(item, form) for item in _arguments(error)],
        "exc_module": module if isinstance(module, str) else None,
    }


def _arguments(error: BaseException) -> Sequence[object]:
    """What the class is called with to make this exception again."""
    try:
        if isinstance(error, AmqtaskError | Directive):
            reduced = error.__reduce__()  # some of ours compose their text from other arguments
            if isinstance(reduced, tuple) and isinstance(reduced[1], tuple):
                return reduced[1]
        return list(error.args)
    except Exception:  # noqa: BLE001 - a class may have replaced args or __reduce__ by anything
        return [safe_text(error)]


def _writable(item: object, form: serialization.Serializer) -> object:
    try:
        form.encode(item)
    except Exception:  # noqa: BLE001 - whatever the reason, its repr can be written
        return safe_repr(item)
    return item


def safe_repr(value: object) -> str:
    """``repr`` that never raises and always has a UTF-8 form."""
    try:
        return _encodable(repr(value))
    except Exception:  # noqa: BLE001 - a broken __repr__
        return f"<unprintable {serialization.type_name(value)}>"


def safe_text(value: object) -> str:
    """``str`` that never raises and always has a UTF-8 form."""
    try:
        return _encodable(str(value))
    except Exception:  # noqa: BLE001 - a broken __str__
        return f"<unprintable {serialization.type_name(value)}>"


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


# ---------------------------------------------------------------- exceptions in

# Classes of Celery that amqtask has under the same name; used where Celery itself is not loaded.
_CELERY_MODULES = frozenset({"celery.exceptions", "billiard.exceptions", "billiard.einfo"})


class RemoteTraceback(Exception):
    """Cause of an exception that was raised in a worker; its text is the traceback printed there."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


def exception_from_wire(wire: object, *, import_from: Collection[str] = ()) -> Exception:
    """Make the exception again, as its own class where that class can be had, else as ``TaskFailed``. Never raises.

    The class must be a subclass of ``Exception`` found by plain names in a module that is already imported, or in one that
    ``import_from`` covers. A remote ``SystemExit`` or ``KeyboardInterrupt`` is a ``TaskFailed``: it ended a task over there,
    and must not end the process that asks for the result.

    Args:
        wire: what ``Record.result`` holds in an exception state.
        import_from: modules, with all inside them, that may be imported to find the class: the packages of the app.
    """
    if isinstance(wire, Exception):  # a pickled result of Celery
        return wire
    if not isinstance(wire, Mapping):
        return TaskFailed("Exception", None, safe_text(wire))
    exc_type, exc_module = wire.get("exc_type"), wire.get("exc_module")
    message = wire.get("exc_message", ())
    arguments = tuple(message) if isinstance(message, list | tuple) else (message,)
    if not isinstance(exc_type, str) or not exc_type:
        return TaskFailed("Exception", None, _summary(arguments))
    if not isinstance(exc_module, str):
        return TaskFailed(exc_type, None, _summary(arguments))
    found = _find(exc_module, exc_type, import_from)
    made = None if found is None else _make(found, arguments)
    return TaskFailed(exc_type, exc_module, _summary(arguments)) if made is None else made


def _find(module: str, path: str, import_from: Collection[str]) -> type[Exception] | None:
    loaded = sys.modules.get(module)
    if loaded is None and module in _CELERY_MODULES:
        ours = vars(errors).get(path)
        if isinstance(ours, type) and issubclass(ours, AmqtaskError | Directive):
            return ours
    if loaded is None:
        loaded = _import(module, import_from)
    if not isinstance(loaded, ModuleType):
        return None
    # A qualified name leads from the module through classes only, by what each holds itself: no attribute is computed on
    # the way, and no other module is reached.
    first, *nested = path.split(".")
    scope: object = vars(loaded).get(first)
    for name in nested:
        if not isinstance(scope, type):
            return None
        scope = vars(scope).get(name)
    return scope if isinstance(scope, type) and issubclass(scope, Exception) else None


def _import(module: str, import_from: Collection[str]) -> ModuleType | None:
    if not any(module == name or module.startswith(f"{name}.") for name in import_from):
        return None
    if not all(part.isidentifier() for part in module.split(".")):
        return None
    try:
        return importlib.import_module(module)
    except Exception:  # noqa: BLE001 - what the user's module does at import; the caller gets TaskFailed instead
        return None


def _make(kind: type[Exception], arguments: tuple[object, ...]) -> Exception | None:
    try:
        made: object = kind(*arguments)
    except Exception:  # noqa: BLE001 - its __init__ wants other arguments than it passed on
        try:
            made = kind.__new__(kind, *arguments)
            if isinstance(made, Exception):
                made.args = arguments
                str(made)  # without __init__ attributes may be missing that __str__ needs
        except Exception:  # noqa: BLE001 - see above
            return None
    return made if isinstance(made, Exception) else None


def _summary(arguments: tuple[object, ...]) -> str:
    """The text ``str`` of an exception with these arguments has."""
    if len(arguments) == 1:
        return safe_text(arguments[0])
    return safe_repr(arguments) if arguments else ""


def attach_remote_traceback(error: Exception, text: str | None) -> Exception:
    """Make ``error`` print the remote traceback above its own, as ``concurrent.futures`` does. Returns ``error``.

    Args:
        error: a fresh exception of ``exception_from_wire``.
        text: the traceback of the record; ``None`` or empty leaves the exception alone.
    """
    if text:
        error.__cause__ = RemoteTraceback(text)
    return error


# ---------------------------------------------------------------- tracebacks


def format_traceback(error: BaseException, *, limit: int = TRACEBACK_CHARS) -> str:
    """The traceback of a failed task as text, from the user's first frame on. Never raises.

    Frames of amqtask at the top are left out, unless there are no others. A text above ``limit`` characters loses its middle.

    Args:
        error: the exception as caught.
        limit: characters of text to keep.
    """
    try:
        lines = traceback.format_exception(type(error), error, _users_part(error.__traceback__))
        text = "".join(lines)
    except Exception:  # noqa: BLE001 - an exception class can break the formatting of itself
        text = f"{serialization.type_name(error)}: {safe_text(error)}\n"
    text = _encodable(text)
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n  … {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def _users_part(frames: TracebackType | None) -> TracebackType | None:
    at = frames
    while at is not None:
        module = at.tb_frame.f_globals.get("__name__", "")
        if not (isinstance(module, str) and (module == "amqtask" or module.startswith("amqtask."))):
            return at
        at = at.tb_next
    return frames
