"""From a topology to what is declared on a broker, and from a broker's answers to what differs.

The values here are what every AMQP adapter carries out; nothing in this module talks to a broker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec

from amqtask.errors import ConfigurationError
from amqtask.names import did_you_mean
from amqtask.topology import remedies
from amqtask.topology.dropped import DROPPED, LATE, key_of
from amqtask.topology.grammar import OWN_ARGUMENTS
from amqtask.topology.keys import Shape, words
from amqtask.topology.model import (
    DEFAULT_DELIVERY_LIMIT,
    Arguments,
    DeadLetter,
    DeadQueue,
    Exchange,
    Queue,
    RouteRule,
    Topology,
    dead_queue_name,
)
from amqtask.topology.simulate import may_reach
from amqtask.topology.units import milliseconds

DROPPED_BYTES = (
    2**30
)  # of dropped messages that wait for a worker to tell of them; then the oldest go
# For quorum queues whose messages have nowhere to go at the limit, where the broker would delete them without a word. Left
# out it means 20 on RabbitMQ 4, and -1 means "at the first return" on 3.10; a number nobody reaches is the same everywhere.
NO_DELIVERY_LIMIT = 2**31 - 1
LEAST_DELIVERY_LIMIT = (
    20  # of RabbitMQ 4.0 and later for a queue that has none of its own; before, it has none
)

Version: TypeAlias = tuple[int, int, int]


class DeclareExchange(msgspec.Struct, frozen=True):
    """``exchange.declare``; ``passive`` only asks whether the exchange is there."""

    name: str
    type: str
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: Arguments = {}
    passive: bool = False


class DeclareQueue(msgspec.Struct, frozen=True):
    """``queue.declare``; ``passive`` only asks whether the queue is there."""

    name: str
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    passive: bool = False
    arguments: Arguments = {}


class BindQueue(msgspec.Struct, frozen=True):
    """``queue.bind``."""

    queue: str
    exchange: str
    routing_key: str = ""
    arguments: Arguments = {}


class BindExchange(msgspec.Struct, frozen=True):
    """``exchange.bind``: messages of ``source`` that match go on to ``destination``."""

    destination: str
    source: str
    routing_key: str = ""
    arguments: Arguments = {}


Declaration: TypeAlias = DeclareExchange | DeclareQueue | BindQueue | BindExchange


class DeadLetterTarget(NamedTuple):
    """Where a dead letter of a queue is published; ``routing_key=None`` keeps the key the message came with."""

    exchange: str
    routing_key: str | None


class Unsupported(msgspec.Struct, frozen=True):
    """What a version of RabbitMQ lacks for a topology, one sentence each.

    ``errors`` would be refused at declaration or lose messages; ``warnings`` are ignored by the broker, or work differently.
    """

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Difference(msgspec.Struct, frozen=True):
    """One argument in which a live queue or exchange is not what was declared; ``None`` is "not set"."""

    kind: str
    name: str
    argument: str
    declared: Any
    live: Any

    def __str__(self) -> str:
        return _difference(
            self.kind, self.name, self.argument, _shown(self.declared), _shown(self.live)
        )


# ---------------------------------------------------------------- declarations


def declarations(
    topology: Topology, queues: Iterable[str] | None = None
) -> tuple[Declaration, ...]:
    """What to declare, in an order the broker accepts: exchanges, queues, exchange bindings, queue bindings.

    Args:
        topology: a topology without mistakes.
        queues: only these, and all they need: the exchanges that lead to them, where those send what they cannot route, and
            where their dead letters go. ``None`` is everything.

    Raises:
        ConfigurationError: a name in ``queues`` is not in the topology; the message names the nearest.
    """
    wanted, exchanges = _needed(topology, queues)
    telling = [
        queue for name, queue in topology.queues.items() if name in wanted and queue.has_dead_queue
    ]
    # Whatever becomes of dead letters here: parts of chords may run, and a chord that does not end in time is told of there.
    chords = any(
        name in wanted for name, queue in topology.queues.items() if queue.type != "stream"
    )
    binding_exchanges: list[Declaration] = []
    binding_queues: list[Declaration] = []
    for link in topology.bindings:
        binding = link.binding
        if (
            link.kind == "exchange"
            and link.destination in exchanges
            and binding.exchange in exchanges
        ):
            binding_exchanges.append(
                BindExchange(
                    link.destination, binding.exchange, binding.routing_key, binding.arguments
                )
            )
        elif link.kind == "queue" and link.destination in wanted and binding.exchange in exchanges:
            binding_queues.append(
                BindQueue(
                    link.destination, binding.exchange, binding.routing_key, binding.arguments
                )
            )
    return (
        *(
            declare_exchange(exchange)
            for name, exchange in topology.exchanges.items()
            if name in exchanges
        ),
        *((DECLARE_EXCHANGE_OF_DROPPED,) if chords else ()),
        *(declare_queue(queue) for name, queue in topology.all_queues().items() if name in wanted),
        *((DECLARE_QUEUE_OF_DROPPED, BIND_LATE_PLANS) if chords else ()),
        *(each for queue in telling for each in _bind_dropped(queue)),
        *binding_exchanges,
        *binding_queues,
    )


DECLARE_EXCHANGE_OF_DROPPED = DeclareExchange(DROPPED, "direct")
# Always the same, whatever a topology says: programs of any name and version share it.
DECLARE_QUEUE_OF_DROPPED = DeclareQueue(
    DROPPED,
    arguments={
        "x-queue-type": "quorum",
        "x-delivery-limit": NO_DELIVERY_LIMIT,
        "x-max-length-bytes": DROPPED_BYTES,
        "x-overflow": "drop-head",
    },
)

BIND_LATE_PLANS = BindQueue(DROPPED, DROPPED, LATE)  # of chords


def _bind_dropped(queue: Queue) -> tuple[BindQueue, BindQueue]:
    """What the broker drops from a queue goes to its dead letters, and to those who tell of it."""
    key = key_of(queue)
    return (
        BindQueue(dead_queue_name(queue.name), DROPPED, key),
        BindQueue(DROPPED, DROPPED, key),
    )


def needs_dropped(declarations: Iterable[Declaration]) -> bool:
    """Whether dead letters of a queue that is declared go through the exchange of dropped messages, and are lost without it."""
    return any(
        isinstance(each, DeclareQueue) and each.arguments.get("x-dead-letter-exchange") == DROPPED
        for each in declarations
    )


def only_tells(declaration: Declaration) -> bool:
    """Whether nothing but telling of dropped messages depends on a declaration, once the exchange of these is there."""
    match declaration:
        case DeclareExchange(name=name) | DeclareQueue(name=name) | BindQueue(queue=name):
            return name == DROPPED
        case _:
            return False


def declare_exchange(exchange: Exchange) -> DeclareExchange:
    """The declaration of one exchange."""
    arguments = dict(exchange.arguments)
    if exchange.alternate_exchange is not None:
        arguments["alternate-exchange"] = exchange.alternate_exchange
    return DeclareExchange(
        exchange.name,
        exchange.type,
        exchange.durable,
        exchange.auto_delete,
        exchange.internal,
        arguments,
    )


def declare_queue(queue: Queue) -> DeclareQueue:
    """The declaration of one queue.

    The type is always sent, because a virtual host can have a default of its own. A quorum queue always gets a delivery
    limit, because versions disagree about what none means. Its dead letters are moved at least once, which RabbitMQ does only
    together with ``reject-publish``; a queue that asks for another overflow gets the broker's own at-most-once.
    """
    arguments = {
        "x-queue-type": queue.type,
        **_dead_letter_arguments(queue),
        **(_quorum_arguments(queue) if queue.type == "quorum" else {}),
        **_bounds(queue),
        **queue.arguments,
    }
    return DeclareQueue(queue.name, queue.durable, arguments=arguments)


def _dead_letter_arguments(queue: Queue) -> dict[str, Any]:
    if queue.has_dead_queue:
        # What a worker buries goes straight to the dead letters; what the broker drops has to be told, too.
        return {"x-dead-letter-exchange": DROPPED, "x-dead-letter-routing-key": key_of(queue)}
    target = _target(queue)
    if target is None:
        return {}
    arguments = {"x-dead-letter-exchange": target.exchange}
    if target.routing_key is not None:
        arguments["x-dead-letter-routing-key"] = target.routing_key
    return arguments


def _quorum_arguments(queue: Queue) -> dict[str, Any]:
    target, limit = _target(queue), queue.delivery_limit
    if limit is None:
        limit = NO_DELIVERY_LIMIT if target is None else DEFAULT_DELIVERY_LIMIT
    arguments: dict[str, Any] = {"x-delivery-limit": limit}
    if target is not None and queue.overflow in (None, "reject-publish"):
        arguments["x-dead-letter-strategy"] = "at-least-once"
        arguments["x-overflow"] = "reject-publish"
    if queue.consumer_timeout is not None:
        arguments["x-consumer-timeout"] = milliseconds(queue.consumer_timeout)
    return arguments


def _bounds(queue: Queue) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if queue.overflow is not None:
        arguments["x-overflow"] = queue.overflow
    if queue.max_priority is not None:
        arguments["x-max-priority"] = queue.max_priority
    if queue.message_ttl is not None:
        arguments["x-message-ttl"] = milliseconds(queue.message_ttl)
    if queue.expires is not None:
        arguments["x-expires"] = milliseconds(queue.expires)
    if queue.max_length is not None:
        arguments["x-max-length"] = queue.max_length
    if queue.max_length_bytes is not None:
        arguments["x-max-length-bytes"] = queue.max_length_bytes
    if queue.single_active_consumer:
        arguments["x-single-active-consumer"] = True
    return arguments


def delivery_limit_of(topology: Topology, queue: str) -> int:
    """How often the broker delivers a message of a queue, at most, before it is a dead letter.

    For a queue the topology does not know, the least that a broker has by itself.
    """
    found = topology.all_queues().get(queue)
    if found is None:
        return LEAST_DELIVERY_LIMIT
    limit = declare_queue(found).arguments.get("x-delivery-limit")
    return limit if isinstance(limit, int) and limit >= 0 else NO_DELIVERY_LIMIT


def dead_letter_of(topology: Topology, queue: str) -> DeadLetterTarget | None:
    """Where dead letters of a queue go, the ones a worker sends included; ``None`` when it has no such place.

    A queue the topology does not know has none either.
    """
    found = topology.all_queues().get(queue)
    return _target(found) if found is not None else None


def dead_queues(topology: Topology, queue: str) -> tuple[str, ...]:
    """The queues in which dead letters of a queue can arrive, in the order of the file; none for a queue without them."""
    found = topology.all_queues().get(queue)
    target = _target(found) if found is not None else None
    if found is None or target is None:
        return ()
    reached = set(_dead_queues(topology, found, target))
    return tuple(name for name in topology.all_queues() if name in reached)


def untold(topology: Topology) -> tuple[str, ...]:
    """The queues from which the broker may drop a message without anybody being told.

    Their dead letters go to an exchange of the file, or nowhere. A queue that holds the dead letters of others, or a stream,
    holds no task that somebody waits for.
    """
    holds = {dead_queue_name(name) for name in topology.queues}
    holds.update(each for name in topology.queues for each in dead_queues(topology, name))
    return tuple(
        queue.name
        for queue in topology.queues.values()
        if queue.type != "stream" and not queue.has_dead_queue and queue.name not in holds
    )


def _target(queue: Queue) -> DeadLetterTarget | None:
    match queue.dead_letter:
        case True | DeadQueue():
            return DeadLetterTarget("", dead_queue_name(queue.name))
        case DeadLetter(exchange=exchange, routing_key=routing_key):
            return DeadLetterTarget(exchange, routing_key)
        case _:
            return None


def _needed(topology: Topology, queues: Iterable[str] | None) -> tuple[set[str], set[str]]:
    """The queues and the exchanges that the given queues cannot do without."""
    known = topology.all_queues()
    if queues is None:
        return set(known), {
            *topology.exchanges,
            *(link.binding.exchange for link in topology.bindings),
        }
    wanted: set[str] = set()
    exchanges: set[str] = set()
    todo_queues, todo_exchanges = list(queues), list[str]()
    for name in todo_queues:
        if name not in known:
            near = did_you_mean(name, known) or "."
            raise ConfigurationError(f"{topology.source} declares no queue {name!r}{near}")
    while todo_queues or todo_exchanges:
        if todo_queues:
            name = todo_queues.pop()
            if name in wanted:
                continue
            wanted.add(name)
            todo_exchanges += [binding.exchange for binding in known[name].bindings]
            target = _target(known[name])
            if target is not None:
                todo_exchanges += [target.exchange] if target.exchange else []
                todo_queues += _dead_queues(topology, known[name], target)
        else:
            name = todo_exchanges.pop()
            if name in exchanges:
                continue
            exchanges.add(name)
            declared = topology.exchanges.get(name)
            if declared is not None:
                todo_exchanges += [binding.exchange for binding in declared.bindings]
                if declared.alternate_exchange is not None:
                    # what it cannot route must still arrive, so the queues behind the alternate come along
                    todo_exchanges.append(declared.alternate_exchange)
                    todo_queues += may_reach(
                        topology, declared.alternate_exchange, Shape(pattern="#")
                    )
    return wanted, exchanges


def _dead_queues(topology: Topology, queue: Queue, target: DeadLetterTarget) -> list[str]:
    """The queues that must be there for a queue's dead letters to arrive."""
    if target.routing_key is not None:
        return list(may_reach(topology, target.exchange, Shape(target.routing_key)))
    return list(may_reach(topology, target.exchange, Shape(pattern="#"))) if target.exchange else []


