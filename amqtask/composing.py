"""What to publish for a call: its route, its message, and its way through the delay ladder when it is for later.

Calls of one kind are put together from parts that are encoded already.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from amqtask.call import Call, due_at, expires_at, message_of
from amqtask.core import codec
from amqtask.core.message import Envelope, Message, Publication
from amqtask.core.onward import onward
from amqtask.core.workflow import Sig
from amqtask.errors import AmqtaskError, ConfigurationError, Unroutable
from amqtask.names import did_you_mean
from amqtask.place import Place
from amqtask.request import Request, current, running
from amqtask.settings import Settings
from amqtask.topology.routes import MAX_REMEMBERED, Route, Router
from amqtask.topology.simulate import reach
from amqtask.topology.targets import Targets

if TYPE_CHECKING:
    from amqtask.amqp.stencil import Stencil

Sending: TypeAlias = tuple[Publication, str | None]
"""A publication, and the queue it is due in when something must be declared for it."""


def inherited_priority(settings: Settings, parent: Request | None) -> int | None:
    """The priority of what a running task sends, if it has one from there."""
    if parent is None or not settings.task_inherit_parent_priority:
        return None
    return parent.delivery_info.priority


class Composer:
    """Makes the publications of an app's calls in one process. Any thread.

    Args:
        place: the app's topology and routes.
        settings: the app's.
        limits: of messages.
        origin: who sends.
    """

    def __init__(self, place: Place, settings: Settings, limits: codec.Limits, origin: str) -> None:
        self._place = place
        self._settings = settings
        self._limits = limits
        self._origin = origin
        self._router: Router | None = None
        self._targets: Targets | None = None
        # by task: what its calls are put together from, the options that holds for, and where their results go
        self._stencils: dict[str, tuple[Stencil, Mapping[str, Any], str | None]] = {}

    def stencilled(self, call: Call, reply_to: str | None) -> Publication | None:
        """The publication of a call like others before it; ``None`` for one with something of its own."""
        if call.defaults is None or current.get() is not None:
            return None
        known = self._stencils.get(call.task)
        if known is None or known[1] is not call.defaults or known[2] != reply_to:
            if call.expires is not None or call.compression or self._settings.task_compression:
                return None
            known = self._stencils[call.task] = self._new_stencil(call, reply_to)
        return known[0].publication(call.id, call.args, call.kwargs, time.time())

    def _new_stencil(
        self, call: Call, reply_to: str | None
    ) -> tuple[Stencil, Mapping[str, Any], str | None]:
        from amqtask.amqp.stencil import Stencil  # with the first message, not with amqtask

        route = self._route(call)
        sample = self._message(call, reply_to, route, None, None)
        made = Stencil(route.exchange, route.routing_key, sample, time.time(), self._limits)
        assert call.defaults is not None
        if len(self._stencils) >= MAX_REMEMBERED:  # names made from data must not fill us
            self._stencils.clear()
        return made, call.defaults, reply_to

    def _route(self, call: Call) -> Route:
        router = self._router
        if router is None:
            router = self._router = self._place.router
        priority = call.priority
        if priority is None and self._settings.task_inherit_parent_priority:
            priority = inherited_priority(self._settings, running())
        return router.resolve(
            call.route_name or call.task, call.queue, call.exchange, call.routing_key, priority
        )

    def _message(
        self,
        call: Call,
        reply_to: str | None,
        route: Route,
        eta: str | None,
        expires: str | None,
    ) -> Message:
        settings = self._settings
        return message_of(
            call,
            reply_to=reply_to,
            priority=settings.task_default_priority if route.priority is None else route.priority,
            serializer=settings.task_serializer,
            compression=settings.task_compression,
            origin=self._origin,
            parent=running(),
            eta=eta,
            expires=expires,
        )

    def compose(self, call: Call, reply_to: str | None) -> tuple[Sending, ...]:
        """The publications of any call."""
        route = self._route(call)
        flow = call.workflow
        if flow is not None and self._settings.task_celery_queues and self._celerys(route):
            from amqtask.canvas.celery_parts import for_celery  # few need it

            flow = for_celery(flow, call.id, self._goes_to_celery)
            call = msgspec.structs.replace(call, workflow=flow)
        now, eta, expires, delay = None, None, None, 0.0
        if call.expires is not None or call.countdown is not None or call.eta is not None:
            now = datetime.now(UTC)
            expires = expires_at(call.expires, now)
            eta, delay = due_at(call.countdown, call.eta, now)
        message = self._message(call, reply_to, route, eta, expires)
        # The broker drops what has expired without a word. In a workflow others wait, and a worker tells them.
        dropped = now is not None and not delay and call.workflow is None
        envelope = codec.encode(
            message,
            now=now.timestamp() if dropped and now is not None else None,
            sent=time.time(),
            limits=self._limits,
        )
        if delay:
            return self._delayed(route, envelope, delay)
        return ((Publication(route.exchange, route.routing_key, envelope), None),)

    def _celerys(self, route: Route) -> bool:
        """Whether a route leads to a queue that Celery's workers serve."""
        if not route.exchange:
            return route.routing_key in self._settings.task_celery_queues
        try:
            queues = reach(self._place.topology, route.exchange, route.routing_key).queues
        except ConfigurationError:
            return False
        return not queues.isdisjoint(self._settings.task_celery_queues)

    def _goes_to_celery(self, sig: Sig) -> bool:
        options: Any = sig.get("options") or {}
        where = (options.get(name) for name in ("queue", "exchange", "routing_key"))
        try:
            return self._celerys(self._place.router.resolve(str(sig.get("task")), *where))
        except ConfigurationError:
            return False

    def _delayed(self, route: Route, envelope: Envelope, delay: float) -> tuple[Sending, ...]:
        """A message through the delay ladder, to each queue that it would reach now."""
        exchange, key = route.exchange, route.routing_key
        properties = envelope.properties
        headers = properties.headers or {}
        ladder = self._place.ladder
        targets = self._targets
        if targets is None:
            targets = self._targets = Targets(self._place.topology)
        queues = targets.of(exchange, key, headers)
        if not queues:
            raise self._unroutable(exchange, key, headers)
        sendings: list[Sending] = []
        for queue in queues:
            publication = onward(
                envelope.body, properties, ladder.entry(delay, queue), published=(exchange, key)
            )
            sendings.append((publication, queue))
        return tuple(sendings)

    def explained(
        self, error: AmqtaskError, publication: Publication, due_in: str | None
    ) -> AmqtaskError:
        """An ``Unroutable`` with what the topology expected there; other errors as they are."""
        if not isinstance(error, Unroutable) or due_in is not None:
            return error
        return self._unroutable(
            publication.exchange,
            publication.routing_key,
            publication.envelope.properties.headers or {},
        )

    def _unroutable(self, exchange: str, key: str, headers: Mapping[str, object]) -> Unroutable:
        topology = self._place.topology
        remedy = (
            f"run `amqtask topology apply {topology.source}`, or start a worker for it"
            if self._place.has_topology_file
            else "start a worker for it"
        )
        try:
            queues = sorted(reach(topology, exchange, key, headers).queues)
        except ConfigurationError as unknown:
            expected = str(unknown)
        else:
            if queues:
                listed = " and ".join(repr(queue) for queue in queues)
                expected = f"{topology.source} expects queue {listed} there: {remedy}."
            elif exchange == "":
                near = did_you_mean(key, topology.queues) or "."
                expected = f"{topology.source} declares no queue {key!r}{near}"
            else:
                expected = f"{topology.source} binds no queue for it: check the routing key, or add a binding."
        return Unroutable(f"No queue takes exchange {exchange!r}, routing key {key!r}; {expected}")
