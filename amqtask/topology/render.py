"""A topology as plain nested data, for ``topology show`` and for machines; printing is the command line's."""

from __future__ import annotations

from typing import Any, TypeAlias

from amqtask.topology.model import (
    Arguments,
    DeadLetter,
    DeadQueue,
    Queue,
    Topology,
    dead_queue_name,
)
from amqtask.topology.units import format_duration, format_size

Tree: TypeAlias = dict[str, Any]


def tree(topology: Topology) -> Tree:
    """Exchanges with what is bound to them, queues with their properties, and routes, in the order of the file.

    ``exchanges[i]["bindings"]`` holds, for each binding, ``to`` (``queue`` or ``exchange``), ``name`` and ``routing_key``
    or ``arguments``. Properties that hold their default are left out. The default exchange is not listed: it leads to
    every queue by its name.
    """
    return {
        "source": topology.source,
        "vhost": topology.vhost,
        "delays": _without_empty(
            prefix=topology.delays.prefix, apply=None if topology.delays.apply else False
        ),
        "exchanges": [_exchange(topology, name) for name in _exchange_names(topology)],
        "queues": [_queue(topology, queue) for queue in topology.all_queues().values()],
        "routes": [
            _without_empty(
                task=rule.task,
                queue=rule.queue,
                exchange=rule.exchange,
                routing_key=rule.routing_key or None,
                priority=rule.priority,
            )
            for rule in topology.routes
        ],
    }


def _exchange_names(topology: Topology) -> list[str]:
    """The declared exchanges and, after them, the broker's own that something is bound to."""
    used = dict.fromkeys(link.binding.exchange for link in topology.bindings)
    return [*topology.exchanges, *(name for name in used if name not in topology.exchanges)]


def _exchange(topology: Topology, name: str) -> Tree:
    declared = topology.exchanges.get(name)
    properties: Tree = {}
    if declared is not None:
        properties = {
            "durable": None if declared.durable else False,
            "auto_delete": declared.auto_delete or None,
            "internal": declared.internal or None,
            "alternate_exchange": declared.alternate_exchange,
            "arguments": _plain(declared.arguments),
        }
    kind = topology.exchange_type(name)
    return {
        **_without_empty(name=name, type=kind, predeclared=declared is None or None, **properties),
        "bindings": [
            _without_empty(
                to=link.kind,
                name=link.destination,
                routing_key=link.binding.routing_key if kind in ("direct", "topic") else None,
                arguments=_plain(link.binding.arguments),
            )
            for link in topology.bindings
            if link.binding.exchange == name
        ],
    }


def _queue(topology: Topology, queue: Queue) -> Tree:
    sources = {
        dead_queue_name(name) for name, other in topology.queues.items() if other.has_dead_queue
    }
    return _without_empty(
        name=queue.name,
        type=queue.type,
        durable=None if queue.durable else False,
        max_priority=queue.max_priority,
        message_ttl=_time(queue.message_ttl),
        expires=_time(queue.expires),
        max_length=queue.max_length,
        max_length_bytes=None
        if queue.max_length_bytes is None
        else format_size(queue.max_length_bytes),
        overflow=queue.overflow,
        dead_letter=_dead_letter(queue),
        delivery_limit=queue.delivery_limit,
        max_crashes=queue.max_crashes if queue.name in topology.queues else None,
        consumer_timeout=_time(queue.consumer_timeout),
        single_active_consumer=queue.single_active_consumer or None,
        arguments=_plain(queue.arguments),
        holds_dead_letters=queue.name in sources or None,
    )


def _dead_letter(queue: Queue) -> str | None:
    """Where dead letters go, as one text: a queue's name, or ``exchange`` and key with a colon between."""
    match queue.dead_letter:
        case True | DeadQueue():
            return dead_queue_name(queue.name)
        case DeadLetter(exchange="", routing_key=str(key)):
            return key
        case DeadLetter(exchange=exchange, routing_key=key):
            return exchange if key is None else f"{exchange}: {key}"
        case _:
            return None


def _plain(arguments: Arguments) -> Tree | None:
    return dict(arguments) or None


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else format_duration(seconds)


def _without_empty(**values: Any) -> Tree:
    return {name: value for name, value in values.items() if value is not None}
