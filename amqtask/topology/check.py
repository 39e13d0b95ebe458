"""The mistakes one sees only when looking at a topology as a whole: names that lead nowhere, cycles, priorities.

Works on a draft, in which parts may be missing because they could not be read; ``Doubts`` says which, so that one mistake
is not reported again at every place that depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from amqtask.names import did_you_mean, nearest
from amqtask.topology.dropped import DROPPED
from amqtask.topology.keys import MAX_KEY_BYTES, Shape
from amqtask.topology.model import (
    PREDECLARED,
    Binding,
    DeadLetter,
    DeadQueue,
    Queue,
    RouteRule,
    Topology,
    dead_queue_name,
)
from amqtask.topology.problems import Path, Problems
from amqtask.topology.simulate import may_reach


class Doubts:
    """What is not known of a draft. A binding without an exchange, a route without a task: placeholders, left alone."""

    def __init__(self) -> None:
        self.everything = False  # a whole section could not be read
        self.bindings = False  # a binding of some unknown exchange could not be read
        self.exchanges: set[str] = set()
        self.queues: set[str] = set()
        self.routes: set[Path] = set()
        self.dead_letters: set[Path] = set()


def check(topology: Topology, problems: Problems, doubts: Doubts) -> None:
    """Report every mistake in the references of a draft."""
    _Checker(topology, problems, doubts).run()


class _Checker:
    def __init__(self, topology: Topology, problems: Problems, doubts: Doubts) -> None:
        self._topology = topology
        self._problems = problems
        self._doubts = doubts
        self._queues = topology.all_queues()
        self._exchanges = (*topology.exchanges, *PREDECLARED)
        self._meant = self._as_meant()

    def run(self) -> None:
        for exchange in self._topology.exchanges.values():
            for index, binding in enumerate(exchange.bindings):
                self._binding(("exchanges", exchange.name, "bindings", index), binding)
        self._alternates()
        for queue in self._topology.queues.values():
            for index, binding in enumerate(queue.bindings):
                self._binding(("queues", queue.name, "bindings", index), binding)
            self._queue(("queues", queue.name), queue)
        if DROPPED in self._topology.exchanges:
            self._problems.add(
                ("exchanges", DROPPED), "is amqtask's own name, of the exchange for dropped tasks"
            )
        self._dead_letters()
        for index, route in enumerate(self._topology.routes):
            self._route(("routes", index), route)

    # ------------------------------------------------------------ bindings and exchanges

    def _binding(self, path: Path, binding: Binding) -> None:
        if binding.exchange == "":
            return  # could not be read; reported already
        if not self._exchange_exists((*path, "exchange"), binding.exchange):
            return
        kind = self._topology.exchange_type(binding.exchange)
        if binding.exchange in self._doubts.exchanges:
            return  # its type may not be what it seems
        if kind in ("direct", "topic") and (*path, "routing_key") in self._problems.omitted:
            self._problems.add(
                (*path, "routing_key"),
                f"is missing: the {kind} exchange {binding.exchange!r} routes by it",
            )
        if kind == "topic":
            for word in binding.routing_key.split("."):
                if len(word) > 1 and ("*" in word or "#" in word):
                    self._problems.add(
                        (*path, "routing_key"),
                        f"in {word!r} the wildcard is plain text: '*' (one word) and '#' (any number of words) "
                        "only work as whole words between dots",
                    )
        if kind != "headers" and binding.arguments:
            self._problems.add(
                (*path, "arguments"),
                f"only headers exchanges compare arguments, and {binding.exchange!r} is a {kind} exchange",
                at_key=True,
            )

    def _exchange_exists(self, path: Path, name: str) -> bool:
        if self._topology.exchange_type(name) is not None:
            return True
        if not self._doubts.everything:
            self._problems.add(
                path, f"there is no exchange {name!r}{did_you_mean(name, self._exchanges)}"
            )
        return False

    def _alternates(self) -> None:
        after: dict[str, list[str]] = {}
        for exchange in self._topology.exchanges.values():
            if exchange.alternate_exchange is None:
                continue
            path: Path = ("exchanges", exchange.name, "alternate_exchange")
            if self._exchange_exists(path, exchange.alternate_exchange):
                after[exchange.name] = [exchange.alternate_exchange]
            else:
                self._doubts.exchanges.add(exchange.name)
        for cycle in _cycles(after):
            self._problems.add(
                ("exchanges", cycle[0], "alternate_exchange"),
                f"a cycle of alternate exchanges: {' → '.join((*cycle, cycle[0]))}",
            )

    # ------------------------------------------------------------ queues

    def _queue(self, path: Path, queue: Queue) -> None:
        if queue.name == DROPPED:
            self._problems.add(
                path, "is amqtask's own name, of the queue from which workers tell of dropped tasks"
            )
        if queue.name in self._doubts.queues:
            return
        if not queue.durable and queue.type != "classic":
            self._problems.add(
                (*path, "durable"),
                f"a {queue.type} queue is always durable: leave it out, or use type: classic",
            )
        if queue.overflow == "reject-publish-dlx" and queue.type == "quorum":
            self._problems.add(
                (*path, "overflow"),
                "reject-publish-dlx works on classic queues only: use reject-publish, or type: classic",
            )
        if (
            queue.delivery_limit is not None
            and queue.dead_letter is False
            and queue.type == "quorum"
        ):
            self._problems.add(
                (*path, "delivery_limit"),
                "without a dead letter the broker silently deletes the message at the limit: "
                "leave delivery_limit out, or use dead_letter: true",
            )
        if queue.has_dead_queue and len(dead_queue_name(queue.name).encode()) > MAX_KEY_BYTES:
            self._problems.add(
                path,
                f"the name of its dead-letter queue, {queue.name[:20]}….dead, would be longer than "
                f"the {MAX_KEY_BYTES} bytes AMQP allows: shorten the name, or set dead_letter: false",
                at_key=True,
            )

        dead = dead_queue_name(queue.name)
        if isinstance(queue.dead_letter, DeadQueue) and dead in self._topology.queues:
            name = queue.name
            self._problems.add(
                self._dead_letter_path(name),
                f"queue {dead!r} is in this file, which bounds it: give it message_ttl, max_length and overflow: drop-head there, "
                f"and {name!r} dead_letter: true",
            )

    def _dead_letters(self) -> None:
        after: dict[str, list[str]] = {}
        for queue in self._topology.queues.values():
            path = self._dead_letter_path(queue.name)
            target = queue.dead_letter
            if queue.has_dead_queue:
                after[queue.name] = [dead_queue_name(queue.name)]
            elif isinstance(target, DeadLetter):
                if target.exchange != "" and not self._exchange_exists(
                    (*path, "exchange"), target.exchange
                ):
                    continue
                if path in self._doubts.dead_letters:
                    continue
                reached = self._dead_letters_of(queue, target)
                after[queue.name] = [name for name in self._queues if name in reached]
                if not reached and self._certain(target.exchange):
                    key = "" if target.routing_key is None else f" with key {target.routing_key!r}"
                    self._problems.add(
                        path,
                        f"dead letters would be lost: {_exchange(target.exchange)}{key} leads to no queue"
                        + self._queue_hint(target.exchange, target.routing_key),
                    )
        for cycle in _cycles(after):
            self._problems.add(
                self._dead_letter_path(cycle[0]),
                f"a cycle of dead letters: {' → '.join((*cycle, cycle[0]))}",
            )

    def _dead_letter_path(self, queue: str) -> Path:
        """Where a queue's dead letters are written: with the queue, or with the defaults of all."""
        path: Path = ("queues", queue, "dead_letter")
        default: Path = ("defaults", "dead_letter")
        return (
            path if self._problems.written(path) or not self._problems.written(default) else default
        )

    def _dead_letters_of(self, queue: Queue, target: DeadLetter) -> set[str]:
        """The queues that the dead letters of a queue can get to."""
        if target.routing_key is not None:
            shapes = [Shape(target.routing_key)]
        else:
            shapes = [Shape(queue.name), *self._keys_into(queue)]
        return {name for shape in shapes for name in may_reach(self._meant, target.exchange, shape)}

    def _keys_into(self, queue: Queue) -> Iterable[Shape]:
        """The keys messages can have in a queue, as far as its bindings and other queues' dead letters tell."""
        for binding in queue.bindings:
            kind = self._topology.exchange_type(binding.exchange)
            if kind == "direct":
                yield Shape(binding.routing_key)
            elif kind == "topic":
                yield Shape(pattern=binding.routing_key)
        for other in self._topology.queues.values():
            if isinstance(other.dead_letter, DeadLetter) and other.dead_letter.routing_key:
                yield Shape(other.dead_letter.routing_key)

    # ------------------------------------------------------------ routes

    def _route(self, path: Path, route: RouteRule) -> None:
        if path in self._doubts.routes or self._doubts.everything:
            return
        if route.queue is not None:
            if route.queue not in self._queues:
                self._problems.add(
                    (*path, "queue"),
                    f"there is no queue {route.queue!r}{did_you_mean(route.queue, self._queues)}",
                )
                return
            targets = frozenset((route.queue,))
        else:
            exchange = route.exchange or ""
            if exchange != "" and not self._exchange_exists((*path, "exchange"), exchange):
                return
            declared = self._topology.exchanges.get(exchange)
            if declared is not None and declared.internal:
                self._problems.add(
                    (*path, "exchange"),
                    f"the exchange {exchange!r} is internal: nothing can be published to it",
                )
                return
            targets = may_reach(
                self._meant, exchange, Shape.of_route(route.routing_key, route.task)
            )
            if not self._certain(exchange):
                return
            if not targets:
                self._nowhere(path, route, exchange)
                return
        if route.priority is not None and not targets & self._doubts.queues:
            self._priority((*path, "priority"), route.priority, targets)

    def _nowhere(self, path: Path, route: RouteRule, exchange: str) -> None:
        if (*path, "routing_key") in self._problems.omitted:
            self._problems.add(
                (*path, "routing_key"),
                f"is missing, and no binding of {_exchange(exchange)} takes messages without one",
            )
            return
        shown = sorted(
            {
                link.binding.routing_key
                for link in self._topology.bindings
                if link.binding.exchange == exchange
            }
        )
        have = f" (its bindings: {', '.join(map(repr, shown[:5]))})" if shown else ""
        if not shown and exchange != "":
            have = " (nothing is bound to it)"
        self._problems.add(
            (*path, "routing_key"),
            f"leads nowhere: no binding of {_exchange(exchange)} matches {route.routing_key!r}{have}"
            + self._queue_hint(exchange, route.routing_key),
        )

    def _priority(self, path: Path, priority: int, targets: frozenset[str]) -> None:
        highest = {name: self._queues[name].highest_priority for name in sorted(targets)}
        levels = [level for level in highest.values() if level is not None]
        names = ", ".join(map(repr, highest))
        if not levels:
            kinds = {self._queues[name].type for name in targets}
            remedy = (
                "a stream has no priorities: leave priority out"
                if kinds == {"stream"}
                else "a classic queue has priorities only with max_priority: give it one, or leave priority out"
            )
            self._problems.add(path, f"has no effect in queue {names}: {remedy}")
        elif priority > max(levels):
            self._problems.add(
                path, f"{priority} is above {max(levels)}, the highest priority of queue {names}"
            )

    # ------------------------------------------------------------ shared

    def _as_meant(self) -> Topology:
        """The draft with each misspelled exchange of a binding replaced by the one most likely meant.

        Where messages go is asked of this one, so that a misspelling is not reported again at every route behind it.
        """

        def corrected(bindings: tuple[Binding, ...]) -> tuple[Binding, ...]:
            return tuple(
                binding
                if self._topology.exchange_type(binding.exchange) is not None
                else replace(
                    binding, exchange=nearest(binding.exchange, self._exchanges) or binding.exchange
                )
                for binding in bindings
            )

        return replace(
            self._topology,
            exchanges={
                name: replace(exchange, bindings=corrected(exchange.bindings))
                for name, exchange in self._topology.exchanges.items()
            },
            queues={
                name: replace(queue, bindings=corrected(queue.bindings))
                for name, queue in self._topology.queues.items()
            },
        )

    def _certain(self, exchange: str) -> bool:
        """Is everything known that lies behind this exchange."""
        if self._doubts.everything or self._doubts.bindings:
            return False
        seen = {exchange}
        todo = [exchange]
        for name in todo:
            declared = self._topology.exchanges.get(name)
            alternate = declared.alternate_exchange if declared is not None else None
            behind = [
                link.destination
                for link in self._topology.bindings
                if link.kind == "exchange" and link.binding.exchange == name
            ]
            for target in (*behind, *([alternate] if alternate is not None else [])):
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        return not seen & self._doubts.exchanges

    def _queue_hint(self, exchange: str, key: str | None) -> str:
        return did_you_mean(key, self._queues) if exchange == "" and key is not None else ""


def _exchange(name: str) -> str:
    return f"exchange {name!r}" if name else "the default exchange"


def _cycles(after: Mapping[str, list[str]]) -> list[list[str]]:
    """One shortest cycle for each group of names that lead back to themselves, in the order of the mapping."""
    cycles: list[list[str]] = []
    reported: set[str] = set()
    for start in after:
        if start in reported:
            continue
        came_from: dict[str, str] = {}
        todo = [start]
        for name in todo:
            for target in after.get(name, ()):
                if target not in came_from:
                    came_from[target] = name
                    todo.append(target)
        if start in came_from:
            cycle = [start]
            while came_from[cycle[-1]] != start:
                cycle.append(came_from[cycle[-1]])
            cycle[1:] = reversed(cycle[1:])
            cycles.append(cycle)
            reported.update(cycle)
    return cycles
