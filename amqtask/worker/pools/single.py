"""One slot on the main thread of the process: the pool of ``prefork`` children and of ``solo``.

User code runs on the main thread, where signals can interrupt it (soft limits) and libraries expect to be.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Sequence

from amqtask.amqp.ports import Delivery


class SingleSlot:
    """Runs one delivery after another on the calling thread. Implements ``Pool``.

    Args:
        execute: runs one delivery and posts its settlement; never raises.
        on_idle: called on the slot's thread each time the work runs out.
    """

    def __init__(self, execute: Callable[[Delivery], None], on_idle: Callable[[], None]) -> None:
        self._execute = execute
        self._on_idle = on_idle
        self._inbox: deque[Delivery] = deque()  # I/O thread appends and clears, slot pops
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._idle = False  # written by the slot; the I/O thread wakes it only when it waits
        self._stopped = False  # written by the I/O thread, or by `execute` through `stop`

    def hand_over(self, batch: Sequence[Delivery]) -> None:
        """Take deliveries to run, in order."""
        self._inbox.extend(batch)
        if self._idle:
            self._wake.put(None)

    def take_back(self) -> list[Delivery]:
        """Give up what has not started."""
        unstarted = []
        while True:
            try:
                unstarted.append(self._inbox.popleft())
            except IndexError:
                return unstarted

    def stop(self) -> None:
        """Let what runs finish, then let ``run`` return."""
        self._stopped = True
        self._wake.put(None)

    def run(self) -> None:
        """Run tasks until stopped."""
        inbox, execute = self._inbox, self._execute
        while not self._stopped:
            try:
                delivery = inbox.popleft()
            except IndexError:
                self._wait()
                continue
            execute(delivery)
        self._on_idle()

    def _wait(self) -> None:
        self._on_idle()
        self._idle = True
        # Looked at again after the flag is up: a batch that came in between would wake nobody.
        if not self._inbox and not self._stopped:
            self._wake.get()
        self._idle = False
