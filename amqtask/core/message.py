"""A task message as a value, and its form on the wire.

``Message`` is what amqtask reasons about; ``Envelope`` is the body and the AMQP properties that travel. ``codec`` turns
one into the other.

``gc=False``: thousands of these are on their way at a time, none is ever part of a cycle, and without it the garbage
collector walks through all of them again and again, a quarter of the time that a batch takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

Headers = Mapping[str, object]


class Properties(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The AMQP 0-9-1 basic properties; ``None`` means the property is absent.

    ``expiration`` is milliseconds as a decimal string, ``timestamp`` seconds since the epoch, as AMQP has them.
    """

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Headers | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None
    cluster_id: str | None = None


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """What is published or was received: a body and its properties."""

    body: bytes
    properties: Properties


class Publication(msgspec.Struct, frozen=True, gc=False):
    """An envelope and where it goes. ``mandatory``: the broker returns it when no queue is bound.

    ``header`` holds the envelope's properties as they travel, when they are encoded already.
    """

    exchange: str
    routing_key: str
    envelope: Envelope
    mandatory: bool = True
    header: bytes | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One task message, independent of its encoding (Celery's protocol 2).

    ``eta`` and ``expires`` are ISO 8601 strings with an offset, as on the wire. Time limits are seconds. ``headers`` holds
    the user's own headers only. ``ignore_result`` is ``None`` when the sender leaves it to the task. ``root_id`` is the
    task's own id for a task that nothing else started.
    """

    id: str
    task: str
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = {}
    retries: int = 0
    eta: str | None = None
    expires: str | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    callbacks: Sequence[object] | None = None
    errbacks: Sequence[object] | None = None
    chain: Sequence[object] | None = None
    chord: object = None
    reply_to: str | None = None
    correlation_id: str | None = None
    priority: int | None = None
    ignore_result: bool | None = None
    origin: str | None = None
    shadow: str | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    replaced_task_nesting: int = 0
    stamped_headers: Sequence[str] | None = None
    stamps: Mapping[str, object] | None = None
    headers: Headers = {}
    serializer: str = "json"
    compression: str | None = None
