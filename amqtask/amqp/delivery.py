"""A message the broker handed to us, as the adapters report it."""

from __future__ import annotations

from collections.abc import Container

from amqtask.amqp import frames
from amqtask.amqp.mould import Moulds
from amqtask.core import codec
from amqtask.core.codec import Head, Limits
from amqtask.core.message import Properties

_moulds = Moulds()


class Delivery(frames.Deliver):
    """One message of the current epoch, as the parser makes it. Implements ``amqtask.amqp.ports.Delivery``.

    Attributes:
        epoch: number of the consumer's channel it came on; set by the consumer, likewise ``queue``.
        queue: queue it was consumed from.
    """

    __slots__ = ("_properties", "epoch", "queue")
    epoch: int
    queue: str
    _properties: Properties  # decoded on first use

    @classmethod
    def of(
        cls, epoch: int, queue: str, deliver: frames.Deliver, properties: Properties
    ) -> Delivery:
        """One whose properties another codec has decoded already."""
        made = cls(
            deliver.channel,
            deliver.consumer_tag,
            deliver.tag,
            deliver.redelivered,
            deliver.route,
            deliver.header,
            deliver.body,
        )
        made.epoch, made.queue, made._properties = epoch, queue, properties
        return made

    @property
    def properties(self) -> Properties:
        """Decoded on first use; raises ``DecodeError`` for a property block that is malformed."""
        try:
            return self._properties
        except AttributeError:
            pass
        self._properties = found = _moulds.decode(self.header)
        return found

    def head(self, accept: Container[str], limits: Limits) -> Head:
        """Everything but the arguments, as ``codec.read_header`` reads it. The properties are decoded only if they must be.

        Args:
            accept: as there.
            limits: as there.

        Raises:
            DecodeError, ContentRefused: as there.
        """
        if self.body[:1] == b"[":
            head = _moulds.head(self.header)
            if head is not None:
                return head
        return codec.read_header(self.properties, self.body, accept=accept, limits=limits)
