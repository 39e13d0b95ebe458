"""One call of a task as a value, and the message it becomes."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict

import msgspec

from amqtask.core.codec import PROTOCOL_HEADERS
from amqtask.core.message import Message
from amqtask.core.workflow import Workflow, listed, plain
from amqtask.errors import ConfigurationError
from amqtask.names import suggestion
from amqtask.request import Request

Expires = float | timedelta | datetime
"""Seconds from now, or a moment with a time zone."""

Countdown = float | timedelta
"""Seconds from now."""


class SendOptions(TypedDict, total=False):
    """What ``apply_async`` and ``send_task`` take besides the arguments. Times are seconds.

    ``None`` means the same as leaving the option out. The task runs ``countdown`` seconds from now, or at the moment ``eta``;
    one of them, and at once when that is past. An ``eta`` without a time zone is UTC, as in Celery. ``expires`` counts from
    now, not from then. ``link`` and ``link_error`` are signatures, one or a list of them: what to run when the task has
    succeeded or failed. ``add_to_parent=False``: the task that sends it does not name it among its children.
    ``stamped_headers`` names further options, of any name, that are its stamps; give those as ``**stamps``.
    """

    task_id: str | None
    countdown: Countdown | None
    eta: datetime | None
    expires: Expires | None
    queue: str | None
    exchange: str | None
    routing_key: str | None
    priority: int | None
    serializer: str | None
    compression: str | None
    headers: Mapping[str, object] | None
    ignore_result: bool | None
    reply_to: str | None
    time_limit: float | None
    soft_time_limit: float | None
    shadow: str | None
    link: object
    link_error: object
    add_to_parent: bool | None
    stamped_headers: Sequence[str] | None


class RetryOptions(TypedDict, total=False):
    """What ``retry`` takes beside its own arguments: what is different in the next attempt's message.

    A queue, or an exchange and a routing key, sends it elsewhere than the queue the task came from.
    """

    queue: str | None
    exchange: str | None
    routing_key: str | None
    priority: int | None
    expires: Expires | None
    headers: Mapping[str, object] | None
    serializer: str | None
    compression: str | None
    ignore_result: bool | None
    time_limit: float | None
    soft_time_limit: float | None
    shadow: str | None


class Call(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One call: the task's name, its arguments, and how to send it. ``ignore_result=None`` leaves that to the worker."""

    id: str
    task: str
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = {}
    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    priority: int | None = None
    serializer: str | None = None
    compression: str | None = None
    countdown: Countdown | None = None
    eta: datetime | None = None
    expires: Expires | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    ignore_result: bool | None = None
    reply_to: str | None = None
    headers: Mapping[str, object] = {}
    shadow: str | None = None
    # The options it was made of, the task's own, when it has no others: then it is like all calls made of them.
    defaults: Mapping[str, Any] | None = None
    # What it carries of the workflow it is part of.
    workflow: Workflow | None = None
    # The task whose routes hold for it, when that is another: what ``map`` runs.
    route_name: str | None = None
    # Whether the task that sends it names it among its children.
    trail: bool = True

    @property
    def later(self) -> bool:
        """Whether the call names a time, which may be past already."""
        return self.countdown is not None or self.eta is not None


_KNOWN: Final = frozenset(SendOptions.__annotations__)
_RETRIED: Final = frozenset(RetryOptions.__annotations__)


def new_id() -> str:
    """A random UUID (version 4) as text. The same as ``str(uuid.uuid4())`` in a quarter of the time."""
    try:
        return _ids.pop()
    except IndexError:
        # A few at a time, which makes each cheaper. Popped under the interpreter's lock, so that no two threads get one.
        text = os.urandom(16 * _IDS).hex()
        _ids.extend(_id_of(text, start) for start in range(32, 32 * _IDS, 32))
        return _id_of(text, 0)


_IDS: Final = 64
_ids: list[str] = []  # made and not used yet
os.register_at_fork(after_in_child=_ids.clear)  # the parent uses them


def _id_of(text: str, at: int) -> str:
    return (
        f"{text[at : at + 8]}-{text[at + 8 : at + 12]}-4{text[at + 13 : at + 16]}-"
        f"{_VARIANTS[text[at + 16]]}{text[at + 17 : at + 20]}-{text[at + 20 : at + 32]}"
    )