# ---------------------------------------------------------------- what a version lacks


def unsupported(topology: Topology, version: Version) -> Unsupported:
    """What a RabbitMQ of this version lacks for a topology.

    Args:
        topology: what is to be declared.
        version: the broker's, as three numbers.
    """
    found = _Lacks(version)
    for queue in topology.all_queues().values():
        _queue_support(queue, found)
    for link in topology.bindings:
        key = link.binding.routing_key
        if topology.exchange_type(link.binding.exchange) == "topic" and words(key).count("#") > 2:
            found.error_since(
                (4, 3, 5),
                f"Binding {key!r} of {link.kind} {link.destination!r} has more than two '#', "
                "which RabbitMQ refuses since 4.3.5: use '*' where exactly one word stands.",
            )
    for rule in topology.routes:
        if rule.priority is not None:
            _priority_support(topology, rule.task, _targets(topology, rule), found)
    return Unsupported(tuple(found.errors), tuple(found.warnings))


class _Lacks:
    def __init__(self, version: Version) -> None:
        self.version = version
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def error_before(self, version: Version, text: str) -> None:
        if self.version < version:
            self.errors.append(text)

    def error_since(self, version: Version, text: str) -> None:
        if self.version >= version:
            self.errors.append(text)

    def warn_before(self, version: Version, text: str) -> None:
        if self.version < version:
            self.warnings.append(text)

    def warn_since(self, version: Version, text: str) -> None:
        if self.version >= version:
            self.warnings.append(text)

    @property
    def text(self) -> str:
        return ".".join(map(str, self.version))


