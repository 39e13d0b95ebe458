"""How long a consumer may hold a message before the broker takes it back, and what a worker asks for. Pure.

RabbitMQ's consumer timeout is 30 minutes unless configured. A task that runs longer is given to another worker while it still
runs. Who can change that depends on the version: 3.10 and 3.11 know the whole broker's setting alone, 3.12 to 4.2 a queue's
argument or a policy too, and from 4.3 on a consumer of a quorum queue can ask for its own, while classic queues have none.
"""

from __future__ import annotations

from collections.abc import Iterable

from amqtask.topology.model import Queue, Topology

Release = tuple[int, int, int]

QUEUE_TIMEOUTS: Release = (3, 12, 0)  # per queue since then
CONSUMER_TIMEOUTS: Release = (4, 3, 0)  # per consumer since then, and none for classic queues
GLOBAL_TIMEOUT = (
    1800.0  # s a consumer may hold a message, unless the broker is configured otherwise
)

MARGIN = (
    300.0  # s beyond the time limit: results wait for their confirm, tasks are ended and settled
)
NEVER = 10 * 365 * 86_400.0  # s: for tasks without a limit


def allowed(queue: Queue, release: Release) -> tuple[float | None, bool]:
    """How long a consumer of this queue may hold a message: seconds, ``None`` for ever; and whether the queue says so."""
    if queue.type == "classic" and release >= CONSUMER_TIMEOUTS:
        return None, False
    if queue.consumer_timeout is not None and release >= QUEUE_TIMEOUTS:
        return queue.consumer_timeout, True
    return GLOBAL_TIMEOUT, False


def wanted(limits: Iterable[float | None], ahead: int = 1) -> float:
    """How long a worker must be able to hold a message: seconds.

    Never less than the broker's own default, so that no short limit turns a memory alarm, in which results wait for their
    confirm, into tasks that run again.

    Args:
        limits: the hard time limit of each task, in seconds; ``None`` for a task without one.
        ahead: tasks that may run, one after the other, before the last message a slot holds has ended.
    """
    longest = 0.0
    for limit in limits:
        if limit is None:
            return NEVER
        longest = max(longest, limit)
    return min(NEVER, max(GLOBAL_TIMEOUT, longest * ahead + MARGIN))


def for_consumers(topology: Topology, queues: Iterable[str], seconds: float) -> dict[str, float]:
    """The timeout that consumers of these queues ask for: quorum queues alone know it, and a queue's own comes first."""
    known = topology.all_queues()
    return {
        name: seconds
        for name in queues
        if name in known
        and known[name].type == "quorum"
        and known[name].consumer_timeout is None
        and "x-consumer-timeout" not in known[name].arguments
    }
