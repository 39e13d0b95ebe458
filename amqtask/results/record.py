"""A reply as its reader sees it: the state of a task, with values and exceptions rebuilt."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from typing import Any

import msgspec

from amqtask.core import codec
from amqtask.core.message import Envelope
from amqtask.core.result import (
    EXCEPTION_STATES,
    FAILURE,
    READY_STATES,
    Record,
    attach_remote_traceback,
    decode_result,
    exception_from_wire,
)
from amqtask.errors import MessageError


class Known(msgspec.Struct, frozen=True):
    """What is known of one task: its state; the return value, exception or progress; the remote traceback.

    ``children`` are what it started, each in Celery's tuple form; ``record`` is all that its worker told, as it came.
    """

    state: str
    value: Any = None
    traceback: str | None = None
    children: Sequence[object] = ()
    record: Record | None = None

    @property
    def final(self) -> bool:
        """Whether the task has ended."""
        return self.state in READY_STATES


def read_reply(
    envelope: Envelope,
    *,
    accept: Container[str],
    limits: codec.Limits,
    import_from: Collection[str] = (),
) -> Known:
    """Read a reply. A reply that cannot be read is a FAILURE whose exception says why; nothing is raised.

    Args:
        envelope: body and properties as received.
        accept: content types that may be decoded.
        limits: sizes that a body may have.
        import_from: modules that may be imported to rebuild an exception.
    """
    try:
        record = decode_result(envelope.properties, envelope.body, accept=accept, limits=limits)
    except MessageError as error:
        return Known(FAILURE, error)
    if record.status not in EXCEPTION_STATES:
        return Known(record.status, record.result, record.traceback, record.children, record)
    rebuilt = exception_from_wire(record.result, import_from=import_from)
    attach_remote_traceback(rebuilt, record.traceback)
    return Known(record.status, rebuilt, record.traceback, record.children, record)
