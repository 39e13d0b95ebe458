"""The synchronous publisher: every message confirmed, mandatory, in order, across reconnects.

Callers from any thread hand a publication over; the I/O thread sends it, follows its confirm and tells the caller. What
was sent and not confirmed when a channel went is sent again with the same id on the next one, until its deadline. A channel
that the broker closes over one message (a missing exchange, a refused permission, a body above the broker's limit) takes
its neighbours with it, so those are then sent one at a time, until the one to blame is alone and gets the error. What the
broker refuses with a nack is sent again on a new channel for a moment: see ``amqtask.core.refusals``.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import pika
import pika.exceptions
from pika.channel import Channel

from amqtask.amqp import failures, frames
from amqtask.amqp.address import Address
from amqtask.amqp.ports import Settled
from amqtask.amqp.threaded.connection import Connection
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.paver import Paver
from amqtask.amqp.waits import Condition, closed_gate
from amqtask.amqp.ways import Ways, target_of
from amqtask.core.confirms import STALLED, STALLED_CAP, InFlight
from amqtask.core.message import Properties, Publication
from amqtask.core.refusals import DRAIN, Refusals
from amqtask.errors import (
    AmqtaskError,
    BrokerError,
    ConnectFailed,
    ConnectionLost,
    EncodeError,
    LoginRefused,
    OperationRefused,
    PayloadTooLarge,
)
from amqtask.log import get_logger
from amqtask.topology.ladder import Ladder

log = get_logger("amqtask.amqp")

SEND_BATCH = 256  # messages per write: enough to amortise the system call, few enough to keep the loop lively

REOPEN_CAP = 0.05  # seconds: a message that closes the channel must not hold its neighbours up
GRACE = 5.0  # seconds beyond a publish timeout in which the I/O thread must have given its verdict


class _Entry:
    """One publication on its way. Written by the I/O thread only, after it was handed over."""

    __slots__ = ("again", "deadline", "due_in", "on_settled", "properties", "publication", "since")

    def __init__(
        self,
        publication: Publication,
        properties: bytes,
        on_settled: Settled,
        since: float,
        deadline: float | None,
        due_in: str | None,
    ) -> None:
        self.publication = publication
        self.properties = properties
        self.on_settled = on_settled
        self.since = since  # monotonic time from which a delay in its routing key counts
        self.deadline = deadline
        self.due_in = due_in
        self.again = False  # it came back from a ladder that was not whole, and has a second try


class ThreadedPublisher:
    """Publishes from any thread through one connection. Implements ``amqtask.amqp.ports.Publisher``.

    The connection opens with the first publication and stays, with heartbeats, until ``close``.

    Args:
        io: the I/O thread to live on.
        addresses: brokers, tried in order.
        name: the connection's name in the broker's management.
        heartbeat: seconds.
        connect_timeout: seconds per attempt.
        window: most publishes without a confirm.
        buffer: most publishes waiting behind the window; callers wait when it is full.
        fast: whether amqtask's frame codec is used.
        ladder: the delay ladder, for what is published into it.
    """

    def __init__(
        self,
        io: IoThread,
        addresses: Sequence[Address],
        *,
        name: str,
        heartbeat: int,
        connect_timeout: float,
        window: int,
        buffer: int,
        fast: bool = True,
        ladder: Ladder | None = None,
    ) -> None:
        self._io = io
        self._window = window
        self._buffer = buffer
        self._fast = fast
        self._inbox: deque[_Entry] = deque()  # appended by any thread, drained by the I/O thread
        self._waiting: deque[_Entry] = deque()  # I/O thread: not sent yet, in order
        self._in_flight: InFlight[_Entry] = InFlight()  # I/O thread
        self._suspects = (
            0  # I/O thread: so many entries at the head of _waiting are sent one at a time
        )
        # I/O thread: what waits for its way through the ladder, by target queue; and how many these are
        self._parked: dict[str, list[_Entry]] = {}
        self._parked_count = 0
        self._ways = Ways(ladder or Ladder())
        self._refusals = Refusals()  # I/O thread, these five
        self._refused: list[_Entry] = []  # nacked, to be sent again on the next channel
        self._renewal_timer: Any = None
        self._renewing = False  # nothing is sent on this channel until all is answered
        self._silent = 0  # the channel was kept since one below this number had no answer
        self._blocked: str | None = None  # I/O thread writes, others read
        self._ready = False  # I/O thread: the channel is in confirm mode
        self._channel_number = 0
        self._sweep_at: float | None = None
        self._sweep_timer: Any = None
        self._stall_timer: Any = None  # I/O thread, these three
        self._stall_after = STALLED
        self._confirms_seen = 0
        self._opened = False
        self._closing: threading.Event | None = None
        self._closed = False
        self._shut_down = False  # I/O thread: nothing is sent any more
        self._space = Condition()
        self._starved = False  # a caller waits for space; guarded by _space
        self._connection = Connection(
            io,
            addresses,
            name=name,
            heartbeat=heartbeat,
            connect_timeout=connect_timeout,
            fast=fast,
            on_open=self._channel_open,
            on_lost=self._channel_lost,
            on_blocked=self._set_blocked,
            reopen_cap=REOPEN_CAP,
        )
        self._paver = Paver(io, self._connection, self._ways, self._paved)

    # ------------------------------------------------------------ any thread

    def publish(
        self, publication: Publication, timeout: float, *, due_in: str | None = None
    ) -> None:
        """Return when the broker has confirmed the message.

        Args:
            publication: what to send.
            timeout: seconds.
            due_in: for a publication into the delay ladder: the queue it is due in. What that needs on the broker is
                declared first, unless this publisher has done so already.

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
        deadline = None if timeout is None else since + timeout
        self._submit(publication, on_settled, since, deadline, due_in)

    def _submit(
        self,
        publication: Publication,
        on_settled: Settled,
        since: float,
        deadline: float | None,
        due_in: str | None,
    ) -> None:
        properties = frames.encode_properties(publication.envelope.properties)
        entry = _Entry(publication, properties, on_settled, since, deadline, due_in)
        if self._backlog() >= self._buffer and not self._io.inside:
            self._wait_for_space(deadline)
        if self._closed:
            raise ConnectionLost("The publisher is closed.")
        self._inbox.append(entry)
        self._io.post(self._pump)
        if self._came_late(entry):
            raise ConnectionLost("The publisher is closed.")

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

    def _came_late(self, entry: _Entry) -> bool:
        """Whether the publisher was closed meanwhile and the I/O thread has not taken the entry, and now never will."""
        if not self._closed:
            return False
        try:
            self._inbox.remove(entry)
        except ValueError:
            return False
        return True

    def _backlog(self) -> int:
        return len(self._inbox) + len(self._waiting) + self._parked_count + len(self._refused)

    def _wait_for_space(self, deadline: float | None) -> None:
        with self._space:
            while True:
                self._starved = True  # before the look: space that comes after it must be told
                if self._closed or self._backlog() < self._buffer:
                    return
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise self._timeout_error()
                self._space.wait(remaining)

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
        self._ready = True
        self._silent = 0
        if self._renewal_timer is not None:
            self._io.cancel(self._renewal_timer)
            self._renewal_timer = None
        self._take_up_refused()
        self._paver.resume()
        self._pump()

    def _channel_lost(self, error: BrokerError) -> None:
        self._ready = False
        unconfirmed = self._in_flight.lost()
        if isinstance(error, OperationRefused) and error.code == failures.NOT_FOUND:
            unconfirmed = self._park_delayed(unconfirmed)
        if isinstance(error, OperationRefused) and unconfirmed:
            if len(unconfirmed) == 1:
                (culprit,) = unconfirmed
                self._suspects = max(0, self._suspects - 1)
                self._settle(culprit, failures.refused(culprit.publication, error))
                return
            self._suspects = max(self._suspects, len(unconfirmed))
        self._waiting.extendleft(reversed(unconfirmed))
        if isinstance(error, LoginRefused) and not self._connection.ever_open:
            # A wrong password does not become right within a publish timeout: tell the callers now.
            refused = [entry for entry in self._waiting if entry.deadline is not None]
            self._waiting = deque(entry for entry in self._waiting if entry.deadline is None)
            for entry in refused:
                self._settle(entry, error)

    def _park_delayed(self, entries: list[_Entry]) -> list[_Entry]:
        """An exchange is missing: what was on its way into the ladder gets a second try once that is whole; the others."""
        others = []
        for entry in entries:
            if entry.due_in is None or entry.again:
                others.append(entry)
            else:
                self._try_again(entry, entry.due_in)
        return others

    def _try_again(self, entry: _Entry, queue: str) -> None:
        entry.again = True
        self._ways.forget()
        self._park(entry, queue)

    def _park(self, entry: _Entry, queue: str) -> None:
        parked = self._parked.setdefault(queue, [])
        parked.append(entry)
        self._parked_count += 1
        if len(parked) == 1:
            self._paver.want(queue)

    def _paved(self, queue: str, error: AmqtaskError | None) -> None:
        """The way to a queue is open, or cannot be opened."""
        entries = self._parked.pop(queue, [])
        self._parked_count -= len(entries)
        if error is None:
            self._waiting.extend(entries)
        else:
            for entry in entries:
                self._settle(entry, error)
        self._pump()

    def _set_blocked(self, reason: str | None) -> None:
        self._blocked = reason
        if reason is None:
            self._pump()

    def _pump(self) -> None:
        """Send what may be sent now."""
        if self._shut_down:
            self._refuse_late()
            return
        if not self._opened:
            self._opened = True
            self._connection.open()
        inbox, waiting = self._inbox, self._waiting
        for _ in range(len(inbox)):
            entry = inbox.popleft()
            deadline = entry.deadline
            if deadline is not None and (self._sweep_at is None or deadline < self._sweep_at):
                self._sweep_later(deadline)
            queue = entry.due_in
            if queue is None or self._ways.open(queue, time.monotonic()):
                waiting.append(entry)
            else:
                self._park(entry, queue)
        if self._renewing:
            self._renew_when_answered()
        while waiting and self._ready and self._blocked is None and not self._renewing:
            window = 1 if self._suspects else self._window
            room = min(window - len(self._in_flight), SEND_BATCH, len(waiting))
            if room <= 0:
                break
            self._send([waiting.popleft() for _ in range(room)])
        if self._starved and self._backlog() < self._buffer:
            with self._space:
                self._starved = False
                self._space.notify_all()
        if self._closing is not None:
            self._close_when_empty()

    def _send(self, entries: list[_Entry]) -> None:
        channel = self._channel_number
        frame_max = self._connection.raw.params.frame_max
        chunks = []
        for entry in entries:
            if entry.due_in is not None:
                entry.publication, entry.since = self._ways.in_time(
                    entry.publication, entry.since, time.monotonic()
                )
            publication = entry.publication
            if not self._fast:
                self._send_by_pika(entry, frame_max)
                continue
            try:
                data = frames.encode_publish(
                    channel,
                    publication.exchange,
                    publication.routing_key,
                    entry.properties,
                    publication.envelope.body,
                    frame_max,
                    publication.mandatory,
                )
            except Exception as error:  # noqa: BLE001  # belongs to this caller, not to the loop
                self._settle(entry, error)
                continue
            self._in_flight.sent(entry)
            chunks.append(data)
        if chunks:
            self._connection.raw.send(b"".join(chunks))
        if self._stall_timer is None and len(self._in_flight):
            self._watch()

    def _watch(self) -> None:
        """Look again later whether confirms still come."""
        seen = self._confirms_seen

        def look() -> None:
            self._stall_timer = None
            if not self._ready or not len(self._in_flight):
                return
            if self._confirms_seen == seen and self._blocked is None:
                log.warning(
                    "no confirm for a while; sending again on a new channel",
                    in_flight=len(self._in_flight),
                    seconds=self._stall_after,
                )
                self._stall_after = min(self._stall_after * 2, STALLED_CAP)
                self._ready = False  # what is sent behind a channel's close ends the connection
                self._connection.renew_channel()
                return
            self._watch()

        self._stall_timer = self._io.call_later(self._stall_after, look)

    def _send_by_pika(self, entry: _Entry, frame_max: int) -> None:
        publication = entry.publication
        try:
            frames.check_properties(entry.properties, frame_max)
        except PayloadTooLarge as error:  # pika does not look, and the broker ends the connection
            self._settle(entry, error)
            return
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
            self._settle(
                entry,
                EncodeError(
                    "A header holds a value that pika cannot send (a float, perhaps); leave broker_fast_frames on."
                ),
            )
            return
        except pika.exceptions.ChannelWrongStateError:
            pass  # the channel closes: sent again on the next, like all that is in flight
        except Exception as error:  # noqa: BLE001  # belongs to this caller, not to its neighbours
            self._settle(entry, error)
            return
        self._in_flight.sent(entry)

    def _confirmed(self, channel: int, tag: int, multiple: bool, ok: bool) -> None:
        if channel != self._channel_number:
            return
        self._confirms_seen += 1
        self._stall_after = STALLED
        for entry, returned in self._in_flight.confirmed(tag, multiple):
            if self._suspects:
                self._suspects -= 1
            if not ok:
                self._nacked(entry)
            elif returned is not None:
                if entry.due_in is not None and not entry.again:
                    self._try_again(entry, entry.due_in)
                else:
                    self._settle(entry, failures.unroutable(entry.publication, returned))
            else:
                if self._refusals:
                    self._refusals.accepted(target_of(entry.publication, entry.due_in))
                self._settle(entry, None)
        if self._waiting or self._renewing:
            self._pump()
        elif self._closing is not None:
            self._close_when_empty()

    def _nacked(self, entry: _Entry) -> None:
        """Send it again on a new channel in a moment, unless what it leads to has refused for long."""
        wait = self._refusals.refused(target_of(entry.publication, entry.due_in), time.monotonic())
        if wait is None:
            self._settle(entry, failures.nacked(entry.publication))
            return
        self._refused.append(entry)
        if self._renewal_timer is None:
            self._renewal_timer = self._io.call_later(wait, self._renew)

    def _take_up_refused(self) -> None:
        """Put what was held back in front of all that waits."""
        self._renewing = False
        if self._suspects:  # these are still the same ones, further behind
            self._suspects += len(self._refused)
        self._waiting.extendleft(reversed(self._refused))
        self._refused.clear()

    def _renew(self) -> None:
        self._renewal_timer = None
        if not self._refused:  # another channel has come meanwhile
            return
        if self._ready and self._in_flight.oldest < self._silent:
            self._take_up_refused()
        else:
            self._renewing = True
            self._renewal_timer = self._io.call_later(DRAIN, self._keep_channel)
        self._pump()

    def _renew_when_answered(self) -> None:
        """Open another channel, but not before the broker has answered for all on this one: that would make repeats."""
        if self._ready and not len(self._in_flight):
            self._ready = False  # what is sent behind a channel's close ends the connection
            self._connection.renew_channel()

    def _keep_channel(self) -> None:
        """The broker leaves something unanswered: the others go on, and what was refused is tried on this channel."""
        self._renewal_timer = None
        if self._renewing and self._ready:
            self._silent = self._in_flight.next
            self._take_up_refused()
            self._pump()

    def _confirmed_by_pika(self, frame: Any) -> None:
        method = frame.method
        ok = isinstance(method, pika.spec.Basic.Ack)
        self._confirmed(self._channel_number, method.delivery_tag, bool(method.multiple), ok)

    def _returned(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        key = (
            method.exchange,
            method.routing_key,
            properties.correlation_id,
            properties.message_id,
        )

        def matches(entry: _Entry) -> bool:
            sent = entry.publication.envelope.properties
            return key == (
                entry.publication.exchange,
                entry.publication.routing_key,
                sent.correlation_id,
                sent.message_id,
            )

        self._in_flight.returned(matches, f"{method.reply_code} {method.reply_text}")

    def _settle(self, entry: _Entry, error: Exception | None) -> None:
        try:
            entry.on_settled(error)  # type: ignore[arg-type]  # MessageErrors from framing reach the caller as they are
        except Exception:  # a caller's callback must not stop the others' confirms
            log.exception("a publish callback failed")

    def _sweep_later(self, deadline: float) -> None:
        if self._sweep_timer is not None:
            self._io.cancel(self._sweep_timer)
        self._sweep_at = deadline
        self._sweep_timer = self._io.call_later(max(0.0, deadline - time.monotonic()), self._sweep)

    def _sweep(self) -> None:
        """Give up what is past its deadline."""
        self._sweep_timer = self._sweep_at = None
        now = time.monotonic()

        def overdue(entry: _Entry) -> bool:
            return entry.deadline is not None and entry.deadline <= now

        expired = self._in_flight.give_up(overdue)
        late = [entry for entry in self._waiting if overdue(entry)]
        if late:
            self._waiting = deque(entry for entry in self._waiting if not overdue(entry))
        if self._parked_count:
            late += self._unpark(overdue)
        refused = [entry for entry in self._refused if overdue(entry)]
        self._refused = [entry for entry in self._refused if not overdue(entry)]
        for entry in refused:
            self._settle(entry, failures.nacked(entry.publication))
        for entry in expired + late:
            self._settle(entry, self._timeout_error())
        deadlines = [
            entry.deadline
            for entry in (
                *self._in_flight.entries(),
                *self._waiting,
                *self._all_parked(),
                *self._refused,
            )
            if entry.deadline is not None
        ]
        if deadlines:
            self._sweep_later(min(deadlines))
        self._pump()

    def _all_parked(self) -> list[_Entry]:
        return [entry for parked in self._parked.values() for entry in parked]

    def _unpark(self, chosen: Callable[[_Entry], bool]) -> list[_Entry]:
        """Take out of the parked entries those that are chosen."""
        taken = [entry for entry in self._all_parked() if chosen(entry)]
        for parked in self._parked.values():
            parked[:] = [entry for entry in parked if not chosen(entry)]
        self._parked_count -= len(taken)
        return taken

    def _timeout_error(self) -> BrokerError:
        connection = self._connection
        if self._blocked is not None:
            return failures.blocked(connection.address, self._blocked)
        if connection.channel is not None:
            return failures.unconfirmed(connection.address)
        error = connection.last_error
        if error is None:
            return failures.unreachable(connection.address, "no answer yet")
        return error if isinstance(error, ConnectFailed) else ConnectFailed(str(error))

    def _close_when_empty(self) -> None:
        if self._shut_down:
            return
        if not self._backlog() and not len(self._in_flight):
            self._shut()
        elif self._opened is False:
            self._pump()

    def _give_up_all(self) -> None:
        error = self._timeout_error()
        left = [*self._in_flight.lost(), *self._waiting, *self._inbox, *self._refused]
        left += self._unpark(lambda entry: True)
        self._waiting.clear()
        self._inbox.clear()
        self._refused.clear()
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
        for timer in (self._sweep_timer, self._stall_timer, self._renewal_timer):
            if timer is not None:
                self._io.cancel(timer)
        self._sweep_timer = self._stall_timer = self._renewal_timer = None
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
