"""Messages between queues, by hand: read a queue without settling it, then move messages in transactions.

A transaction is why this is not done with publisher confirms. The broker applies what a channel published and acked since
the last commit when it reads the next one, so a client that dies at any instant has moved a whole batch or nothing of it.
What a transaction does not do is told at ``Transfer.move``.

Everything is blocking and belongs to one thread. Deliveries and publications go through amqtask's own codec, because pika's
would truncate floats in the headers of the messages it moves.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, ClassVar

import msgspec
import pika.exceptions

from amqtask.amqp import frames
from amqtask.amqp.address import Address
from amqtask.amqp.delivery import Delivery
from amqtask.amqp.session import Session
from amqtask.amqp.threaded.connection import lost_error
from amqtask.amqp.threaded.seams import FastConnection, PlainConnection, require_seams
from amqtask.core.message import Publication
from amqtask.errors import (
    BrokerError,
    ConfirmTimeout,
    ConnectionLost,
    OperationRefused,
    PublishNacked,
)

WINDOW = 500  # messages the first consumer may have on the way
WINDOW_MOST = 20_000  # and a later one, as far as WINDOW_BYTES allows
WINDOW_BYTES = 16 * 1024 * 1024  # bounds what broker and client hold of bodies on the way
COUNTS_NACKS_NOT = (
    4,
    3,
    0,
)  # since then basic.nack is not counted as a delivery, and the order survives it
IDLE = 0.1  # seconds without a delivery after which the queue is asked whether it is empty
EMPTY = (
    2.0  # seconds it must say so: just started, a quorum queue on 3.10 says it before it delivers
)


class Raw(msgspec.Struct, frozen=True):
    """A message to publish with its properties as they came, decoded or not."""

    exchange: str
    routing_key: str
    header: bytes
    body: bytes


class Move(msgspec.Struct, frozen=True):
    """One step: publish ``to``, if anything, and take ``delivery`` off its queue."""

    delivery: Delivery
    to: Publication | Raw | None


class Transfer(Session):
    """One blocking connection that reads one queue and moves its messages. A context manager; one thread.

    Args:
        addresses: brokers, tried once each, in order.
        name: the connection's name in the broker's management.
        timeout: seconds for connecting and for each operation.
        patience: as of a session, until the reading begins: what was read belongs to its connection.
    """

    _connection_class: ClassVar[type[PlainConnection]] = FastConnection

    def __init__(
        self,
        addresses: Sequence[Address],
        *,
        name: str = "amqtask",
        timeout: float = 10.0,
        patience: float = 0.0,
    ) -> None:
        require_seams()
        super().__init__(addresses, name=name, timeout=timeout, patience=patience)
        self._reader: Any = None
        self._confirming: Any = None
        self._in: deque[Delivery] = deque()
        self._verdicts: dict[int, bool] = {}
        self._queue = ""
        self._transactional = False
        self._consumer: str | None = None
        self._consumers = 0  # of this channel so far
        self._sent = 0

    # ------------------------------------------------------------ reading

    def read(self, queue: str, *, transactional: bool = False) -> Iterator[Delivery]:
        """Yield the messages that are ready in a queue now, in order; they stay unsettled.

        Memory holds at most ``WINDOW_BYTES`` of bodies, however many messages have been read; the broker keeps all of them
        for this connection until it ends, and shows them to nobody else meanwhile. Messages that arrive while this reads are not
        among them, or a message that dies again would be read for ever.

        Args:
            queue: the queue.
            transactional: whether ``move`` will be called for some of them.

        Raises:
            OperationRefused: there is no such queue, or it may not be read.
            ConnectionLost: the connection went.
        """
        state = self.queue(queue)
        if state is None:
            raise OperationRefused(404, f"no queue '{queue}'")
        self._open_reader(queue, transactional)
        left, window, bodies, seen = state.messages, WINDOW, 0, 0
        while left:
            # A consumer for each window: what it delivered stays ours when it is cancelled, and the next one starts empty.
            self._call(partial(self._consume, window))
            for _ in range(min(window, left)):
                delivery = self._next()
                if delivery is None:
                    return
                left -= 1
                seen += 1
                bodies += len(delivery.body)
                yield delivery
            self._cancel()
            while self._in and left:
                left -= 1
                yield self._in.popleft()
            window = max(WINDOW, min(WINDOW_MOST, WINDOW_BYTES * seen // max(bodies, 1)))

    def _come_back(self, error: ConnectionLost, deadline: float) -> None:
        if self._reader is not None:
            raise error
        super()._come_back(error, deadline)

    def give_back(self) -> None:
        """Give back everything read and not moved, in the order it had, and end reading."""
        reader = self._reader
        if reader is not None and reader.is_open:
            self._cancel()
            if self.server.release >= COUNTS_NACKS_NOT:
                self._impl.send(frames.encode_nack(reader.channel_number, 0, True, True))
                if self._transactional:
                    self._call(reader.tx_commit)
            # Before, only a closed channel returns them in order: consumer by consumer, by their tags.
            self._call(reader.close)
        self._reader = None
        self._in.clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._connection is not None and self._connection.is_open:
                self.give_back()
        except BrokerError:
            pass  # the broker takes it back by itself, in blocks
        finally:
            super().__exit__(kind, value, traceback)

    def _open_reader(self, queue: str, transactional: bool) -> None:
        self.give_back()
        self._queue = queue
        self._impl.on_deliver = self._delivered
        self._impl.on_confirm = self._confirmed
        self._reader = self._call(self._connection.channel)
        self._transactional = transactional
        self._consumers = 0
        if transactional:
            self._call(self._reader.tx_select)

    def _consume(self, window: int) -> None:
        self._consumers += 1
        self._reader.basic_qos(prefetch_count=window)
        self._consumer = self._reader.basic_consume(
            self._queue, _never, consumer_tag=f"amqtask-{self._consumers:06}"
        )

    def _cancel(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            self._call(lambda: self._reader.basic_cancel(consumer))

    def _delivered(self, deliver: frames.Deliver) -> None:
        if self._reader is not None and deliver.channel == self._reader.channel_number:
            self._in.append(Delivery(0, self._queue, deliver))

    def _next(self) -> Delivery | None:
        """The next delivery; ``None`` when the queue has no more to give."""
        began = time.monotonic()
        empty_since = None
        while not self._in:
            self._pump(lambda: bool(self._in), IDLE)
            now = time.monotonic()
            if self._in or now - began > self._timeout:
                break
            state = self.queue(self._queue)
            if state is not None and state.messages:
                empty_since = None
            elif empty_since is None:
                empty_since = now
            elif now - empty_since > EMPTY:
                break
        if not self._in:
            return None  # somebody else took the rest, or holds it
        return self._in.popleft()

    # ------------------------------------------------------------ moving

    def move(self, moves: Sequence[Move]) -> tuple[Move, ...]:
        """Publish and ack in one transaction; return what the broker could not route, of which nothing was kept.

        The broker carries out the publishes, then the acks, and answers when every publish is safe. So:

        - killed before the commit has arrived, nothing was done; after it, everything was;
        - a publish that no queue takes, or that a full queue refuses, is told when the acks have been carried out already:
          the message is in this process alone, and the caller puts it back with ``publish``;
        - a broker that dies between the two can have kept an ack and not the publish.

        Raises:
            OperationRefused: a queue refused some publish; which of them is not told. The reading has ended.
            ConnectionLost: what became of the transaction is not known.
        """
        returned: list[tuple[str, str, bytes]] = []
        channel = self._reader._impl  # noqa: SLF001  # the adapter keeps returns until somebody asks for events

        def note(_channel: Any, method: Any, _properties: Any, body: bytes) -> None:
            returned.append((method.exchange, method.routing_key, body))

        channel.add_on_return_callback(note)
        try:
            self._call(lambda: self._commit(moves))
        finally:
            channel.callbacks.remove(channel.channel_number, "_on_basic_return", note)
        failed = []
        for move in moves:
            if move.to is not None and (key := _route(move.to)) in returned:
                returned.remove(key)
                failed.append(move)
        return tuple(failed)

    def _commit(self, moves: Sequence[Move]) -> None:
        number = self._reader.channel_number
        for move in moves:
            if move.to is not None:
                self._impl.send(self._frames(number, move.to))
            self._impl.send(frames.encode_ack(number, move.delivery.tag, multiple=False))
        self._reader.tx_commit()

    def publish_all(self, publications: Sequence[Publication | Raw]) -> None:
        """Publish and return when each is confirmed: the way back for what a transaction lost.

        Raises:
            PublishNacked, ConfirmTimeout: some were not taken.
            BrokerError: the connection is lost.
        """
        if not publications:
            return
        if self._confirming is None or not self._confirming.is_open:
            self._confirming = self._call(self._connection.channel)
            self._call(self._confirming.confirm_delivery)
            self._verdicts = {}
            self._sent = 0
        self._impl.on_confirm = self._confirmed
        number = self._confirming.channel_number
        first = self._sent + 1
        for publication in publications:
            self._sent += 1
            self._impl.send(self._frames(number, publication))
        wanted = range(first, self._sent + 1)

        def done() -> bool:
            return all(tag in self._verdicts for tag in wanted)

        self._pump(done, self._timeout)
        if not done():
            raise ConfirmTimeout(
                f"The broker did not confirm {len(publications)} messages within {self._timeout:g} s."
            )
        refused = sum(not self._verdicts.pop(tag) for tag in wanted)
        if refused:
            raise PublishNacked(f"The broker refused {refused} of {len(publications)} messages.")

    def _confirmed(self, channel: int, tag: int, multiple: bool, good: bool) -> None:
        if self._confirming is None or channel != self._confirming.channel_number:
            return
        if multiple:
            for earlier in range(1, tag):
                self._verdicts.setdefault(earlier, good)
        self._verdicts[tag] = good

    def _frames(self, channel: int, publication: Publication | Raw) -> bytes:
        match publication:
            case Raw(exchange=exchange, routing_key=key, header=header, body=body):
                pass
            case Publication(exchange=exchange, routing_key=key, envelope=envelope):
                header, body = frames.encode_properties(envelope.properties), envelope.body
        return frames.encode_publish(
            channel, exchange, key, header, body, self._impl.params.frame_max, mandatory=True
        )

    # ------------------------------------------------------------ waiting

    def wait(self, seconds: float) -> None:
        """Keep the connection alive for so long."""
        self._pump(lambda: False, seconds)

    def _call(self, operation: Callable[[], Any]) -> Any:
        """Carry out an operation of the reader's channel, in its time and with our errors."""
        try:
            with self._deadline():
                return operation()
        except pika.exceptions.ChannelClosedByBroker as reason:
            raise OperationRefused(reason.reply_code, reason.reply_text) from None
        except (pika.exceptions.AMQPError, OSError) as reason:
            raise lost_error(self.address, reason) from None

    def _pump(self, done: Callable[[], bool], seconds: float) -> None:
        """Let frames in and out until ``done``, or for so many seconds."""
        self._require_open()
        expired: list[bool] = []
        loop = self._impl.ioloop
        timer = loop.call_later(seconds, lambda: expired.append(True))
        try:
            # the blocking adapter's own wait: it raises why the connection ended
            self._connection._flush_output(lambda: bool(done() or expired))  # noqa: SLF001
        except (pika.exceptions.AMQPError, OSError) as reason:
            raise lost_error(self.address, reason) from None
        loop.remove_timeout(timer)


def _route(publication: Publication | Raw) -> tuple[str, str, bytes]:
    body = publication.body if isinstance(publication, Raw) else publication.envelope.body
    return publication.exchange, publication.routing_key, body


def _never(*_: object) -> None:
    """Deliveries go past pika."""
