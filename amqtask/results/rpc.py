"""The reply queue of this process: declared, consumed, and emptied into the table of awaited results.

One queue per app and process, ``amqtask.reply.<id>``: classic unless the settings ask for quorum, because a reply is read
once and soon; durable, so that it
survives the broker's restart; with an expiry, so that it goes when its process vanished. The consumer is permanent and
acknowledges: a reply that was on its way when the connection broke comes again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from amqtask.amqp import ports
from amqtask.amqp.delivery import Delivery
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.consumer import ThreadedConsumer
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.waits import Flag
from amqtask.core.message import Envelope
from amqtask.core.outcome import Verdict
from amqtask.errors import BrokerError, ConnectFailed, DecodeError
from amqtask.log import get_logger
from amqtask.results.pending import Pending
from amqtask.topology.plan import NO_DELIVERY_LIMIT, DeclareQueue

log = get_logger("amqtask.results")

PREFETCH = (
    1000  # replies are filed at once; this only bounds what a reconnect makes the broker send twice
)


def reply_queue(name: str, expires: float, kind: str = "classic") -> DeclareQueue:
    """The declaration of a reply queue of this type that goes ``expires`` seconds after its last consumer."""
    arguments: dict[str, object] = {"x-queue-type": kind, "x-expires": int(expires * 1000)}
    if kind == "quorum":
        arguments["x-delivery-limit"] = NO_DELIVERY_LIMIT
    return DeclareQueue(name, arguments=arguments)


def file_reply(pending: Pending, delivery: ports.Delivery) -> None:
    """File a reply by its correlation id. What names no task is logged and dropped: nobody can wait for it."""
    try:
        properties = delivery.properties
    except DecodeError as error:
        log.warning("dropped a reply that cannot be read", reason=str(error))
        return
    if not properties.correlation_id:
        log.warning("dropped a reply without a correlation id", queue=delivery.queue)
        return
    pending.arrive(properties.correlation_id, Envelope(delivery.body, properties))


class ReplyQueue:
    """Keeps the process's reply queue consumed. Every method may be called from any thread but the I/O thread.

    Args:
        io: the I/O thread to live on.
        reach: the brokers, and how a connection is kept.
        pending: where replies go.
        name: the queue's name.
        connection_name: shown by the broker's management.
        expires: seconds the queue outlives its process.
        kind: its type, ``classic`` or ``quorum``.
    """

    def __init__(
        self,
        io: IoThread,
        reach: Reach,
        pending: Pending,
        *,
        name: str,
        connection_name: str,
        expires: float,
        kind: str = "classic",
    ) -> None:
        self.name = name
        self._pending = pending
        self._addresses = reach.addresses
        self._consuming = Flag()  # set and cleared by the I/O thread
        self._consumer = ThreadedConsumer(
            io,
            reach,
            name=connection_name,
            queues=(name,),
            prefetch=PREFETCH,
            declarations=(reply_queue(name, expires, kind),),
            on_batch=self._arrived,
            on_lost=self._lost,
            on_ready=self._ready,
        )

    def start(self) -> None:
        """Begin to connect; idempotent."""
        self._consumer.start()

    def require(self, timeout: float) -> str:
        """The queue's name, once it is declared and consumed: a task sent before could lose its result.

        Raises:
            BrokerError: it was not within ``timeout`` seconds; the last reason.
        """
        if self._consuming.is_set() or self._consuming.wait(timeout):
            return self.name
        error = self._consumer.last_error
        if error is None or not isinstance(error, ConnectFailed):
            why = str(error) if error is not None else "no answer yet"
            error = ConnectFailed(
                f"The reply queue could not be set up at {self._addresses[0].endpoint} in time ({why})."
            )
        raise error

    def close(self, timeout: float) -> None:
        """Delete the queue and close the connection; at most ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        self._pending.feeders.clear()
        if self._consuming.is_set():
            deleted = threading.Event()
            self._consumer.stop(lambda: self._consumer.delete(self.name, deleted.set))
            deleted.wait(timeout)
        closed = threading.Event()
        self._consumer.close(closed.set)
        closed.wait(max(0.1, deadline - time.monotonic()))

    # ------------------------------------------------------------ I/O thread

    def _ready(self) -> None:
        self._pending.feeders.add(threading.get_ident())
        self._consuming.set()

    def _lost(self, _error: BrokerError) -> None:
        self._consuming.clear()

    def _arrived(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            file_reply(self._pending, delivery)
            self._consumer.settle(delivery, Verdict.ACK)
