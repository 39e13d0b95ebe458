"""One broker connection with one channel, kept up for as long as it is wanted.

The life of a connection is explicit: ``idle → connecting → open → (lost) waiting → connecting …`` until ``closed``. Nothing
reconnects behind its owner's back: each new channel is announced with ``on_open`` and each loss with ``on_lost``, so the
owner knows that delivery tags and sequence numbers start anew.
"""

from __future__ import annotations

# The look-up of a host's name needs it, in a thread of pika's: a process that is forked while that imports it could never
# look up a name, because the lock of that import stays held in it.
import encodings.idna  # noqa: F401
import random
import re
import ssl
import time
from collections.abc import Callable
from typing import Any

import pika
import pika.exceptions
from pika.adapters.utils import connection_workflow
from pika.channel import Channel

from amqtask.amqp import failures
from amqtask.amqp.address import Address
from amqtask.amqp.pause import HEALTHY_AFTER, pause, turns
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.seams import FastConnection, PlainConnection, require_seams
from amqtask.core.backoff import exponential
from amqtask.errors import (
    BrokerError,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    OperationRefused,
)
from amqtask.log import get_logger

log = get_logger("amqtask.amqp")

REOPEN_BASE = 0.02  # seconds before a new channel when the broker closed the last one
REOPEN_CAP = 1.0
SILENT_CHECKS = 4  # half heartbeats without a byte after which the broker is taken for gone
CLOSE_TIMEOUT = 2.0  # seconds a broker gets to answer a close
# since then basic.nack is not counted as a delivery, and the order survives it
COUNTS_NACKS_NOT = (4, 3, 0)
_CLOSED = re.compile(r"ConnectionClosedByBroker: \((?P<code>\d+)\) (['\"])(?P<text>.*)\2")
# How pika says that nobody connected in time; or that somebody did, and no login came of it.
_LATE = re.compile(
    r"Timeout (while (connecting|setting up transport)|(?P<what>during AMQP|while setting up AMQP))"
)
_GUESSES: dict[type[BaseException], int] = {
    pika.exceptions.ProbableAuthenticationError: failures.ACCESS_REFUSED,
    pika.exceptions.ProbableAccessDeniedError: failures.NOT_ALLOWED,
}