def _refuses(queue: Queue) -> bool:
    """Whether a full queue refuses new messages instead of dropping old ones."""
    if queue.overflow is None:
        return queue.type == "quorum" and _target(queue) is not None
    return queue.overflow != "drop-head"


def _queue_support(queue: Queue, found: _Lacks) -> None:
    name = f"Queue {queue.name!r}"
    bounded = queue.max_length is not None or queue.max_length_bytes is not None
    if bounded and _refuses(queue):
        found.warn_before(
            (4, 3, 0),
            f"{name} refuses messages when it is full, and RabbitMQ {found.text} may then hold up the delayed tasks of other "
            "queues once 32 wait for this one: leave max_length out where tasks are sent for later or retried.",
        )
    if queue.type == "quorum":
        found.error_before(
            (3, 8, 0), f"{name} is a quorum queue, which RabbitMQ has since 3.8: use type: classic."
        )
        if queue.message_ttl is not None:
            found.error_before(
                (3, 10, 0),
                f"{name} is a quorum queue with message_ttl, which RabbitMQ has since 3.10: use type: classic.",
            )
        if _target(queue) is not None and queue.overflow in (None, "reject-publish"):
            found.warn_before(
                (3, 10, 0),
                f"{name}: RabbitMQ {found.text} moves dead letters at most once and can lose them when it is "
                "killed; 3.10 and later move them at least once.",
            )
        if queue.consumer_timeout is not None:
            found.warn_before(
                (3, 12, 0),
                f"{name}: RabbitMQ {found.text} ignores consumer_timeout and takes every message back after its own "
                "limit, 30 minutes unless configured; 3.12 and later have it per queue.",
            )
    if queue.type == "stream":
        found.error_before((3, 9, 0), f"{name} is a stream, which RabbitMQ has since 3.9.")
    if queue.type == "classic" and not queue.durable:
        found.warn_since(
            (4, 3, 0),
            f"{name} is not durable, which RabbitMQ 4.3 refuses unless its configuration permits it: use durable: true.",
        )
    if queue.arguments.get("x-queue-version") == 1:
        found.error_since(
            (4, 3, 0),
            f"{name} has x-queue-version 1, which RabbitMQ refuses since 4.3: leave it out.",
        )
    if any(argument.startswith("x-delayed-retry-") for argument in queue.arguments):
        found.warn_before(
            (4, 3, 0),
            f"{name}: RabbitMQ {found.text} accepts its x-delayed-retry arguments and ignores them; 4.3 has delayed retry.",
        )


