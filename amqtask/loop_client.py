"""What an app holds at the broker for one event loop: a publisher and a reply queue. ``client.py`` for coroutines.

The one module through which a service loads asyncio and aio-pika, so it is imported with the first use.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from amqtask.amqp.address import Address
from amqtask.amqp.aio.publisher import AioPublisher
from amqtask.amqp.reach import reach_of
from amqtask.batch import Awaits, Explain, OnItsWay, summary
from amqtask.core.message import Publication
from amqtask.errors import AmqtaskError, BrokerError
from amqtask.results.aio_rpc import AioReplyQueue
from amqtask.results.loops import running_loop
from amqtask.results.pending import Pending
from amqtask.settings import Settings
from amqtask.topology.barrier import barriers_of
from amqtask.topology.ladder import Ladder


class LoopClient:
    """The asyncio side of an app in one event loop; everything must be called inside that loop.

    Args:
        addresses: brokers.
        settings: the app's.
        pending: where replies go.
        name: begins the names of the connections.
        reply_name: the name of this loop's reply queue.
        ladder: the app's delay ladder.
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
    ) -> None:
        self.loop = asyncio.get_running_loop()
        reach = reach_of(addresses, settings)
        self.publisher = AioPublisher(
            reach,
            name=f"{name} publisher",
            window=settings.publish_window,
            buffer=settings.publish_buffer,
            ladder=ladder,
            barriers=barriers_of(settings),
        )
        self._replies = AioReplyQueue(
            reach,
            pending,
            name=reply_name,
            connection_name=f"{name} replies",
            expires=settings.result_queue_expires,
            kind=settings.result_queue_type,
        )
        self._replying = False
        self._closed = False
        self._farewells: set[asyncio.Task[None]] = set()  # closes under way
        self._farewell = self._until_the_end()

    async def start(self) -> None:
        """Tie the client to the end of its loop: ``asyncio.run`` then closes it where the program did not."""
        await anext(self._farewell)

    @property
    def replies(self) -> str | None:
        """The name of this loop's reply queue while it is consumed; else ``reply_queue`` sees to it."""
        return self._replies.name if self._replies.consuming else None

    async def reply_queue(self, timeout: float) -> str:  # noqa: ASYNC109  # the queue turns its end into the last reason
        """The name of this loop's reply queue, declared and consumed.

        Raises:
            BrokerError: it could not be set up within ``timeout`` seconds.
        """
        self._replying = True
        return await self._replies.require(timeout)

    async def close(self, timeout: float) -> None:  # noqa: ASYNC109  # passed on
        """Wait for what is in flight, delete the reply queue, close the connections. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            await self.publisher.close(timeout)
            if self._replying:
                await self._replies.close()
        finally:
            self.abandon()
        await self._farewell.aclose()

    def abandon(self) -> None:
        """No reply comes here any more: tell whoever waits for one. Any thread."""
        if self._replying:
            self._replies.lose()

    def close_from_outside(self, timeout: float) -> None:
        """Close from any thread. In the loop's own thread this only begins the closing; a loop that ended is left alone."""
        loop = self.loop
        if not loop.is_running():
            return
        if running_loop() is loop:
            self._farewells.add(task := loop.create_task(self.close(timeout)))
            task.add_done_callback(self._farewells.discard)
            return
        closing = asyncio.run_coroutine_threadsafe(self.close(timeout), loop)
        try:
            closing.result(timeout + 2.0)
        except (TimeoutError, RuntimeError, asyncio.CancelledError):
            pass  # the loop stopped meanwhile

    async def _until_the_end(self) -> AsyncGenerator[None]:
        # An event loop that is shut down finishes its open async generators, which is the only hook it offers.
        try:
            yield
        finally:
            if not self._closed:
                self._closed = True
                try:
                    await self.publisher.close(1.0)
                    if self._replying:
                        await self._replies.close()
                except (BrokerError, RuntimeError, OSError):
                    pass  # asyncio.run has cancelled the connections' tasks by now, and with them closed the sockets
                finally:
                    self.abandon()


class AsyncBatch:
    """``Batch`` for the coroutines of one event loop; several of them may share it. No task for a publish, and no future.

    Args:
        window: how many may be on their way; ``submit`` waits above that.
    """

    def __init__(self, window: int) -> None:
        self._permits = asyncio.Semaphore(window)
        self._window = window
        self._left = 0
        self._total = 0
        self._failed = 0
        self._first: AmqtaskError | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._wake_at = -1  # these want to be woken when so few are left

    async def room(self, most: int) -> None:
        """Wait until fewer than ``most``, and no more than the window, are under way."""
        most = min(most, self._window)
        if self._left >= most:
            await self._until(most // 2)

    async def submit(
        self,
        publisher: AioPublisher,
        publication: Publication,
        timeout: float,  # noqa: ASYNC109  # of the publish, not of this call
        awaited: Awaits | None,
        explain: Explain,
        due_in: str | None = None,
    ) -> None:
        """Hand a publication over; waits while as many as the window allows are under way. Arguments as ``Batch.submit``."""
        await self._permits.acquire()
        self._left += 1
        self._total += 1
        settled = OnItsWay(self, publication, due_in, awaited, explain)
        try:
            publisher.submit(publication, settled, timeout, due_in=due_in)
        except BaseException:
            self._total -= 1
            self.ended(None)
            raise

    async def wait(self) -> AmqtaskError | None:
        """Return when all have ended: the first error, saying how many failed, or ``None``."""
        await self._until(0)
        return summary(self._first, self._failed, self._total)

    def ended(self, error: AmqtaskError | None) -> None:
        """One of them has ended."""
        if error is not None:
            self._failed += 1
            self._first = self._first or error
        self._permits.release()
        self._one_less()

    def hold(self) -> Callable[[], None]:
        """``Batch.hold``, in the loop's thread."""
        self._left += 1
        return self._one_less

    def _one_less(self) -> None:
        self._left -= 1
        if self._left <= self._wake_at:
            self._wake_at = -1  # who waits for fewer says so again
            waiting, self._waiting = self._waiting, []
            for turn in waiting:
                if not turn.done():
                    turn.set_result(None)

    async def _until(self, left: int) -> None:
        while self._left > left:
            self._wake_at = max(self._wake_at, left)
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
