"""The prefetch autopilot: how many messages a child holds follows how long its tasks take. I/O thread.

It looks at the executor's counters every few hundredths of a second while work flows, and not at all when none does. A
task that turns out long while its neighbours wait behind it has them given back, so that an idle child can run them.
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
        change: takes a new prefetch and the deliveries to give back.
        slots: slots of the child.
    """

    def __init__(
        self,
        io: IoThread,
        executor: Executor,
        pool: Pool,
        change: Callable[[int, Sequence[Delivery]], None],
        slots: int,
    ) -> None:
        self._io = io
        self._executor = executor
        self._pool = pool
        self._change = change
        self._slots = slots
        self._prefetch = FIRST * slots
        self._ended = 0
        self._busy = 0.0
        self._looking = False

    def wake(self) -> None:
        """Work has arrived: look soon, if no look is due."""
        if not self._looking:
            self._looking = True
            self._io.call_later(LOOK, self._look)

    def _look(self) -> None:
        self._looking = False
        executor = self._executor
        tasks, busy = executor.ended - self._ended, executor.busy - self._busy
        self._ended, self._busy = executor.ended, executor.busy
        since = executor.running_since
        if since and time.monotonic() - since > HOARD:
            unstarted = self._pool.take_back()
            if unstarted or self._prefetch > self._slots:
                self._prefetch = self._slots
                self._change(self._slots, unstarted)
            return  # the next batch wakes us
        prefetch = target(self._prefetch, tasks, busy, self._slots)
        if prefetch != self._prefetch:
            self._prefetch = prefetch
            self._change(prefetch, ())
        if tasks or since:
            self.wake()