def _priority_support(
    topology: Topology, task: str, targets: frozenset[str], found: _Lacks
) -> None:
    queues = topology.all_queues()
    for name in sorted(targets):
        if queues[name].type != "quorum":
            continue
        if found.version < (4, 0, 0):
            found.warnings.append(
                f"Tasks {task!r} have a priority, and RabbitMQ {found.text} ignores it in quorum queue {name!r}; "
                "4.3 has strict priorities there, and a classic queue with max_priority has them everywhere."
            )
        else:
            found.warn_before(
                (4, 3, 0),
                f"Tasks {task!r} have a priority, of which RabbitMQ {found.text} knows only two levels, served 2 to 1, "
                f"in quorum queue {name!r}; 4.3 has 32 strict ones.",
            )


def _targets(topology: Topology, rule: RouteRule) -> frozenset[str]:
    if rule.queue is not None:
        return frozenset((rule.queue,))
    return may_reach(topology, rule.exchange or "", Shape.of_route(rule.routing_key, rule.task))


# ---------------------------------------------------------------- declared and live


def compare(
    declared: DeclareQueue | DeclareExchange, live: Mapping[str, Any]
) -> tuple[Difference, ...]:
    """What differs between a declaration and the live object.

    Args:
        declared: what would be declared.
        live: the object as the management API gives it (``/api/queues/<vhost>/<name>`` or ``/api/exchanges/…``).

    Returns:
        One difference for each property and argument, set on either side. Most make the broker refuse the declaration;
        arguments it does not know are not compared by it, and are listed here all the same.
    """
    arguments = dict(live.get("arguments") or {})
    if isinstance(declared, DeclareQueue):
        kind = "queue"
        # a queue declared without a type has one nonetheless
        arguments.setdefault("x-queue-type", live.get("type", "classic"))
        properties = ["durable", "exclusive", "auto_delete"]
    else:
        kind = "exchange"
        properties = ["type", "durable", "auto_delete", "internal"]
    pairs = {name: (getattr(declared, name), live[name]) for name in properties if name in live}
    for name in (*declared.arguments, *(set(arguments) - set(declared.arguments))):
        pairs[name] = (declared.arguments.get(name), arguments.get(name))
    return tuple(
        Difference(kind, declared.name, name, ours, theirs)
        for name, (ours, theirs) in pairs.items()
        if type(ours) is not type(theirs) or ours != theirs
    )


