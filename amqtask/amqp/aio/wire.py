"""The seam between the socket and aiormq: our hot frames are taken out, everything else goes on to the client library.

aiormq (the protocol engine of aio-pika) reads its connection from an ``asyncio.StreamReader`` that a transport factory
hands it. ``Wire`` is that reader. Deliveries, confirms and returned messages are reported to our callbacks, decoded by
our own codec: one behaviour with the synchronous side, lossless doubles, and no task or future per message. Publishes and
acks are written to the same transport, whole frames at a time. Handshake, channels, declarations, heartbeats and TLS stay
aiormq's. Nothing private of it is touched.

``Wire`` also is the one place that knows why a connection or a channel ended. When the broker or the network ends the
connection, aiormq sees an orderly end, so that it neither logs a traceback nor guesses at a reason.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import struct
from collections.abc import Callable
from typing import Any, cast

import aiormq
from aiormq.connection import TransportFactory

from amqtask.amqp.delivery import Delivery
from amqtask.amqp.frames import Contents, Parser, Returned
from amqtask.errors import ConnectionLost

if "transport_factory" not in inspect.signature(aiormq.Connection.__init__).parameters:
    raise ImportError(
        f"aiormq {importlib.metadata.version('aiormq')} takes no transport factory, which amqtask's asyncio publisher needs;"
        " install aiormq>=7.2,<8."
    )

_CONNECTION_CLOSE = 10 << 16 | 50
_CONNECTION_BLOCKED = 10 << 16 | 60
_CONNECTION_UNBLOCKED = 10 << 16 | 61
_CHANNEL_CLOSE = 20 << 16 | 40
_BASIC_CANCEL = 60 << 16 | 30

_HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_CLOSE_OK = b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x33\xce"
_KEEP_ALIVE = 1.0  # seconds between the signs of life aiormq needs while only our own frames arrive

_method_id = struct.Struct(">I").unpack_from


def _ignore(*_: Any) -> None:
    """Nobody listens yet."""


class Wire(asyncio.StreamReader):
    """The incoming half of one connection. All callbacks run in the event loop, inside a read, and must not raise.

    Attributes:
        on_deliver: a delivery of any size.
        on_confirm: ``(channel, tag, multiple, ok)``.
        on_return: a mandatory message came back.
        on_cancel: the broker cancelled a consumer, by its tag.
        on_blocked: the broker holds publishers back (reason) or stopped to (``None``).
        blocked: that reason, now.
        lost: result is why the connection ended, once it has.
        close_code: reply code when the broker closed the connection, else 0.
        refused: code and text of the last channel close by the broker; of channels in ``aside`` it stands there.
        aside: further channels by number, each with code and text once the broker has closed it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.on_deliver: Callable[[Delivery], None] = _ignore
        self.on_confirm: Callable[[int, int, bool, bool], None] = _ignore
        self.on_return: Callable[[Returned], None] = _ignore
        self.on_cancel: Callable[[str], None] = _ignore
        self.on_blocked: Callable[[str | None], None] = _ignore
        self.blocked: str | None = None
        self.lost: asyncio.Future[str] = loop.create_future()
        self.close_code = 0
        self.refused: tuple[int, str] | None = None
        self.aside: dict[int, tuple[int, str] | None] = {}
        self.transport: asyncio.Transport | None = None
        self.parser = Parser(
            lambda deliver: self.on_deliver(deliver),
            lambda *confirm: self.on_confirm(*confirm),
            self._other,
            make=Delivery,
        )
        self._contents = Contents(
            lambda deliver: self.on_deliver(deliver),
            lambda returned: self.on_return(returned),
            make=Delivery,
        )
        self._loop_time = loop.time
        self._passed_on: list[bytes] = []  # frames for aiormq, from the read at hand
        self._passed_on_at = loop.time()

    # ------------------------------------------------------------ called by asyncio's stream protocol

    def set_transport(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport, for answers and for the abort after bytes that are no AMQP."""
        super().set_transport(transport)
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # asyncio feeds bytes
        """Take the bytes of one read."""
        if self.lost.done():
            return
        try:
            self.parser.feed(data)
        except ConnectionLost as error:
            self._end(str(error))
            if self.transport is not None:
                self.transport.abort()
            return
        now = self._loop_time()
        if self._passed_on:
            frames, self._passed_on = b"".join(self._passed_on), []
            self._passed_on_at = now
            super().feed_data(frames)
        elif now - self._passed_on_at > _KEEP_ALIVE:
            self._passed_on_at = now
            super().feed_data(_HEARTBEAT)

    def feed_eof(self) -> None:
        """The socket was closed by the other side."""
        self._end("the socket was closed")
        super().feed_eof()

    def set_exception(self, exc: BaseException) -> None:
        """The socket failed."""
        self._end(str(exc) or type(exc).__name__)
        super().feed_eof()

    @property
    def why(self) -> str:
        """Why the connection ended; empty while it has not."""
        return self.lost.result() if self.lost.done() else ""

    def expect_channel(self) -> None:
        """Forget why the last channel was closed: another one is about to open."""
        self.refused = None

    # ------------------------------------------------------------ frames that are not hot

    def _other(self, frame: bytes) -> None:
        if self._contents.take(frame):
            return
        if frame[0] == 1 and len(frame) >= 12:
            (method,) = _method_id(frame, 7)
            arguments = frame[11:-1]
            if method == _CONNECTION_CLOSE:
                code, text = _close_reason(arguments)
                self.close_code = code
                if self.transport is not None:
                    self.transport.write(_CLOSE_OK)
                self._end(f"{code} {text}")
                return
            if method == _CHANNEL_CLOSE:
                channel = int.from_bytes(frame[1:3])
                if channel in self.aside:
                    self.aside[channel] = _close_reason(arguments)
                else:
                    self.refused = _close_reason(arguments)
            elif method in (_CONNECTION_BLOCKED, _CONNECTION_UNBLOCKED):
                self.blocked = _short(arguments) if method == _CONNECTION_BLOCKED else None
                self.on_blocked(self.blocked)
                return
            elif method == _BASIC_CANCEL:
                # Not passed on: aiormq would answer on newer brokers, and the channel is given up anyway.
                self.on_cancel(_short(arguments))
                return
        self._passed_on.append(frame)

    def _end(self, reason: str) -> None:
        """Tell our side why, and aiormq that the connection closes as agreed."""
        if not self.lost.done():
            self.lost.set_result(reason)
            super().feed_data(b"".join([*self._passed_on, _CLOSE_OK]))
            self._passed_on = []


def _close_reason(arguments: bytes) -> tuple[int, str]:
    return int.from_bytes(arguments[:2]), _short(arguments[2:])


def _short(data: bytes) -> str:
    return data[1 : 1 + data[0]].decode(errors="backslashreplace") if data else ""


class Streams(TransportFactory):
    """Hands aiormq a connection that is open already; dialling, and its errors, are ours."""

    def __init__(self, reader: Wire, writer: asyncio.StreamWriter) -> None:
        self._streams = reader, writer

    async def create(
        self, url: object, **_: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the streams; the URL only told aiormq what to say in the handshake."""
        return self._streams
