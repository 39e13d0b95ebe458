"""All of a task message that is not in its body, as a value; and what can be known of one that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from amqtask.core.codec.fields import moment
from amqtask.core.codec.headers import utf8_size
from amqtask.core.codec.limits import SHORT_STRING_BYTES
from amqtask.core.message import Headers, Properties


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
    if not isinstance(task_id, str) or not 0 < utf8_size(task_id) <= SHORT_STRING_BYTES:
        task_id = correlation_id
    return Identity(
        id=task_id,
        task=task if isinstance(task, str) and task else None,
        correlation_id=correlation_id or task_id,
        reply_to=properties.reply_to or None,
    )
