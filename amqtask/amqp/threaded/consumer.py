"""The consumer: deliveries in batches, acks coalesced, everything rebuilt from intent after a loss.

Each queue has a channel of its own, a *lane*, and each channel is an *epoch*: what ends one (a ``basic.cancel``, a refusal, a
deleted queue) leaves the other queues alone, and verdicts for deliveries of an ended epoch are dropped, because the broker has
given those messages back to the queue. Declarations are carried out on one more channel, so that a refused one costs nobody
a delivery.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pika.channel import Channel

from amqtask.amqp import failures, frames, ports
from amqtask.amqp.declaration import call_of, declaration_text
from amqtask.amqp.delivery import Delivery
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.aside import Aside
from amqtask.amqp.threaded.connection import Connection
from amqtask.amqp.threaded.lane import Lane
from amqtask.amqp.threaded.loop import IoThread
from amqtask.core.backoff import exponential
from amqtask.core.message import Properties
from amqtask.core.outcome import Verdict
from amqtask.errors import BrokerError, OperationRefused
from amqtask.log import get_logger
from amqtask.topology import plan
from amqtask.topology.holding import CONSUMER_TIMEOUTS
from amqtask.topology.plan import Declaration, DeclareQueue
from amqtask.topology.units import milliseconds

log = get_logger("amqtask.amqp")

ACK_DELAY = 0.005  # seconds an ack may wait for company

# A quorum queue has 32 commands of a channel under way at a time. The channel keeps the others, and forgets them when it is
# closed (seen on 3.10 and 4.3: the last acks after a burst of returned messages, whose tasks then ran again). Nothing tells
# when they are through, so a close that follows such a burst waits a moment.
BURST = 24  # commands
SETTLE_TIME = 0.25  # seconds

AGAIN_BASE = 0.02  # seconds before a queue is tried again whose consumer the broker ended
AGAIN_CAP = 1.0
REOPEN_CAP = 0.05  # seconds before the next declaration after a refused one: each is tried once
DECLARE_TIMEOUT = 10.0  # seconds for all declarations; a cluster without a majority may not answer
HEALTHY_AFTER = (
    10.0  # seconds of consuming before the next end of a channel counts as the first again
)
PRECONDITION_FAILED = 406


class ThreadedConsumer:
    """Consumes queues on one connection with manual acks. Implements ``amqtask.amqp.ports.Consumer``.

    ``start``, ``settle``, ``stale``, ``stop`` and ``close`` may be called from any thread. The callbacks run on the I/O thread
    and must not block.

    Args:
        io: the I/O thread to live on.
        reach: the brokers, and how a connection is kept.
        name: connection name; consumer tags begin with it.
        queues: what to consume.
        prefetch: ``basic.qos`` per consumer.
        declarations: carried out on every new connection before consuming, and when a declared queue has gone. One that is
            refused is logged and harms no other.
        declared: they have just been carried out: the first connection leaves them out.
        on_batch: deliveries of one socket read, in order.
        on_lost: an epoch ended; unsettled deliveries of it are the broker's again (``stale``).
        on_ready: consuming has begun: on all queues, but those that the broker refuses at present; not while paused.
        exclusive: consume exclusively (a reply queue).
        consumer_timeouts: seconds a delivery of a queue may be held, told to brokers that take it from a consumer.
        aside: one more queue, consumed once this one is ready.
    """

    def __init__(
        self,
        io: IoThread,
        reach: Reach,
        *,
        name: str,
        queues: Sequence[str],
        prefetch: int,
        declarations: Sequence[Declaration] = (),
        declared: bool = False,
        on_batch: Callable[[list[Delivery]], None],
        on_lost: Callable[[BrokerError], None] | None = None,
        on_ready: Callable[[], None] | None = None,
        exclusive: bool = False,
        consumer_timeouts: Mapping[str, float] | None = None,
        aside: Aside | None = None,
    ) -> None:
        self._io = io
        self._name = name
        self._declarations = tuple(declarations)
        self._fresh = declared  # I/O thread
        self._declared = {each.name for each in declarations if isinstance(each, DeclareQueue)}
        self._on_batch = on_batch
        self._on_lost = on_lost
        self._on_ready = on_ready
        self._fast = reach.fast
        self._timeouts = dict(consumer_timeouts or {})
        # I/O thread only, all of these:
        self.prefetch = prefetch
        self.paused = False
        self.stopping = False
        self.exclusive = exclusive
        self._work = [Lane(queue, self) for queue in queues]
        self._aside = aside
        # by queue: what settles does not ask whose it is
        self._lanes = {lane.queue: lane for lane in self._work}
        if aside is not None:
            aside.belong(self)
            self._lanes[aside.queue] = aside.lane
        self._batch: list[Delivery] = []
        self._tags: dict[str | bytes, Lane] = {}  # consumer tag → lane
        self._epochs = 0
        self._consumers = 0  # consumers ever begun: each has a tag of its own
        self._up = False  # the connection is there
        self._ready = False  # on_ready was told
        self._begun = False  # on any connection
        self._step: int | None = None  # the declaration that is asked for; None between two rounds
        self._round_timer: Any = None
        self._waiting: list[Lane] = []  # lanes that open after the next round of declarations
        self._refused: set[int] = set()  # declarations refused in this round
        self._told: set[str] = set()  # what the log has on this connection
        self._on_stopped: list[Callable[[], None]] = []
        self._on_deleted: list[Callable[[], None]] = []
        self._flush_timer: Any = None
        self._burst = (
            0  # commands sent with less than SETTLE_TIME between them, the last at _burst_at
        )
        self._burst_at = 0.0
        # appended by any thread, drained by the I/O thread:
        self._verdicts: deque[tuple[ports.Delivery, Verdict]] = deque()
        self._taking = False  # they will be taken; written by any thread, cleared by the I/O thread before it drains
        self._connection = Connection(
            io,
            reach,
            name=name,
            on_open=self._channel_open,
            on_lost=self._channel_lost,
            reopen_cap=REOPEN_CAP,
        )

    # ------------------------------------------------------------ any thread

    @property
    def epoch(self) -> int:
        """The number of the newest epoch of any queue: it grows with each beginning and each end of a channel."""
        return self._epochs

    def stale(self, delivery: ports.Delivery) -> bool:
        """Whether the broker has taken a delivery back, because its epoch has ended."""
        return delivery.epoch != self._lanes[delivery.queue].ledger.epoch

    @property
    def unsettled(self) -> int:
        """Deliveries of its own queues without a verdict. Exact on the I/O thread, a hint elsewhere."""
        return sum(len(lane.ledger) for lane in self._work)

    @property
    def last_error(self) -> BrokerError | None:
        """Why there is no connection now, or what the broker has against a queue; ``None`` while nothing is wrong."""
        errors = (lane.error for lane in self._work)
        return self._connection.last_error or next((error for error in errors if error), None)

    def start(self) -> None:
        """Connect, declare, consume; again after every loss."""
        self._connection.open()

    def settle(self, delivery: ports.Delivery, verdict: Verdict) -> None:
        """Decide a delivery. Acks are coalesced for a few milliseconds; a stale epoch is dropped."""
        self._verdicts.append((delivery, verdict))
        if not self._taking:  # read after the append: who takes the others takes this one too
            self._taking = True
            try:
                self._io.post(self._take_verdicts)
            except BaseException:  # a signal's exception: the next verdict must ask again
                self._taking = False
                raise

    def note_ack(self, delivery: ports.Delivery) -> bool:
        """Ack a delivery with the next ``send_acks``. False when the broker has it again (``stale``). I/O thread."""
        return self._lanes[delivery.queue].ledger.ack(delivery.epoch, delivery.tag)

    def send_acks(self) -> None:
        """Send what was noted, together with other verdicts, within a few milliseconds. I/O thread."""
        self._flush_soon(False)

    def give_back(self) -> None:
        """Give back whatever has no verdict, what runs included. I/O thread.

        To close the connection would do the same, but a quorum queue counts that as a failed delivery of each message.
        """
        self._take_verdicts()
        for lane in self._lanes.values():
            lane.ledger.give_back()
        self._flush()

    def set_prefetch(self, prefetch: int) -> None:
        """Hold another number of messages of each queue from now on; what is here stays ours. I/O thread."""
        self.prefetch = prefetch
        self._adjust()

    def pause(self) -> None:
        """Have no more delivered until ``resume``; what is here stays ours to settle. I/O thread."""
        self.paused = True
        self._adjust()

    def resume(self) -> None:
        """Consume again after ``pause``. I/O thread."""
        self.paused = False
        self._adjust()

    def stop(self, on_stopped: Callable[[], None] | None = None) -> None:
        """Cancel the consumers; deliveries already here stay ours to settle.

        ``on_stopped`` runs on the I/O thread when the broker will deliver no more.
        """
        self._io.post(lambda: self._stop(on_stopped))

    def close(self, on_closed: Callable[[], None]) -> None:
        """Send the verdicts that wait, then close; what is unsettled goes back to its queue."""
        self._io.post(lambda: self._close(on_closed))

    @property
    def parted(self) -> bool:
        """Whether the broker has confirmed the end of the connection, and so has read all verdicts before. I/O thread."""
        return self._connection.parted

    @property
    def counts_returns(self) -> bool:
        """Whether the broker counts a message that is given back as a failed delivery. I/O thread."""
        return self._connection.counts_returns

    def delete(self, queue: str, on_deleted: Callable[[], None]) -> None:
        """Delete a queue of this consumer's own; ``on_deleted`` runs on the I/O thread, also when the
        connection goes first: the queue's own expiry is what remains then.
        """
        self._io.post(lambda: self._delete(queue, on_deleted))

    # ------------------------------------------------------------ I/O thread: declarations

    def _channel_open(self, channel: Channel) -> None:
        if self._up:
            # Opened again after a declaration was refused: the round goes on with the next one.
            if self._step is not None:
                self._declare(channel, self._step)
            elif self._waiting:
                self._declare(channel, 0)
            return
        self._up = True
        self._batch = []
        self._refused.clear()
        self._told.clear()
        for lane in self._lanes.values():
            lane.error, lane.refusals, lane.plain = None, 0, False
        if self._fast:
            raw: Any = self._connection.raw
            raw.on_deliver = self._delivered
            raw.on_read_end = self._read_end
        self._waiting = list(self._work)
        fresh, self._fresh = self._fresh, False
        if fresh:
            self._open_waiting()
        else:
            self._declare(channel, 0)

    def _declare(self, channel: Channel, step: int) -> None:
        if channel is not self._connection.channel or not channel.is_open:
            return
        if self._round_timer is None:
            self._round_timer = self._io.call_later(DECLARE_TIMEOUT, self._no_answer)
        while step in self._refused:
            step += 1
        if step < len(self._declarations):
            self._step = step
            method, arguments = call_of(self._declarations[step])
            getattr(channel, method)(
                **arguments, callback=lambda _frame: self._declare(channel, step + 1)
            )
            return
        self._step = None
        self._forget_round()
        self._open_waiting()

    def _open_waiting(self) -> None:
        lanes, self._waiting = self._waiting, []
        for lane in self._in_turn(lanes):
            lane.open()

    def _no_answer(self) -> None:
        """Consume what there is: the answer to a declaration does not come."""
        self._round_timer = None
        if self._step is not None:
            log.warning(
                "the broker does not answer a declaration; consuming goes on with what is there",
                declaration=declaration_text(self._declarations[self._step]),
            )
        self._open_waiting()

    def _forget_round(self) -> None:
        if self._round_timer is not None:
            self._io.cancel(self._round_timer)
            self._round_timer = None

    def _declaration_refused(self, error: OperationRefused) -> None:
        if self._step is None:
            return
        declaration = self._declarations[self._step]
        self._refused.add(self._step)
        reason = _refusal(declaration, error)
        if reason not in self._told:
            self._told.add(reason)
            log.warning(
                "the broker refused a declaration; consuming goes on with what is there",
                reason=reason,
            )

    def _channel_lost(self, error: BrokerError) -> None:
        self._deleted()  # there will be no answer
        if self._up and self._connection.connected:
            if isinstance(error, OperationRefused):
                self._declaration_refused(error)
            return
        was_up = self._up
        self._up = self._ready = False
        self._step = None
        self._forget_round()
        self._waiting = []
        self._batch = []
        lost = [lane.drop() for lane in self._lanes.values()]
        # A consumer that stops may have lost its last verdicts.
        if (any(lost) or (was_up and self.stopping)) and self._on_lost is not None:
            self._on_lost(error)

    # ------------------------------------------------------------ I/O thread: what lanes need (lane.Home)

    def new_channel(self, on_open: Callable[[Channel], None]) -> Channel | None:
        """Open a channel; ``None`` without a connection."""
        return self._connection.raw.channel(on_open_callback=on_open) if self._up else None

    def new_epoch(self) -> int:
        """A number that no epoch of any lane had before."""
        self._epochs += 1
        return self._epochs

    def next_tag(self) -> str:
        """A consumer tag that was never used."""
        self._consumers += 1
        return f"{self._name}.{self._consumers}"

    def new_tag(self, lane: Lane) -> str:
        """A consumer tag that was never used, under which deliveries come to this lane."""
        tag = self.next_tag()
        self._tags[tag] = self._tags[tag.encode()] = lane
        return tag

    def forget_tag(self, tag: str) -> None:
        """Nothing is expected under this tag any more."""
        self._tags.pop(tag, None)
        self._tags.pop(tag.encode(), None)

    def arguments(self, queue: str) -> Mapping[str, Any]:
        """Arguments for a consumer of this queue, as this broker knows them."""
        within = self._timeouts.get(queue)
        if within is None or self._connection.release < CONSUMER_TIMEOUTS:
            return {}
        return {"x-consumer-timeout": milliseconds(within)}

    def delivered(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        """A delivery that pika's own codec has read."""
        lane = self._tags.get(method.consumer_tag)
        if lane is None:
            self._refuse(_deliver_of(method, body, int(channel.channel_number)))
            return
        self._batch.append(self.read_by_pika(lane, method, properties, body))
        self._read_end()

    def read_by_pika(self, lane: Lane, method: Any, properties: Any, body: bytes) -> Delivery:
        """Note a delivery that pika's own codec has read, and make it one of ours."""
        channel = lane.channel
        deliver = _deliver_of(method, body, 0 if channel is None else int(channel.channel_number))
        lane.ledger.accept(deliver.tag)
        return Delivery.of(lane.ledger.epoch, lane.queue, deliver, from_pika(properties))

    def consumes(self, lane: Lane) -> None:
        """A lane consumes, or would but for a pause."""
        lane.since = time.monotonic()
        if lane.refusals:
            log.info("consuming again", queue=lane.queue)
        self._tell_ready()

    def ended(self, lane: Lane, error: BrokerError, was_consuming: bool) -> None:
        """A lane's channel is gone while the connection is not: try again, a little later each time."""
        if was_consuming:
            self._ready = False
            if time.monotonic() - lane.since > HEALTHY_AFTER:
                lane.refusals = 0
            if isinstance(error, OperationRefused):
                log.warning(
                    "the broker closed the channel of a queue; consuming again on a new one",
                    queue=lane.queue,
                    reason=str(error),
                )
            else:
                log.warning(
                    "the broker cancelled a consumer; consuming again on a new channel",
                    queue=lane.queue,
                )
            if self._on_lost is not None:
                self._on_lost(error)
        elif isinstance(error, OperationRefused):
            if error.code == PRECONDITION_FAILED and self.arguments(lane.queue):
                lane.plain = True  # a live queue of another type, which takes no arguments of ours
            reason = self.why_refused(lane.queue, error)
            if reason not in self._told:
                self._told.add(reason)
                log.warning("a queue cannot be consumed; trying again until it can", reason=reason)
            lane.error = OperationRefused(error.code, error.text, reason)
        delay = exponential(lane.refusals, AGAIN_BASE, AGAIN_CAP)
        lane.refusals += 1
        self._io.call_later(delay, lambda: self._again(lane))
        self._tell_ready()

    def why_refused(self, queue: str, error: OperationRefused) -> str:
        """Why a queue cannot be consumed, and what to do, as a sentence."""
        up = self._connection.connected
        release = self._connection.release if up else (0, 0, 0)
        return failures.consumer_refused(queue, error, self._connection.address, release)

    def again_in(self, seconds: float, lane: Lane, declare: bool) -> None:
        """Open a lane after a while; ``declare`` first what is declared."""
        self._io.call_later(seconds, lambda: self._again(lane, declare))

    def _again(self, lane: Lane, declare: bool = True) -> None:
        if not self._up or not lane.idle:
            return
        if not declare or lane.queue not in self._declared:
            lane.open()
            return
        # It may have been deleted, and its exchange or its dead letters with it.
        self._waiting.append(lane)
        channel = self._connection.channel
        if self._step is None and channel is not None:
            self._refused.clear()
            self._declare(channel, 0)

    def _tell_ready(self) -> None:
        lanes = self._work
        if not any(lane.consuming for lane in lanes) or not all(
            lane.consuming or lane.error is not None for lane in lanes
        ):
            return
        if not self._ready and not self.paused:
            self._ready = self._begun = True
            if self._on_ready is not None:
                self._on_ready()
        if self._aside is not None and self._begun:
            self._aside.lane.open()  # a pause is of its own queues

    def _adjust(self) -> None:
        for lane in self._in_turn(self._work):
            lane.adjust()

    def _in_turn(self, lanes: list[Lane]) -> list[Lane]:
        """Each time another queue is first, so that none always comes behind the task of another."""
        first = self._consumers % len(lanes) if lanes else 0
        return [*lanes[first:], *lanes[:first]]

    # ------------------------------------------------------------ I/O thread: deliveries

    def _delivered(self, delivery: Delivery) -> None:
        lane = self._tags.get(delivery.consumer_tag)
        if lane is None:
            if self._aside is None or not self._aside.takes(delivery):
                self._refuse(delivery)
            return
        ledger = lane.ledger
        ledger.accept(delivery.tag)
        delivery.epoch = ledger.epoch
        delivery.queue = lane.queue
        self._batch.append(delivery)

    def _refuse(self, deliver: frames.Deliver) -> None:
        """Give back what came for a consumer that is gone; left open, a ``multiple`` ack would cover it unseen."""
        for lane in self._lanes.values():
            if lane.channel is not None and lane.channel.channel_number == deliver.channel:
                lane.ledger.accept(deliver.tag)
                lane.ledger.settle(lane.ledger.epoch, deliver.tag, Verdict.GIVE_BACK)
                self._io.post(self._flush)

    def _read_end(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._on_batch(batch)

    # ------------------------------------------------------------ I/O thread: verdicts

    def _take_verdicts(self) -> None:
        self._taking = False
        verdicts, lanes = self._verdicts, self._lanes
        urgent = False
        while verdicts:  # until there is none: what is added meanwhile is settled with the others
            delivery, verdict = verdicts.popleft()
            ledger = lanes[delivery.queue].ledger
            if ledger.settle(delivery.epoch, delivery.tag, verdict) and verdict is not Verdict.ACK:
                urgent = True
        self._flush_soon(urgent)

    def _flush_soon(self, urgent: bool) -> None:
        if urgent or not self.unsettled:
            self._flush()
        elif self._flush_timer is None and any(lane.ledger.unsent for lane in self._lanes.values()):
            self._flush_timer = self._io.call_later(ACK_DELAY, self._flush)

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._io.cancel(self._flush_timer)
            self._flush_timer = None
        chunks: list[bytes] = []
        for lane in self._lanes.values():
            channel = lane.channel
            if lane.ledger.unsent and channel is not None and channel.is_open:
                number = int(channel.channel_number)
                for command in lane.ledger.flush():
                    if command.verdict is Verdict.ACK:
                        chunks.append(frames.encode_ack(number, command.tag, command.multiple))
                    elif command.verdict is Verdict.GIVE_BACK:
                        chunks.append(
                            frames.encode_nack(number, command.tag, command.multiple, True)
                        )
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
        if self.stopping:
            self._stopped()
            return
        self.stopping = True
        for lane in self._lanes.values():
            lane.stop(self._stopped)
        self._stopped()

    def _stopped(self) -> None:
        if any(lane.consuming or lane.leaving for lane in self._lanes.values()):
            return
        callbacks, self._on_stopped = self._on_stopped, []
        for callback in callbacks:
            callback()

    def _delete(self, queue: str, on_deleted: Callable[[], None]) -> None:
        channel = self._connection.channel
        if channel is None or not channel.is_open:
            on_deleted()
            return
        self._on_deleted.append(on_deleted)
        channel.queue_delete(queue, callback=lambda _frame: self._deleted())

    def _deleted(self) -> None:
        callbacks, self._on_deleted = self._on_deleted, []
        for callback in callbacks:
            callback()

    def _close(self, on_closed: Callable[[], None]) -> None:
        self.stopping = True
        self._take_verdicts()
        self._flush()
        left = 0.0 if self._burst < BURST else self._burst_at + SETTLE_TIME - time.monotonic()
        if left > 0 and self._connection.channel is not None:
            self._io.call_later(left, lambda: self._connection.close(on_closed))
        else:
            self._connection.close(on_closed)


def _deliver_of(method: Any, body: bytes, channel: int) -> frames.Deliver:
    """Our form of a delivery that pika's codec has read, without its properties."""
    exchange, key = method.exchange.encode(), method.routing_key.encode()
    return frames.Deliver(
        channel,
        method.consumer_tag.encode(),
        method.delivery_tag,
        method.redelivered,
        b"%c%b%c%b" % (len(exchange), exchange, len(key), key),
        b"",
        body,
    )


def from_pika(properties: Any) -> Properties:
    """Our form of properties that pika's codec has read."""
    return Properties(**{name: getattr(properties, name) for name in Properties.__struct_fields__})


def _refusal(declaration: Declaration, error: OperationRefused) -> str:
    """Why the broker refused a declaration, with the remedy where it is known."""
    if error.code == PRECONDITION_FAILED:
        return plan.explain_conflict(error.text, declaration)
    text = error.text.strip().rstrip(".")
    return f"The broker refused to declare {declaration_text(declaration)}: {error.code} {text}."
