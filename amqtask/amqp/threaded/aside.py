"""A queue that a consumer has beside its own: with a prefetch of its own, never paused, and missed by nobody when it is not there.

It is consumed on the consumer's connection, once the consumer is ready, so that it costs the start of a worker nothing. What
comes from it is handed on message by message, and is settled like any other delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pika.channel import Channel

from amqtask.amqp.delivery import Delivery
from amqtask.amqp.threaded.lane import Lane
from amqtask.core.backoff import exponential
from amqtask.errors import BrokerError, OperationRefused

AGAIN_BASE = 1.0  # seconds before the queue is tried again; doubles
AGAIN_CAP = 60.0


class Owner(Protocol):
    """What is needed of the consumer. I/O thread."""

    stopping: bool

    def new_channel(self, on_open: Callable[[Channel], None]) -> Channel | None:
        """Open a channel; ``None`` without a connection."""

    def new_epoch(self) -> int:
        """A number that no epoch of any lane had before."""

    def next_tag(self) -> str:
        """A consumer tag that was never used."""

    def arguments(self, queue: str) -> Mapping[str, Any]:
        """Arguments for a consumer of this queue."""

    def read_by_pika(self, lane: Lane, method: Any, properties: Any, body: bytes) -> Delivery:
        """Note a delivery that pika's own codec has read, and make it one of ours."""

    def again_in(self, seconds: float, lane: Lane, declare: bool) -> None:
        """Open a lane after a while; ``declare`` first what is declared."""

    def why_refused(self, queue: str, error: OperationRefused) -> str:
        """Why a queue cannot be consumed, and what to do, as a sentence."""


class Aside:
    """Consumes one more queue for a consumer. Implements ``lane.Home``. I/O thread, but for its making.

    Args:
        queue: what to consume.
        prefetch: deliveries held at most.
        on_delivery: takes each.
        on_refused: told why the queue cannot be consumed, once for each different reason.
    """

    paused = False
    exclusive = False

    def __init__(
        self,
        queue: str,
        prefetch: int,
        on_delivery: Callable[[Delivery], None],
        on_refused: Callable[[BrokerError], None],
    ) -> None:
        self.queue = queue
        self.prefetch = prefetch
        self.lane = Lane(queue, self)
        self._on_delivery = on_delivery
        self._on_refused = on_refused
        self._owner: Owner | None = None
        self._tags: set[str | bytes] = set()
        self._told: set[str] = set()

    def belong(self, owner: Owner) -> None:
        """Be consumed on the connection of this consumer."""
        self._owner = owner

    def takes(self, deliver: Delivery) -> bool:
        """Take a delivery, if it is from this queue."""
        if deliver.consumer_tag not in self._tags:
            return False
        ledger = self.lane.ledger
        ledger.accept(deliver.tag)
        deliver.epoch, deliver.queue = ledger.epoch, self.queue
        self._on_delivery(deliver)
        return True

    # ------------------------------------------------------------ lane.Home

    @property
    def _home(self) -> Owner:
        assert self._owner is not None, "not consumed by anybody yet"
        return self._owner

    @property
    def stopping(self) -> bool:
        """Whether the consumer stops."""
        return self._home.stopping

    def new_channel(self, on_open: Callable[[Channel], None]) -> Channel | None:
        """Open a channel; ``None`` without a connection."""
        return self._home.new_channel(on_open)

    def new_epoch(self) -> int:
        """A number that no epoch of any lane had before."""
        return self._home.new_epoch()

    def new_tag(self, _lane: Lane) -> str:
        """A consumer tag that was never used, under which deliveries come here."""
        tag = self._home.next_tag()
        self._tags |= {tag, tag.encode()}
        return tag

    def forget_tag(self, tag: str) -> None:
        """Nothing is expected under this tag any more."""
        self._tags -= {tag, tag.encode()}

    def arguments(self, queue: str) -> Mapping[str, Any]:
        """Arguments for the consumer."""
        return self._home.arguments(queue)

    def delivered(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        """A delivery that pika's own codec has read."""
        if method.consumer_tag in self._tags:
            self._on_delivery(self._home.read_by_pika(self.lane, method, properties, body))

    def consumes(self, lane: Lane) -> None:
        """The queue is consumed."""
        lane.refusals = 0
        self._told.clear()

    def ended(self, lane: Lane, error: BrokerError, _was_consuming: bool) -> None:
        """The channel is gone while the connection is not: try again, a little later each time."""
        if isinstance(error, OperationRefused):
            reason = self._home.why_refused(self.queue, error)
            if reason not in self._told:
                self._told.add(reason)
                self._on_refused(OperationRefused(error.code, error.text, reason))
        # Whether it was deleted or never there, it may be ours to declare; what is forbidden is not tried so.
        declare = not isinstance(error, OperationRefused) or error.code == 404
        self._home.again_in(exponential(lane.refusals, AGAIN_BASE, AGAIN_CAP), lane, declare)
        lane.refusals += 1
