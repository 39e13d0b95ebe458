"""One slot on the main thread of the process: the pool of ``prefork`` children and of ``solo``.

User code runs on the main thread, where signals can interrupt it (soft limits) and libraries expect to be.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from amqtask.amqp.ports import Delivery
from amqtask.amqp.threaded.loop import IoThread
from amqtask.worker.pools.base import SIGNALS_LOOK, Host
from amqtask.worker.slots.coroutines import SlotLoop
from amqtask.worker.slots.execution import Runner
from amqtask.worker.slots.limits import MainThreadLimits


class SingleSlot:
    """Runs one delivery after another on the calling thread. Implements ``Pool``."""

    def __init__(self) -> None:
        self._inbox: deque[Delivery] = deque()  # I/O thread appends and clears, slot pops
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._idle = False  # written by the slot; the I/O thread wakes it only when it waits
        self._stopped = False

    def limits(self, io: IoThread, on_hard: Callable[[int], None]) -> MainThreadLimits:
        """Limits by signal."""
        return MainThreadLimits(io, on_hard)

    def loop(self, leave: Callable[[], Awaitable[None]]) -> SlotLoop:
        """An event loop of the slot's own."""
        return SlotLoop(leave)

    def hand_over(self, batch: Sequence[Delivery]) -> None:
        """Take deliveries to run, in order."""
        self._inbox.extend(batch)
        if self._idle:
            self._wake.put(None)

    def take_back(self) -> list[Delivery]:
        """Give up what has not started."""
        return drain(self._inbox)

    def waiting(self) -> int:
        """How many deliveries have not started."""
        return len(self._inbox)

    def heard(self) -> bool:
        """Always: no slot holds up another."""
        return True

    def stop(self) -> None:
        """Let what runs finish, then let ``run`` return."""
        self._stopped = True
        self._wake.put(None)

    def abandon(self, runner: Runner) -> None:
        """Nothing: the process ends with a run that was taken."""

    def hung(self) -> bool:
        """Never: there are no others."""
        return False

    def run(self, host: Host) -> None:
        """Run tasks until stopped."""
        inbox = self._inbox
        (runner,) = host.runners
        execute, executor = runner.execute, runner.executor
        looked = 0.0  # when we last looked at the signal handlers
        while not self._stopped:
            try:
                delivery = inbox.popleft()
            except IndexError:
                looked = self._wait(host, looked)
                continue
            execute(delivery)
            if executor.exhausted:
                host.after()
            if runner.ended_at - looked > SIGNALS_LOOK:
                looked = runner.ended_at
                host.look_at_signals()
        host.idle()
        runner.close()

    def _wait(self, host: Host, looked: float) -> float:
        """Wait for work; when the handlers were looked at last."""
        host.idle()
        self._idle = True
        # Looked at again after the flag is up: a batch that came in between would wake nobody.
        if not self._inbox and not self._stopped:
            # Before a long wait the handlers are looked at, but not before each of many short ones.
            within = looked + SIGNALS_LOOK - time.monotonic()
            try:
                self._wake.get(timeout=max(0.0, within))
            except queue.Empty:
                looked = time.monotonic()
                host.look_at_signals()
                self._wake.get()
        self._idle = False
        return looked


def drain(inbox: deque[Delivery]) -> list[Delivery]:
    """Take everything out of an inbox that slots take from, too."""
    taken = []
    while True:
        try:
            taken.append(inbox.popleft())
        except IndexError:
            return taken
