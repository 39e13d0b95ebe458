"""The reply queue of one event loop: ``rpc.py`` for coroutines. The table it fills is the same."""

from __future__ import annotations

from amqtask.amqp.aio.consumer import AioConsumer
from amqtask.amqp.delivery import Delivery
from amqtask.amqp.reach import Reach
from amqtask.core.outcome import Verdict
from amqtask.results.pending import Pending
from amqtask.results.rpc import PREFETCH, file_reply, reply_queue


class AioReplyQueue:
    """Keeps an event loop's reply queue consumed. Everything must be called inside that loop.

    Args:
        reach: the brokers, and how a connection is kept.
        pending: where replies go.
        name: the queue's name.
        connection_name: shown by the broker's management.
        expires: seconds the queue outlives its process.
        kind: its type, ``classic`` or ``quorum``.
    """

    def __init__(
        self,
        reach: Reach,
        pending: Pending,
        *,
        name: str,
        connection_name: str,
        expires: float,
        kind: str = "classic",
    ) -> None:
        self.name = name
        self._pending = pending
        self._consumer = AioConsumer(
            reach,
            name=connection_name,
            queues=(name,),
            prefetch=PREFETCH,
            declarations=(reply_queue(name, expires, kind),),
            on_delivery=self._arrived,
        )

    @property
    def consuming(self) -> bool:
        """Whether the queue is declared and consumed at present."""
        return self._consumer.consuming

    async def require(self, timeout: float) -> str:  # noqa: ASYNC109  # the consumer turns its end into the last reason
        """The queue's name, once it is declared and consumed; connects on first use.

        Raises:
            BrokerError: it was not within ``timeout`` seconds; the last reason.
        """
        self._consumer.start()
        await self._consumer.ready(timeout)
        return self.name

    async def close(self) -> None:
        """Stop consuming, delete the queue and close the connection."""
        await self._consumer.stop()
        await self._consumer.delete(self.name)
        await self._consumer.close()

    def lose(self) -> None:
        """It brings nothing any more. Any thread."""
        self._pending.lose(self.name)

    def _arrived(self, delivery: Delivery) -> None:
        file_reply(self._pending, delivery)
        self._consumer.settle(delivery, Verdict.ACK)
