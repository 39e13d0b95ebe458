"""The asyncio publisher: every message confirmed, mandatory, in order, across reconnects.

Coroutines hand publications over; what one turn of the event loop produced goes out in one write, and confirms are followed
without a future or a task per message. What any of that means is decided in ``amqtask.core.outgoing``; here are the event
loop, the clock and the socket.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import repeat

from aiormq.abc import AbstractChannel

from amqtask.amqp import failures, frames
from amqtask.amqp.aio.connection import Connection, Link
from amqtask.amqp.aio.declare import pave
from amqtask.amqp.reach import Reach
from amqtask.amqp.ways import PAVE_TIMEOUT, Ways
from amqtask.core.message import Publication
from amqtask.core.outgoing import NEVER, Ended, Entry, Outgoing
from amqtask.errors import (
    AmqtaskError,
    BrokerError,
    ConnectFailed,
    ConnectionLost,
    MessageError,
)
from amqtask.log import get_logger
from amqtask.topology.barrier import Barriers
from amqtask.topology.ladder import Ladder

log = get_logger("amqtask.amqp")


class _Caller:
    """The publications of one call, and the future its caller waits for."""

    __slots__ = ("done", "error", "left")

    def __init__(self, count: int, done: asyncio.Future[None]) -> None:
        self.left = count
        self.done = done
        self.error: AmqtaskError | None = None

    def __call__(self, error: AmqtaskError | None) -> None:
        """One of them has ended."""
        self.left -= 1
        if error is not None and self.error is None:
            self.error = error
        if not self.left and not self.done.done():
            self.done.set_result(None)


class AioPublisher:
    """Publishes from the coroutines of one event loop, through one connection and channel.

    The connection opens with the first publication and stays, with heartbeats, until ``close``. A publisher belongs to the
    event loop of its first publication; once that loop is closed, the next one may take it over.

    Args:
        reach: the brokers, and how a connection is kept.
        name: connection name in the broker's management.
        window: most publishes without a confirm.
        buffer: most publishes handed over and not ended; callers wait when it is full.
        ladder: the delay ladder, for what is published into it.
        barriers: how the queues of chords are declared.

    Attributes:
        name: the connection's name.
    """

    def __init__(
        self,
        reach: Reach,
        *,
        name: str,
        window: int = 1000,
        buffer: int = 10_000,
        ladder: Ladder | None = None,
        barriers: Barriers | None = None,
    ) -> None:
        self._ladder = ladder or Ladder()
        self._barriers = barriers
        self._reach = reach
        self.name = name
        self._window = window
        self._buffer = buffer
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reset()

    def _reset(self) -> None:
        self._idle = asyncio.Event()  # nothing is handed over that has not ended
        self._idle.set()
        self._open = 0  # so much is
        self._line: deque[asyncio.Future[None]] = deque()  # callers that wait for room
        self._admitted = 0  # so many of them have been let in and not run since
        self._ways = Ways(self._ladder, self._barriers)
        self._outgoing = Outgoing(self._window, self._ways)
        self._paver: asyncio.Task[None] | None = None  # makes the ways through the ladder
        self._timer: asyncio.TimerHandle | None = None  # calls _tick
        self._timer_at = NEVER
        self._link: Link | None = None  # with a channel in confirm mode
        self._channel = 0
        self._pump_due = False
        self._draining: asyncio.Task[None] | None = None
        self._connection = Connection(
            self._reach,
            name=self.name,
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
                declared first, unless this publisher has done so already. A chord's barrier is named likewise, and declared.

        Raises:
            PublishNacked, Unroutable, PublishBlocked, ConfirmTimeout, ConnectFailed, OperationRefused, EncodeError,
            PayloadTooLarge, TopologyConflict for a ladder that differs: nothing else, but ``ConnectionLost`` after
            ``close``.
        """
        header = publication.header or frames.encode_properties(publication.envelope.properties)
        since = time.monotonic()
        loop = self._enter()
        if self._full:
            await self._room(since + timeout)
        done: asyncio.Future[AmqtaskError | None] = loop.create_future()

        def settled(error: AmqtaskError | None) -> None:
            if not done.done():  # else the caller is being cancelled at this moment
                done.set_result(error)

        entry = Entry(publication, header, settled, since, since + timeout, due_in)
        self._hand_over(entry)
        try:
            error = await done
        finally:
            if not entry.gone:
                self._forget([entry])
        if error is not None:
            raise error

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
        headers = [
            publication.header or frames.encode_properties(publication.envelope.properties)
            for publication in publications
        ]
        if not headers:
            return
        since = time.monotonic()
        loop = self._enter()
        caller = _Caller(len(headers), loop.create_future())
        entries: list[Entry] = []
        queues = due_in or repeat(None, len(headers))
        try:
            for publication, header, queue in zip(publications, headers, queues, strict=True):
                if self._full:
                    await self._room(since + timeout)
                entry = Entry(publication, header, caller, since, since + timeout, queue)
                entries.append(entry)
                self._hand_over(entry)
            await caller.done
        finally:
            if caller.left:
                self._forget(entries)
        if caller.error is not None:
            raise caller.error

    def submit(
        self,
        publication: Publication,
        on_settled: Callable[[AmqtaskError | None], None],
        timeout: float,
        *,
        due_in: str | None = None,
    ) -> None:
        """Hand a publication over; ``on_settled`` runs once in the event loop, with ``None`` or the error.

        Never waits: the caller bounds how many it has on their way. ``due_in`` as for ``publish``.

        Raises:
            EncodeError, PayloadTooLarge: the message cannot be framed; nothing was handed over.
            ConnectionLost: the publisher is closed.
        """
        header = publication.header or frames.encode_properties(publication.envelope.properties)
        since = time.monotonic()
        self._enter()
        self._hand_over(Entry(publication, header, on_settled, since, since + timeout, due_in))

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
        for task in (self._draining, self._paver, self._timer):
            if task is not None:
                task.cancel()
        self._timer, self._timer_at = None, NEVER

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

    def _hand_over(self, entry: Entry) -> None:
        self._open += 1
        self._idle.clear()
        self._outgoing.add(entry, entry.since)
        self._pump_soon()

    def _forget(self, entries: Sequence[Entry]) -> None:
        """Their caller waits no more."""
        self._ended(self._outgoing.give_up(entries))
        self._pump_soon()  # the window has room again

    @property
    def _full(self) -> bool:
        """Whether a caller must wait for room, behind those that do."""
        return self._open + self._admitted >= self._buffer or bool(self._line)

    async def _room(self, deadline: float) -> None:
        """Wait in line until something more may be handed over; it must be, in the same turn of the loop.

        Raises:
            PublishBlocked, ConfirmTimeout, ConnectFailed: there was none until the deadline.
        """
        assert self._loop is not None
        turn = self._loop.create_future()
        self._line.append(turn)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await turn
        except TimeoutError:
            self._leave(turn)
            raise self._timeout_error() from None
        except BaseException:
            self._leave(turn)
            raise
        self._admitted -= 1

    def _leave(self, turn: asyncio.Future[None]) -> None:
        if not turn.cancel() and not turn.cancelled():  # let in as it gave up: the next one's turn
            self._admitted -= 1
            self._admit()

    def _admit(self) -> None:
        line = self._line
        while line and self._open + self._admitted < self._buffer:
            turn = line.popleft()
            if not turn.done():
                self._admitted += 1
                turn.set_result(None)

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
        """Do what ``Outgoing`` asks for by now."""
        self._pump_due = False
        outgoing = self._outgoing
        if outgoing.wanted:
            outgoing.wanted.clear()
            self._pave()
        if outgoing.renewal():
            self._connection.renew_channel()
        now = time.monotonic()
        link = self._link
        while link is not None and outgoing.backlog:
            if link.congested:
                self._pump_when_drained(link)
                break
            entries = outgoing.take(now)
            if not entries:
                break
            self._send(link, entries, now)
        if outgoing.due < self._timer_at:
            self._tick_later(now)

    def _send(self, link: Link, entries: list[Entry], now: float) -> None:
        frame_max = link.frame_max
        sent, chunks = [], []
        for entry in entries:
            publication = entry.publication
            try:
                chunks.append(
                    frames.encode_publish(
                        self._channel,
                        publication.exchange,
                        publication.routing_key,
                        entry.header,
                        publication.envelope.body,
                        frame_max,
                        publication.mandatory,
                    )
                )
            except MessageError as error:  # belongs to this caller alone
                self._settle(entry, error)
            else:
                sent.append(entry)
        self._outgoing.sent(sent, now)
        for data in frames.joined(chunks):
            link.write(data)

    def _tick_later(self, now: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._outgoing.due
        self._timer = self._loop.call_later(max(0.0, self._timer_at - now), self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, NEVER
        outgoing, link = self._outgoing, self._link
        congested = link is not None and link.congested
        self._end(outgoing.tick(time.monotonic(), congested=congested))
        if outgoing.stalled is not None:
            log.warning(
                "no confirm for a while; sending again on a new channel",
                in_flight=len(outgoing.in_flight),
                seconds=outgoing.stalled,
            )
        self._pump()

    def _pump_when_drained(self, link: Link) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(link.drain())
            self._draining.add_done_callback(self._drained)

    def _drained(self, _: object) -> None:
        self._draining = None
        self._pump_soon()

    # ------------------------------------------------------------ the delay ladder

    def _pave(self) -> None:
        if self._paver is None and self._outgoing.parked and self._link is not None:
            self._paver = asyncio.ensure_future(self._make_ways(self._link))

    async def _make_ways(self, link: Link) -> None:
        """Open the way to one queue after the other, until nothing waits or the connection is lost."""
        try:
            while self._outgoing.parked:
                queues, paving = self._ways.begin(self._outgoing.parked, time.monotonic())
                errors: dict[str, AmqtaskError] = {}
                error: AmqtaskError | None = None
                try:
                    async with asyncio.timeout(PAVE_TIMEOUT):
                        errors = await pave(link, paving, self._reach.connect_timeout)
                except ConnectionLost:
                    if link.wire.why or self._link is not link:
                        return
                    error = failures.unconfirmed(self._connection.address)
                except TimeoutError:
                    error = failures.unconfirmed(self._connection.address)
                except AmqtaskError as refused:
                    error = refused
                for queue in queues:
                    self._paved(queue, error or errors.get(queue))
        finally:
            self._paver = None
            if self._link is not link:
                self._pave()  # on the connection that came meanwhile

    def _paved(self, queue: str, error: AmqtaskError | None) -> None:
        self._end(self._outgoing.paved(queue, error))
        self._pump_soon()

    # ------------------------------------------------------------ the channel

    async def _channel_open(self, link: Link, channel: AbstractChannel) -> None:
        # aiormq has put the channel into confirm mode; the confirms come to us.
        wire = link.wire
        wire.on_confirm = self._confirmed
        wire.on_return = self._returned
        wire.on_blocked = self._blocked
        self._channel = channel.number
        self._link = link
        self._outgoing.blocked = wire.blocked
        self._outgoing.opened()
        self._pave()
        self._pump_soon()

    def _channel_lost(self, error: BrokerError) -> None:
        self._link = None
        self._outgoing.blocked = None
        self._end(self._outgoing.lost(error, ever_open=self._connection.ever_open))
        self._pump_soon()

    def _blocked(self, reason: str | None) -> None:
        self._outgoing.blocked = reason
        if reason is None:
            log.info("the broker accepts publishes again", connection=self.name)
            self._pump_soon()
        else:
            log.warning("the broker blocks publishers", reason=reason, connection=self.name)

    def _confirmed(self, channel: int, tag: int, multiple: bool, ok: bool) -> None:
        if channel != self._channel:
            return
        outgoing = self._outgoing
        self._end(outgoing.confirmed(tag, multiple, ok, time.monotonic()))
        if outgoing.more or outgoing.due < self._timer_at:
            self._pump_soon()

    def _returned(self, returned: frames.Returned) -> None:
        self._outgoing.returned(
            returned.exchange,
            returned.routing_key,
            frames.decode_properties(returned.header),
            f"{returned.code} {returned.text}",
        )

    # ------------------------------------------------------------ endings

    def _end(self, ended: Sequence[Ended]) -> None:
        for entry, why in ended:
            if why is None:
                self._settle(entry, None)
            else:
                self._settle(entry, failures.ended(entry.publication, why, self._timeout_error()))

    def _settle(self, entry: Entry, error: AmqtaskError | None) -> None:
        entry.gone = True
        try:
            entry.on_settled(error)
        except Exception:  # a caller's callback must not stop the others' confirms
            log.exception("a publish callback failed")
        self._ended(1)

    def _ended(self, count: int) -> None:
        self._open -= count
        if self._line:
            self._admit()
        if not self._open:
            self._idle.set()

    def _end_all(self, error: BrokerError) -> None:
        for entry in self._outgoing.give_up_all():
            self._settle(entry, error)
