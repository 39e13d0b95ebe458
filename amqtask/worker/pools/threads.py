"""``--pool threads``: slots are threads of one process. For tasks that wait, on files and networks, in plain functions.

They share one interpreter, and the inbox: whichever is free takes the next delivery, so a long task holds up no other.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from amqtask.amqp.ports import Delivery
from amqtask.amqp.threaded.loop import IoThread
from amqtask.worker.pools.base import Host
from amqtask.worker.pools.single import drain
from amqtask.worker.slots.coroutines import SlotLoop
from amqtask.worker.slots.execution import Runner
from amqtask.worker.slots.limits import ThreadLimits


class ThreadSlots:
    """Runs deliveries in threads. Implements ``Pool``.

    Args:
        slots: how many threads.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._inbox: deque[Delivery] = deque()  # I/O thread appends and clears, slots pop
        # One token for each thread that is to look into the inbox.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._waiting = 0  # threads that wait for a token, less the tokens; guarded by _changed
        self._left = slots  # threads that `run` waits for; guarded by _changed
        self._abandoned: set[int] = set()  # guarded by _changed
        self._stopped = False

    def limits(self, io: IoThread, on_hard: Callable[[int], None]) -> ThreadLimits:
        """Limits by asynchronous exception."""
        return ThreadLimits(io, on_hard)

    def loop(self, leave: Callable[[], Awaitable[None]]) -> SlotLoop:
        """An event loop of the thread's own."""
        return SlotLoop(leave)

    def hand_over(self, batch: Sequence[Delivery]) -> None:
        """Take deliveries to run, in order."""
        self._inbox.extend(batch)
        if self._waiting > 0:
            self._call(len(batch))

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
        for _ in range(self._slots):
            self._wake.put(None)
        with self._changed:
            self._changed.notify_all()

    def abandon(self, runner: Runner) -> None:
        """Do not wait for this thread any more."""
        with self._changed:
            if runner.number not in self._abandoned:
                self._abandoned.add(runner.number)
                self._left -= 1
                self._changed.notify_all()

    def hung(self) -> bool:
        """Never: a thread holds up no other."""
        return False

    def run(self, host: Host) -> None:
        """Start the threads, and wait until they have ended."""
        for runner in host.runners:
            # A daemon: one that is stuck does not keep the process from ending.
            threading.Thread(
                target=self._serve,
                args=(runner, host),
                name=f"amqtask-slot-{runner.number}",
                daemon=True,
            ).start()
        with self._changed:
            while self._left > 0:
                self._changed.wait()

    def _serve(self, runner: Runner, host: Host) -> None:
        inbox = self._inbox
        limits = runner.limits
        assert isinstance(limits, ThreadLimits)
        limits.adopt()
        execute, executor = runner.execute, runner.executor
        try:
            while not self._stopped:
                try:
                    delivery = inbox.popleft()
                except IndexError:
                    self._wait(host)
                    continue
                execute(delivery)
                if executor.exhausted:
                    host.after()
            host.idle()
            runner.close()
        finally:
            with self._changed:
                if runner.number not in self._abandoned:
                    self._abandoned.add(runner.number)
                    self._left -= 1
                    self._changed.notify_all()

    def _call(self, wanted: int) -> None:
        """Have as many waiting threads look into the inbox."""
        with self._changed:
            called = min(wanted, self._waiting)
            self._waiting -= called
        for _ in range(called):
            self._wake.put(None)

    def _wait(self, host: Host) -> None:
        host.idle()
        with self._changed:
            self._waiting += 1
        # Looked at again after it is counted: a batch that came in between would wake nobody.
        if self._inbox or self._stopped:
            self._call(1)  # takes somebody's token back, and gives one that ends the wait below
        self._wake.get()
