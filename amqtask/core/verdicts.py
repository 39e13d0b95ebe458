"""Verdicts: what every node of a cluster must know about task ids, as records of one stream.

A record is an event that happened once: revoked, crashed its child, ended at its hard limit, aborted. Nodes fold the events
into what holds for an id; ``event`` is unique, so a record that arrives twice counts once.
"""

from __future__ import annotations

import enum
import uuid

import msgspec

from amqtask.core.message import Envelope, Properties, Publication
from amqtask.errors import DecodeError

STREAM = "amqtask.verdicts"


class Kind(enum.Enum):
    """What a record says.

    ``MARK`` says nothing about tasks: a node publishes one at its start, and has read everything older when it comes back.
    """

    REVOKED = "revoked"
    CRASHED = "crashed"
    HARD_LIMIT = "hard-limit"
    ABORTED = "aborted"
    MARK = "mark"


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event.

    Args:
        kind: what happened.
        event: unique; two copies of one event have the same.
        origin: the node or process that says so.
        time: seconds since the epoch.
        ids: the tasks it is about.
        headers: ``REVOKED`` by headers: tasks one of whose headers has one of these values.
        terminate: ``REVOKED``: end the task where it runs.
        signal: ``REVOKED`` with ``terminate``: the signal's name, ``"TERM"``.
        cause: ``CRASHED``: how the child ended, for people: ``"signal SIGSEGV"``, ``"exit code 3"``.
        task: ``CRASHED`` and ``HARD_LIMIT``: the task's name.
    """

    kind: Kind
    event: str
    origin: str
    time: float
    ids: tuple[str, ...] = ()
    headers: dict[str, list[str]] = {}
    terminate: bool = False
    signal: str = "TERM"
    cause: str | None = None
    task: str | None = None


def new_event() -> str:
    """A name no other event has."""
    return uuid.uuid4().hex


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def publication(record: Record) -> Publication:
    """The publication that adds a record to the stream."""
    return Publication(
        "",
        STREAM,
        Envelope(
            _encoder.encode(record),
            Properties(
                content_type="application/json",
                delivery_mode=2,
                message_id=record.event,
                type=f"amqtask.verdict.{record.kind.value}",
                timestamp=int(record.time),
            ),
        ),
    )


def decode(body: bytes) -> Record:
    """Read a record.

    Raises:
        DecodeError: it is none; a reader logs that and goes on.
    """
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DecodeError(f"Not a verdict: {error}.") from None