_VARIANTS: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def make_call(
    task: str,
    args: Sequence[object] | None,
    kwargs: Mapping[str, object] | None,
    defaults: Mapping[str, Any],
    options: Mapping[str, Any],
    function: str = "apply_async",
    workflow: Workflow | None = None,
    route_name: str | None = None,
) -> Call:
    """Join a task's own options with those of one call; the call's come first.

    Args:
        task: the task's name.
        args: positional arguments of the task.
        kwargs: keyword arguments of the task.
        defaults: the task's options, a subset of the fields of ``Call``.
        options: ``SendOptions`` as the caller wrote them.
        function: what the caller called, for messages.
        workflow: what it carries of a workflow; the options then hold at least its id.
        route_name: the task whose routes hold for it, when that is another.

    Raises:
        TypeError: arguments that are no sequence or mapping, or an unknown option, with the nearest known one.
        ValueError: an option's value makes no sense.
        ConfigurationError: a callback is nested too deeply.
    """
    arguments = positional(args, function)
    keywords = named(kwargs, function)
    if not options:
        return Call(
            id=new_id(), task=task, args=arguments, kwargs=keywords, defaults=defaults, **defaults
        )
    merged = dict(defaults)
    task_id = None
    links: dict[str, object] = {}
    stamped = options.get("stamped_headers")
    stamps = {} if stamped is None else _stamps(stamped, options, function)
    for name, value in options.items():
        if name in stamps or name == "stamped_headers":
            continue
        if name not in _KNOWN:
            raise unexpected(name, function)
        if value is None:
            continue
        if name == "task_id":
            task_id = value
        elif name == "link" or name == "link_error":
            links[name] = value
        elif name == "add_to_parent":
            merged["trail"] = bool(value)
        else:
            merged[name] = value
    if task_id is not None and not (isinstance(task_id, str) and 0 < len(task_id.encode()) <= 255):
        raise ValueError(f"task_id must be a text of 1 to 255 bytes, not {task_id!r}.")
    _drop_overruled(merged, options)
    _check(merged)
    _check_limits(merged, options)
    if links or stamps:
        callbacks = _linked("link", links.get("link"))
        errbacks = _linked("link_error", links.get("link_error"))
        if callbacks or errbacks or stamps:
            workflow = Workflow(
                callbacks=callbacks or None,
                errbacks=errbacks or None,
                stamped_headers=list(stamps) if stamps else None,
                stamps=stamps or None,
            )
    return Call(
        id=task_id or new_id(),
        task=task,
        args=arguments,
        kwargs=keywords,
        workflow=workflow,
        route_name=route_name,
        **merged,
    )


def _linked(name: str, value: object) -> list[object]:
    """Callbacks as given: one signature or several."""
    if not value:
        return []
    found = listed(value)
    for each in found:
        if not isinstance(each, Mapping) or not isinstance(each.get("task"), str):
            raise TypeError(
                f"{name} takes a signature or a list of them, not {type(each).__name__}; write task.s(…)."
            )
    try:
        return [plain(each) for each in found]
    except RecursionError:
        raise ConfigurationError(f"{name} contains itself, or is nested too deeply.") from None


def _stamps(stamped: object, options: Mapping[str, Any], function: str) -> dict[str, Any]:
    """The stamps among the options, which ``stamped_headers`` names."""
    names = listed(stamped)
    if not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"stamped_headers must be a list of names, not {stamped!r}.")
    for name in names:
        if name not in options:
            raise TypeError(
                f"{function}() was given no {name!r}, which stamped_headers names; write {function}(…, {name}=…)."
            )
    return {name: options[name] for name in names}


def unexpected(name: str, function: str) -> TypeError:
    """The error of an option that nobody knows, with the nearest known one."""
    hint = suggestion(name, _KNOWN)
    return TypeError(f"{function}() got an unexpected option {name!r}.{hint}")


