"""The asyncio consumer: manual acks, coalesced; everything rebuilt from intent after a loss.

Each channel is an *epoch*. A ``basic.cancel`` or a channel close by the broker ends the epoch: another channel is opened
with fresh consumer tags, and verdicts for deliveries of the old one are dropped, because the broker has given those
messages back to the queue. Used for the reply queues of asyncio clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiormq.abc import AbstractChannel

from amqtask.amqp import failures, frames
from amqtask.amqp.aio.connection import Connection, Link
from amqtask.amqp.aio.declare import declare
from amqtask.amqp.delivery import Delivery
from amqtask.amqp.reach import Reach
from amqtask.core.backoff import exponential
from amqtask.core.ledger import Ledger
from amqtask.core.outcome import Verdict
from amqtask.errors import BrokerError, ConnectFailed, ConnectionLost
from amqtask.log import get_logger
from amqtask.topology.plan import Declaration

log = get_logger("amqtask.amqp")

ACK_DELAY = 0.005  # seconds an ack may wait for company
SHORT_LIFE = (
    5.0  # a channel that lasted less is followed by a pause, growing from RENEW_BASE to RENEW_CAP
)
RENEW_BASE = 0.05
RENEW_CAP = 3.0


class AioConsumer:
    """Consumes queues in one event loop. ``start`` decides which; everything else must be called inside it.

    Args:
        reach: the brokers, and how a connection is kept; each declaration has the time of an attempt to connect.
        name: connection name; consumer tags begin with it.
        queues: what to consume.
        prefetch: ``basic.qos`` per consumer.
        declarations: carried out on every new channel before consuming.
        on_delivery: gets each delivery, in order; must not block. An error it raises is logged, and the delivery stays
            unsettled.
        on_lost: a channel went that was consuming; its unsettled deliveries are the broker's again.
        exclusive: consume exclusively.
    """

    def __init__(
        self,
        reach: Reach,
        *,
        name: str,
        queues: Sequence[str],
        prefetch: int,
        declarations: Sequence[Declaration] = (),
        on_delivery: Callable[[Delivery], None],
        on_lost: Callable[[BrokerError], None] | None = None,
        exclusive: bool = False,
    ) -> None:
        self._name = name
        self._queues = tuple(queues)
        self._prefetch = prefetch
        self._declarations = tuple(declarations)
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._connect_timeout = reach.connect_timeout
        self._exclusive = exclusive
        self._ledger = Ledger()
        self._tags: dict[bytes, str] = {}  # consumer tag → queue
        self._link: Link | None = None
        self._channel: AbstractChannel | None = None
        self._consuming = asyncio.Event()
        self._stopping = False
        self._flush_timer: asyncio.TimerHandle | None = None
        self._opened_at = 0.0
        self._short_lives = 0
        self._connection = Connection(
            reach,
            name=name,
            on_open=self._channel_open,
            on_lost=self._channel_lost,
        )

    @property
    def epoch(self) -> int:
        """The number of the current channel; a delivery of an older one is stale."""
        return self._ledger.epoch

    @property
    def consuming(self) -> bool:
        """Whether the queues are consumed at present."""
        return self._consuming.is_set()

    def start(self) -> None:
        """Connect, declare, consume; again after every loss. Idempotent."""
        self._connection.start()

    async def ready(self, timeout: float) -> None:  # noqa: ASYNC109  # the caller's deadline decides the error
        """Wait until the queues are consumed.

        Raises:
            LoginRefused, ConnectFailed, OperationRefused: they were not within ``timeout`` seconds; the last reason.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._consuming.wait()
        except TimeoutError:
            error = self._connection.last_error
            if error is None:
                error = failures.unreachable(self._connection.address, "no answer yet")
            elif isinstance(error, ConnectionLost):
                error = ConnectFailed(str(error))
            raise error from None

    def settle(self, delivery: Delivery, verdict: Verdict) -> None:
        """Decide a delivery. Acks are coalesced for a few milliseconds; a stale epoch is dropped."""
        if not self._ledger.settle(delivery.epoch, delivery.tag, verdict):
            return
        if verdict is not Verdict.ACK:
            self._flush()
        elif self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(ACK_DELAY, self._flush)

    async def stop(self) -> None:
        """Cancel the consumers; deliveries already here stay ours to settle. Idempotent."""
        self._stopping = True
        link, channel = self._link, self._channel
        if link is None or channel is None:
            return
        try:
            for tag in tuple(self._tags):
                await link.call(channel.basic_cancel(tag.decode()), self._connect_timeout)
                self._tags.pop(tag, None)
        except BrokerError:
            pass  # the channel went, and its consumers with it

    async def delete(self, queue: str) -> None:
        """Delete a queue of this consumer's own; does nothing without a channel."""
        link, channel = self._link, self._channel
        if link is None or channel is None:
            return
        try:
            await link.call(channel.queue_delete(queue), self._connect_timeout)
        except BrokerError:
            pass  # the channel went; the queue's own expiry is what remains

    async def close(self) -> None:
        """Send the verdicts that wait, then close; what is unsettled goes back to its queue. Idempotent."""
        self._stopping = True
        self._flush()
        await self._connection.close()
        self._forget_channel()

    # ------------------------------------------------------------ the channel

    async def _channel_open(self, link: Link, channel: AbstractChannel) -> None:
        clock = asyncio.get_running_loop().time
        if self._short_lives:
            # Declared and consumed, and ended at once, again: do not race the broker.
            await asyncio.sleep(exponential(self._short_lives - 1, RENEW_BASE, RENEW_CAP))
        epoch = self._ledger.open_epoch()
        wire = link.wire
        wire.on_deliver = self._delivered
        wire.on_cancel = self._cancelled
        for declaration in self._declarations:
            await declare(link, channel, declaration, self._connect_timeout)
        if self._stopping:
            return
        await link.call(channel.basic_qos(prefetch_count=self._prefetch), self._connect_timeout)
        self._link, self._channel = link, channel
        self._tags = {
            f"{self._name}.{epoch}.{number}".encode(): queue
            for number, queue in enumerate(self._queues)
        }
        for tag, queue in self._tags.items():
            await link.call(
                channel.basic_consume(
                    queue, _unused, consumer_tag=tag.decode(), exclusive=self._exclusive
                ),
                self._connect_timeout,
            )
        self._opened_at = clock()
        self._consuming.set()

    def _channel_lost(self, error: BrokerError) -> None:
        was_consuming = self._consuming.is_set()
        if was_consuming:
            lived = asyncio.get_running_loop().time() - self._opened_at
            self._short_lives = self._short_lives + 1 if lived < SHORT_LIFE else 0
        self._forget_channel()
        if was_consuming and self._on_lost is not None:
            self._on_lost(error)

    def _forget_channel(self) -> None:
        self._consuming.clear()
        self._ledger.open_epoch()  # late verdicts are stale from now on, not only when a channel is open again
        self._link = self._channel = None
        self._tags = {}
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None

    def _cancelled(self, tag: str) -> None:
        queue = self._tags.get(tag.encode())
        if queue is not None:
            log.warning(
                "the broker cancelled a consumer; consuming again on a new channel", queue=queue
            )
            self._connection.renew_channel()

    # ------------------------------------------------------------ deliveries and verdicts

    def _delivered(self, deliver: Delivery) -> None:
        queue = self._tags.get(deliver.consumer_tag)
        if queue is None:
            return  # a consumer of an earlier channel: the broker has requeued it
        self._ledger.accept(deliver.tag)
        try:
            deliver.epoch, deliver.queue = self._ledger.epoch, queue
            self._on_delivery(deliver)
        except Exception:
            log.exception("a delivery callback failed", queue=queue)

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        link, channel = self._link, self._channel
        if link is None or channel is None:
            return
        chunks = []
        for command in self._ledger.flush():
            match command.verdict:
                case Verdict.ACK:
                    chunks.append(frames.encode_ack(channel.number, command.tag, command.multiple))
                case Verdict.GIVE_BACK:
                    chunks.append(frames.encode_nack(channel.number, command.tag, False, True))
                case Verdict.REJECT | Verdict.REJECT_REQUEUE:
                    requeue = command.verdict is Verdict.REJECT_REQUEUE
                    chunks.append(frames.encode_reject(channel.number, command.tag, requeue))
        if chunks:
            link.write(b"".join(chunks))


async def _unused(_: object) -> None:
    """What aiormq would call: deliveries come to us before it sees them."""
