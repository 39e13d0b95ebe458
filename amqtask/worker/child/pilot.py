"""The prefetch autopilot: how many messages a child holds follows how long its tasks take. I/O thread.

It looks at the slots' counters every few hundredths of a second while work flows, and not at all when none does. When
the tasks in all slots turn out long, what waits behind them is given back, so that an idle child can run it, and nothing more
is consumed until a slot is free. (Given back while consuming, it would come again at once, and again, until its delivery limit. Where the
broker counts returns, what is half way to that limit stays.)

Slots that share an event loop or a hub are not free because they run nothing: a task that computes or blocks there holds them all
up. So what waits beside free slots for long is given back, too, but for what can be done soon at the rate seen, and little is
consumed until nothing waits any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from amqtask.amqp.ports import Delivery
from amqtask.amqp.threaded.loop import IoThread
from amqtask.core.prefetch import bear, first, stay, target
from amqtask.worker.pools.base import Pool
from amqtask.worker.slots.execution import Runner

LOOK = 0.05  # seconds between two looks
HOARD = 0.15  # seconds without a free slot after which what waits is given back
STUCK = 0.4  # seconds that something waits beside a free slot after which it is; a loop with a thousand tasks takes a while to turn


class Pilot:
    """Watches one child's slots.

    Args:
        io: the child's I/O thread, on which everything here runs.
        runners: the slots.
        pool: has what waits.
        change: takes a new prefetch.
        pause: stops consuming and gives deliveries back.
        resume: consumes again.
        unsettled: how many deliveries of this child have no verdict.
    """

    def __init__(
        self,
        io: IoThread,
        runners: Sequence[Runner],
        pool: Pool,
        change: Callable[[int], None],
        pause: Callable[[Sequence[Delivery]], None],
        resume: Callable[[], None],
        unsettled: Callable[[], int],
    ) -> None:
        self._io = io
        self._runners = runners
        self._pool = pool
        self._change = change
        self._pause = pause
        self._resume = resume
        self._unsettled = unsettled
        self._slots = slots = len(runners)
        self._prefetch = first(slots)
        self._wanted = self._prefetch  # as the length of the tasks has it
        self._most = 0  # because slots hold each other up; 0 when they do not
        self._waits = 0.0  # since when something waits beside a free slot, and what had ended then
        self._waited = 0
        self._stuck = False  # paused until the slots come to what they are given
        self._ended = 0
        self._busy = 0.0
        self._looking = False
        self.paused = False  # read by the slots

    def wake(self) -> None:
        """Work has arrived: look soon, if no look is due."""
        self._look_in(LOOK)

    def slot_free(self) -> None:
        """A slot has run out of work."""
        if self.paused and not all(each.running_since for each in self._runners):
            self.paused = self._stuck = False
            self._resume()

    def _look_in(self, seconds: float) -> None:
        if not self._looking:
            self._looking = True
            self._io.call_later(seconds, self._look)

    def _look(self) -> None:
        self._looking = False
        runners = self._runners
        ended, busy = sum(each.ended for each in runners), sum(each.busy for each in runners)
        tasks, spent = ended - self._ended, busy - self._busy
        self._ended, self._busy = ended, busy
        # when the last free slot was taken; 0 while there is one
        since = _full_since(runners)
        if since and time.monotonic() - since > HOARD:
            unstarted = self._pool.take_back()
            if unstarted or self._prefetch > self._slots:
                self.paused = True
                self._pause(unstarted)
                if self._prefetch != self._slots:
                    self._prefetch = self._wanted = self._slots
                    self._change(self._slots)
            if self.paused:
                self._look_in(HOARD)  # a slot may have become free before it saw that we paused
            return  # else the next batch wakes us
        if self._stuck and not self._pool.heard():
            if (
                self._pool.waiting()
            ):  # it was on its way here when we paused, or does not move as it did
                self._pause(self._pool.take_back())
            self._look_in(HOARD)
            return
        self._stuck = False
        waiting = 0 if since else self._pool.waiting()
        if waiting and self._give_way(ended):
            self._look_in(HOARD)
            return
        self.slot_free()
        prefetch = self._next(tasks, spent, waiting)
        if prefetch < self._prefetch:
            self._shrink(prefetch, tasks, spent)
        elif prefetch > self._prefetch:
            self._prefetch = prefetch
            self._change(prefetch)
        # What has come may not have begun yet: on a busy machine a slot can take longer than a look to find it.
        if tasks or self.paused or self._unsettled() or any(r.running_since for r in runners):
            self.wake()

    def _next(self, tasks: int, busy: float, waiting: int) -> int:
        """The prefetch to have next."""
        if not waiting:
            self._waits = 0.0
            if tasks:
                self._most *= 2
        self._wanted = target(self._wanted, tasks, busy, self._slots)
        if self._most >= self._wanted:
            self._most = 0
        return min(self._wanted, self._most or self._wanted)

    def _give_way(self, ended: int) -> bool:
        """Something waits beside a free slot: give it back when it has for long."""
        now = time.monotonic()
        if not self._waits:
            self._waits, self._waited = now, ended
        if now - self._waits <= STUCK:
            return False
        kept = bear(ended - self._waited, now - self._waits)
        self._waits, self._waited = now, ended
        if self._pool.waiting() <= kept:
            return False
        unstarted = self._pool.take_back()
        self.paused = self._stuck = True
        self._pause(unstarted[kept:])
        self._pool.hand_over(
            unstarted[:kept]
        )  # be it nothing: when the slots come to it, they move
        self._prefetch = self._most = (
            kept + sum(1 for each in self._runners if each.running_since) + 1
        )
        self._change(self._prefetch)
        return True

    def _shrink(self, prefetch: int, tasks: int, busy: float) -> None:
        """Hold fewer from now on, and give back what is too many now."""
        unstarted = self._pool.take_back()
        kept = stay(len(unstarted), prefetch, tasks, busy, self._slots)
        self._pool.hand_over(unstarted[:kept])
        self._prefetch = prefetch
        if kept < len(unstarted):
            self._pause(unstarted[kept:])  # or they would come again to the consumer that had them
            self._change(prefetch)
            self._resume()
        else:
            self._change(prefetch)


def _full_since(runners: Sequence[Runner]) -> float:
    newest = 0.0
    for each in runners:
        since = each.running_since
        if not since:
            return 0.0
        newest = max(newest, since)
    return newest
