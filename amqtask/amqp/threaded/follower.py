"""The follower: reads a stream from an offset on, and goes on where it was after a loss.

A stream is a log: reading takes nothing away, so there is nothing to settle. Acks are only the broker's measure of how much may be
under way. Each message carries its offset in the header ``x-stream-offset``. A queue of another kind refuses the consumer, so one
that happens to have the stream's name loses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pika.channel import Channel

from amqtask.amqp import failures, frames
from amqtask.amqp.declaration import call_of
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.connection import Connection
from amqtask.amqp.threaded.loop import IoThread
from amqtask.errors import BrokerError, DecodeError, OperationRefused
from amqtask.topology import remedies
from amqtask.topology.plan import DeclareQueue

PREFETCH = 500  # messages under way
REOPEN_CAP = 30.0  # seconds between two tries on a stream that is refused
FAILS_FOR = 5.0  # seconds in which every try has failed: it is not the broker's start, then
ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED = 403, 404, 406

Entry = tuple[int, bytes]  # offset and body


class StreamFollower:
    """Follows one stream on a connection of its own. ``start`` and ``close`` from any thread, the rest on the I/O thread.

    Args:
        io: the I/O thread to live on; the callbacks run there.
        reach: the brokers, and how a connection is kept.
        name: the connection's name in the broker's management; also the consumer's tag.
        stream: its name.
        declaration: declares it on every new channel; ``None`` when it must be there.
        offset: asked on every new channel for the offset to begin with; 0 is the oldest there is.
        on_batch: entries of one read, in order.
        on_open: reading has begun, on the first channel or another.
        on_refused: the broker refuses to consume, or to declare what is not there, or fails at it itself; tried again ever more
            slowly.
        on_differs: reading has begun, though the broker refuses to declare: the stream is there with other arguments, or may be read
            and not declared. Told after ``on_open``.
        on_lost: the channel is gone; another follows.
    """

    def __init__(
        self,
        io: IoThread,
        reach: Reach,
        *,
        name: str,
        stream: str,
        declaration: DeclareQueue | None,
        offset: Callable[[], int],
        on_batch: Callable[[list[Entry]], None],
        on_open: Callable[[], None],
        on_refused: Callable[[OperationRefused], None],
        on_differs: Callable[[OperationRefused], None],
        on_lost: Callable[[BrokerError], None],
    ) -> None:
        self._name = name
        self._stream = stream
        self._declaration = declaration
        self._offset = offset
        self._on_batch = on_batch
        self._on_open = on_open
        self._on_refused = on_refused
        self._on_differs = on_differs
        self._on_lost = on_lost
        self._fast = reach.fast
        # I/O thread, all of these
        self._batch: list[Entry] = []
        self._tag = 0  # the last delivery of this channel
        self._declaring = False
        self._refusal: OperationRefused | None = None  # of the declaration; it is used as it is
        self._asking = False  # for the stream, without an answer yet
        self._failing: float | None = None  # since when the broker has failed at that each time
        self._release = (0, 0, 0)  # of the broker of this channel, or of the last one
        self._connection = Connection(
            io,
            reach,
            name=name,
            on_open=self._channel_open,
            on_lost=self._channel_lost,
            reopen_cap=REOPEN_CAP,
        )

    def start(self) -> None:
        """Connect and follow; again after every loss."""
        self._connection.open()

    def renew(self) -> None:
        """Begin anew on another channel, from the offset that is asked for then."""
        self._connection.renew_channel()

    def close(self, on_closed: Callable[[], None]) -> None:
        """Close the connection; ``on_closed`` runs on the I/O thread."""
        self._connection.close(on_closed)

    # ------------------------------------------------------------ I/O thread

    def _channel_open(self, channel: Channel) -> None:
        self._release = self._connection.release
        self._batch = []
        self._tag = 0
        if self._fast:
            raw: Any = self._connection.raw
            raw.on_deliver = self._delivered
            raw.on_read_end = self._read_end
        channel.add_on_cancel_callback(lambda _frame: self._connection.renew_channel())
        if self._declaration is None or self._refusal is not None:
            self._consume(channel)
            return
        self._declaring = True
        method, arguments = call_of(self._declaration)
        getattr(channel, method)(**arguments, callback=lambda _frame: self._consume(channel))

    def _consume(self, channel: Channel) -> None:
        self._declaring = False
        if channel.is_closed or channel.is_closing:
            return
        self._asking = True
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(
            self._stream,
            self._delivered_by_pika,
            consumer_tag=self._name,
            arguments={"x-stream-offset": self._offset() or "first"},
            callback=lambda _frame: self._consuming(),
        )

    def _consuming(self) -> None:
        self._asking, self._failing = False, None
        self._on_open()
        if self._refusal is not None:
            self._on_differs(self._refusal)

    def _channel_lost(self, error: BrokerError) -> None:
        declaring, self._declaring = self._declaring, False
        asking, self._asking = self._asking, False
        self._batch = []
        if asking and failures.INTERNAL_ERROR in str(error):
            self._fails(541, f"{failures.INTERNAL_ERROR} whenever it is read")
        if isinstance(error, OperationRefused):
            if failures.absent(error):
                self._fails(error.code, error.text.strip())
            elif declaring and error.code in (ACCESS_REFUSED, PRECONDITION_FAILED):
                self._refusal = (
                    error  # it may be there, and not as we would have it, or not ours to declare
                )
            elif self._refusal is not None and error.code == NOT_FOUND:
                self._on_refused(self._refusal)  # why it is not there
                self._refusal = None  # and whoever deleted it may let us declare it now
            else:
                self._on_refused(error)
        self._on_lost(error)

    def _fails(self, code: int, reason: str) -> None:
        """The broker has failed at the stream itself; told when it has done so for a while, which is not its start, then.

        A broker that was killed does so for good when it has lost what it knew of a stream, but for its name: RabbitMQ 4.3 closes
        the connection of whoever reads it, 3.10 says that its node is down, which may be so, too.
        """
        now = time.monotonic()
        if self._failing is None:
            self._failing = now
        if now - self._failing >= FAILS_FOR:
            vhost, release = self._connection.address.vhost, self._release
            command = remedies.delete_lost_queue(vhost, self._stream, release)
            text = (
                f"{reason}; if all nodes of the broker run, one was killed and has lost it: delete what is left of it (`{command}`), "
                "and it is made anew, without what it held"
            )
            self._on_refused(OperationRefused(code, text))

    def _delivered(self, deliver: frames.Deliver) -> None:
        try:
            headers = frames.decode_properties(deliver.header).headers
        except DecodeError:
            self._tag = deliver.tag  # of another program, and no record whatever it says
            return
        self._take(deliver.tag, headers, deliver.body)

    def _delivered_by_pika(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._take(method.delivery_tag, properties.headers, body)
        self._read_end()

    def _take(self, tag: int, headers: Any, body: bytes) -> None:
        offset = (headers or {}).get("x-stream-offset")
        self._tag = tag
        if isinstance(offset, int):  # the broker gives every message of a stream one
            self._batch.append((int(offset), body))

    def _read_end(self) -> None:
        batch, self._batch = self._batch, []
        channel = self._connection.channel
        if self._tag and channel is not None and channel.is_open:
            self._connection.raw.send(
                frames.encode_ack(int(channel.channel_number), self._tag, True)
            )
            self._tag = 0
        if batch:
            self._on_batch(batch)
