"""The asyncio publisher: every message confirmed, mandatory, in order, across reconnects.

Coroutines hand publications over; what one turn of the event loop produced goes out in one write, and confirms are followed
without a future per message. What was sent and not confirmed when a channel went is sent again with the same id on the next
one, until its deadline. A channel that the broker closes over one message takes its neighbours with it, so those are then
sent one at a time, until the one to blame is alone and gets the error.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from itertools import repeat

from aiormq.abc import AbstractChannel

from amqtask.amqp import failures, frames
from amqtask.amqp.address import Address
from amqtask.amqp.aio.connection import Connection, Link
from amqtask.amqp.aio.declare import pave
from amqtask.amqp.ways import PAVE_TIMEOUT, Ways, target_of
from amqtask.core.confirms import STALLED, STALLED_CAP, InFlight
from amqtask.core.message import Properties, Publication
from amqtask.core.refusals import DRAIN, Refusals
from amqtask.errors import (
    AmqtaskError,
    BrokerError,
    ConnectFailed,
    ConnectionLost,
    LoginRefused,
    MessageError,
    OperationRefused,
)
from amqtask.log import get_logger
from amqtask.topology.ladder import Ladder

log = get_logger("amqtask.amqp")

SEND_BATCH = 256  # messages per write: enough to amortise the system call, few enough to keep the loop lively


class _Batch:
    """The publications of one call, and the future its caller waits for."""

    __slots__ = ("done", "error", "left")

    def __init__(self, count: int, done: asyncio.Future[None]) -> None:
        self.left = count
        self.done = done
        self.error: AmqtaskError | None = None


class _Entry:
    """One publication on its way."""

    __slots__ = ("again", "batch", "due_in", "properties", "publication", "since")

    def __init__(
        self,
        publication: Publication,
        properties: bytes,
        batch: _Batch,
        since: float,
        due_in: str | None,
    ) -> None:
        self.publication = publication
        self.properties = properties
        self.batch = batch
        self.since = since  # monotonic time from which a delay in its routing key counts
        self.due_in = due_in
        self.again = False  # it came back from a ladder that was not whole, and has a second try


class AioPublisher:
    """Publishes from the coroutines of one event loop, through one connection and channel.

    The connection opens with the first publication and stays, with heartbeats, until ``close``. A publisher belongs to the
    event loop of its first publication; once that loop is closed, the next one may take it over.

    Args:
        addresses: brokers, tried in order.
        name: connection name in the broker's management.
        heartbeat: seconds.
        connect_timeout: seconds per attempt.
        window: most publishes without a confirm.
        buffer: most publishes handed over and not ended; callers wait when it is full.
        ladder: the delay ladder, for what is published into it.

    Attributes:
        name: the connection's name.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        *,
        name: str,
        heartbeat: int = 10,
        connect_timeout: float = 5.0,
        window: int = 1000,
        buffer: int = 10_000,
        ladder: Ladder | None = None,
    ) -> None:
        self._ladder = ladder or Ladder()
        self._addresses = tuple(addresses)
        self.name = name
        self._heartbeat = heartbeat
        self._connect_timeout = connect_timeout
        self._window = window
        self._buffer = buffer
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reset()

    def _reset(self) -> None:
        self._permits = asyncio.Semaphore(self._buffer)
        self._idle = asyncio.Event()  # nothing is handed over that has not ended
        self._idle.set()
        self._open = 0  # so much is
        self._waiting: deque[_Entry] = deque()  # not sent yet, in order
        self._in_flight: InFlight[_Entry] = InFlight()
        self._suspects = 0  # so many entries at the head of _waiting are sent one at a time
        # what waits for its way through the ladder, by target queue, and the task that makes it
        self._parked: dict[str, list[_Entry]] = {}
        self._paver: asyncio.Task[None] | None = None
        self._ways = Ways(self._ladder)
        self._refusals = Refusals()
        self._refused: list[_Entry] = []  # nacked, to be sent again on the next channel
        self._renewal: asyncio.TimerHandle | None = None
        self._renewing = False  # nothing is sent on this channel until all is answered
        self._silent = 0  # the channel was kept since one below this number had no answer
        self._stall: asyncio.TimerHandle | None = None  # looks whether confirms still come
        self._stall_after = STALLED
        self._confirms_seen = 0
        self._link: Link | None = None  # with a channel in confirm mode
        self._channel = 0
        self._pump_due = False
        self._draining: asyncio.Task[None] | None = None
        self._connection = Connection(
            self._addresses,
            name=self.name,
            heartbeat=self._heartbeat,
            connect_timeout=self._connect_timeout,
            on_open=self._channel_open,
            on_lost=self._channel_lost,
        )

    # ------------------------------------------------------------ callers

    async def publish(
        self,
        publication: Publication,
        timeout: float,  # noqa: ASYNC109  # as ports.Publisher
        *,
        due_in: str | None = None,
    ) -> None:
        """Return when the broker has confirmed the message.

        Cancelling the caller gives the message up: not sent if it was not yet, otherwise perhaps queued.

        Args:
            publication: what to send.
            timeout: seconds.
            due_in: for a publication into the delay ladder: the queue it is due in. What that needs on the broker is
                declared first, unless this publisher has done so already.

        Raises:
            PublishNacked, Unroutable, PublishBlocked, ConfirmTimeout, ConnectFailed, OperationRefused, EncodeError,
            PayloadTooLarge, TopologyConflict for a ladder that differs: nothing else, but ``ConnectionLost`` after
            ``close``.
        """
        await self.publish_many((publication,), timeout, due_in=(due_in,))

    async def publish_many(
        self,
        publications: Sequence[Publication],
        timeout: float,  # noqa: ASYNC109  # as ports.Publisher
        *,
        due_in: Sequence[str | None] | None = None,
    ) -> None:
        """Return when all are confirmed, pipelined; else raise the first error, after all have ended.

        ``due_in`` as for ``publish``, one for each. All delays, and ``timeout``, count from this call. An ``EncodeError`` of one is raised before any is sent.
        """
        encoded = [
            frames.encode_properties(publication.envelope.properties)
            for publication in publications
        ]
        if not encoded:
            return
        since = time.monotonic()
        loop = self._enter()
        batch = _Batch(len(encoded), loop.create_future())
        try:
            async with asyncio.timeout(timeout):
                queues = due_in or repeat(None, len(encoded))
                for publication, properties, queue in zip(
                    publications, encoded, queues, strict=True
                ):
                    await self._permits.acquire()
                    self._hand_over(_Entry(publication, properties, batch, since, queue))
                await batch.done
        except TimeoutError:
            refused = next((entry for entry in self._refused if entry.batch is batch), None)
            if refused is not None and batch.error is None:
                raise failures.nacked(refused.publication) from None
            raise batch.error or self._timeout_error() from None
        finally:
            if batch.left:
                self._give_up(batch)
        if batch.error is not None:
            raise batch.error

    async def close(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109  # as ports.Publisher
        """Wait until what was handed over has ended, then close the connection. Idempotent."""
        self._closed = True
        if self._loop is not asyncio.get_running_loop():
            return
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            pass  # the callers learn it below
        await self._connection.close()
        self._end_all(ConnectionLost("The publisher is closed."))
        for task in (self._draining, self._paver, self._renewal, self._stall):
            if task is not None:
                task.cancel()

    def _enter(self) -> asyncio.AbstractEventLoop:
        """The running loop, which must be the publisher's; connects on first use."""
        if self._closed:
            raise ConnectionLost("The publisher is closed.")
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                if not self._loop.is_closed():
                    raise RuntimeError("An AioPublisher belongs to one event loop.")
                self._reset()  # what waited in the old loop was cancelled with it
            self._loop = loop
            self._connection.start()
        return loop

    def _hand_over(self, entry: _Entry) -> None:
        self._open += 1
        self._idle.clear()
        queue = entry.due_in
        if queue is None or self._ways.open(queue, time.monotonic()):
            self._waiting.append(entry)
            self._pump_soon()
        else:
            self._park(entry, queue)

    def _give_up(self, batch: _Batch) -> None:
        """Stop following the publications of a caller that waits no more; a late confirm will be ignored."""
        given_up = len(self._in_flight.give_up(lambda entry: entry.batch is batch))
        kept = deque(entry for entry in self._waiting if entry.batch is not batch)
        given_up += len(self._waiting) - len(kept)
        self._waiting = kept
        wanted = [entry for entry in self._refused if entry.batch is not batch]
        given_up += len(self._refused) - len(wanted)
        self._refused = wanted
        for parked in self._parked.values():
            left = [entry for entry in parked if entry.batch is not batch]
            given_up += len(parked) - len(left)
            parked[:] = left
        self._ended(given_up)
        self._pump_soon()  # the window has room again

    def _timeout_error(self) -> BrokerError:
        connection = self._connection
        link = connection.link
        if link is not None and link.wire.blocked is not None:
            return failures.blocked(connection.address, link.wire.blocked)
        error = connection.last_error
        if self._link is None and error is not None:
            return error if isinstance(error, ConnectFailed) else ConnectFailed(str(error))
        if self._link is None:
            return failures.unreachable(connection.address, "no answer yet")
        return failures.unconfirmed(connection.address)

    # ------------------------------------------------------------ sending

    def _pump_soon(self) -> None:
        """Send at the end of this turn of the loop, together with what else it hands over."""
        if not self._pump_due and self._loop is not None:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        link = self._link
        waiting = self._waiting
        if self._renewing:
            if link is not None and not len(self._in_flight):
                self._connection.renew_channel()
            return
        while waiting and link is not None and link.wire.blocked is None:
            if link.congested:
                self._pump_when_drained(link)
                return
            window = 1 if self._suspects else self._window
            room = min(window - len(self._in_flight), SEND_BATCH, len(waiting))
            if room <= 0:
                return
            self._send(link, [waiting.popleft() for _ in range(room)])

    def _send(self, link: Link, entries: list[_Entry]) -> None:
        chunks = []
        for entry in entries:
            if entry.due_in is not None:
                entry.publication, entry.since = self._ways.in_time(
                    entry.publication, entry.since, time.monotonic()
                )
            publication = entry.publication
            try:
                chunks.append(
                    frames.encode_publish(
                        self._channel,
                        publication.exchange,
                        publication.routing_key,
                        entry.properties,
                        publication.envelope.body,
                        link.frame_max,
                        publication.mandatory,
                    )
                )
            except MessageError as error:  # belongs to this caller alone
                self._settle(entry, error)
                continue
            self._in_flight.sent(entry)
        link.write(b"".join(chunks))
        if self._stall is None and len(self._in_flight):
            self._watch()

    def _watch(self) -> None:
        """Look again later whether confirms still come."""
        assert self._loop is not None
        self._stall = self._loop.call_later(self._stall_after, self._look, self._confirms_seen)

    def _look(self, seen: int) -> None:
        self._stall = None
        link = self._link
        if link is None or not len(self._in_flight):
            return
        told = self._confirms_seen != seen
        if told or link.wire.blocked is not None or link.congested:  # then it has not all of it yet
            self._watch()
            return
        log.warning(
            "no confirm for a while; sending again on a new channel",
            in_flight=len(self._in_flight),
            seconds=self._stall_after,
        )
        self._stall_after = min(self._stall_after * 2, STALLED_CAP)
        self._renewing = True
        self._connection.renew_channel()

    def _pump_when_drained(self, link: Link) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(link.drain())
            self._draining.add_done_callback(self._drained)

    def _drained(self, _: object) -> None:
        self._draining = None
        self._pump_soon()

    # ------------------------------------------------------------ the delay ladder

    def _park(self, entry: _Entry, queue: str) -> None:
        self._parked.setdefault(queue, []).append(entry)
        self._pave()

    def _pave(self) -> None:
        if self._paver is None and self._parked and self._link is not None:
            self._paver = asyncio.ensure_future(self._make_ways(self._link))

    async def _make_ways(self, link: Link) -> None:
        """Open the way to one queue after the other, until nothing waits or the connection is lost."""
        try:
            while self._parked:
                queue = next(iter(self._parked))
                error: AmqtaskError | None = None
                try:
                    async with asyncio.timeout(PAVE_TIMEOUT):
                        await pave(
                            link, self._ways.pave(queue, time.monotonic()), self._connect_timeout
                        )
                except ConnectionLost:
                    if link.wire.why or self._link is not link:
                        return
                    error = failures.unconfirmed(self._connection.address)
                except TimeoutError:
                    error = failures.unconfirmed(self._connection.address)
                except AmqtaskError as refused:
                    error = refused
                self._paved(queue, error)
        finally:
            self._paver = None
            if self._link is not link:
                self._pave()  # on the connection that came meanwhile

    def _paved(self, queue: str, error: AmqtaskError | None) -> None:
        entries = self._parked.pop(queue, [])
        if error is None:
            self._waiting.extend(entries)
            self._pump_soon()
        else:
            for entry in entries:
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

    # ------------------------------------------------------------ the channel

    async def _channel_open(self, link: Link, channel: AbstractChannel) -> None:
        # aiormq has put the channel into confirm mode; the confirms come to us.
        wire = link.wire
        wire.on_confirm = self._confirmed
        wire.on_return = self._returned
        wire.on_blocked = self._blocked
        self._channel = channel.number
        self._link = link
        self._silent = 0
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        self._take_up_refused()
        self._pave()
        self._pump_soon()

    def _channel_lost(self, error: BrokerError) -> None:
        self._link = None
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
            self._end_all(error)

    def _blocked(self, reason: str | None) -> None:
        if reason is None:
            log.info("the broker accepts publishes again", connection=self.name)
            self._pump_soon()
        else:
            log.warning("the broker blocks publishers", reason=reason, connection=self.name)

    def _confirmed(self, channel: int, tag: int, multiple: bool, ok: bool) -> None:
        if channel != self._channel:
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
            self._pump_soon()

    def _nacked(self, entry: _Entry) -> None:
        """Send it again on a new channel in a moment, unless what it leads to has refused for long."""
        wait = self._refusals.refused(target_of(entry.publication, entry.due_in), time.monotonic())
        if wait is None or self._loop is None:
            self._settle(entry, failures.nacked(entry.publication))
            return
        self._refused.append(entry)
        if self._renewal is None:
            self._renewal = self._loop.call_later(wait, self._renew)

    def _take_up_refused(self) -> None:
        """Put what was held back in front of all that waits."""
        self._renewing = False
        if self._suspects:  # these are still the same ones, further behind
            self._suspects += len(self._refused)
        self._waiting.extendleft(reversed(self._refused))
        self._refused.clear()

    def _renew(self) -> None:
        self._renewal = None
        if not self._refused or self._loop is None:  # another channel has come meanwhile
            return
        if self._link is not None and self._in_flight.oldest < self._silent:
            self._take_up_refused()
        else:
            self._renewing = True
            self._renewal = self._loop.call_later(DRAIN, self._keep_channel)
        self._pump_soon()

    def _keep_channel(self) -> None:
        """The broker leaves something unanswered: the others go on, and what was refused is tried on this channel."""
        self._renewal = None
        if self._renewing and self._link is not None and len(self._in_flight):
            self._silent = self._in_flight.next
            self._take_up_refused()
            self._pump_soon()

    def _returned(self, returned: frames.Returned) -> None:
        header = returned.header

        def matches(entry: _Entry) -> bool:
            publication = entry.publication
            return (
                publication.routing_key == returned.routing_key
                and publication.exchange == returned.exchange
                and _same_message(publication.envelope.properties, properties)
            )

        properties = frames.decode_properties(header)
        self._in_flight.returned(matches, f"{returned.code} {returned.text}")

    # ------------------------------------------------------------ endings

    def _settle(self, entry: _Entry, error: AmqtaskError | None) -> None:
        batch = entry.batch
        batch.left -= 1
        if error is not None and batch.error is None:
            batch.error = error
        if not batch.left and not batch.done.done():
            batch.done.set_result(None)
        self._ended(1)

    def _ended(self, count: int) -> None:
        self._open -= count
        for _ in range(count):
            self._permits.release()
        if not self._open:
            self._idle.set()

    def _end_all(self, error: BrokerError) -> None:
        entries = [*self._in_flight.lost(), *self._waiting, *self._refused]
        self._waiting.clear()
        self._refused.clear()
        for parked in self._parked.values():
            entries += parked
        self._parked.clear()
        for entry in entries:
            self._settle(entry, error)


def _same_message(sent: Properties, came_back: Properties) -> bool:
    return (
        sent.message_id == came_back.message_id and sent.correlation_id == came_back.correlation_id
    )