def positional(args: object, function: str) -> Sequence[object]:
    """Positional arguments as given to ``apply_async``; a lone value is the common slip, and named as such."""
    if args is None:
        return ()
    if isinstance(args, (tuple, list)):
        return args
    raise TypeError(
        f"{function}() takes the task's arguments as a tuple or a list, not {type(args).__name__}; "
        "for one argument write (value,)."
    )


def named(kwargs: object, function: str) -> Mapping[str, object]:
    """Keyword arguments as given to ``apply_async``."""
    if kwargs is None:
        return {}
    if isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs):
        return kwargs
    raise TypeError(f"{function}() takes the task's keyword arguments as a mapping with text keys.")


def _drop_overruled(merged: dict[str, Any], options: Mapping[str, Any]) -> None:
    """A place named in the call replaces the task's own as a whole: half of each would lead nowhere."""
    places = ("queue", "exchange", "routing_key")
    if any(options.get(place) is not None for place in places):
        for place in places:
            if options.get(place) is None:
                merged.pop(place, None)


def _check(merged: Mapping[str, Any]) -> None:
    priority = merged.get("priority")
    if priority is not None and not (type(priority) is int and 0 <= priority <= 255):
        raise ValueError(f"priority must be a whole number from 0 to 255, not {priority!r}.")
    for name in ("time_limit", "soft_time_limit"):
        limit = merged.get(name)
        if limit is not None and not (_is_number(limit) and 0 < limit < math.inf):
            raise ValueError(f"{name} must be seconds above zero, not {limit!r}.")
    headers = merged.get("headers")
    if headers is not None and not (
        isinstance(headers, Mapping) and all(isinstance(name, str) for name in headers)
    ):
        raise TypeError("headers must be a mapping with text keys.")
    for name in (
        "queue",
        "exchange",
        "routing_key",
        "reply_to",
        "shadow",
        "serializer",
        "compression",
    ):
        value = merged.get(name)
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name} must be a text, not {type(value).__name__}.")
    expires = merged.get("expires")
    if expires is not None:
        check_expires(expires)
    countdown, eta = merged.get("countdown"), merged.get("eta")
    if countdown is not None:
        check_countdown(countdown)
        if eta is not None:
            raise ValueError("countdown and eta both say when the task runs; give one of them.")
    if eta is not None and not isinstance(eta, datetime):
        raise TypeError(f"eta must be a datetime, not {type(eta).__name__}.")


