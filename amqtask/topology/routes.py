"""From a task's name to an exchange and a routing key."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from amqtask.errors import ConfigurationError, NoRoute
from amqtask.names import did_you_mean
from amqtask.settings import TaskRoute
from amqtask.topology.keys import MAX_KEY_BYTES, render, task_matches, template_problem
from amqtask.topology.model import PREDECLARED, Queue, RouteRule, Topology

# Names remembered per router. An application has some hundreds; a name that comes from outside must not fill the memory.
MAX_REMEMBERED = 10_000


class Route(msgspec.Struct, frozen=True):
    """Where one task is published. ``priority`` is ``None`` when no route sets one."""

    exchange: str
    routing_key: str
    priority: int | None = None


class Router:
    """Finds the route of a task: the settings' ``task_routes`` first, then the topology's, then the default queue.

    The first match wins. May be used from any thread; what it remembers only ever grows by equal values.

    Args:
        topology: the file's; ``None`` for an app that has none.
        task_routes: globs over task names, in order.
        default_queue: takes the tasks no route matches, when the topology declares it or there is none.

    Raises:
        ConfigurationError: an entry of ``task_routes`` leads nowhere; the message names the entry and the remedy.
    """

    def __init__(
        self,
        topology: Topology | None,
        task_routes: Mapping[str, TaskRoute],
        default_queue: str,
    ) -> None:
        self._topology = topology
        self._default_queue = default_queue
        self._queues = topology.all_queues() if topology is not None else None
        self._rules = tuple(
            (rule, f"task_routes[{rule.task!r}]")
            for rule in (self._from_settings(glob, entry) for glob, entry in task_routes.items())
        )
        if topology is not None:
            self._rules += tuple(
                (rule, f"{topology.source}: routes[{index}]")
                for index, rule in enumerate(topology.routes)
            )
        self._known: dict[str, Route] = {}  # any thread; dict operations are atomic

    def resolve(
        self,
        task_name: str,
        queue: str | None = None,
        exchange: str | None = None,
        routing_key: str | None = None,
        priority: int | None = None,
    ) -> Route:
        """The route of one publish.

        Options win over routes. ``queue`` goes to that queue through the default exchange; ``exchange`` and
        ``routing_key`` win over ``queue`` too. An exchange without a key gets the empty one.

        Args:
            task_name: the task's full name.
            queue: publish to this queue.
            exchange: publish to this exchange.
            routing_key: publish with this key.
            priority: the message's priority, instead of the route's.

        Raises:
            NoRoute: nothing matches and there is no default queue.
            ConfigurationError: the routing key is longer than AMQP allows.
        """
        if queue is None and exchange is None and routing_key is None:
            route = self._known.get(task_name) or self._remember(task_name)
            return route if priority is None else Route(route.exchange, route.routing_key, priority)
        if exchange is not None:
            return Route(exchange, _checked(routing_key or "", task_name), priority)
        if queue is not None:
            return Route("", _checked(routing_key or queue, task_name), priority)
        route = self._known.get(task_name) or self._remember(task_name)
        return Route(
            route.exchange,
            _checked(routing_key or "", task_name),
            route.priority if priority is None else priority,
        )

    def match(self, task_name: str) -> tuple[Route, str]:
        """The route of a task and where it was written, for messages to people.

        Raises:
            NoRoute: nothing matches and there is no default queue.
        """
        for rule, origin in self._rules:
            if task_matches(rule.task, task_name):
                if rule.queue is not None:
                    return Route("", rule.queue, rule.priority), origin
                key = _checked(render(rule.routing_key, task_name), task_name)
                return Route(rule.exchange or "", key, rule.priority), origin
        if self._queues is None or self._default_queue in self._queues:
            return Route("", self._default_queue), "the default queue"
        raise NoRoute(self._no_route(task_name))

    def _remember(self, task_name: str) -> Route:
        route, _ = self.match(task_name)
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[task_name] = route
        return route

    def _no_route(self, task_name: str) -> str:
        assert self._topology is not None  # without one, the default queue takes everything
        queues = list(self._topology.queues)
        remedy = f"add a route for it under routes: in {self._topology.source}"
        if queues:
            shown = ", ".join(queues[:5]) + (", …" if len(queues) > 5 else "")
            remedy += f", or set task_default_queue to one of its queues ({shown})"
        return (
            f"No route matches task {task_name!r}, and {self._topology.source} has no queue "
            f"{self._default_queue!r} for tasks without one: {remedy}."
        )

    def _from_settings(self, glob: str, entry: TaskRoute) -> RouteRule:
        where = f"task_routes[{glob!r}]"
        if (entry.queue is None) == (entry.exchange is None):
            given = "neither queue nor" if entry.queue is None else "both queue and"
            raise ConfigurationError(f"{where} gives {given} exchange: give one of the two.")
        if entry.queue is not None and entry.routing_key is not None:
            raise ConfigurationError(
                f"{where} gives a routing_key beside queue, which is reached by its own name: "
                "leave the key out, or give an exchange instead of the queue."
            )
        if entry.priority is not None and not 0 <= entry.priority <= 255:
            raise ConfigurationError(
                f"{where} has priority {entry.priority}: give 0 to 255, usually 0 to 9."
            )
        problem = template_problem(entry.routing_key or "")
        if problem is not None:
            raise ConfigurationError(f"{where}, routing_key {entry.routing_key!r}: {problem}.")
        self._check_target(where, entry)
        return RouteRule(
            task=glob,
            queue=entry.queue,
            exchange=entry.exchange,
            routing_key=entry.routing_key or "",
            priority=entry.priority,
        )

    def _check_target(self, where: str, entry: TaskRoute) -> None:
        """A route to a queue or exchange the topology does not have would fail at every publish; say so at once."""
        if self._topology is None or self._queues is None:
            return
        source = self._topology.source
        if entry.queue is not None and entry.queue not in self._queues:
            near = did_you_mean(entry.queue, self._queues) or "."
            raise ConfigurationError(
                f"{where} names queue {entry.queue!r}, which {source} does not declare{near}"
            )
        if entry.exchange and self._topology.exchange_type(entry.exchange) is None:
            near = did_you_mean(entry.exchange, (*self._topology.exchanges, *PREDECLARED)) or "."
            raise ConfigurationError(
                f"{where} names exchange {entry.exchange!r}, which {source} does not declare{near}"
            )


def default_topology(queue: str) -> Topology:
    """The topology of an app without a file: one quorum queue, with a queue for its dead letters."""
    return Topology(queues={queue: Queue(name=queue, dead_letter=True)})


def _checked(key: str, task_name: str) -> str:
    if len(key.encode()) > MAX_KEY_BYTES:
        raise ConfigurationError(
            f"The routing key of task {task_name!r} is {len(key.encode())} bytes, and AMQP allows "
            f"{MAX_KEY_BYTES}: shorten the task's name or use {{name}} in its route."
        )
    return key
