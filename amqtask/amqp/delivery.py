"""A message the broker handed to us, as the adapters report it."""

from __future__ import annotations

from collections.abc import Container

from amqtask.amqp import frames
from amqtask.amqp.mould import Moulds
from amqtask.core import codec
from amqtask.core.codec import Head, Limits
from amqtask.core.message import Properties

_moulds = Moulds()


class Delivery:
    """One message of the current epoch. Implements ``amqtask.amqp.ports.Delivery``.

    Attributes:
        epoch: number of the consumer's channel it came on.
        tag: delivery tag, counted per channel.
        redelivered: the broker has handed it out before.
        exchange: exchange it was published to.
        routing_key: routing key it was published with.
        queue: queue it was consumed from.
        body: message body.
        header: the properties as they came, for who passes them on untouched.

    ``properties`` are given where another codec has decoded them already.
    """

    __slots__ = (
        "_properties",
        "body",
        "epoch",
        "exchange",
        "header",
        "queue",
        "redelivered",
        "routing_key",
        "tag",
    )

    def __init__(
        self,
        epoch: int,
        queue: str,
        deliver: frames.Deliver,
        properties: Properties | None = None,
    ) -> None:
        self.epoch = epoch
        self.tag = deliver.tag
        self.redelivered = deliver.redelivered
        self.exchange = deliver.exchange
        self.routing_key = deliver.routing_key
        self.queue = queue
        self.body = deliver.body
        self.header = deliver.header
        self._properties = properties

    @property
    def properties(self) -> Properties:
        """Decoded on first use; raises ``DecodeError`` for a property block that is malformed."""
        if self._properties is None:
            self._properties = _moulds.decode(self.header)
        return self._properties

    def head(self, accept: Container[str], limits: Limits) -> Head:
        """Everything but the arguments, as ``codec.read_header`` reads it. The properties are decoded only if they must be.

        Args:
            accept: as there.
            limits: as there.

        Raises:
            DecodeError, ContentRefused: as there.
        """
        if self._properties is None and self.body[:1] == b"[":
            head = _moulds.head(self.header)
            if head is not None:
                return head
        return codec.read_header(self.properties, self.body, accept=accept, limits=limits)