_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']*)' for (?P<kind>queue|exchange) '.*' in vhost '.*': "
    r"received (?P<received>.*) but current is (?P<current>.*)$",
    re.DOTALL,
)
# A reply text has at most 255 bytes: behind a long name, the rest is cut off.
_CUT = re.compile(r"inequivalent arg '(?P<argument>[^']*)' for .*\.\.\.$", re.DOTALL)
_INVALID = re.compile(
    r"invalid (?:arg|property) '(?P<argument>[^']*)' for (?P<kind>queue|exchange) '(?P<name>.*)' in vhost '.*?'"
    r"(?: of queue type rabbit_(?P<type>\w+?)_queue)?(?P<reason>.*)$",
    re.DOTALL,
)
_VHOST = re.compile(r"in vhost '(.*?)'", re.DOTALL)
_VALUE = re.compile(r"^(?:the value )?'(?P<value>.*?)'(?: of type '\w+')?$", re.DOTALL)


def explain_conflict(text: str, declaration: Declaration) -> str:
    """RabbitMQ's answer 406 to a declaration, as one sentence for people.

    Args:
        text: the broker's reply text.
        declaration: what was declared.

    Returns:
        A sentence with the queue or exchange, the argument, both values and the remedy; for a text of another form, the
        text itself behind the name of what was declared.
    """
    kind, name = _subject(declaration)
    text = text.strip().removesuffix('")')  # the end of a printed exception
    found = _CUT.search(text)
    if found is not None:
        argument = found["argument"]
        ours = _shown(_declared(declaration, argument))
        return _difference(kind, name, argument, ours, "that differs", _vhost_in(text))
    found = _INEQUIVALENT.search(text)
    if found is not None:
        sentence = _difference(
            kind,
            name,
            found["argument"],
            _value(found["received"]),
            _value(found["current"]),
            _vhost_in(text),
        )
        if _value(found["received"]) == DROPPED:
            sentence += (
                f" To keep it, give it dead_letter: {{exchange: '', routing_key: {dead_queue_name(name)}}} and declare "
                f"{dead_queue_name(name)!r} too: then nobody is told of what the broker drops from it."
            )
        return sentence
    found = _INVALID.search(text)
    if found is not None:
        what = f"{found['type']} {kind}" if found["type"] else kind
        reason = found["reason"].strip(" :'\")")
        return (
            f"The broker refuses {_argument(found['argument'])} on the {what} {name!r}"
            f"{f' ({reason})' if reason else ''}: change it in the topology."
        )
    return f"The broker refuses {kind} {name!r}: {text.strip().rstrip('.')}."


