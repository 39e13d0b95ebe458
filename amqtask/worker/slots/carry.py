"""Carries a message on: what has to be published so that it comes to its queue again later.

A message that came before its time goes as it is; a retried task's message with its count, its time and what the task asked to
be different. The body is written anew only when the arguments are.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from amqtask.amqp.ports import Delivery
from amqtask.app import App
from amqtask.attempt import iso
from amqtask.call import expires_at
from amqtask.core import codec
from amqtask.core.codec import Content, Head
from amqtask.core.message import Envelope, Properties
from amqtask.core.onward import (
    EXCHANGE,
    FIRST_TIME,
    KOMBU,
    ROUTING_KEY,
    address,
    onward,
)
from amqtask.core.outcome import Onward
from amqtask.core.retry import Again
from amqtask.errors import ConfigurationError
from amqtask.topology.ladder import STEPS
from amqtask.topology.simulate import reach


class Carrier:
    """Makes the onward publications of one child. Any thread; nothing is kept.

    Args:
        app: whose topology and delay ladder count.
        accept: content types that may be decoded.
        limits: sizes that a message may have.
    """

    def __init__(self, app: App, accept: frozenset[str], limits: codec.Limits) -> None:
        self._app = app
        self._ladder = app.ladder
        # Where messages come from that were sent to another place first; the default exchange brings retries without delay.
        # What leaves a step goes down through the exchanges of those below it, and a delivery names the first of them.
        steps = map(self._ladder.step, range(STEPS))
        self._passages = frozenset((self._ladder.delivery, "", *steps))
        self._accept = accept
        self._limits = limits

    def came_by(self, delivery: Delivery) -> tuple[str, str]:
        """The exchange and the routing key a message was sent with, before it waited anywhere."""
        exchange = delivery.exchange
        if exchange not in self._passages and not exchange.startswith(KOMBU):
            return exchange, delivery.routing_key
        return address(delivery.properties.headers or {}, exchange, delivery.routing_key)

    def deferred(self, delivery: Delivery, delay: float) -> Onward:
        """The same message again in ``delay`` seconds."""
        return Onward(
            onward(
                delivery.body,
                delivery.properties,
                self._ladder.entry(delay, delivery.queue),
                published=self.came_by(delivery),
            ),
            delivery.queue,
        )

    def next_attempt(self, delivery: Delivery, head: Head, again: Again, now: float) -> Onward:
        """The message of the next attempt: the same id, one retry more.

        Args:
            delivery: this attempt's.
            head: its header.
            again: when, and what is different.
            now: seconds since the epoch.

        Raises:
            EncodeError, PayloadTooLarge: the new arguments cannot be sent.
            ConfigurationError: the queue it shall go to cannot be told, or serializer or compression are unknown.
        """
        delay = again.due - now
        options = again.options
        body, properties, changes = delivery.body, delivery.properties, dict[str, object]()
        if _writes_anew(head, again):
            body, properties, changes = self._rewritten(delivery, head, again)
        changes |= options.get("headers") or {}
        changes["retries"] = head.retries + 1
        changes["eta"] = iso(again.due) if delay > 0 else None
        changes[FIRST_TIME] = iso(again.first)
        if "expires" in options:
            changes["expires"] = expires_at(options["expires"], datetime.fromtimestamp(now, UTC))
        if "time_limit" in options or "soft_time_limit" in options:
            changes["timelimit"] = [
                options.get("time_limit", head.time_limit),
                options.get("soft_time_limit", head.soft_time_limit),
            ]
        for name in ("shadow", "ignore_result"):
            if name in options:
                changes[name] = options[name]
        if "priority" in options:
            properties = msgspec.structs.replace(properties, priority=options["priority"])
        queue = self._queue(delivery, head, options, changes)
        publication = onward(
            body,
            properties,
            self._ladder.entry(delay, queue) if delay > 0 else ("", queue),
            published=self.came_by(delivery),
            changes=changes,
        )
        if "headers" in options:
            headers = publication.envelope.properties.headers or {}
            codec.check_headers(headers, head.task, self._limits)
        return Onward(publication, queue if delay > 0 else None)

    def _queue(
        self, delivery: Delivery, head: Head, options: Any, changes: dict[str, object]
    ) -> str:
        """The queue of the next attempt: this one's, unless the task named another place."""
        places = [options.get(name) for name in ("queue", "exchange", "routing_key")]
        if places == [None, None, None]:
            return delivery.queue
        route = self._app.router.resolve(head.task, *places)
        changes[EXCHANGE], changes[ROUTING_KEY] = route.exchange, route.routing_key
        if not route.exchange:
            return route.routing_key
        found = reach(self._app.topology, route.exchange, route.routing_key, head.headers).queues
        if len(found) != 1:
            listed = " and ".join(repr(name) for name in sorted(found)) or "no queue"
            raise ConfigurationError(
                f"retry() of task {head.task}: exchange {route.exchange!r} with routing key {route.routing_key!r} leads to "
                f"{listed}; name the queue."
            )
        return next(iter(found))

    def _rewritten(
        self, delivery: Delivery, head: Head, again: Again
    ) -> tuple[bytes, Properties, dict[str, object]]:
        """Body, properties and changed headers of a message with other arguments, or in another form."""
        envelope = Envelope(delivery.body, delivery.properties)
        content = codec.read_body(
            head, delivery.properties, delivery.body, accept=self._accept, limits=self._limits
        )
        message = codec.to_message(
            head,
            Content(
                content.args if again.args is None else list(again.args),
                content.kwargs if again.kwargs is None else dict(again.kwargs),
                content.embed,
            ),
            envelope,
        )
        options = again.options
        message = msgspec.structs.replace(
            message,
            serializer=options.get("serializer", message.serializer),
            compression=options.get("compression", message.compression),
            argsrepr=None,
            kwargsrepr=None,
            priority=0,
            headers={},
        )
        written = codec.encode(message, limits=self._limits)
        headers = dict(written.properties.headers or {})
        changes: dict[str, object] = {
            "argsrepr": None,
            "kwargsrepr": None,
            "compression": headers.get("compression"),
        }
        if head.content is not None:  # what it is stood in the body until now
            changes = headers | changes
        properties = msgspec.structs.replace(
            delivery.properties,
            content_type=written.properties.content_type,
            content_encoding=written.properties.content_encoding,
            correlation_id=head.correlation_id,
        )
        return written.body, properties, changes


def _writes_anew(head: Head, again: Again) -> bool:
    """Whether the body cannot be taken over: in a message of protocol 1 it says how often the task was retried."""
    return (
        again.args is not None
        or again.kwargs is not None
        or head.content is not None
        or not again.options.keys().isdisjoint(("serializer", "compression"))
    )
