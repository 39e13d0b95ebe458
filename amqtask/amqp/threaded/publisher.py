"""The synchronous publisher: every message confirmed, mandatory, in order, across reconnects.

Callers from any thread hand a publication over; the I/O thread sends it, follows its confirm and tells the caller. What any
of that means is decided in ``amqtask.core.outgoing``; here are the threads, the clock and pika.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import pika
import pika.exceptions
from pika.channel import Channel

from amqtask.amqp import failures, frames
from amqtask.amqp.ports import Settled
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.connection import Connection
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.paver import Paver
from amqtask.amqp.waits import Condition, closed_gate
from amqtask.amqp.ways import Ways
from amqtask.core.message import Properties, Publication
from amqtask.core.outgoing import NEVER, Ended, Entry, Outgoing
from amqtask.errors import (
    AmqtaskError,
    BrokerError,
    ConnectFailed,
    ConnectionLost,
    EncodeError,
)
from amqtask.log import get_logger
from amqtask.topology.barrier import Barriers
from amqtask.topology.ladder import Ladder

log = get_logger("amqtask.amqp")

REOPEN_CAP = 0.05  # seconds: a message that closes the channel must not hold its neighbours up
GRACE = 5.0  # seconds beyond a publish timeout in which the I/O thread must have given its verdict


class ThreadedPublisher:
    """Publishes from any thread through one connection. Implements ``amqtask.amqp.ports.Publisher``.

    The connection opens with the first publication and stays, with heartbeats, until ``close``.

    Args:
        io: the I/O thread to live on.
        reach: the brokers, and how a connection is kept.
        name: the connection's name in the broker's management.
        window: most publishes without a confirm.
        buffer: most publishes waiting behind the window; callers wait when it is full.
        ladder: the delay ladder, for what is published into it.
        barriers: how the queues of chords are declared.
    """

    def __init__(
        self,
        io: IoThread,
        reach: Reach,
        *,
        name: str,
        window: int,
        buffer: int,
        ladder: Ladder | None = None,
        barriers: Barriers | None = None,
    ) -> None:
        self._io = io
        self._buffer = buffer
        self._fast = reach.fast
        self._inbox: deque[Entry] = deque()  # appended by any thread, drained by the I/O thread
        ways = Ways(ladder or Ladder(), barriers)
        self._pump_posted = False  # set by any thread, cleared by the I/O thread
        # Written by the I/O thread; others read its backlog, and whether it is blocked.
        self._outgoing = Outgoing(window, ways)
        self._channel_number = 0
        self._timer: Any = None  # I/O thread: calls _tick
        self._timer_at = NEVER
        self._opened = False
        self._closing: threading.Event | None = None
        self._closed = False
        self._shut_down = False  # I/O thread: nothing is sent any more
        self._space = Condition()
        self._starved = False  # a caller waits for space; guarded by _space
        self._connection = Connection(
            io,
            reach,
            name=name,
            on_open=self._channel_open,
            on_lost=self._channel_lost,
            on_blocked=self._set_blocked,
            reopen_cap=REOPEN_CAP,
        )
        self._paver = Paver(io, self._connection, ways, self._paved)

    # ------------------------------------------------------------ any thread

    def publish(
        self, publication: Publication, timeout: float, *, due_in: str | None = None
    ) -> None:
        """Return when the broker has confirmed the message.

        Args:
            publication: what to send.
            timeout: seconds.
            due_in: for a publication into the delay ladder: the queue it is due in. What that needs on the broker is
                declared first, unless this publisher has done so already. A chord's barrier is named likewise, and declared.

        Raises:
            PublishNacked, Unroutable, PublishBlocked, ConfirmTimeout, ConnectFailed, OperationRefused, EncodeError,
            PayloadTooLarge, and TopologyConflict for a ladder that is there and differs.
        """
        self.publish_many((publication,), timeout, due_in=(due_in,))

    def publish_many(
        self,
        publications: Sequence[Publication],
        timeout: float,
        *,
        due_in: Sequence[str | None] | None = None,
    ) -> None:
        """Return when all are confirmed, pipelined; else raise the first error, after all have ended.

        ``due_in`` as for ``publish``, one for each. All delays, and ``timeout``, count from this call.
        """
        if self._io.inside:
            raise RuntimeError(
                "publish() would wait for its own thread; use submit() on the I/O thread."
            )
        barrier = _Barrier(len(publications))
        submitted = 0
        since = time.monotonic()
        try:
            for publication, queue in zip(
                publications, due_in or repeat(None, len(publications)), strict=True
            ):
                self._submit(publication, barrier.settle, since, since + timeout, queue)
                submitted += 1
        finally:
            barrier.expect(submitted)
            if not barrier.wait(timeout + GRACE):
                raise self._timeout_error()
        if barrier.error is not None:
            raise barrier.error

    def submit(
        self,
        publication: Publication,
        on_settled: Settled,
        timeout: float | None = None,
        *,
        due_in: str | None = None,
    ) -> None:
        """Hand a publication over; ``on_settled`` runs once on the I/O thread, with ``None`` or the error.

        Waits while the buffer is full, except on the I/O thread. ``timeout=None`` tries until confirmed, refused, returned
        or closed. ``due_in`` as for ``publish``; such publications may overtake each other while their way is made.

        Raises:
            EncodeError, PayloadTooLarge: the message cannot be framed; nothing was handed over.
            PublishBlocked, ConfirmTimeout, ConnectFailed: the buffer stayed full until the timeout.
            ConnectionLost: the publisher is closed.
        """
        since = time.monotonic()
        deadline = NEVER if timeout is None else since + timeout
        self._submit(publication, on_settled, since, deadline, due_in)

    def _submit(
        self,
        publication: Publication,
        on_settled: Settled,
        since: float,
        deadline: float,
        due_in: str | None,
    ) -> None:
        header = publication.header or frames.encode_properties(publication.envelope.properties)
        entry = Entry(publication, header, on_settled, since, deadline, due_in)
        if self._backlog() >= self._buffer and not self._io.inside:
            self._wait_for_space(deadline)
        if self._closed:
            raise ConnectionLost("The publisher is closed.")
        self._inbox.append(entry)
        if not self._pump_posted:
            self._post_pump()
        if self._came_late(entry):
            raise ConnectionLost("The publisher is closed.")

    def connect(self) -> None:
        """Connect now, and not with the first message. Any thread."""
        self._io.post(self._pump)

    def close(self, timeout: float = 5.0) -> None:
        """Wait until what was handed over has ended, then close the connection. Idempotent."""
        self._closed = True
        if not self._opened and not self._inbox:
            return
        if self._closing is None:
            self._closing = threading.Event()
            self._io.post(self._close_when_empty)
        if not self._closing.wait(timeout):
            self._io.post(self._give_up_all)
            self._closing.wait(3.0)

    def _post_pump(self) -> None:
        self._pump_posted = True
        try:
            self._io.post(self._pump)
        except BaseException:  # a signal's exception: the next one must post again
            self._pump_posted = False
            raise

    def _came_late(self, entry: Entry) -> bool:
        """Whether the publisher was closed meanwhile and the I/O thread has not taken the entry, and now never will."""
        if not self._closed:
            return False
        try:
            self._inbox.remove(entry)
        except ValueError:
            return False
        return True

    def _backlog(self) -> int:
        return len(self._inbox) + self._outgoing.backlog

    def _wait_for_space(self, deadline: float) -> None:
        with self._space:
            while True:
                self._starved = True  # before the look: space that comes after it must be told
                if self._closed or self._backlog() < self._buffer:
                    return
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise self._timeout_error()
                self._space.wait(min(remaining, threading.TIMEOUT_MAX))

    # ------------------------------------------------------------ I/O thread

    def _channel_open(self, channel: Channel) -> None:
        channel.add_on_return_callback(self._returned)
        self._channel_number = int(channel.channel_number)
        if self._fast:
            raw: Any = self._connection.raw
            raw.on_confirm = self._confirmed
            channel.confirm_delivery(_ignore_confirm, callback=self._confirm_mode)
        else:
            channel.confirm_delivery(self._confirmed_by_pika, callback=self._confirm_mode)

    def _confirm_mode(self, _frame: object) -> None:
        self._outgoing.opened()
        self._paver.resume()
        self._pump()

    def _channel_lost(self, error: BrokerError) -> None:
        self._end(self._outgoing.lost(error, ever_open=self._connection.ever_open))
        self._go_on()

    def _paved(self, queue: str, error: AmqtaskError | None) -> None:
        self._end(self._outgoing.paved(queue, error))
        self._pump()

    def _set_blocked(self, reason: str | None) -> None:
        self._outgoing.blocked = reason
        if reason is None:
            self._pump()

    def _pump(self) -> None:
        """Take over what was handed over, and send what may be sent now."""
        self._pump_posted = False  # before the look: what is handed over from now on posts again
        if self._shut_down:
            self._refuse_late()
            return
        if not self._opened:
            self._opened = True
            self._connection.open()
        inbox, outgoing = self._inbox, self._outgoing
        now = time.monotonic()
        for _ in range(len(inbox)):
            outgoing.add(inbox.popleft(), now)
        self._go_on()

    def _go_on(self) -> None:
        """Do what ``Outgoing`` asks for by now."""
        if self._shut_down:
            return
        outgoing = self._outgoing
        while outgoing.wanted:
            self._paver.want(outgoing.wanted.pop(0))
        if outgoing.renewal():
            self._connection.renew_channel()
        now = time.monotonic()
        while entries := outgoing.take(now):
            self._send(entries, now)
        if outgoing.due < self._timer_at:
            self._tick_later(now)
        if self._starved and self._backlog() < self._buffer:
            with self._space:
                self._starved = False
                self._space.notify_all()
        if self._closing is not None:
            self._close_when_empty()

    def _send(self, entries: list[Entry], now: float) -> None:
        channel = self._channel_number
        frame_max = self._connection.raw.params.frame_max
        sent, chunks = [], []
        for entry in entries:
            publication = entry.publication
            try:
                if self._fast:
                    chunks.append(
                        frames.encode_publish(
                            channel,
                            publication.exchange,
                            publication.routing_key,
                            entry.header,
                            publication.envelope.body,
                            frame_max,
                            publication.mandatory,
                        )
                    )
                else:
                    self._send_by_pika(entry, frame_max)
            except Exception as error:  # noqa: BLE001  # belongs to this caller, not to the loop
                self._settle(entry, error)
            else:
                sent.append(entry)
        self._outgoing.sent(sent, now)
        for data in frames.joined(chunks):
            self._connection.raw.send(data)

    def _send_by_pika(self, entry: Entry, frame_max: int) -> None:
        publication = entry.publication
        # pika does not look, and the broker ends the connection
        frames.check_properties(entry.header, frame_max)
        channel = self._connection.channel
        assert channel is not None
        try:
            channel.basic_publish(
                publication.exchange,
                publication.routing_key,
                publication.envelope.body,
                pika_properties(publication.envelope.properties),
                mandatory=publication.mandatory,
            )
        except pika.exceptions.UnsupportedAMQPFieldException:
            raise EncodeError(
                "A header holds a value that pika cannot send (a float, perhaps); leave broker_fast_frames on."
            ) from None
        except pika.exceptions.ChannelWrongStateError:
            pass  # the channel closes: sent again on the next, like all that is in flight

    def _confirmed(self, channel: int, tag: int, multiple: bool, ok: bool) -> None:
        if channel != self._channel_number:
            return
        outgoing = self._outgoing
        self._end(outgoing.confirmed(tag, multiple, ok, time.monotonic()))
        if outgoing.more or outgoing.due < self._timer_at:
            self._go_on()
        elif self._closing is not None:
            self._close_when_empty()

    def _confirmed_by_pika(self, frame: Any) -> None:
        method = frame.method
        ok = isinstance(method, pika.spec.Basic.Ack)
        self._confirmed(self._channel_number, method.delivery_tag, bool(method.multiple), ok)

    def _returned(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        self._outgoing.returned(
            method.exchange,
            method.routing_key,
            Properties(correlation_id=properties.correlation_id, message_id=properties.message_id),
            f"{method.reply_code} {method.reply_text}",
        )

    def _end(self, ended: Sequence[Ended]) -> None:
        for entry, why in ended:
            if why is None:
                self._settle(entry, None)
            else:
                self._settle(entry, failures.ended(entry.publication, why, self._timeout_error()))

    def _settle(self, entry: Entry, error: Exception | None) -> None:
        try:
            entry.on_settled(error)
        except Exception:  # a caller's callback must not stop the others' confirms
            log.exception("a publish callback failed")

    def _tick_later(self, now: float) -> None:
        if self._timer is not None:
            self._io.cancel(self._timer)
        self._timer_at = self._outgoing.due
        self._timer = self._io.call_later(max(0.0, self._timer_at - now), self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, NEVER
        outgoing = self._outgoing
        self._end(outgoing.tick(time.monotonic()))
        if outgoing.stalled is not None:
            log.warning(
                "no confirm for a while; sending again on a new channel",
                in_flight=len(outgoing.in_flight),
                seconds=outgoing.stalled,
            )
        self._pump()

    def _timeout_error(self) -> BrokerError:
        connection = self._connection
        blocked = self._outgoing.blocked
        if blocked is not None:
            return failures.blocked(connection.address, blocked)
        if connection.channel is not None:
            return failures.unconfirmed(connection.address)
        error = connection.last_error
        if error is None:
            return failures.unreachable(connection.address, "no answer yet")
        return error if isinstance(error, ConnectFailed) else ConnectFailed(str(error))

    def _close_when_empty(self) -> None:
        if self._shut_down:
            return
        if not self._backlog() and not len(self._outgoing.in_flight):
            self._shut()
        elif self._opened is False:
            self._pump()

    def _give_up_all(self) -> None:
        error = self._timeout_error()
        left = [*self._outgoing.give_up_all(), *self._inbox]
        self._inbox.clear()
        for entry in left:
            self._settle(entry, error)
        self._shut()

    def _refuse_late(self) -> None:
        """End what was handed over while the publisher closed, and wake who waits for space."""
        while self._inbox:
            self._settle(self._inbox.popleft(), ConnectionLost("The publisher is closed."))
        with self._space:
            self._space.notify_all()

    def _shut(self) -> None:
        closing = self._closing
        assert closing is not None
        self._shut_down = True
        self._refuse_late()
        if self._timer is not None:
            self._io.cancel(self._timer)
        self._timer, self._timer_at = None, NEVER
        self._connection.close(closing.set)


class _Barrier:
    """Waits for a number of settlements; used by one caller's thread and the I/O thread."""

    def __init__(self, count: int) -> None:
        self.error: BrokerError | None = None
        self._left = count
        self._lock = threading.Lock()
        self._done = closed_gate()
        if count == 0:
            self._done.release()
        self._total = count

    def settle(self, error: BrokerError | None) -> None:
        with self._lock:
            if error is not None and self.error is None:
                self.error = error
            self._left -= 1
            if self._left == 0:
                self._done.release()

    def expect(self, count: int) -> None:
        """Only ``count`` settlements will come."""
        with self._lock:
            missing, self._total = self._total - count, count
            if missing:
                self._left -= missing
                if self._left == 0:
                    self._done.release()

    def wait(self, timeout: float) -> bool:
        return self._done.acquire(timeout=timeout)


def _ignore_confirm(_frame: object) -> None:
    """Confirms come through the frame codec; pika still wants a callback to ask for them."""


def pika_properties(properties: Properties) -> pika.BasicProperties:
    """The same properties in pika's form, for the path that uses pika's own codec."""
    return pika.BasicProperties(  # type: ignore[no-untyped-call]  # pika leaves this constructor without annotations
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        headers=None if properties.headers is None else dict(properties.headers),
        delivery_mode=properties.delivery_mode,
        priority=properties.priority,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        expiration=properties.expiration,
        message_id=properties.message_id,
        timestamp=properties.timestamp,
        type=properties.type,
        user_id=properties.user_id,
        app_id=properties.app_id,
        cluster_id=properties.cluster_id,
    )
