"""The gauge: asks again and again how many messages wait in some queues, on a connection of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.connection import Connection
from amqtask.amqp.threaded.loop import IoThread
from amqtask.errors import BrokerError, OperationRefused
from amqtask.log import get_logger

log = get_logger("amqtask.amqp")


class QueueGauge:
    """Tells how many messages are ready in a set of queues. ``start`` and ``close`` from any thread, the rest on the I/O thread.

    It asks by passive declares, which need no permission and change nothing. A queue that the broker does not tell of counts as
    empty, with a warning.

    Args:
        io: the I/O thread to live on; the callback runs there.
        reach: the brokers, and how a connection is kept.
        name: the connection's name in the broker's management.
        queues: their names.
        on_measured: the messages in all of them, once a round; None when the broker cannot be asked.
        every: seconds between the last answer of a round and the next round.
    """

    def __init__(
        self,
        io: IoThread,
        reach: Reach,
        *,
        name: str,
        queues: Sequence[str],
        on_measured: Callable[[int | None], None],
        every: float,
    ) -> None:
        self._io = io
        self._queues = tuple(queues)
        self._on_measured = on_measured
        self._every = every
        # I/O thread, all of these
        self._left: list[str] = []  # still to be asked about in this round
        self._sum = 0
        self._refused: set[str] = set()  # those it was said of that they cannot be measured
        self._timer: Any = None  # the next round
        self._closed = False
        self._connection = Connection(
            io,
            reach,
            name=name,
            on_open=lambda _channel: self._go_on(),
            on_lost=self._lost,
        )

    def start(self) -> None:
        """Connect and ask; again after every loss."""
        self._connection.open()

    def close(self, on_closed: Callable[[], None]) -> None:
        """Close the connection; ``on_closed`` runs on the I/O thread."""
        self._io.post(self._stop)
        self._connection.close(on_closed)

    # ------------------------------------------------------------ I/O thread

    def _stop(self) -> None:
        self._closed = True
        self._rest(None)

    def _rest(self, seconds: float | None) -> None:
        """Begin the next round so much later, or not at all."""
        if self._timer is not None:
            self._io.cancel(self._timer)
        self._timer = None if seconds is None else self._io.call_later(seconds, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._left, self._sum = list(self._queues), 0
        self._ask()

    def _go_on(self) -> None:
        """There is a channel: the first, or one after a loss or a refusal."""
        if self._left:
            self._ask()
        elif self._timer is None:
            self._begin()

    def _ask(self) -> None:
        """Ask about the next queue: one at a time, so that a refusal tells which it is about."""
        channel = self._connection.channel
        if channel is None or self._closed:
            return  # the next channel goes on
        channel.queue_declare(self._left[0], passive=True, callback=self._answered)

    def _answered(self, frame: Any) -> None:
        if self._left:
            self._refused.discard(self._left[0])
            self._next(int(frame.method.message_count))

    def _next(self, waiting: int) -> None:
        """The first of those that are left has so many messages."""
        del self._left[0]
        self._sum += waiting
        if self._left:
            self._ask()
        else:
            self._rest(self._every)
            self._on_measured(self._sum)

    def _lost(self, error: BrokerError) -> None:
        if self._closed:
            return
        if isinstance(error, OperationRefused) and self._left:
            queue = self._left[0]
            if queue not in self._refused:
                self._refused.add(queue)
                log.warning("a queue cannot be measured", queue=queue, reason=error.text.strip())
            self._next(0)
            return
        self._left = []
        self._rest(None)
        self._on_measured(None)