def _check_limits(merged: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse a soft limit that could never be reached; one of the task's own may give way to a shorter hard limit of the call."""
    hard, soft = merged.get("time_limit"), merged.get("soft_time_limit")
    if hard is not None and options.get("soft_time_limit") is not None and soft > hard:
        raise ValueError(f"soft_time_limit ({soft:g} s) must not be above time_limit ({hard:g} s).")


def check_countdown(countdown: object) -> None:
    """Refuse what is no time span.

    Raises:
        TypeError: neither a number nor a timedelta.
        ValueError: a number that is none.
    """
    if isinstance(countdown, timedelta):
        return
    if not _is_number(countdown):
        raise TypeError(
            f"countdown must be seconds or a timedelta, not {type(countdown).__name__}."
        )
    try:
        timedelta(seconds=countdown)  # type: ignore[arg-type]  # a number: _is_number said so
    except (OverflowError, ValueError):
        raise ValueError(f"countdown is no usable number of seconds: {countdown!r}.") from None


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a retry that say something.

    Args:
        options: ``RetryOptions`` as the task wrote them.

    Raises:
        TypeError: an unknown option, with the nearest known one, or a value of another type.
        ValueError: a value that makes no sense.
    """
    for name in options:
        if name not in _RETRIED:
            hint = suggestion(name, _RETRIED)
            raise TypeError(f"retry() got an unexpected option {name!r}.{hint}")
    said = {name: value for name, value in options.items() if value is not None}
    _check(said)
    _check_limits(said, said)
    for name in said.get("headers", ()):
        if name in PROTOCOL_HEADERS:
            raise ValueError(
                f"header {name!r} belongs to the message protocol; choose another name."
            )
    return said


def check_expires(expires: object) -> None:
    """Refuse what is no time span and no moment.

    Raises:
        TypeError: neither a number nor a timedelta nor a datetime.
        ValueError: a datetime without a time zone, or a number that is none.
    """
    if isinstance(expires, datetime):
        if expires.tzinfo is None:
            raise ValueError(
                "expires is a datetime without a time zone; write datetime.now(timezone.utc) + timedelta(…)."
            )
    elif not isinstance(expires, timedelta):
        if not _is_number(expires):
            raise TypeError(
                f"expires must be seconds, a timedelta or a datetime, not {type(expires).__name__}."
            )
        try:
            timedelta(seconds=expires)  # type: ignore[arg-type]  # a number: _is_number said so
        except (OverflowError, ValueError):
            raise ValueError(f"expires is no usable number of seconds: {expires!r}.") from None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def due_at(
    countdown: Countdown | None, eta: datetime | None, now: datetime
) -> tuple[str | None, float]:
    """When a call is due: the moment as it travels (ISO 8601 with microseconds and offset), and the seconds until then.

    Zero seconds are "at once". A countdown that is not above zero names no moment; an ``eta`` in the past is kept, for the
    task to see. An ``eta`` without a time zone is UTC.

    Raises:
        ValueError: the moment lies outside the calendar.
    """
    if countdown is not None:
        span = countdown if isinstance(countdown, timedelta) else timedelta(seconds=countdown)
        if span <= timedelta():
            return None, 0.0
        try:
            eta = now + span
        except OverflowError:
            raise ValueError(f"countdown lies outside the calendar: {countdown!r}.") from None
        return eta.isoformat(timespec="microseconds"), span.total_seconds()
    if eta is None:
        return None, 0.0
    if eta.tzinfo is None:
        eta = eta.replace(tzinfo=UTC)
    return eta.isoformat(timespec="microseconds"), max(0.0, (eta - now).total_seconds())


def expires_at(expires: Expires | None, now: datetime) -> str | None:
    """The moment a call expires, as it travels: ISO 8601 with microseconds and offset.

    Raises:
        ValueError: the moment lies outside the calendar.
    """
    if expires is None:
        return None
    if isinstance(expires, datetime):
        return expires.isoformat(timespec="microseconds")
    span = expires if isinstance(expires, timedelta) else timedelta(seconds=expires)
    try:
        return (now + span).isoformat(timespec="microseconds")
    except OverflowError:
        raise ValueError(f"expires lies outside the calendar: {expires!r}.") from None


_NONE: Final = Workflow()


def message_of(
    call: Call,
    *,
    reply_to: str | None,
    priority: int,
    serializer: str,
    compression: str | None,
    origin: str,
    parent: Request | None,
    eta: str | None,
    expires: str | None,
) -> Message:
    """The message of a call.

    Args:
        call: the call.
        reply_to: where the result goes; the call's own ``reply_to`` comes first.
        priority: what the call and its route came to.
        serializer: used when the call names none.
        compression: used when the call names none.
        origin: who sends.
        parent: the task that runs in this context, which this one then belongs to.
        eta: what ``due_at`` made of the call's.
        expires: what ``expires_at`` made of the call's.
    """
    workflow = call.workflow or _NONE
    return Message(
        id=call.id,
        task=call.task,
        args=call.args,
        kwargs=call.kwargs,
        eta=eta,
        expires=expires,
        time_limit=call.time_limit,
        soft_time_limit=call.soft_time_limit,
        root_id=workflow.root_id
        or (call.id if parent is None else (parent.root_id or parent.id or call.id)),
        parent_id=workflow.parent_id or (None if parent is None else parent.id),
        group=workflow.group,
        group_index=workflow.group_index,
        callbacks=workflow.callbacks,
        errbacks=workflow.errbacks,
        chain=workflow.chain,
        chord=workflow.chord,
        replaced_task_nesting=workflow.replaced_task_nesting,
        stamped_headers=workflow.stamped_headers,
        stamps=workflow.stamps,
        reply_to=call.reply_to or reply_to,
        correlation_id=call.id,
        priority=priority,
        ignore_result=call.ignore_result,
        origin=origin,
        shadow=call.shadow,
        headers=call.headers,
        serializer=call.serializer or serializer,
        compression=call.compression or compression,
    )
