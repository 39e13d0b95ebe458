"""The broker's shape as values: exchanges, queues, bindings and the routes of tasks.

Everything here is frozen and plain; ``parse.py`` makes it from YAML, ``plan.py`` turns it into declarations, ``routes.py``
and ``simulate.py`` answer questions about it. Times are seconds, sizes bytes. Nothing in here is checked again: a
``Topology`` that ``parse`` returned has no mistakes left that can be found without a broker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from amqtask.errors import ConfigurationError
from amqtask.names import did_you_mean

ExchangeType = Literal["direct", "topic", "fanout", "headers"]
QueueType = Literal["quorum", "classic", "stream"]
Overflow = Literal["drop-head", "reject-publish", "reject-publish-dlx"]
# What an AMQP table can hold and YAML can write: text, numbers, booleans, null, lists and tables of these.
Arguments = Mapping[str, Any]

DEFAULT_DELIVERY_LIMIT = 100
DEFAULT_MAX_CRASHES = 3

# The exchanges every virtual host has: they can be bound to and published to, never declared.
PREDECLARED: Mapping[str, ExchangeType] = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.headers": "headers",
    "amq.match": "headers",
    "amq.topic": "topic",
}


class Binding(msgspec.Struct, frozen=True):
    """What a queue or an exchange receives: messages of ``exchange`` that match the key or the header arguments."""

    exchange: str
    routing_key: str = ""
    arguments: Arguments = {}


class DeadLetter(msgspec.Struct, frozen=True):
    """Where a queue's dead letters go; ``routing_key=None`` keeps the key each message came with."""

    exchange: str
    routing_key: str | None = None


class DeadQueue(msgspec.Struct, frozen=True):
    """Dead letters go to ``<name>.dead``, which comes with the queue and keeps them within these bounds; ``None`` is none.

    Those that are older than ``ttl`` seconds are deleted, and the oldest when there are more than ``max_length`` or
    ``max_length_bytes``: a full queue of dead letters never refuses a new one.
    """

    ttl: float | None = None
    max_length: int | None = None
    max_length_bytes: int | None = None

    @property
    def bounded(self) -> bool:
        """Whether there is a limit at which the oldest are deleted."""
        return self.max_length is not None or self.max_length_bytes is not None


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """An exchange. ``bindings`` are its own sources: exchange-to-exchange bindings that end here."""

    name: str
    type: ExchangeType = "direct"
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    alternate_exchange: str | None = None
    bindings: tuple[Binding, ...] = ()
    arguments: Arguments = {}


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """A queue, with the file's defaults already applied.

    ``dead_letter`` is ``True`` for "to ``<name>.dead``, which comes with it", a ``DeadQueue`` for the same with bounds,
    ``False`` for none, or an explicit target.
    ``delivery_limit`` is ``None`` where nobody set one: see ``plan.py`` for what the broker then gets.
    """

    name: str
    type: QueueType = "quorum"
    durable: bool = True
    bindings: tuple[Binding, ...] = ()
    max_priority: int | None = None
    message_ttl: float | None = None
    expires: float | None = None
    max_length: int | None = None
    max_length_bytes: int | None = None
    overflow: Overflow | None = None
    dead_letter: bool | DeadLetter | DeadQueue = False
    delivery_limit: int | None = None
    max_crashes: int = DEFAULT_MAX_CRASHES
    consumer_timeout: float | None = None
    single_active_consumer: bool = False
    arguments: Arguments = {}

    @property
    def has_dead_queue(self) -> bool:
        """Whether its dead letters go to ``<name>.dead``, which comes with it."""
        return self.dead_letter is True or isinstance(self.dead_letter, DeadQueue)

    @property
    def highest_priority(self) -> int | None:
        """The highest priority that has an effect in this queue; ``None`` when it has no priorities.

        A quorum queue has 32 levels without being asked, on RabbitMQ 4.3; ``plan.unsupported`` tells about older ones.
        """
        return 31 if self.type == "quorum" else self.max_priority


class RouteRule(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks whose full name matches the glob ``task`` go to ``queue``, or to ``exchange`` with ``routing_key``.

    The key may hold ``{task}``, the full name, and ``{name}``, its part after the last dot.
    """

    task: str
    queue: str | None = None
    exchange: str | None = None
    routing_key: str = ""
    priority: int | None = None


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What queues get that do not say otherwise. A limit that a queue's type cannot have is not applied to it."""

    type: QueueType = "quorum"
    dead_letter: bool | DeadLetter | DeadQueue = True
    max_crashes: int = DEFAULT_MAX_CRASHES
    delivery_limit: int | None = None
    consumer_timeout: float | None = None


class Delays(msgspec.Struct, frozen=True, kw_only=True):
    """The delay ladder of a topology. An empty ``prefix`` is filled in by whoever has a name for the topology.

    ``apply`` tells whether ``topology apply`` declares the ladder; what is sent for later declares it all the same.
    """

    prefix: str = ""
    apply: bool = True


class Link(msgspec.Struct, frozen=True):
    """One binding with both its ends: ``kind`` tells whether ``destination`` is a queue or an exchange."""

    kind: Literal["queue", "exchange"]
    destination: str
    binding: Binding


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """Exchanges, queues and routes of one virtual host; ``source`` is the file's name, for messages to people."""

    version: int = 1
    vhost: str | None = None
    defaults: Defaults = Defaults()
    delays: Delays = Delays()
    exchanges: dict[str, Exchange] = {}
    queues: dict[str, Queue] = {}
    routes: tuple[RouteRule, ...] = ()
    source: str = "the built-in topology"

    @property
    def bindings(self) -> tuple[Link, ...]:
        """Every binding, exchange-to-exchange first, in the order of the file."""
        to_exchanges = [
            Link("exchange", exchange.name, binding)
            for exchange in self.exchanges.values()
            for binding in exchange.bindings
        ]
        to_queues = [
            Link("queue", queue.name, binding)
            for queue in self.queues.values()
            for binding in queue.bindings
        ]
        return (*to_exchanges, *to_queues)

    def all_queues(self) -> dict[str, Queue]:
        """The queues of the file and, after them, the dead-letter queues that come with them."""
        queues = dict(self.queues)
        for queue in self.queues.values():
            name = dead_queue_name(queue.name)
            if not queue.has_dead_queue or name in queues:
                continue
            bounds = queue.dead_letter if isinstance(queue.dead_letter, DeadQueue) else DeadQueue()
            queues[name] = Queue(
                name=name,
                type=queue.type,
                durable=queue.durable,
                message_ttl=bounds.ttl,
                max_length=bounds.max_length,
                max_length_bytes=bounds.max_length_bytes,
                # said aloud, or a policy could make it refuse what has nowhere else to go; in a classic queue, that is: a
                # quorum queue obeys the policy all the same, which the doctor tells
                overflow=None if not bounds.bounded else "drop-head",
            )
        return queues

    def exchange_type(self, name: str) -> ExchangeType | None:
        """The type of a declared or predeclared exchange; ``None`` when there is no such exchange."""
        exchange = self.exchanges.get(name)
        return exchange.type if exchange is not None else PREDECLARED.get(name)

    def queue(self, name: str) -> Queue:
        """The queue of this name, dead-letter queues included.

        Raises:
            ConfigurationError: there is none; the message names the nearest.
        """
        queues = self.all_queues()
        if name not in queues:
            raise ConfigurationError(
                f"{self.source} declares no queue {name!r}{did_you_mean(name, queues) or '.'}"
            )
        return queues[name]


def dead_queue_name(queue: str) -> str:
    """The name of the queue that holds another queue's dead letters."""
    return f"{queue}.dead"