def _difference(
    kind: str, name: str, argument: str, declared: str, live: str, vhost: str = "VHOST"
) -> str:
    ours = f"with {declared}" if declared != _NOT_SET else "without it"
    theirs = f"with {_argument(argument)} {live}"
    if live == _NOT_SET:
        theirs = f"without {_argument(argument)}"
    delete, loss = remedies.delete_exchange, ""
    if kind == "queue":
        delete, loss = remedies.delete_queue, ", with its messages"
    return (
        f"{kind.capitalize()} {name!r} exists on the broker {theirs}, and the topology declares it {ours}: "
        f"change the topology, or delete the {kind}{loss} (`{delete(vhost, name)}`), and declare it again."
    )


def _vhost_in(text: str) -> str:
    """The virtual host that the broker names; a word in its place where the text was cut off before."""
    found = _VHOST.search(text)
    return "VHOST" if found is None else found[1]


def _subject(declaration: Declaration) -> tuple[str, str]:
    match declaration:
        case DeclareQueue(name=name):
            return "queue", name
        case DeclareExchange(name=name):
            return "exchange", name
        case BindQueue(queue=name):
            return "queue", name
        case BindExchange(destination=name):
            return "exchange", name


def _declared(declaration: Declaration, argument: str) -> object:
    own = declaration.arguments.get(argument)
    return getattr(declaration, argument, None) if own is None else own


def _argument(argument: str) -> str:
    key = OWN_ARGUMENTS.get(argument)
    return f"{argument} ({key})" if key is not None and ":" not in key else argument


def _value(text: str) -> str:
    """The value in ``'5'``, ``the value '5' of type 'signedint'`` or ``none``."""
    if text == "none":
        return _NOT_SET
    found = _VALUE.match(text)
    return (found["value"] if found is not None else text) or "''"


def _shown(value: object) -> str:
    if value is None:
        return _NOT_SET
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"


_NOT_SET = "not set"
