"""Messages between queues, by hand: read a queue without settling it, publish copies, take the originals away.

Copies are published in a transaction, not with publisher confirms: the broker carries a transaction out when it has read the
commit, so a client that dies at any instant has sent all of a batch or nothing of it. What follows from that, and what does
not, is told in ``amqtask/dead``.

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
from amqtask.amqp.threaded.connection import COUNTS_NACKS_NOT, lost_error
from amqtask.amqp.threaded.seams import FastConnection, PlainConnection, require_seams
from amqtask.core.message import Publication
from amqtask.errors import (
    BrokerError,
    ConfirmTimeout,
    ConnectionLost,
    OperationRefused,
    PublishNacked,
)
from amqtask.topology.plan import DeclareQueue

WINDOW = 500  # messages the first consumer may have on the way
WINDOW_MOST = 20_000  # and a later one, as far as WINDOW_BYTES allows
WINDOW_BYTES = 16 * 1024 * 1024  # bounds what broker and client hold of bodies on the way
IDLE = 0.1  # seconds without a delivery after which the queue is asked whether it is empty
JOURNAL = b"amqtask-journal"  # consumer tag
BUSY = 5.0  # seconds another command gets to end, or the broker to notice that it has
EMPTY = (
    2.0  # seconds it must say so: just started, a quorum queue on 3.10 says it before it delivers
)


class Raw(msgspec.Struct, frozen=True):
    """A message to publish with its properties as they came, decoded or not."""

    exchange: str
    routing_key: str
    header: bytes
    body: bytes


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
        self._log: list[bytes] = []  # of the journal, until all of it has been read
        self._log_read = False
        self._verdicts: dict[int, bool] = {}
        self._queue = ""
        self._transactional = False
        self._consumer: str | None = None
        self._consumers = 0  # of this channel so far
        self._sent = 0

    # ------------------------------------------------------------ reading

    def read(self, queue: str, *, begun: bool = False) -> Iterator[Delivery]:
        """Yield the messages that are ready in a queue now, in order; they stay unsettled.

        Memory holds at most ``WINDOW_BYTES`` of bodies, however many messages have been read; the broker keeps all of them
        for this connection until it ends, and shows them to nobody else meanwhile. Messages that arrive while this reads are not
        among them, or a message that dies again would be read for ever.

        Args:
            queue: the queue.
            begun: go on with what ``begin`` began.

        Raises:
            OperationRefused: there is no such queue, or it may not be read.
            ConnectionLost: the connection went.
        """
        state = self.queue(queue)
        if state is None:
            raise OperationRefused(404, f"no queue '{queue}'")
        if not begun:
            self._open_reader(queue, False)
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
        self._log.clear()

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

    def _delivered(self, deliver: Delivery) -> None:
        if self._reader is None or deliver.channel != self._reader.channel_number:
            return
        if deliver.consumer_tag == JOURNAL:
            if not self._log_read:
                self._log.append(deliver.body)
        else:
            deliver.epoch, deliver.queue = 0, self._queue
            self._in.append(deliver)

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

    def begin(self, queue: str, journal: DeclareQueue, mark: Raw) -> list[bytes]:
        """Begin to move messages of a queue, as the only one who does; what is in its journal, oldest first.

        Nobody else can begin until this channel ends, and with it whatever it had under way: the lock is an exclusive consumer
        on the same channel that publishes, acks and holds the messages.

        Args:
            queue: where they are taken from.
            journal: the queue of its journal, declared if it is not there.
            mark: published to the journal to see when all of it has been read; not among what is returned.

        Raises:
            OperationRefused: somebody else is at it (``in_use``), or it may not be declared, read or written.
        """
        self.declare(journal)
        deadline = time.monotonic() + BUSY
        while True:
            self._open_reader(queue, True)
            try:
                self._call(lambda: self._follow(journal.name))
                break
            except OperationRefused as error:
                if not in_use(error) or time.monotonic() > deadline:
                    raise
            self.wait(IDLE)
        self.publish_all([mark])
        before = -1
        while mark.body not in self._log[-1:] and len(self._log) > before:
            before = len(self._log)  # it may be long: what must not take long is the next entry
            self._pump(lambda: mark.body in self._log[-1:], self._timeout)
        if mark.body not in self._log[-1:]:
            raise ConfirmTimeout(f"{journal.name!r} could not be read within {self._timeout:g} s.")
        self._log_read = True
        entries, self._log = self._log[:-1], []
        return entries

    def _follow(self, journal: str) -> None:
        self._reader.basic_qos(prefetch_count=0)
        self._log, self._log_read = [], False
        self._reader.basic_consume(journal, _never, consumer_tag=JOURNAL.decode(), exclusive=True)

    def send(self, copies: Sequence[Publication | Raw], note: Raw) -> frozenset[int]:
        """Publish copies, and ``note`` after them, in one transaction; which of them no queue took, by their place.

        All are safe with the broker, but for these, when this returns. A client that dies before has published all or nothing.

        Raises:
            OperationRefused: a full queue refused some, and which is not told. The reading has ended.
            ConnectionLost: what became of the transaction is not known.
        """
        returned: set[tuple[str, str]] = set()
        channel = self._reader._impl  # noqa: SLF001  # the adapter keeps returns until somebody asks for events

        def returns(_channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
            returned.add((method.exchange, method.routing_key))

        channel.add_on_return_callback(returns)
        try:
            self._call(lambda: self._commit([*copies, note], ()))
        finally:
            channel.callbacks.remove(channel.channel_number, "_on_basic_return", returns)
        # a queue that was deleted in the middle took with it what it had
        return frozenset(
            place
            for place, copy in enumerate(copies)
            if (copy.exchange, copy.routing_key) in returned
        )

    def settle(self, deliveries: Sequence[Delivery], note: Raw | None = None) -> None:
        """Take messages off their queue, and publish ``note``, in one transaction.

        Raises:
            ConnectionLost: whether it was done is not known.
        """
        self._call(lambda: self._commit(() if note is None else (note,), deliveries))

    def _commit(
        self, publications: Sequence[Publication | Raw], deliveries: Sequence[Delivery]
    ) -> None:
        number = self._reader.channel_number
        for publication in publications:
            self._impl.send(self._frames(number, publication))
        for delivery in deliveries:
            self._impl.send(frames.encode_ack(number, delivery.tag, multiple=False))
        self._reader.tx_commit()

    def publish_all(self, publications: Sequence[Publication | Raw]) -> None:
        """Publish and return when each is confirmed.

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


def in_use(error: OperationRefused) -> bool:
    """Whether somebody else moves the messages of this queue."""
    return error.code == 403 and "exclusive use" in str(error)


def _never(*_: object) -> None:
    """Deliveries go past pika."""
