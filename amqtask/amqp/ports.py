"""The seams between amqtask and an AMQP client: what a publisher and a consumer offer, and what a delivery is.

``threaded/`` (pika) and ``aio/`` (aio-pika) implement them. Nothing outside ``amqtask.amqp`` imports a client library.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Protocol

from amqtask.core.codec import Head, Limits
from amqtask.core.message import Properties, Publication
from amqtask.core.outcome import Verdict
from amqtask.errors import BrokerError


class Delivery(Protocol):
    """One message handed to us by the broker, unsettled until ``Consumer.settle``.

    ``epoch`` counts the channels of the consumer: a verdict for an older epoch is dropped, because the broker has already
    given the message to somebody else.
    """

    epoch: int
    tag: int
    redelivered: bool
    queue: str
    body: bytes

    @property
    def names(self) -> tuple[str, str]:
        """Exchange and routing key it was published with."""
        ...

    @property
    def exchange(self) -> str:
        """The first of them."""
        ...

    @property
    def routing_key(self) -> str:
        """The second of them."""
        ...

    @property
    def properties(self) -> Properties:
        """Decoded on first use; raises ``DecodeError`` for a property block that is malformed."""
        ...

    def head(self, accept: Container[str], limits: Limits) -> Head:
        """Everything but the arguments, as ``codec.read_header`` reads it, and raises."""
        ...


Settled = Callable[[BrokerError | None], None]


class Publisher(Protocol):
    """Publishes with confirms, in order, across reconnects. Every method may be called from any thread."""

    def publish(
        self, publication: Publication, timeout: float, *, due_in: str | None = None
    ) -> None:
        """Return when the broker has confirmed the message.

        ``due_in`` names, for a publication into the delay ladder, the queue it is due in: what the ladder needs for that is
        declared first.

        Raises:
            PublishNacked, Unroutable, PublishBlocked, ConfirmTimeout, ConnectFailed, PayloadTooLarge: nothing else.
        """
        ...

    def publish_many(
        self,
        publications: Sequence[Publication],
        timeout: float,
        *,
        due_in: Sequence[str | None] | None = None,
    ) -> None:
        """Return when all are confirmed, pipelined; else raise the first error, after all have ended.

        ``due_in`` as for ``publish``, one for each. All delays count from this call.
        """
        ...

    def submit(
        self,
        publication: Publication,
        on_settled: Settled,
        timeout: float | None = None,
        *,
        due_in: str | None = None,
    ) -> None:
        """Queue a publication; ``on_settled`` runs once on the I/O thread, with ``None`` or the error.

        ``timeout=None`` tries until confirmed, nacked, returned or closed. ``due_in`` as for ``publish``.
        """
        ...

    def close(self, timeout: float = 5.0) -> None:
        """Wait for what is in flight, then close. Idempotent."""
        ...


class Consumer(Protocol):
    """Consumes queues with manual acks; rebuilt from intent after every loss."""

    def settle(self, delivery: Delivery, verdict: Verdict) -> None:
        """Send or queue the verdict (acks are coalesced). Stale epochs are dropped. Any thread."""
        ...

    def stop(self) -> None:
        """Cancel the consumers; deliveries already here stay ours. Any thread, idempotent."""
        ...