class Connection:
    """Keeps one connection and one channel open on an I/O thread.

    ``open`` and ``close`` may be called from any thread; the callbacks run on the I/O thread.

    Args:
        io: the I/O thread that owns the socket.
        reach: the brokers, and how a connection is kept.
        name: shown by the broker's management as the connection's name.
        on_open: a channel is open, the first one or one after a loss.
        on_lost: the channel is gone, with the reason; a new attempt follows unless closed.
        on_blocked: the broker holds publishers back (reason) or stopped to (``None``).
        reopen_cap: most seconds before another channel after the broker closed one, again and again.
    """

    def __init__(
        self,
        io: IoThread,
        reach: Reach,
        *,
        name: str,
        on_open: Callable[[Channel], None],
        on_lost: Callable[[BrokerError], None],
        on_blocked: Callable[[str | None], None] | None = None,
        reopen_cap: float = REOPEN_CAP,
    ) -> None:
        if reach.fast:
            require_seams()
        self.io = io
        self.name = name
        self.fast = reach.fast
        self.addresses = reach.addresses
        self.last_error: BrokerError | None = None
        self._reach = reach
        self._on_open = on_open
        self._on_lost = on_lost
        self._on_blocked = on_blocked
        self._reopen_cap = reopen_cap
        self._refusals = 0  # channels closed by the broker in a row
        self._rng = random.Random()
        self._attempt = 0  # failures in a row
        self._broker = 0  # which address is connected or next
        self._wanted = False
        self._pika: PlainConnection | None = None
        self._channel: Channel | None = None
        self._timer: Any = None
        self._opened_at = 0.0
        self._closed: Callable[[], None] | None = None
        self._reported = ""
        self.ever_open = False
        self.parted = (
            False  # the last connection ended by our close, which the broker has confirmed
        )
        io.connections.add(self)

    # ------------------------------------------------------------ any thread

    def open(self) -> None:
        """Begin to connect; idempotent."""
        self.io.post(self._want)

    def close(self, on_closed: Callable[[], None]) -> None:
        """Close channel and connection; ``on_closed`` runs on the I/O thread when that is done (at most 2 s)."""
        self.io.post(lambda: self._close(on_closed))

    def abandon(self) -> None:
        """In a forked child: drop the inherited socket."""
        if self._pika is not None:
            self._pika.detach_socket()

    # ------------------------------------------------------------ I/O thread

    def start_over(self) -> None:
        """Give up what may have died with the loop, and begin anew.

        pika raises into its loop when a broker resets the connection just as it comes about, and says no more of the attempt
        until its time is over. Of a connection that has ended it says nothing at all when somebody who was told of the end of
        a channel has raised.
        """
        died = self._pika
        if died is None or died.is_open or died.is_closing:
            return
        if died.is_closed:
            self._disconnected(died, pika.exceptions.StreamLostError("it ended with an error"))
        else:
            self._pika = None
            self._failed(failures.unreachable(self.address, "the attempt failed"))

    @property
    def channel(self) -> Channel | None:
        """The open channel, or ``None``."""
        return self._channel

    @property
    def raw(self) -> PlainConnection:
        """pika's connection; only while a channel is open."""
        assert self._pika is not None
        return self._pika

    @property
    def connected(self) -> bool:
        """Whether the connection is there, with or without a channel."""
        return self._pika is not None and self._pika.is_open

    @property
    def release(self) -> tuple[int, int, int]:
        """The broker's version, only while connected: ``(3, 10, 8)``."""
        return release((self.raw.server_properties or {}).get("version", ""))

    @property
    def counts_returns(self) -> bool:
        """Whether the broker counts a message that is given back as a failed delivery; not while there is no channel."""
        return self._channel is not None and self.release < COUNTS_NACKS_NOT

    @property
    def address(self) -> Address:
        """The broker of the current or next attempt."""
        return self.addresses[self._broker]

    def renew_channel(self) -> None:
        """Close the channel and open another on the same connection: the way out after a broker cancel."""
        channel = self._channel
        if channel is not None and channel.is_open:
            channel.close(0, "renewed")

    def drop(self) -> None:
        """Drop the connection as if it were lost; a new attempt follows."""
        if self._pika is not None:
            self._pika.abort()

    def _want(self) -> None:
        if not self._wanted and self._closed is None:
            self._wanted = True
            self._connect()

    def _connect(self) -> None:
        self._timer = None
        if not self._wanted:
            return
        factory = FastConnection if self.fast else PlainConnection
        try:
            parameters = connection_parameters(
                self.address, self.name, self._reach.heartbeat, self._reach.connect_timeout
            )
        except ConfigurationError as error:  # unreadable certificate files
            self._failed(ConnectFailed(str(error)))
            return
        self._pika = factory(
            parameters,
            on_open_callback=self._connected,
            on_open_error_callback=self._not_connected,
            on_close_callback=self._disconnected,
            custom_ioloop=self.io.loop,
        )

    def _connected(self, opened: Any) -> None:
        if opened is not self._pika or not self._wanted:
            opened.close()
            return
        connection: Any = opened
        connection.add_on_connection_blocked_callback(self._blocked)
        connection.add_on_connection_unblocked_callback(self._unblocked)
        self._listen(connection, -1, 0)
        self._open_channel()

    def _listen(self, connection: PlainConnection, seen: int, silent: int) -> None:
        """Give up a broker that says nothing for two heartbeats, noticed up to half of one later; pika's own check takes longer.

        What counts is how often the loop has looked, not the time that has passed: a process that was stopped, or a thread
        that kept the interpreter for itself, finds the broker's heartbeats waiting when it goes on.
        """
        heartbeat: Any = connection.params.heartbeat  # negotiated: a number from now on
        if not heartbeat or connection is not self._pika or not connection.is_open:
            return
        received = connection.bytes_received
        silent = silent + 1 if received == seen else 0
        if silent >= SILENT_CHECKS:
            connection.abort("no heartbeat")
            return
        self.io.call_later(heartbeat / 2, lambda: self._listen(connection, received, silent))

    def _open_channel(self) -> None:
        if self._wanted and self._channel is None and self._pika is not None and self._pika.is_open:
            self._pika.channel(on_open_callback=self._channel_opened)

    def _channel_opened(self, channel: Channel) -> None:
        channel.add_on_close_callback(self._channel_closed)
        self._channel = channel
        self._opened_at = time.monotonic()
        if self._reported:
            log.info("connected to the broker again", connection=self.name)
            self._reported = ""
        turns.accepted(self.address)
        self.ever_open = True
        self.last_error = None
        self._on_open(channel)

    def _channel_closed(self, channel: Channel, reason: Exception) -> None:
        if channel is not self._channel:
            return
        self._channel = None
        if self._pika is None or not self._pika.is_open:
            return  # the connection goes with it; _disconnected tells
        if not isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            self._on_lost(ConnectionLost("The channel was renewed."))
            self._open_channel()
            return
        # What was refused once is refused again until somebody mends it: do not ask a thousand times a second.
        if time.monotonic() - self._opened_at > HEALTHY_AFTER:
            self._refusals = 0
        delay = exponential(self._refusals, REOPEN_BASE, self._reopen_cap)
        self._refusals += 1
        self._on_lost(OperationRefused(reason.reply_code, reason.reply_text))
        self.io.call_later(delay, self._open_channel)

    def _not_connected(self, connection: Any, reason: BaseException | str) -> None:
        if connection is self._pika:
            self._pika = None
            self._failed(connect_error(self.address, reason))

    def _disconnected(self, connection: Any, reason: BaseException) -> None:
        if self._pika is None or connection is not self._pika:
            return
        self.parted = self._pika.close_confirmed
        had_channel = self._opened_at > 0
        self._pika = None
        self._channel = None
        if self._closed is not None:
            self._finish_close()
            return
        healthy = had_channel and time.monotonic() - self._opened_at > HEALTHY_AFTER
        self._opened_at = 0.0
        self._failed(lost_error(self.address, reason), healthy)
        if (
            self._on_blocked is not None
        ):  # once the owner knows of the loss: what it held back must not go out here
            self._on_blocked(None)

    def _failed(self, error: BrokerError, healthy: bool = False) -> None:
        self.last_error = error
        if self._closed is not None:
            self._finish_close()
            return
        if not self._wanted:
            return
        failed = self.address
        if healthy:
            self._attempt = self._broker = 0  # the first of them is the one that is wanted most
        else:
            self._broker = (self._broker + 1) % len(self.addresses)
        delay = pause(error, failed, self.address, self._attempt, len(self.addresses), self._rng)
        self._attempt += 1
        # Once a sentence, not once an attempt: a broker that is away for an hour fills no log.
        repeated = str(error) == self._reported
        self._reported = str(error)
        (log.debug if repeated else log.warning)(
            "no broker connection",
            reason=str(error),
            connection=self.name,
            retry_in=round(delay, 2),
        )
        self._timer = self.io.call_later(
            delay, self._connect
        )  # first: it comes whatever the owner does
        self._on_lost(error)

    def _blocked(self, _connection: Any, frame: Any) -> None:
        reason = frame.method.reason
        reason = reason.decode() if isinstance(reason, bytes) else str(reason)
        log.warning("the broker blocks publishers", reason=reason, connection=self.name)
        if self._on_blocked is not None:
            self._on_blocked(reason)

    def _unblocked(self, _connection: Any, _frame: Any) -> None:
        log.info("the broker accepts publishes again", connection=self.name)
        if self._on_blocked is not None:
            self._on_blocked(None)

    def _close(self, on_closed: Callable[[], None]) -> None:
        if self._closed is not None:
            on_closed()
            return
        self._closed = on_closed
        self._wanted = False
        if self._timer is not None:
            self.io.cancel(self._timer)
            self._timer = None
        connection = self._pika
        if connection is None or connection.is_closed:
            self._finish_close()
            return
        if connection.is_open:
            connection.close(200, "closed by amqtask")
            self._timer = self.io.call_later(CLOSE_TIMEOUT, connection.abort)
        elif connection.is_closing:
            self._timer = self.io.call_later(CLOSE_TIMEOUT, connection.abort)
        else:
            connection.abort()  # still opening: pika's close would fail in its own assertions

    def _finish_close(self) -> None:
        if self._timer is not None:
            self.io.cancel(self._timer)
            self._timer = None
        self._pika = None
        self._channel = None
        done, self._closed = self._closed, _nothing
        if done is not None and done is not _nothing:
            done()


