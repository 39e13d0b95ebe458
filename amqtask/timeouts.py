"""Which tasks may run longer than the broker lets a consumer hold their message; told by the doctor and at a worker's start."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from amqtask.app import App
from amqtask.errors import AmqtaskError
from amqtask.settings import Settings
from amqtask.topology import holding
from amqtask.topology.holding import Release
from amqtask.topology.model import Queue
from amqtask.topology.simulate import reach
from amqtask.topology.units import format_duration

SHOWN = 5  # task names in one sentence


class Outlasting(msgspec.Struct, frozen=True):
    """Tasks of one queue that the broker may give to another worker while they run.

    Attributes:
        tasks: their names.
        limit: how long they may run, in seconds; ``None`` for ever.
        queue: where they wait.
        allowed: seconds the broker lets their message be held.
        text: what is wrong, without a full stop.
        remedy: what to do, without a full stop.
    """

    tasks: tuple[str, ...]
    limit: float | None
    queue: str
    allowed: float
    text: str
    remedy: str


def outlasting(
    app: App,
    release: Release,
    settings: Settings | None = None,
    queues: Iterable[str] | None = None,
) -> list[Outlasting]:
    """Tasks that may run longer than the broker lets their message be held: it would give them to another worker.

    A worker asks brokers that allow it, from 4.3 on and for quorum queues, to hold messages long enough; those are not named.

    Args:
        app: the tasks and the topology.
        release: the broker's version.
        settings: instead of the app's own.
        queues: look at these alone.
    """
    default = (settings or app.settings).task_time_limit
    known = app.topology.all_queues()
    looked_at = set(known if queues is None else queues)
    found: dict[tuple[str, float | None], list[str]] = {}
    for name, task in sorted(app.tasks.items()):
        limit = task.options.time_limit or default
        try:
            route = app.router.resolve(
                name, task.options.queue, task.options.exchange, task.options.routing_key
            )
            reached = reach(app.topology, route.exchange, route.routing_key).queues
        except AmqtaskError:
            continue  # a task that leads nowhere has no queue to time out; sending it says so
        for queue in sorted(reached & looked_at):
            allowed, configured = holding.allowed(known[queue], release)
            asked_for = release >= holding.CONSUMER_TIMEOUTS and queue in holding.for_consumers(
                app.topology, [queue], 0.0
            )
            if allowed is None or asked_for or (limit is None and configured):
                continue  # who set a queue's own timeout has thought of its tasks
            if limit is None or limit > allowed:
                found.setdefault((queue, limit), []).append(name)
    return [_told(known[queue], limit, names, release) for (queue, limit), names in found.items()]


def _told(queue: Queue, limit: float | None, names: list[str], release: Release) -> Outlasting:
    allowed, configured = holding.allowed(queue, release)
    assert allowed is not None
    shown = ", ".join(map(repr, names[:SHOWN]))
    if len(names) > SHOWN:
        shown += f" and {len(names) - SHOWN} more"
    which = f"task {shown}" if len(names) == 1 else f"tasks {shown}"
    long = "has no time limit" if len(names) == 1 else "have no time limit"
    text = (
        f"{which} {long if limit is None else f'may run {format_duration(limit)}'}, and the broker takes a message of queue "
        f"{queue.name!r} back after {format_duration(allowed)}"
        + ("" if configured else " unless configured otherwise")
    )
    if configured:
        remedy = "raise the queue's consumer_timeout above the time limit"
    elif release >= holding.QUEUE_TIMEOUTS and queue.type == "quorum":
        remedy = "give the queue a consumer_timeout above the time limit"
    elif release >= holding.QUEUE_TIMEOUTS:
        remedy = "set a policy with consumer-timeout above the time limit for the queue"
    else:
        remedy = "raise consumer_timeout in rabbitmq.conf; this version has it for the whole broker alone"
    if limit is None:
        remedy += ", or give the tasks a time limit"
    return Outlasting(tuple(names), limit, queue.name, allowed, text, remedy)
