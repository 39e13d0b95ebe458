"""A short, blocking conversation with the broker: declare, look, purge. For commands and for a worker's start.

Every call has a deadline; every answer the broker can give becomes a value or one of amqtask's errors. A session with
patience outlives its connection: declaring, looking and deleting are done again on a new one, because doing them twice is
the same as once. Nothing here is on the path of a task.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import msgspec
import pika
import pika.exceptions
from pika.adapters.utils import connection_workflow

from amqtask.amqp import failures
from amqtask.amqp.address import Address
from amqtask.amqp.declaration import call_of
from amqtask.amqp.threaded.connection import (
    connect_error,
    connection_parameters,
    lost_error,
    release,
    was_cut,
)
from amqtask.amqp.threaded.seams import PlainConnection
from amqtask.errors import ConnectFailed, ConnectionLost, LoginRefused, OperationRefused
from amqtask.topology.plan import Declaration

T = TypeVar("T")

LOGINS = 3  # attempts, where something answers and the login is cut; more would hide that it is no RabbitMQ
FAR_AHEAD = (
    2**62
)  # an offset that no stream gets to: nothing is delivered, which pika would give back, which no stream takes
PAUSE = 0.2  # seconds between two attempts to connect


class ServerInfo(msgspec.Struct, frozen=True):
    """What a broker says of itself when a client logs in; empty where it says nothing."""

    product: str
    version: str
    cluster_name: str = ""

    @property
    def release(self) -> tuple[int, int, int]:
        """The version as numbers that compare: ``(3, 10, 8)``."""
        return release(self.version)


class QueueState(msgspec.Struct, frozen=True):
    """What a passive declare tells of a queue."""

    name: str
    messages: int
    consumers: int


class Taken(msgspec.Struct, frozen=True):
    """A message that ``Session.take`` took: its body, and its headers as pika decodes them."""

    body: bytes
    headers: dict[str, Any]


class Session:
    """One blocking connection; a context manager. One thread at a time.

    Args:
        addresses: brokers, tried once each, in order.
        name: the connection's name in the broker's management.
        timeout: seconds for connecting and for each operation.
        patience: seconds that a connection which was lost gets to come back, for each operation; 0 gives up at once. What
            else than the connection is gone with it, exclusive queues for one, does not come back.
    """

    _connection_class: ClassVar[type[PlainConnection]] = PlainConnection

    def __init__(
        self,
        addresses: Sequence[Address],
        *,
        name: str = "amqtask",
        timeout: float = 10.0,
        patience: float = 0.0,
    ) -> None:
        self._addresses = tuple(addresses)
        self._name = name
        self._timeout = timeout
        self._patience = patience
        self._connection: Any = None
        self._impl: Any = None
        self._channel: Any = None
        self.address = self._addresses[0]

    def __enter__(self) -> Self:
        return self if self._connection is not None else self.open()

    def open(self) -> Self:
        """Connect to the first broker that answers. With patience, a login that the network cuts is begun again.

        Raises:
            LoginRefused, ConnectFailed: for the last address tried.
        """
        for _ in range(LOGINS if self._patience else 1):
            error, cut = self._dial()
            if error is None:
                return self
            if not cut:
                break
            time.sleep(PAUSE)
        assert error is not None
        raise error from None

    def _dial(self) -> tuple[ConnectFailed | None, bool]:
        """Try each address once: the error, and whether it came after the broker was reached."""
        error: ConnectFailed | None = None
        cut = False
        for address in self._addresses:
            try:
                self._connection = pika.BlockingConnection(
                    connection_parameters(address, self._name, 60, self._timeout),
                    _impl_class=self._connection_class,  # type: ignore[arg-type]  # pika means the class and says an instance
                )
            except (
                pika.exceptions.AMQPError,
                connection_workflow.AMQPConnectorException,
                OSError,
                RuntimeError,
            ) as reason:
                error, cut = connect_error(address, reason), was_cut(reason)
            except ValueError as reason:
                if "getpeername" not in str(reason):
                    raise
                # what pika says when a connection is reset just as it comes about
                reset = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
                error, cut = connect_error(address, reset), True
            else:
                # What lies below the blocking adapter: it hides who the broker is, and has no deadline for an answer.
                self._impl = self._connection._impl  # noqa: SLF001  # the adapter offers no other way to it
                self.address = address
                return None, False
        return error, cut and not isinstance(error, LoginRefused)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None and self._connection.is_open:
            try:
                with self._deadline():
                    self._connection.close()
            except pika.exceptions.AMQPError:
                pass  # it is gone, which is what was wanted
        self._connection = self._impl = self._channel = None

    @property
    def server(self) -> ServerInfo:
        """What the broker said of itself at the login."""
        properties = self._impl.server_properties or {}
        found = {}
        for key in ServerInfo.__struct_fields__:
            value = properties.get(key, "")
            found[key] = value.decode() if isinstance(value, bytes) else str(value)
        return ServerInfo(**found)

    def declare(self, declaration: Declaration) -> None:
        """Carry out one declaration.

        Raises:
            OperationRefused: the broker said no; the session can go on, unless the broker closed it over this.
            ConnectionLost: the connection has gone, or no answer came in time.
        """
        method, arguments = call_of(declaration)
        self._do(lambda channel: getattr(channel, method)(**arguments))

    def apply(
        self, declarations: Iterable[Declaration], done: Callable[[Declaration], None] | None = None
    ) -> None:
        """Carry out declarations in order; stops at the first refusal."""
        for declaration in declarations:
            self.declare(declaration)
            if done is not None:
                done(declaration)

    def queue(self, name: str) -> QueueState | None:
        """The state of a queue, or ``None`` when there is none.

        Raises:
            OperationRefused: among others for one whose node is down (``failures.absent``).
        """
        try:
            method = self._do(lambda channel: channel.queue_declare(name, passive=True)).method
        except OperationRefused as error:
            if error.code == failures.NOT_FOUND and not failures.absent(error):
                return None
            raise
        return QueueState(name, method.message_count, method.consumer_count)

    def reads(self, stream: str) -> bool:
        """Whether a stream can be read: false where the broker fails at it itself, which costs it this connection.

        Raises:
            OperationRefused: the user may not read it, or it is not there or no stream.
        """

        def ask(channel: Any) -> None:
            channel.basic_qos(prefetch_count=1)
            tag = channel.basic_consume(
                stream, lambda *_: None, arguments={"x-stream-offset": FAR_AHEAD}
            )
            channel.basic_cancel(tag)

        try:
            self._once(ask)
        except ConnectionLost as error:
            if failures.INTERNAL_ERROR not in str(error):
                raise
            self._hang_up()
            self.open()
            return False
        return True

    def exchange_exists(self, name: str, kind: str = "direct") -> bool:
        """Whether an exchange exists."""
        try:
            self._do(lambda channel: channel.exchange_declare(name, kind, passive=True))
        except OperationRefused as error:
            if error.code == 404:
                return False
            raise
        return True

    def purge(self, name: str) -> int:
        """Delete the ready messages of a queue; returns how many. Not tried twice: the number would be another."""
        return int(self._once(lambda channel: channel.queue_purge(name)).method.message_count)

    def delete_queue(self, name: str) -> int:
        """Delete a queue; returns how many messages went with it, if the connection held meanwhile."""
        return int(self._do(lambda channel: channel.queue_delete(name)).method.message_count)

    def delete_exchange(self, name: str) -> None:
        """Delete an exchange."""
        self._do(lambda channel: channel.exchange_delete(name))

    def publish(self, exchange: str, routing_key: str, body: bytes) -> None:
        """Publish a small message and have it confirmed: for checks, not for tasks.

        Raises:
            OperationRefused: the user may not write there, or there is no such exchange.
            BrokerError: nacked, or the connection is lost.
        """

        def send(channel: Any) -> None:
            # twice is once: pika knows that a channel confirms already, and warns
            if not channel._delivery_confirmation:  # noqa: SLF001  # pika offers no other way to ask
                channel.confirm_delivery()
            channel.basic_publish(exchange, routing_key, body)

        self._once(send)

    def take(self, name: str) -> Taken | None:
        """Take one message off a queue, acked at once, or ``None`` when it is empty: for checks, not for tasks.

        Raises:
            OperationRefused: the user may not read it, or there is no such queue.
        """
        method, properties, body = self._once(
            lambda channel: channel.basic_get(name, auto_ack=True)
        )
        return None if method is None else Taken(body, dict(properties.headers or {}))

    def _do(self, operation: Callable[[Any], T]) -> T:
        """Carry out what may be carried out twice."""
        deadline: float | None = None
        while True:
            try:
                return self._once(operation)
            except ConnectionLost as error:
                now = time.monotonic()
                if deadline is None:
                    deadline = now + self._patience
                if now >= deadline:
                    raise
                self._come_back(error, deadline)

    def _come_back(self, error: ConnectionLost, deadline: float) -> None:
        """Connect again, to a broker that may have to start first.

        Raises:
            LoginRefused: it lets us in no more.
            ConnectionLost: none answered in time; it is the reason why this was tried.
        """
        self._hang_up()
        while True:
            try:
                self.open()
                return
            except LoginRefused:
                raise
            except ConnectFailed:
                if time.monotonic() >= deadline:
                    raise error from None
                time.sleep(PAUSE)

    def _once(self, operation: Callable[[Any], T]) -> T:
        try:
            with self._deadline():
                if self._channel is None or not self._channel.is_open:
                    self._channel = self._connection.channel()
                return operation(self._channel)
        except pika.exceptions.ChannelClosedByBroker as reason:
            self._channel = None
            raise OperationRefused(reason.reply_code, reason.reply_text) from None
        except pika.exceptions.ConnectionClosedByBroker as reason:
            if reason.reply_code in failures.REFUSALS:
                raise OperationRefused(reason.reply_code, reason.reply_text) from None
            raise lost_error(self.address, reason) from None
        except (pika.exceptions.AMQPError, OSError) as reason:
            raise lost_error(self.address, reason) from None

    def _require_open(self) -> None:
        """What pika does not say of a connection that it lost before."""
        if self._connection is None or not self._connection.is_open:
            raise failures.lost(self.address, "it was found closed before")

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """Drop the connection when the block takes too long; what it waits for then fails.

        On the loop below, because the adapter's own timers do not run while it waits for an answer.
        """
        self._require_open()
        loop, reason = self._impl.ioloop, f"no answer within {self._timeout:g} s"
        timer = loop.call_later(self._timeout, lambda: self._impl.abort(reason))
        try:
            yield
        finally:
            if self._connection.is_open:  # else the loop is closed, and its timers are gone
                loop.remove_timeout(timer)
