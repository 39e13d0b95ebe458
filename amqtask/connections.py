"""What an app holds at the broker in one process: a client for its threads, one for each event loop, and the results awaited.

All of it is made with its first use, and anew in a forked child.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
import weakref
from typing import TYPE_CHECKING

from amqtask.errors import ConnectionLost
from amqtask.place import Place
from amqtask.results.loops import running_loop
from amqtask.results.pending import Decode, Pending
from amqtask.settings import Settings

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from amqtask.amqp.address import Address
    from amqtask.amqp.ports import Publisher
    from amqtask.amqp.threaded.loop import IoThread
    from amqtask.client import Client
    from amqtask.loop_client import LoopClient
    from amqtask.topology.ladder import Ladder


class Connections:
    """The connections of an app in this process. Any thread; the coroutines in any event loop.

    Attributes:
        pending: the results that are awaited here.
        origin: what this process is called in what it sends.

    Args:
        name: the app's.
        settings: the app's.
        place: where the brokers are.
        decode: reads a reply.
    """

    def __init__(self, name: str, settings: Settings, place: Place, decode: Decode) -> None:
        self._name = name
        self._settings = settings
        self._place = place
        self._decode = decode
        self._lock = threading.Lock()
        self._client: Client | None = None  # guarded by _lock
        self._loop_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopClient] = (
            weakref.WeakKeyDictionary()
        )  # guarded by _lock
        self._id = uuid.uuid4().hex
        self.pending = Pending(decode, self._id)
        self.origin = f"gen{os.getpid()}@{socket.gethostname()}"

    @property
    def label(self) -> str:
        """How the names of the connections begin."""
        return f"{self._name} {self.origin}"

    def client(self) -> Client:
        """What the threads of this process send through.

        Raises:
            ConfigurationError, TopologyError: as ``Place.addresses``.
        """
        client = self._client
        if client is None:
            addresses, ladder = self._place.addresses, self._place.ladder
            with self._lock:
                client = self._client
                if client is None:
                    client = self._client = self._new_client(addresses, ladder)
        return client

    def adopt(self, io: IoThread, publisher: Publisher) -> None:
        """Use the I/O thread and the publisher of another, which stay the other's to close."""
        addresses, ladder = self._place.addresses, self._place.ladder
        with self._lock:
            self._client = self._new_client(addresses, ladder, io, publisher)

    def _new_client(
        self,
        addresses: Sequence[Address],
        ladder: Ladder,
        io: IoThread | None = None,
        publisher: Publisher | None = None,
    ) -> Client:
        from amqtask.client import Client  # pika is loaded with the first use, not with amqtask

        return Client(
            addresses,
            self._settings,
            self.pending,
            name=self.label,
            reply_name=f"amqtask.reply.{self._id}",
            ladder=ladder,
            io=io,
            publisher=publisher,
        )

    def of_loop(self) -> LoopClient | None:
        """What the running event loop sends through, if it has sent before."""
        return self._loop_clients.get(_this_loop())

    async def loop_client(self) -> LoopClient:
        """What the running event loop sends through.

        Raises:
            ConfigurationError, TopologyError: as ``Place.addresses``.
        """
        client = self.of_loop()
        if client is None:
            from amqtask.loop_client import LoopClient  # aio-pika is loaded with the first use

            client = LoopClient(
                self._place.addresses,
                self._settings,
                self.pending,
                name=self.label,
                reply_name=f"amqtask.reply.{self._id}.{uuid.uuid4().hex[:8]}",
                ladder=self._place.ladder,
            )
            with self._lock:
                ended = [each for each in self._loop_clients if each.is_closed()]
                left = [
                    self._loop_clients.pop(each) for each in ended
                ]  # with them went connections
                self._loop_clients[client.loop] = client
            for each in left:
                each.abandon()
            await client.start()
        return client

    def close(self, timeout: float) -> None:
        """Wait for what is being sent, delete the reply queues, close the connections; others are made when needed.

        Args:
            timeout: seconds to wait for what is on its way.
        """
        with self._lock:
            client, self._client = self._client, None
            self._id = uuid.uuid4().hex
            pending, self.pending = self.pending, Pending(self._decode, self._id)
            loop_clients = list(self._loop_clients.values())
            self._loop_clients.clear()
        for each in loop_clients:
            each.close_from_outside(timeout)
        if client is not None:
            client.close(timeout)
        pending.close(ConnectionLost(f"App {self._name!r} was closed before the result came."))

    async def leave_loop(self, timeout: float) -> None:  # noqa: ASYNC109  # passed on
        """Close the connections of the running event loop and nothing else.

        Args:
            timeout: seconds to wait for what is on its way.
        """
        with self._lock:
            mine = self._loop_clients.pop(_this_loop(), None)
        if mine is not None:
            await mine.close(timeout)

    def left_behind(self) -> None:
        """In a forked child, where these are the parent's and others take their place: no result will come here.

        The sockets are closed already, by the I/O thread's own hook.
        """
        self.pending.after_fork(
            RuntimeError(
                "The result arrives at the process that sent the task, not at a fork of it."
            )
        )


def _this_loop() -> asyncio.AbstractEventLoop:
    loop = running_loop()
    assert loop is not None  # the caller is a coroutine
    return loop
