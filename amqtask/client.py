"""What one process of an app holds at the broker: an I/O thread, a publisher, a reply queue. All of it made when needed.

This is the one module through which a service loads an AMQP client, so it is imported with the first use, not with amqtask.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from amqtask.amqp.address import Address
from amqtask.amqp.ports import Publisher
from amqtask.amqp.reach import reach_of
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.results.pending import Pending
from amqtask.results.rpc import ReplyQueue
from amqtask.settings import Settings
from amqtask.topology.barrier import barriers_of
from amqtask.topology.ladder import Ladder


class Client:
    """The synchronous side of an app in one process. Every method may be called from any thread but the I/O thread.

    Args:
        addresses: brokers.
        settings: the app's.
        pending: where replies go.
        name: begins the names of the connections.
        reply_name: the name of the reply queue.
        ladder: the app's delay ladder.
        io: an I/O thread to share, which this client then does not stop.
        publisher: a publisher to share, which this client then does not close.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        settings: Settings,
        pending: Pending,
        *,
        name: str,
        reply_name: str,
        ladder: Ladder,
        io: IoThread | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        self._reach = reach_of(addresses, settings)
        self._settings = settings
        self._pending = pending
        self._name = name
        self._reply_name = reply_name
        self._own_io = io is None
        self._io = io or IoThread(f"amqtask {name}")
        self._own_publisher = publisher is None
        self.publisher: Publisher = publisher or ThreadedPublisher(
            self._io,
            self._reach,
            name=f"{name} publisher",
            window=settings.publish_window,
            buffer=settings.publish_buffer,
            ladder=ladder,
            barriers=barriers_of(settings),
        )
        self._lock = threading.Lock()
        self._replies: ReplyQueue | None = None  # guarded by _lock, then never replaced

    def reply_queue(self, timeout: float) -> str:
        """The name of the process's reply queue, declared and consumed.

        Raises:
            BrokerError: it could not be set up within ``timeout`` seconds.
        """
        replies = self._replies
        if replies is None:
            with self._lock:
                replies = self._replies
                if replies is None:
                    replies = self._replies = self._new_replies()
        return replies.require(timeout)

    def close(self, timeout: float) -> None:
        """Wait for what is in flight, delete the reply queue, stop the thread; at most about ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        if self._own_publisher:
            self.publisher.close(timeout)
        with self._lock:
            replies, self._replies = self._replies, None
        if replies is not None:
            replies.close(max(0.5, deadline - time.monotonic()))
        if self._own_io:
            self._io.stop(max(0.5, deadline - time.monotonic()))

    def _new_replies(self) -> ReplyQueue:
        settings = self._settings
        replies = ReplyQueue(
            self._io,
            self._reach,
            self._pending,
            name=self._reply_name,
            connection_name=f"{self._name} replies",
            expires=settings.result_queue_expires,
            kind=settings.result_queue_type,
        )
        replies.start()
        return replies