def _nothing() -> None:
    """Marks a connection whose close has been reported."""


def connection_parameters(
    address: Address, name: str, heartbeat: int, connect_timeout: float
) -> pika.ConnectionParameters:
    """pika's parameters for an address; one attempt, no blocking retries of pika's own.

    Args:
        address: the broker; its own heartbeat and connection timeout win.
        name: connection name in the broker's management.
        heartbeat: seconds.
        connect_timeout: seconds.

    Raises:
        ConfigurationError: a certificate file cannot be used.
    """
    context = address.ssl_context()
    within = address.connection_timeout or connect_timeout
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(address.user, address.password),
        heartbeat=heartbeat if address.heartbeat is None else address.heartbeat,
        connection_attempts=1,
        socket_timeout=within,
        stack_timeout=within + 1,
        blocked_connection_timeout=None,
        client_properties={"product": "amqtask", "connection_name": name},
        ssl_options=None
        if context is None
        else pika.SSLOptions(context, address.server_name or address.host),
    )


def release(version: str | bytes) -> tuple[int, int, int]:
    """A broker's version as numbers that compare: ``(3, 10, 8)``; zeros where it says nothing."""
    text = version.decode() if isinstance(version, bytes) else version
    major, minor, patch = (*map(int, re.findall(r"\d+", text)), 0, 0, 0)[:3]
    return major, minor, patch


