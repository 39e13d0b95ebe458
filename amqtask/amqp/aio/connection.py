"""One broker connection of an event loop with one channel, kept up for as long as it is wanted.

The life of a connection is explicit: connect, open a channel, serve it until it ends, and again, after a growing random
pause when the connection itself went. Each new channel is announced to the owner with ``on_open`` and each loss with
``on_lost``, so the owner knows that delivery tags and sequence numbers start anew. (aio-pika's robust classes hide exactly
that, which is why they are not used.)
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar
from urllib.parse import quote

import aiormq
from aiormq.abc import AbstractChannel
from yarl import URL

from amqtask.amqp import failures
from amqtask.amqp.address import Address
from amqtask.amqp.aio.wire import Streams, Wire
from amqtask.amqp.pause import HEALTHY_AFTER, pause, turns
from amqtask.amqp.reach import Reach
from amqtask.errors import (
    BrokerError,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    OperationRefused,
)
from amqtask.log import get_logger

log = get_logger("amqtask.amqp")

T = TypeVar("T")

CLOSE_TIMEOUT = 1.0  # seconds a farewell may take
HIGH_WATER = 1024 * 1024  # bytes written and not sent at which an owner should wait


class _Connection(aiormq.Connection):
    # Three missed heartbeats, aiormq's default, are half a minute; RabbitMQ itself closes after two.
    HEARTBEAT_GRACE_MULTIPLIER = 2


class Link:
    """One open connection, handshake done. Ends once, for a reason that ``wire.lost`` holds."""

    def __init__(
        self, address: Address, wire: Wire, writer: asyncio.StreamWriter, client: aiormq.Connection
    ) -> None:
        self.address = address
        self.wire = wire
        self.client = client
        self._writer = writer

    @property
    def frame_max(self) -> int:
        """Negotiated frame size in bytes, 0 for no limit."""
        return self.client.connection_tune.frame_max

    def write(self, data: bytes) -> None:
        """Put whole frames on the wire; nowhere when the connection is ending, which its owner is about to be told."""
        if not self._writer.is_closing():  # asyncio refuses what is written behind an end of file
            self._writer.write(data)

    @property
    def congested(self) -> bool:
        """Whether so much is unsent that the owner should wait for ``drain``."""
        return self._writer.transport.get_write_buffer_size() > HIGH_WATER

    async def drain(self) -> None:
        """Wait until the socket has taken most of what was written. A lost connection ends the wait."""
        try:
            await self._writer.drain()
        except OSError:
            pass  # the loss is reported through ``wire.lost``

    async def call(self, operation: Awaitable[T], within: float, aside: int = 0) -> T:
        """Run one request of aiormq to its answer, the end of the connection, or ``within`` seconds.

        Args:
            operation: the request.
            within: seconds.
            aside: the channel's number, when it is not the owner's main one.

        Raises:
            OperationRefused: the broker closed the channel over it.
            ConnectionLost: no answer.
        """
        task = asyncio.ensure_future(operation)
        try:
            ends: set[asyncio.Future[T] | asyncio.Future[str]] = {task, self.wire.lost}
            await asyncio.wait(ends, timeout=within, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not task.cancelled() and task.exception() is None:
                return task.result()
            raise self._reason(task, within, aside)
        finally:
            task.cancel()

    def _reason(self, task: asyncio.Future[T], within: float, aside: int) -> BrokerError:
        if self.wire.why:
            return failures.lost(self.address, self.wire.why)
        if not task.done():
            return failures.lost(self.address, f"no answer within {within:g} s")
        refused = self.wire.aside.get(aside) if aside else self.wire.refused
        if refused is not None:
            return OperationRefused(*refused)
        # aiormq also ends its own waits by cancelling them.
        error = None if task.cancelled() else task.exception()
        return failures.lost(self.address, repr(error) if error else "the channel was closed")

    async def close(self) -> None:
        """Say goodbye and close the socket, within ``CLOSE_TIMEOUT``; a broker that blocks us does not answer."""
        farewell = asyncio.ensure_future(self.client.close(None))
        try:
            await asyncio.wait({farewell}, timeout=CLOSE_TIMEOUT)
            self._writer.transport.abort()
            await asyncio.wait({farewell}, timeout=CLOSE_TIMEOUT)  # now it has nothing to wait for
        finally:
            self._writer.transport.abort()
            farewell.cancel()


async def connect(address: Address, *, name: str, heartbeat: int, within: float) -> Link:
    """Dial and log in.

    Args:
        address: the broker.
        name: connection name in the broker's management.
        heartbeat: seconds, unless the address has its own.
        within: seconds for all of it, unless the address has its own.

    Raises:
        LoginRefused: a broker answered and refused user, password or virtual host.
        ConnectFailed: no broker answered.
    """
    within = address.connection_timeout or within
    wire: Wire | None = None
    link: Link | None = None
    try:
        async with asyncio.timeout(within):
            wire, writer = await _dial(address)
            client = _Connection(
                _handshake_url(address, heartbeat),
                transport_factory=Streams(wire, writer),
                client_properties={"product": "amqtask", "connection_name": name},
            )
            # In a task of its own: aiormq may end its waits by cancelling them, which must not look like our own end.
            handshake = asyncio.ensure_future(client.connect())
            try:
                await asyncio.wait({handshake})
                if handshake.cancelled():
                    raise failures.unreachable(address, wire.why or "the handshake was cut short")
                handshake.result()
            finally:
                handshake.cancel()
        wire.parser.frame_max = client.connection_tune.frame_max
        link = Link(address, wire, writer, client)
        return link
    except TimeoutError:
        raise failures.unreachable(address, f"no answer within {within:g} s") from None
    except ConfigurationError as error:  # unreadable certificate files
        raise ConnectFailed(str(error)) from error
    except (OSError, aiormq.exceptions.AMQPError) as error:
        raise _connect_error(address, wire, error) from None
    finally:
        if link is None and wire is not None and wire.transport is not None:
            wire.transport.abort()


async def _dial(address: Address) -> tuple[Wire, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    context = address.ssl_context()
    wire = Wire(loop)
    protocol = asyncio.StreamReaderProtocol(wire, loop=loop)
    transport, _ = await loop.create_connection(
        lambda: protocol,
        address.host,
        address.port,
        ssl=context,
        server_hostname=(address.server_name or address.host) if context else None,
    )
    return wire, asyncio.StreamWriter(transport, protocol, wire, loop)


def _handshake_url(address: Address, heartbeat: int) -> URL:
    return URL.build(
        scheme="amqp",
        user=quote(address.user, safe=""),
        password=quote(address.password, safe=""),
        host=address.host,
        port=address.port,
        path=f"/{quote(address.vhost, safe='')}",
        query_string=f"heartbeat={heartbeat if address.heartbeat is None else address.heartbeat}",
        encoded=True,
    )


def _connect_error(address: Address, wire: Wire | None, error: Exception) -> ConnectFailed:
    if wire is not None and wire.close_code in (failures.ACCESS_REFUSED, failures.NOT_ALLOWED):
        return failures.login_refused(address, wire.close_code, wire.why)
    if isinstance(error, ssl.SSLError):
        return failures.tls_failed(address, error)
    return failures.unreachable(address, (wire.why if wire is not None else "") or error)


class Connection:
    """Keeps one connection and one channel open in the event loop that calls ``start``.

    Args:
        reach: the brokers, and how a connection is kept; each request while a channel is set up has the time of an attempt.
        name: connection name in the broker's management.
        on_open: makes a new channel ready; what it raises ends the channel.
        on_lost: the channel is gone, or an attempt failed, with the reason; a new attempt follows.
    """

    def __init__(
        self,
        reach: Reach,
        *,
        name: str,
        on_open: Callable[[Link, AbstractChannel], Awaitable[None]],
        on_lost: Callable[[BrokerError], None],
    ) -> None:
        self.name = name
        self.link: Link | None = None
        self.last_error: BrokerError | None = None
        self.ever_open = False
        self._reach = reach
        self._on_open = on_open
        self._on_lost = on_lost
        self._rng = random.Random()
        self._attempt = 0  # failures in a row
        self._broker = 0  # which address is connected or next
        self._task: asyncio.Task[None] | None = None
        self._renew: asyncio.Event = asyncio.Event()

    @property
    def address(self) -> Address:
        """The broker of the current or next attempt."""
        return self._reach.addresses[self._broker]

    def start(self) -> None:
        """Begin to connect; idempotent. Must be called inside the event loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"amqtask {self.name}"
            )

    def renew_channel(self) -> None:
        """Close the channel and open another on the same connection."""
        self._renew.set()

    async def close(self) -> None:
        """Close the connection and stay closed. Idempotent."""
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        clock = loop.time
        while True:
            opened = clock()
            try:
                await self._serve()
            except BrokerError as error:
                reason = error
            except (
                Exception
            ) as error:  # a surprise from the client library ends an attempt, no more
                if loop.is_closed():
                    return  # closed under us, by somebody who did not end what ran on it: nothing here can be waited for
                log.exception("a broker connection ended unexpectedly", connection=self.name)
                reason = failures.lost(self.address, repr(error))
            delay = self._pause(reason, clock() - opened > HEALTHY_AFTER)
            self._on_lost(reason)
            await asyncio.sleep(delay)

    async def _serve(self) -> NoReturn:
        """Connect, and keep a channel open until the connection ends; raises why."""
        loop = asyncio.get_running_loop()
        link = await connect(
            self.address,
            name=self.name,
            heartbeat=self._reach.heartbeat,
            within=self._reach.connect_timeout,
        )
        self.link = link
        try:
            while True:
                await self._serve_channel(link)
        finally:
            self.link = None
            if not loop.is_closed():
                await link.close()

    async def _serve_channel(self, link: Link) -> None:
        """Open a channel and wait for its end; returns when another may be opened, raises when the connection ended."""
        link.wire.expect_channel()
        self._renew.clear()
        channel = await link.call(link.client.channel(), self._reach.connect_timeout)
        await self._on_open(link, channel)
        if self.last_error is not None:
            log.info("connected to the broker again", connection=self.name)
        turns.accepted(link.address)
        self.ever_open = True
        self.last_error = None
        ends = {channel.closing, link.client.closing, asyncio.ensure_future(self._renew.wait())}
        try:
            await asyncio.wait({*ends, link.wire.lost}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for observer in ends:
                observer.cancel()
        if link.wire.why:
            raise failures.lost(link.address, link.wire.why)
        if link.wire.refused is not None:
            self._on_lost(OperationRefused(*link.wire.refused))
        elif self._renew.is_set():
            self._on_lost(ConnectionLost("The channel was renewed."))
            await link.call(channel.close(None), self._reach.connect_timeout)
        else:
            raise failures.lost(link.address, "no heartbeat")

    def _pause(self, error: BrokerError, healthy: bool) -> float:
        """Seconds before the next attempt, having told the log, once a sentence and not once an attempt."""
        failed, brokers = self.address, len(self._reach.addresses)
        if healthy:
            self._attempt = self._broker = 0  # the first of them is the one that is wanted most
        else:
            self._broker = (self._broker + 1) % brokers
        delay = pause(error, failed, self.address, self._attempt, brokers, self._rng)
        self._attempt += 1
        known = self.last_error is not None and str(self.last_error) == str(error)
        (log.debug if known else log.warning)(
            "the broker refused what this connection needs"
            if isinstance(error, OperationRefused)
            else "no broker connection",
            reason=str(error),
            connection=self.name,
            retry_in=round(delay, 2),
        )
        self.last_error = error
        return delay
