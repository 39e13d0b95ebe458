"""What RabbitMQ would do with a message, computed from the topology alone.

``reach`` follows one message exactly; a test publishes to a real broker and compares. ``may_reach`` asks the weaker question
the checks need: which queues can any of a route's keys lead to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from amqtask.errors import ConfigurationError
from amqtask.names import did_you_mean
from amqtask.topology.keys import Shape, topic_matches
from amqtask.topology.model import PREDECLARED, Arguments, Binding, ExchangeType, Topology
from amqtask.topology.routes import Route, Router

Headers = Mapping[str, object]


class Step(msgspec.Struct, frozen=True):
    """One hop of a message: from an exchange, by a binding (or as an alternate), to a queue or another exchange."""

    exchange: str
    via: Literal["default", "binding", "alternate"]
    destination: str
    kind: Literal["queue", "exchange"]
    routing_key: str = ""
    arguments: Arguments = {}


class Reach(msgspec.Struct, frozen=True):
    """Where a message goes: ``paths`` has, for each queue, the steps of one shortest way there, in the order found."""

    exchange: str
    routing_key: str
    paths: dict[str, tuple[Step, ...]]

    @property
    def queues(self) -> frozenset[str]:
        """The queues that get the message, each exactly once; empty means unroutable."""
        return frozenset(self.paths)


class Explanation(msgspec.Struct, frozen=True):
    """Where a task goes and why: ``origin`` names the route that matched, ``reach`` the queues behind it."""

    task: str
    route: Route
    origin: str
    reach: Reach


def reach(
    topology: Topology, exchange: str, routing_key: str, headers: Headers | None = None
) -> Reach:
    """The queues a message gets to, by the rules of AMQP 0-9-1 and RabbitMQ's extensions of them.

    Each exchange is visited once, so cycles of exchange-to-exchange bindings end. An alternate exchange gets the message
    when none of an exchange's own bindings matches; a matching binding counts even if nothing lies behind it. ``CC`` and
    ``BCC`` headers add routing keys, as the broker has it. Policies of the broker are not known here.

    Args:
        topology: what is declared.
        exchange: where the message is published; ``""`` is the default exchange.
        routing_key: its routing key.
        headers: its headers, for headers exchanges.

    Raises:
        ConfigurationError: the topology has no such exchange; the message names the nearest.
    """
    headers = headers or {}
    keys = (routing_key, *_more_keys(headers))
    queues = topology.all_queues()
    paths: dict[str, tuple[Step, ...]] = {}
    if exchange == "":
        for key in keys:
            if key in queues:
                paths.setdefault(key, (Step("", "default", key, "queue", key),))
        return Reach(exchange, routing_key, paths)
    known_exchange(topology, exchange)

    arrived: dict[str, tuple[Step, ...]] = {exchange: ()}
    todo = [exchange]
    links = _links_by_source(topology)
    for name in todo:  # grows while it runs: breadth first, so each path is a shortest one
        kind = topology.exchange_type(name)
        steps = [
            Step(name, "binding", target, what, binding.routing_key, binding.arguments)
            for what, target, binding in links.get(name, ())
            if kind is not None and _matches(kind, binding, keys, headers)
        ]
        declared = topology.exchanges.get(name)
        if not steps and declared is not None and declared.alternate_exchange is not None:
            steps = [Step(name, "alternate", declared.alternate_exchange, "exchange")]
        for step in steps:
            found = paths if step.kind == "queue" else arrived
            if step.destination not in found:
                found[step.destination] = (*arrived[name], step)
                if step.kind == "exchange":
                    todo.append(step.destination)
    return Reach(exchange, routing_key, paths)


def may_reach(topology: Topology, exchange: str, shape: Shape) -> frozenset[str]:
    """Every queue that some message with a key of this shape can get to.

    Never leaves out a queue that ``reach`` finds for one of the keys, whatever the headers. It may hold one too many where
    several bindings on the way each match some key of a template, but never the same one.
    """
    queues = topology.all_queues()
    if exchange == "":
        return frozenset(name for name in queues if shape.can_be(name))
    found: set[str] = set()
    todo = [exchange]
    seen = {exchange}
    links = _links_by_source(topology)
    for name in todo:
        kind = topology.exchange_type(name)
        routed = False  # for certain, so that the alternate exchange is out of play
        targets: list[tuple[Literal["queue", "exchange"], str]] = []
        for what, target, binding in links.get(name, ()):
            if kind is not None and _may_match(kind, binding, shape):
                targets.append((what, target))
                routed = routed or _surely_matches(kind, binding, shape)
        declared = topology.exchanges.get(name)
        if not routed and declared is not None and declared.alternate_exchange is not None:
            targets.append(("exchange", declared.alternate_exchange))
        for what, target in targets:
            if what == "queue":
                found.add(target)
            elif target not in seen:
                seen.add(target)
                todo.append(target)
    return frozenset(found)


def explain_task(
    topology: Topology, router: Router, task: str, headers: Headers | None = None
) -> Explanation:
    """Which route a task takes and which queues that leads to.

    Raises:
        NoRoute: no route matches and there is no default queue.
        ConfigurationError: the route names an exchange the topology does not have.
    """
    route, origin = router.match(task)
    return Explanation(
        task, route, origin, reach(topology, route.exchange, route.routing_key, headers)
    )


def known_exchange(topology: Topology, name: str) -> ExchangeType:
    """The type of the exchange.

    Raises:
        ConfigurationError: the topology has no such exchange; the message names the nearest.
    """
    kind = topology.exchange_type(name)
    if kind is None:
        known = (*topology.exchanges, *PREDECLARED)
        raise ConfigurationError(
            f"{topology.source} declares no exchange {name!r}{did_you_mean(name, known) or '.'}"
        )
    return kind


def headers_match(arguments: Arguments, headers: Headers) -> bool:
    """Does a binding of a headers exchange match: ``x-match`` all (when left out), any, all-with-x or any-with-x.

    Without "with-x", arguments that begin with ``x-`` are left out of account. A null argument asks only that the header
    is there. Numbers of different kinds never match: 1 is not 1.0 and not true.
    """
    mode = arguments.get("x-match", "all")
    with_x = mode in ("all-with-x", "any-with-x")
    wanted = {
        name: value
        for name, value in arguments.items()
        if name != "x-match" and (with_x or not name.startswith("x-"))
    }
    hits = (
        name in headers and (value is None or _same(value, headers[name]))
        for name, value in wanted.items()
    )
    return any(hits) if mode in ("any", "any-with-x") else all(hits)


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other


def _more_keys(headers: Headers) -> Iterator[str]:
    for name in ("CC", "BCC"):
        value = headers.get(name)
        if isinstance(value, (list, tuple)):
            yield from (key for key in value if isinstance(key, str))


def _matches(kind: ExchangeType, binding: Binding, keys: tuple[str, ...], headers: Headers) -> bool:
    match kind:
        case "fanout":
            return True
        case "direct":
            return binding.routing_key in keys
        case "topic":
            return any(topic_matches(binding.routing_key, key) for key in keys)
        case "headers":
            return headers_match(binding.arguments, headers)


def _may_match(kind: ExchangeType, binding: Binding, shape: Shape) -> bool:
    match kind:
        case "fanout" | "headers":
            return True
        case "direct":
            return shape.can_be(binding.routing_key)
        case "topic":
            return shape.can_match(binding.routing_key)


def _surely_matches(kind: ExchangeType, binding: Binding, shape: Shape) -> bool:
    match kind:
        case "fanout":
            return True
        case "headers":
            return False
        case "direct" | "topic":
            return shape.key is not None or (kind == "topic" and binding.routing_key == "#")


def _links_by_source(
    topology: Topology,
) -> dict[str, list[tuple[Literal["queue", "exchange"], str, Binding]]]:
    links: dict[str, list[tuple[Literal["queue", "exchange"], str, Binding]]] = {}
    for link in topology.bindings:
        links.setdefault(link.binding.exchange, []).append(
            (link.kind, link.destination, link.binding)
        )
    return links
