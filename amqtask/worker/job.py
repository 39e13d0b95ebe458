"""What every child of a node works on: the app and what its start settled, as one value.

Made once in the fork server by ``prepare``; children inherit it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from amqtask.amqp.address import Address
from amqtask.app import App
from amqtask.settings import Settings
from amqtask.topology.plan import DeadLetterTarget, Declaration

LATELY = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Job:
    """The work of a node.

    Args:
        app: the user's application.
        node: the node's name.
        addresses: brokers.
        queues: what to consume.
        prefetch: messages a child holds at most per queue; ``None`` follows the length of the tasks.
        declares: whether the node declares what it needs, or only checks that it is there.
        declarations: carried out on every new channel; empty when the node only checks.
        dead_letters: exchange and routing key for the dead letters of each queue that has a place for them.
        max_crashes: how often a task of a queue may kill its child before it is a dead letter.
        max_returns: how often a message of a queue may have come back before it is not given back any more to make room.
        consumer_timeouts: seconds a message of a queue may be held, where a consumer can ask for that.
        settings: the app's settings with the command line's over them.
        max_tasks: tasks after which a child is replaced.
        max_memory: KiB of resident memory after which a child is replaced.
        single_active: one of the queues has a single active consumer.
        measured: queues whose messages the node's agent counts, for a node that scales itself.
        pool: which pool the children run.
        delivery_limits: how often the broker hands out a message of a queue again, where that is known and has an end.
        declared_at: when the node carried the declarations out itself, monotonic.
    """

    app: App
    node: str
    addresses: tuple[Address, ...]
    queues: tuple[str, ...]
    prefetch: int | None
    declares: bool
    declarations: tuple[Declaration, ...]
    dead_letters: Mapping[str, DeadLetterTarget]
    max_crashes: Mapping[str, int]
    max_returns: Mapping[str, int]
    consumer_timeouts: Mapping[str, float]
    settings: Settings
    max_tasks: int | None
    max_memory: int | None
    single_active: bool = False
    measured: tuple[str, ...] = ()
    pool: str = "prefork"
    declared_at: float = -math.inf
    delivery_limits: Mapping[str, int] = field(default_factory=dict)

    @property
    def declared_lately(self) -> bool:
        """Whether the declarations were carried out so shortly ago that a child need not repeat them. Any process."""
        return time.monotonic() - self.declared_at < LATELY
