"""The prefetch autopilot: how many messages a child holds follows how long its tasks take. I/O thread.

It looks at the executor's counters every few hundredths of a second while work flows, and not at all when none does. When
a task turns out long, what waits behind it is given back, so that an idle child can run it, and nothing more is consumed
until the slot is free. (Given back while consuming, it would come again at once, and again, until its delivery limit. Where the
broker counts returns, what is half way to that limit stays.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from amqtask.amqp.ports import Delivery
from amqtask.amqp.threaded.loop import IoThread
from amqtask.core.prefetch import FIRST, target
from amqtask.worker.execution import Executor
from amqtask.worker.pools.base import Pool

LOOK = 0.05  # seconds between two looks
HOARD = 0.25  # seconds a task may run before what waits behind it is given back


class Pilot:
    """Watches one child's slot.

    Args:
        io: the child's I/O thread, on which everything here runs.
        executor: has the counters.
        pool: has what waits.
        change: takes a new prefetch.
        pause: stops consuming and gives deliveries back.
        resume: consumes again.
        slots: slots of the child.
    """

    def __init__(
        self,
        io: IoThread,
        executor: Executor,
        pool: Pool,
        change: Callable[[int], None],
        pause: Callable[[Sequence[Delivery]], None],
        resume: Callable[[], None],
        slots: int,
    ) -> None:
        self._io = io
        self._executor = executor
        self._pool = pool
        self._change = change
        self._pause = pause
        self._resume = resume
        self._slots = slots
        self._prefetch = FIRST * slots
        self._ended = 0
        self._busy = 0.0
        self._looking = False
        self.paused = False  # read by the slot's thread

    def wake(self) -> None:
        """Work has arrived: look soon, if no look is due."""
        self._look_in(LOOK)

    def slot_free(self) -> None:
        """The slot has run out of work."""
        if self.paused and not self._executor.running_since:
            self.paused = False
            self._resume()

    def _look_in(self, seconds: float) -> None:
        if not self._looking:
            self._looking = True
            self._io.call_later(seconds, self._look)

    def _look(self) -> None:
        self._looking = False
        executor = self._executor
        tasks, busy = executor.ended - self._ended, executor.busy - self._busy
        self._ended, self._busy = executor.ended, executor.busy
        since = executor.running_since
        if since and time.monotonic() - since > HOARD:
            unstarted = self._pool.take_back()
            if unstarted or self._prefetch > self._slots:
                self.paused = True
                self._pause(unstarted)
                if self._prefetch != self._slots:
                    self._prefetch = self._slots
                    self._change(self._slots)
            if self.paused:
                self._look_in(HOARD)  # the slot may have become free before it saw that we paused
            return  # else the next batch wakes us
        self.slot_free()
        prefetch = target(self._prefetch, tasks, busy, self._slots)
        if prefetch != self._prefetch:
            self._prefetch = prefetch
            self._change(prefetch)
        if tasks or since or self.paused:
            self.wake()