def connect_error(address: Address, reason: BaseException | str) -> ConnectFailed:
    """What a failed attempt means for the user, without the password."""
    causes = _causes(reason) if isinstance(reason, BaseException) else []
    for cause in causes:
        closed = _close_in_handshake(cause)
        if closed is not None:
            code, text = closed
            if code in (failures.ACCESS_REFUSED, failures.NOT_ALLOWED):
                return failures.login_refused(address, code, text)
            # not about us: a virtual host that is being started (541), a broker that shuts down (320)
            return failures.turned_away(address, f"{code} {text}" if code else text)
        if isinstance(cause, ssl.SSLError):
            return failures.tls_failed(address, cause)
    late = _LATE.search(" ".join(map(str, causes)))
    if late is not None:
        if late["what"] is None:
            return failures.unreachable(address, "no answer in time")
        return failures.speechless(address)
    text = next((str(cause) for cause in causes if isinstance(cause, OSError)), "")
    if not text:
        text = str(causes[-1]) or type(causes[-1]).__name__ if causes else str(reason)
    return failures.unreachable(address, text)


def was_cut(reason: BaseException) -> bool:
    """Whether an attempt to connect reached somebody, and the connection broke before the login was through."""
    lost = (
        pika.exceptions.StreamLostError,
        pika.exceptions.IncompatibleProtocolError,  # so pika calls an end before the broker's first word
        ConnectionResetError,
    )
    return any(
        isinstance(cause, lost) or (_close_in_handshake(cause) or (1, ""))[0] == 0
        for cause in _causes(reason)
    )


def _causes(reason: BaseException) -> list[BaseException]:
    """An error and those that pika keeps in it, outermost first."""
    seen: list[BaseException] = []
    causes = [reason]
    while causes:
        cause = causes.pop()
        if cause in seen:
            continue
        seen.append(cause)
        causes += [part for part in cause.args if isinstance(part, BaseException)]
        if isinstance(cause, connection_workflow.AMQPConnectionWorkflowFailed):
            causes += cause.exceptions
        inner = getattr(cause, "exception", None)
        if isinstance(inner, BaseException):
            causes.append(inner)
    return seen


def _close_in_handshake(cause: BaseException) -> tuple[int, str] | None:
    """The code and text with which the broker ended the handshake (code 0: without a word); ``None`` for other causes.

    Of a close and of a broken connection pika makes the same error, which guesses, and keeps the difference as text only.
    """
    if isinstance(cause, pika.exceptions.ConnectionClosedByBroker):
        return cause.reply_code, cause.reply_text
    if isinstance(cause, pika.exceptions.AuthenticationError):
        return failures.ACCESS_REFUSED, ""  # the broker offers no way to log in that we know
    guess = _GUESSES.get(type(cause))
    if guess is None:
        return None
    found = _CLOSED.search(str(cause))
    if found is None:
        return 0, "the connection was cut during the login"
    # some brokers say 403 of a virtual host, too
    code = int(found["code"])
    return (guess if code == failures.ACCESS_REFUSED else code), found["text"]


def lost_error(address: Address, reason: BaseException) -> BrokerError:
    """Why an open connection ended."""
    if isinstance(reason, pika.exceptions.ConnectionClosedByBroker):
        return failures.lost(address, f"{reason.reply_code} {reason.reply_text}")
    if isinstance(reason, pika.exceptions.AMQPHeartbeatTimeout):
        return failures.lost(address, "no heartbeat")
    return failures.lost(address, reason.args[0] if reason.args else "the socket was closed")
