"""Tasks that ran time and again when their process died run one at a time: so it shows which of them kills it.

When a process with several slots dies, all that ran in it are under suspicion, and each is charged with the crash. If they ran
together every time, the innocent would be given up with the guilty one. So those that would be given up after one more crash
run one at a time in a process, beside whatever else there is; the others wait here, unsettled.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from amqtask.amqp.ports import Delivery
from amqtask.amqp.threaded.loop import IoThread

LONGEST = 600.0  # seconds after which one that waits is given back: below the consumer timeouts that brokers have
AGAIN = 1.0  # seconds after which the next one is released, if the last did not begin
ROOM = 64  # messages that wait here which the prefetch is raised for


class Trial:
    """The suspects of one child.

    ``begins`` belongs to the slots, ``ended`` to any thread, everything else to the I/O thread.

    Args:
        io: the child's I/O thread.
        release: lets a delivery run.
        give_back: returns deliveries to their queue.
        resized: told how many messages wait here, so that the child can have that many more delivered.

    Attributes:
        tried: the delivery that runs as a suspect now.
    """

    def __init__(
        self,
        io: IoThread,
        *,
        release: Callable[[Delivery], None],
        give_back: Callable[[Sequence[Delivery]], None],
        resized: Callable[[int], None],
    ) -> None:
        self._io = io
        self._release = release
        self._give_back = give_back
        self._resized = resized
        self.tried: Delivery | None = None
        self._busy = threading.Lock()  # held while a suspect runs
        self._waiting: deque[tuple[Delivery, float]] = deque()
        self._closed = False

    def begins(self, delivery: Delivery) -> bool:
        """Whether a suspect may run now; ``ended`` must then be called. If not, it waits here."""
        if self._busy.acquire(blocking=False):
            self.tried = delivery
            return True
        self._io.post(lambda: self._add(delivery))
        return False

    def ended(self) -> None:
        """The suspect that ran has ended."""
        self.tried = None
        self._busy.release()
        self._io.post(self._next)

    def forget(self, stale: Callable[[Delivery], bool]) -> None:
        """A channel is gone, and with it what came on it."""
        self._waiting = deque(each for each in self._waiting if not stale(each[0]))
        self._resize()

    def finish(self) -> list[Delivery]:
        """Give up what waits: the child takes no more work."""
        self._closed = True
        waiting = [delivery for delivery, _ in self._waiting]
        self._waiting.clear()
        return waiting

    def _add(self, delivery: Delivery) -> None:
        if self._closed:
            self._give_back([delivery])
            return
        self._waiting.append((delivery, time.monotonic()))
        self._resize()
        self._io.call_later(LONGEST, self._expire)
        self._next()  # the one that ran may have ended before this one came here

    def _next(self) -> None:
        if self._waiting and not self._busy.locked():
            delivery, _ = self._waiting.popleft()
            self._resize()
            self._release(delivery)
            if self._waiting:
                # What was released may need no run after all, or go back to the queue: then nobody says that it has ended.
                self._io.call_later(AGAIN, self._next)

    def _expire(self) -> None:
        since = time.monotonic() - LONGEST
        while self._waiting and self._waiting[0][1] <= since:
            self._give_back([self._waiting.popleft()[0]])
        self._resize()

    def _resize(self) -> None:
        self._resized(min(len(self._waiting), ROOM))
