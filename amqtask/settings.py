"""One typed settings object, with Celery's names where Celery has the setting.

``Settings.parse(mapping)`` reads what a user wrote: an unknown name or a wrong type is an error that names it and suggests
the nearest. No file and no environment is read here; ``broker_url`` is resolved by ``amqtask.place``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from amqtask.errors import ConfigurationError
from amqtask.names import suggestion

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Limit = Annotated[float, msgspec.Meta(gt=0, le=1e9)]  # of a task's time; thirty years is for ever


class TaskRoute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``task_routes``: where tasks whose name matches a glob go. ``queue``, or exchange and routing key."""

    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    priority: int | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set for an app. Times are seconds, sizes bytes."""

    # broker
    broker_url: str | None = None
    broker_heartbeat: Annotated[int, msgspec.Meta(ge=0)] = 10
    broker_connection_timeout: Positive = 4.0
    # where the URL names several brokers: tried in their order, or each connection in an order of its own
    broker_failover_strategy: Literal["round-robin", "shuffle"] = "round-robin"
    # False: a worker ends when no broker answers at its start. (What it lost later is always found again.)
    broker_connection_retry_on_startup: bool = True
    broker_fast_frames: bool = True  # False: every frame goes through pika's own codec

    # publishing
    publish_timeout: Positive = 10.0
    publish_window: Count = 1000  # publishes without a confirm yet, per process
    publish_buffer: Count = (
        10_000  # publishes waiting in the process; a full buffer makes callers wait
    )
    task_default_queue: str = "default"
    task_routes: dict[
        str, TaskRoute
    ] = {}  # globs over task names, in order; the topology's routes come after
    task_default_priority: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    task_serializer: str = "json"
    task_compression: str | None = None
    task_ignore_result: bool = False
    task_inherit_parent_priority: bool = (
        False  # what a task sends has the task's priority, unless it names its own
    )
    message_max_bytes: Count = 16 * 1024 * 1024
    headers_max_bytes: Count = 64 * 1024

    # receiving
    accept_content: tuple[str, ...] = ("json", "msgpack")
    decompressed_max_bytes: Count = 64 * 1024 * 1024

    # results
    result_serializer: str = "json"
    # a result also tells its task's name, arguments, retries, node and queue
    result_extended: bool = False
    # of reply queues; classic ones live on one node of a cluster, quorum ones on a majority
    result_queue_type: Literal["classic", "quorum"] = "classic"
    result_queue_expires: Positive = (
        1800.0  # a reply queue goes this long after its process vanished
    )

    # the errbacks of a chord are also those of each task in its header, not of its body alone
    task_allow_error_cb_on_chord_header: bool = False
    # chords: the queue in which the parts of one gather goes, and the chord with it, when none has ended for so long and for
    # what countdown and eta put them off (RabbitMQ takes ten years)
    result_chord_expires: Annotated[float, msgspec.Meta(gt=0, le=315_360_000)] = 7 * 86400.0
    chord_queue_type: Literal["classic", "quorum"] = "classic"
    # queues that Celery's workers serve: parts of chords that go there tell of their ends by callbacks
    task_celery_queues: tuple[str, ...] = ()

    # tasks
    task_acks_late: bool = True
    task_track_started: bool = False
    task_time_limit: Limit | None = None
    task_soft_time_limit: Limit | None = None

    # verdicts: what the cluster must know of task ids (revoked, crashed its process, killed at its hard limit)
    verdict_max_age: Positive = 7 * 86400.0  # how long one holds
    verdict_max_bytes: Annotated[int, msgspec.Meta(ge=1_000_000)] = 100_000_000  # of their stream

    # workers
    worker_concurrency: Count | None = None  # None: one slot per CPU
    worker_autoscale_keepalive: Positive = (
        30.0  # with --autoscale, a child that was not needed for so long goes
    )
    worker_prefetch_multiplier: Count | None = None  # None: hold about 100 ms of work per slot
    worker_pool: str = "prefork"
    worker_max_tasks_per_child: Count | None = None
    worker_max_memory_per_child: Count | None = None  # KiB of resident memory, as in Celery
    # A stopping node waits so long for running tasks, then gives them back: after TERM (0: for ever) as after QUIT.
    worker_soft_shutdown_timeout: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    worker_shutdown_timeout: Positive | None = None  # another time for TERM
    worker_frozen_timeout: Positive = 3.0  # a child stopped by SIGSTOP for so long is replaced
    worker_successful_max: Count = 1000  # finished tasks remembered, whose ack may have been lost

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Settings:
        """Read settings as a user wrote them.

        Raises:
            ConfigurationError: an unknown name (with the nearest known one) or a value of the wrong type.
        """
        known = cls.__struct_fields__
        for name in values:
            if name not in known:
                hint = suggestion(name, known)
                raise ConfigurationError(f"Unknown setting {name!r}.{hint}")
        try:
            settings = msgspec.convert(dict(values), cls, strict=True)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"Bad setting: {error}.") from None
        soft, hard = settings.task_soft_time_limit, settings.task_time_limit
        if soft is not None and hard is not None and soft > hard:
            raise ConfigurationError(
                f"task_soft_time_limit ({soft:g} s) must not be above task_time_limit ({hard:g} s)."
            )
        return settings

    def replace(self, **changes: Any) -> Settings:
        """A copy with the given settings changed, checked like ``parse``."""
        current = {name: getattr(self, name) for name in self.__struct_fields__}
        return Settings.parse(current | changes)
