"""The consumer: deliveries in batches, acks coalesced, everything rebuilt from intent after a loss.

Each channel is an *epoch*. A ``basic.cancel`` or a channel close by the broker ends the epoch: the channel is closed, another
one opened with fresh consumer tags, and verdicts for deliveries of the old one are dropped, because the broker has given
those messages back to the queue. (RabbitMQ 4.3 keeps a cancelled consumer half alive when its late acks arrive on the same
channel; a fresh channel is the way out on every version.)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from pika.channel import Channel

from amqtask.amqp import frames, ports
from amqtask.amqp.address import Address
from amqtask.amqp.declaration import call_of
from amqtask.amqp.delivery import Delivery
from amqtask.amqp.threaded.connection import Connection
from amqtask.amqp.threaded.loop import IoThread
from amqtask.core.ledger import Ledger
from amqtask.core.message import Properties
from amqtask.core.outcome import Verdict
from amqtask.errors import BrokerError, OperationRefused
from amqtask.log import get_logger
from amqtask.topology.plan import Declaration, DeclareQueue

log = get_logger("amqtask.amqp")

ACK_DELAY = 0.005  # seconds an ack may wait for company

# A quorum queue has 32 commands of a channel under way at a time. The channel keeps the others, and forgets them when it is
# closed (seen on 3.10 and 4.3: the last acks after a burst of returned messages, whose tasks then ran again). Nothing tells
# when they are through, so a close that follows such a burst waits a moment.
BURST = 24  # commands
SETTLE_TIME = 0.25  # seconds


class ThreadedConsumer:
    """Consumes queues on one connection with manual acks. Implements ``amqtask.amqp.ports.Consumer``.

    ``start``, ``settle``, ``stop`` and ``close`` may be called from any thread. The callbacks run on the I/O thread and must
    not block.

    Args:
        io: the I/O thread to live on.
        addresses: brokers, tried in order.
        name: connection name; consumer tags begin with it.
        heartbeat: seconds.
        connect_timeout: seconds per attempt.
        queues: what to consume.
        prefetch: ``basic.qos`` per consumer.
        declarations: carried out on every new channel before consuming.
        on_batch: deliveries of one socket read, in order.
        on_lost: the epoch ended; unsettled deliveries of it are the broker's again.
        on_ready: consuming has begun on a channel.
        fast: whether amqtask's frame codec is used.
        exclusive: consume exclusively (a reply queue).
    """

    def __init__(
        self,
        io: IoThread,
        addresses: Sequence[Address],
        *,
        name: str,
        heartbeat: int,
        connect_timeout: float,
        queues: Sequence[str],
        prefetch: int,
        declarations: Sequence[Declaration] = (),
        on_batch: Callable[[list[Delivery]], None],
        on_lost: Callable[[BrokerError], None] | None = None,
        on_ready: Callable[[], None] | None = None,
        fast: bool = True,
        exclusive: bool = False,
    ) -> None:
        self._io = io
        self._name = name
        self._queues = tuple(queues)
        self._prefetch = prefetch
        self._declarations = tuple(declarations)
        # A queue that is missing closes the channel. Found out while another is consumed already, that would give back what
        # was delivered, second after second, until its delivery limit is used up: so all are looked for first.
        declared = {each.name for each in declarations if isinstance(each, DeclareQueue)}
        self._expected = tuple(name for name in queues if name not in declared and len(queues) > 1)
        self._on_batch = on_batch
        self._on_lost = on_lost
        self._on_ready = on_ready
        self._fast = fast
        self._exclusive = exclusive
        # I/O thread only, all of these:
        self._ledger = Ledger()
        self._batch: list[Delivery] = []
        self._tags: dict[str | bytes, str] = {}  # consumer tag → queue
        self._consuming = False
        self._stopping = False
        self._on_stopped: list[Callable[[], None]] = []
        self._flush_timer: Any = None
        self._burst = (
            0  # commands sent with less than SETTLE_TIME between them, the last at _burst_at
        )
        self._burst_at = 0.0
        self._consumers = 0  # consumers ever begun: each has a tag of its own
        self._granted = prefetch  # what the consumers of this channel began with; 0 when paused
        self._paused = False
        self._changing = False  # consumers come or go because the prefetch changes
        self._leaving: set[str] = set()  # consumers whose cancel has no answer yet
        # appended by any thread, drained by the I/O thread:
        self._verdicts: deque[tuple[ports.Delivery, Verdict]] = deque()
        self._connection = Connection(
            io,
            addresses,
            name=name,
            heartbeat=heartbeat,
            connect_timeout=connect_timeout,
            fast=fast,
            on_open=self._channel_open,
            on_lost=self._channel_lost,
        )

    # ------------------------------------------------------------ any thread

    @property
    def epoch(self) -> int:
        """The number of the current channel; a delivery of an older one is stale."""
        return self._ledger.epoch

    @property
    def unsettled(self) -> int:
        """Deliveries without a verdict. Exact on the I/O thread, a hint elsewhere."""
        return len(self._ledger)

    @property
    def last_error(self) -> BrokerError | None:
        """Why there is no connection now, ``None`` while there is one or none was tried."""
        return self._connection.last_error

    def start(self) -> None:
        """Connect, declare, consume; again after every loss."""
        self._connection.open()

    def settle(self, delivery: ports.Delivery, verdict: Verdict) -> None:
        """Decide a delivery. Acks are coalesced for a few milliseconds; a stale epoch is dropped."""
        self._verdicts.append((delivery, verdict))
        self._io.post(self._take_verdicts)

    def set_prefetch(self, prefetch: int) -> None:
        """Hold another number of messages from now on. I/O thread.

        RabbitMQ applies ``basic.qos`` to consumers that begin after it, so new consumers begin and the old ones leave;
        what those hold stays ours.
        """
        self._prefetch = prefetch
        self._adjust()

    def pause(self) -> None:
        """Have no more delivered until ``resume``; what is here stays ours to settle. I/O thread."""
        self._paused = True
        self._adjust()

    def resume(self) -> None:
        """Consume again after ``pause``. I/O thread."""
        self._paused = False
        self._adjust()

    def stop(self, on_stopped: Callable[[], None] | None = None) -> None:
        """Cancel the consumers; deliveries already here stay ours to settle.

        ``on_stopped`` runs on the I/O thread when the broker will deliver no more.
        """
        self._io.post(lambda: self._stop(on_stopped))

    def close(self, on_closed: Callable[[], None]) -> None:
        """Send the verdicts that wait, then close; what is unsettled goes back to its queue."""
        self._io.post(lambda: self._close(on_closed))

    def delete(self, queue: str, on_deleted: Callable[[], None]) -> None:
        """Delete a queue of this consumer's own; ``on_deleted`` runs on the I/O thread, at once without a channel."""
        self._io.post(lambda: self._delete(queue, on_deleted))

    # ------------------------------------------------------------ I/O thread: building

    def _channel_open(self, channel: Channel) -> None:
        self._ledger.open_epoch()
        self._batch = []
        self._tags = {}
        self._leaving = set()
        self._changing = False
        if self._fast:
            raw: Any = self._connection.raw
            raw.on_deliver = self._delivered
            raw.on_read_end = self._read_end
        channel.add_on_cancel_callback(self._cancelled)
        self._declare(channel, 0)

    def _declare(self, channel: Channel, index: int) -> None:
        if channel.is_closed or channel.is_closing:
            return
        if index < len(self._declarations):
            method, arguments = call_of(self._declarations[index])
            getattr(channel, method)(
                **arguments, callback=lambda _frame: self._declare(channel, index + 1)
            )
            return
        index -= len(self._declarations)
        if index < len(self._expected):
            channel.queue_declare(
                self._expected[index],
                passive=True,
                callback=lambda _frame: self._declare(channel, len(self._declarations) + index + 1),
            )
            return
        if self._stopping:
            self._stopped()
            return
        if self._paused:
            self._granted = 0
            self._consuming = True
            return
        self._granted = self._prefetch
        channel.basic_qos(
            prefetch_count=self._prefetch, callback=lambda _frame: self._consume(channel)
        )

    def _consume(self, channel: Channel) -> None:
        if channel.is_closed or channel.is_closing or self._stopping:
            return
        waiting = len(self._queues)

        def began(_frame: object) -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0 and self._on_ready is not None:
                self._on_ready()

        self._begin(channel, began)
        self._consuming = True

    def _adjust(self) -> None:
        """Bring the consumers to the prefetch that is wanted now."""
        channel = self._connection.channel
        if channel is None or not channel.is_open or not self._consuming:
            return  # the next channel begins with it
        wanted = 0 if self._paused else self._prefetch
        if wanted == self._granted or self._stopping or self._changing:
            return  # the end of a change looks again
        self._changing = True
        self._granted = wanted
        old = self._active()
        if not wanted:
            self._cancel(channel, old)
            return
        channel.basic_qos(
            prefetch_count=wanted, callback=lambda _frame: self._replace(channel, old)
        )

    def _active(self) -> list[str]:
        """The tags of the consumers that are not on their way out."""
        return [tag for tag in self._tags if isinstance(tag, str) and tag not in self._leaving]

    def _replace(self, channel: Channel, old: Sequence[str]) -> None:
        """Begin consumers with the new prefetch, then let the old ones go."""
        if channel.is_closed or channel.is_closing or self._stopping:
            return
        self._begin(channel, _nothing)
        self._cancel(channel, old)

    def _cancel(self, channel: Channel, tags: Sequence[str]) -> None:
        """Cancel consumers; go on when the broker has answered for all that are on their way out."""
        self._leaving.update(tags)

        def gone(tag: str) -> Callable[[object], None]:
            def forget(_frame: object) -> None:
                self._leaving.discard(tag)
                self._tags.pop(tag, None)
                self._tags.pop(tag.encode(), None)
                if not self._leaving:
                    self._all_gone()

            return forget

        for tag in tags:
            channel.basic_cancel(tag, callback=gone(tag))
        if not self._leaving:
            self._all_gone()

    def _all_gone(self) -> None:
        self._changing = False
        if self._stopping:
            self._consuming = False
            self._stopped()
        else:
            self._adjust()

    def _begin(self, channel: Channel, began: Callable[[object], None]) -> None:
        # Each time another queue is first, so that none always comes behind the task of another.
        first = self._consumers // len(self._queues) % len(self._queues)
        for queue in (*self._queues[first:], *self._queues[:first]):
            self._consumers += 1
            tag = f"{self._name}.{self._consumers}"
            self._tags[tag] = self._tags[tag.encode()] = queue
            channel.basic_consume(
                queue,
                self._delivered_by_pika,
                consumer_tag=tag,
                exclusive=self._exclusive,
                callback=began,
            )

    def _cancelled(self, frame: Any) -> None:
        tag = frame.method.consumer_tag
        log.warning(
            "the broker cancelled a consumer; consuming again on a new channel",
            queue=self._tags.get(tag),
        )
        self._connection.renew_channel()

    def _channel_lost(self, error: BrokerError) -> None:
        was_consuming, self._consuming = self._consuming, False
        self._ledger.open_epoch()  # late verdicts are stale from now on, not only when a channel is open again
        self._batch = []
        self._verdicts.clear()
        if isinstance(error, OperationRefused):
            log.warning("the broker closed the channel", reason=str(error), queues=self._queues)
        if was_consuming and self._on_lost is not None:
            self._on_lost(error)
        if self._stopping:
            self._stopped()

    # ------------------------------------------------------------ I/O thread: deliveries

    def _delivered(self, deliver: frames.Deliver) -> None:
        queue = self._tags.get(deliver.consumer_tag)
        if queue is None:
            self._refuse(deliver.tag)
            return
        self._ledger.accept(deliver.tag)
        self._batch.append(Delivery(self._ledger.epoch, queue, deliver))

    def _refuse(self, tag: int) -> None:
        """Give back what came for a consumer that is gone; left open, a ``multiple`` ack would cover it unseen."""
        self._ledger.accept(tag)
        self._ledger.settle(self._ledger.epoch, tag, Verdict.GIVE_BACK)
        self._io.post(self._flush)

    def _read_end(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._on_batch(batch)

    def _delivered_by_pika(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        queue = self._tags.get(method.consumer_tag)
        if queue is None:
            self._refuse(method.delivery_tag)
            return
        exchange, key = method.exchange.encode(), method.routing_key.encode()
        deliver = frames.Deliver(
            0,
            method.consumer_tag.encode(),
            method.delivery_tag,
            method.redelivered,
            b"%c%b%c%b" % (len(exchange), exchange, len(key), key),
            b"",
            body,
        )
        self._ledger.accept(deliver.tag)
        self._batch.append(Delivery(self._ledger.epoch, queue, deliver, from_pika(properties)))
        self._read_end()

    # ------------------------------------------------------------ I/O thread: verdicts

    def _take_verdicts(self) -> None:
        verdicts, ledger = self._verdicts, self._ledger
        urgent = False
        for _ in range(len(verdicts)):
            delivery, verdict = verdicts.popleft()
            if ledger.settle(delivery.epoch, delivery.tag, verdict) and verdict is not Verdict.ACK:
                urgent = True
        if urgent or not len(ledger):
            self._flush()
        elif ledger.unsent and self._flush_timer is None:
            self._flush_timer = self._io.call_later(ACK_DELAY, self._flush)

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._io.cancel(self._flush_timer)
            self._flush_timer = None
        channel = self._connection.channel
        if channel is None or not channel.is_open:
            return
        number = int(channel.channel_number)
        chunks = []
        for command in self._ledger.flush():
            if command.verdict is Verdict.ACK:
                chunks.append(frames.encode_ack(number, command.tag, command.multiple))
            elif command.verdict is Verdict.GIVE_BACK:
                chunks.append(frames.encode_nack(number, command.tag, command.multiple, True))
            else:
                requeue = command.verdict is Verdict.REJECT_REQUEUE
                chunks.append(frames.encode_reject(number, command.tag, requeue))
        if chunks:
            now = time.monotonic()
            self._burst = len(chunks) + (self._burst if now - self._burst_at < SETTLE_TIME else 0)
            self._burst_at = now
            self._connection.raw.send(b"".join(chunks))

    # ------------------------------------------------------------ I/O thread: the end

    def _stop(self, on_stopped: Callable[[], None] | None) -> None:
        if on_stopped is not None:
            self._on_stopped.append(on_stopped)
        if self._stopping:
            if not self._consuming:
                self._stopped()
            return
        self._stopping = True
        channel = self._connection.channel
        if channel is None or not channel.is_open or not self._consuming:
            self._stopped()
            return
        self._cancel(channel, self._active())

    def _stopped(self) -> None:
        callbacks, self._on_stopped = self._on_stopped, []
        for callback in callbacks:
            callback()

    def _delete(self, queue: str, on_deleted: Callable[[], None]) -> None:
        channel = self._connection.channel
        if channel is None or not channel.is_open:
            on_deleted()
            return
        channel.queue_delete(queue, callback=lambda _frame: on_deleted())

    def _close(self, on_closed: Callable[[], None]) -> None:
        self._stopping = True
        self._take_verdicts()
        self._flush()
        left = 0.0 if self._burst < BURST else self._burst_at + SETTLE_TIME - time.monotonic()
        if left > 0 and self._connection.channel is not None:
            self._io.call_later(left, lambda: self._connection.close(on_closed))
        else:
            self._connection.close(on_closed)


def _nothing(_frame: object) -> None:
    """The answer to a request nobody waits for."""


def from_pika(properties: Any) -> Properties:
    """Our form of properties that pika's codec has read."""
    return Properties(**{name: getattr(properties, name) for name in Properties.__struct_fields__})
