"""The two seams where amqtask's own frame codec sits in pika's connection: data received, data sent.

Everything but the hot frames (deliver, publish, ack) stays pika's: handshake, channels, declarations, heartbeats, errors,
TLS. The seams are private names of pika, so before the first connection it is checked that they are where they were; a pika
that has moved them is refused in one sentence, and ``broker_fast_frames: false`` then runs everything through its own codec.
"""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Callable
from typing import Any

import pika
import pika.connection
import pika.exceptions
import pika.frame
from pika.adapters.base_connection import BaseConnection
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.adapters.utils import io_services_utils

from amqtask.amqp.delivery import Delivery
from amqtask.amqp.frames import Contents, Parser
from amqtask.errors import ConnectionLost, Unsupported

READ_BYTES = 65536  # pika reads 4 KiB at a time; a batch of small deliveries is larger

OnDeliver = Callable[[Delivery], None]
OnConfirm = Callable[[int, int, bool, bool], None]


def missing_seams() -> tuple[str, ...]:
    """The private names of pika this module needs that the installed pika does not have as expected."""
    wanted: tuple[tuple[object, str, tuple[str, ...]], ...] = (
        (pika.connection.Connection, "_on_data_available", ("self", "data_in")),
        (pika.connection.Connection, "_process_frame", ("self", "frame_value")),
        (pika.connection.Connection, "_terminate_stream", ("self", "error")),
        (pika.connection.Connection, "_on_connection_close_ok", ("self", "method_frame")),
        (BaseConnection, "_adapter_emit_data", ("self", "data")),
        (BaseConnection, "_proto_connection_made", ("self", "transport")),
        (BaseConnection, "_init_connection_state", ("self",)),
        (pika.frame, "decode_frame", ("data_in",)),
    )
    moved = []
    for owner, name, parameters in wanted:
        function = getattr(owner, name, None)
        if function is None or tuple(inspect.signature(function).parameters) != parameters:
            moved.append(f"{getattr(owner, '__name__', owner)}.{name}")
    transport = getattr(io_services_utils, "_AsyncTransportBase", None)
    if not isinstance(getattr(transport, "_MAX_RECV_BYTES", None), int):
        moved.append("_AsyncTransportBase._MAX_RECV_BYTES")
    return tuple(moved)


def require_seams() -> None:
    """Raise when this pika cannot carry the fast frames.

    Raises:
        Unsupported: names the pika version and what moved.
    """
    moved = missing_seams()
    if moved:
        raise Unsupported(
            f"pika {pika.__version__} has moved {', '.join(moved)}, which amqtask's frame codec hooks into; "
            "install pika>=1.4.4,<1.5 or set broker_fast_frames to false."
        )


class PlainConnection(SelectConnection):
    """pika's connection with its codec, and the two things a fork needs: the socket, and a way to close it quietly."""

    close_confirmed = (
        False  # the broker has answered our close, and so read all that was sent before
    )

    def _on_connection_close_ok(self, method_frame: Any) -> None:
        self.close_confirmed = True
        super()._on_connection_close_ok(method_frame)

    def detach_socket(self) -> None:
        """Close this process's copy of the socket without a word to the broker; for a forked child, or when the loop has ended."""
        workflow: Any = getattr(self, "_connection_workflow", None)
        # It is the transport's, or, before there is one, the connector's.
        for owner in (self._transport, getattr(workflow, "_connector", None)):
            sock = getattr(owner, "_sock", None)
            if isinstance(sock, socket.socket):
                sock.close()

    def abort(self, reason: str = "given up") -> None:
        """Drop the connection without waiting for the broker; pika reports it as lost. I/O thread only."""
        if not self.is_closed:
            self._terminate_stream(pika.exceptions.StreamLostError(reason))

    def _on_data_available(self, data_in: bytes) -> None:
        try:
            super()._on_data_available(data_in)
        except (
            pika.exceptions.ProtocolVersionMismatch
        ) as error:  # pika would leave the connection open for ever
            self.abort(str(error))

    def send(self, data: bytes) -> None:
        """Put frames that are encoded already on the wire. I/O thread only."""
        self.bytes_sent += len(data)
        self._adapter_emit_data(data)


class FastConnection(PlainConnection):
    """pika's connection with amqtask's codec for deliveries and confirms.

    ``on_deliver`` gets each delivery, those of several body frames too: pika would truncate the floats in their headers.
    ``on_confirm`` gets ``(channel, tag, multiple, ok)``; ``on_read_end`` follows each socket read.
    """

    _on_deliver: OnDeliver | None = None
    on_confirm: OnConfirm | None = None
    on_read_end: Callable[[], None] | None = None

    def _init_connection_state(self) -> None:
        super()._init_connection_state()
        self._parser = Parser(
            self._on_deliver or self._deliver, self._confirm, self._other, make=Delivery
        )
        self._contents = Contents(self._deliver, make=Delivery)

    @property
    def on_deliver(self) -> OnDeliver | None:
        """What takes deliveries; the parser calls it without a step between."""
        return self._on_deliver

    @on_deliver.setter
    def on_deliver(self, on_deliver: OnDeliver) -> None:
        self._on_deliver = self._parser.on_deliver = on_deliver

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = READ_BYTES
        super()._proto_connection_made(transport)

    def _on_data_available(self, data_in: bytes) -> None:
        self.bytes_received += len(data_in)
        try:
            self._parser.feed(data_in)
        except (
            ConnectionLost
        ) as error:  # bytes that are no AMQP: nothing after them can be understood
            self.abort(str(error))
            return
        if self.on_read_end is not None:
            self.on_read_end()

    def _deliver(self, deliver: Delivery) -> None:
        if self._on_deliver is not None:
            self._on_deliver(deliver)

    def _confirm(self, channel: int, tag: int, multiple: bool, ok: bool) -> None:
        if self.on_confirm is not None:
            self.on_confirm(channel, tag, multiple, ok)

    def _other(self, frame: bytes) -> None:
        if self._contents.take(frame):
            return
        _, value = pika.frame.decode_frame(frame)
        if value is not None:
            self._process_frame(value)


def close_loop_quietly(loop: IOLoop) -> None:
    """Close a forked child's copies of the loop's descriptors, leaving the parent's registrations alone.

    ``IOLoop.close`` would unregister descriptors from the epoll instance that parent and child share.
    """
    poller: Any = getattr(loop, "_poller", None)
    for name in ("_r_interrupt", "_w_interrupt", "_poll"):
        part = getattr(poller, name, None)
        if part is not None and hasattr(part, "close"):
            part.close()


def waker(loop: IOLoop) -> int:
    """The descriptor that other threads wake the loop by; -1 where pika keeps it elsewhere."""
    socket_ = getattr(getattr(loop, "_poller", None), "_w_interrupt", None)
    return -1 if socket_ is None else int(socket_.fileno())


def cut_off(loop: IOLoop) -> bool:
    """Whether somebody has closed the loop's own descriptors: it can never wait again, or never be woken."""
    poll, wakes = getattr(getattr(loop, "_poller", None), "_poll", None), waker(loop)
    try:
        if wakes >= 0:
            os.get_inheritable(wakes)
        if poll is not None:
            poll.poll(0)
    except (OSError, ValueError):
        return True
    return False
