"""``--pool gevent`` and ``--pool eventlet``: slots are greenlets on the main thread. For code that waits on sockets, by the hundred.

A batch of deliveries reaches the hub with one wake-up. Each task gets a greenlet of its own, so what one leaves behind, a timer or
an exception on its way, strikes no other. Coroutine tasks run on one event loop in a native thread.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import FrameType

import greenlet

from amqtask.amqp import waits
from amqtask.amqp.ports import Delivery
from amqtask.amqp.threaded.loop import IoThread
from amqtask.errors import SoftTimeLimitExceeded
from amqtask.log import get_logger
from amqtask.worker.pools.base import SIGNALS_LOOK, Host
from amqtask.worker.pools.hubs import HUBS, Hub
from amqtask.worker.pools.loop_thread import LoopThread
from amqtask.worker.pools.single import drain
from amqtask.worker.slots.coroutines import Evicted
from amqtask.worker.slots.execution import Runner
from amqtask.worker.slots.limits import AGAIN_AFTER, AGAIN_UNTIL, SOFT_SIGNAL, Limits

log = get_logger("amqtask.worker")


class GreenletLimits(Limits):
    """Limits of a slot whose runs are greenlets: the hub throws the exception into the one that waits.

    While a greenlet computes, the hub does not come to it. Then a signal raises the exception, if that greenlet is the one.
    ``adopt`` belongs to the slot, like ``begin`` and ``end``; ``raise_here`` to the signal's handler.

    Args:
        io: owns the timers.
        on_hard: as in ``Limits``.
        hub: of the greenlets.
    """

    def __init__(self, io: IoThread, on_hard: Callable[[int], None], hub: Hub) -> None:
        super().__init__(io, on_hard)
        self._hub = hub
        self._greenlet: greenlet.greenlet | None = None
        self._main = threading.main_thread().ident or 0
        # The run that is to end and the exception on its way to it. Written by the I/O thread, taken by the main thread.
        self._meant = 0
        self._error: BaseException | None = None

    def adopt(self) -> None:
        """The calling greenlet is the slot's from now on."""
        self._greenlet = greenlet.getcurrent()

    def raise_here(self) -> None:
        """Raise what is on its way to the greenlet that has the processor, if it is this slot's."""
        if self._error is not None and greenlet.getcurrent() is self._greenlet:
            error = self._take(self._meant)
            if error is not None:
                raise error

    def evict(self, run: int) -> None:
        """Raise ``Evicted`` in a run that was taken."""
        self._send(run, Evicted())

    def _strike(self, run: int) -> None:
        self._send(run, SoftTimeLimitExceeded(self._text(run)))

    def _send(self, run: int, error: BaseException) -> None:
        carried = self.carried
        if carried is not None:
            carried.interrupt_from_outside(error)
            return
        self._meant, self._error = run, error
        self._hub.call(partial(self._throw, run))
        self._insist_in(AGAIN_AFTER, run)

    def _insist_in(self, seconds: float, run: int) -> None:
        self._io.call_later(seconds, partial(self._insist, seconds, run))

    def _insist(self, seconds: float, run: int) -> None:
        """Send the signal when the hub has not come to it, and again: one that comes just before a system call does not end that."""
        if self._meant != run or self._error is None or self.left(run):
            return
        signal.pthread_kill(self._main, SOFT_SIGNAL)
        if seconds < AGAIN_UNTIL:
            self._insist_in(2 * seconds, run)

    def _throw(self, run: int) -> None:
        # in the hub, where the run cannot end at the same time
        error = self._take(run)
        carried, waiting = self.carried, self._greenlet
        if error is None:
            pass
        elif carried is not None:
            carried.interrupt_from_outside(error)
        elif waiting is not None:
            waiting.throw(error)

    def _take(self, run: int) -> BaseException | None:
        """The exception on its way to a run that still goes on; nobody else has it then."""
        if self._meant != run or self.left(run):
            return None
        error, self._error = self._error, None
        return error


class GreenletSlots:
    """Runs deliveries in greenlets. Implements ``Pool``. Made on the child's main thread, whose greenlets they are.

    Args:
        name: the pool's, which is the library's.
        slots: how many tasks at a time.
    """

    def __init__(self, name: str, slots: int) -> None:
        self._slots = slots
        self._hub = HUBS[name]()
        waits.use(self._hub.gate)
        self._inbox: deque[Delivery] = deque()  # I/O thread appends and clears, the hub pops
        self._called = True  # the hub will look into the inbox; before `run`, it does so by itself
        self._stopped = False
        self._loop: LoopThread | None = None
        self._limits: list[GreenletLimits] = []
        self._unheard = False  # the hub has not come yet to what `abandon` told it
        # All that follows belongs to the main thread.
        self._free: list[Runner] = []
        self._coming = 0  # greenlets that are on their way to a delivery and a slot
        self._abandoned: set[int] = set()
        self._flushing = False  # what has ended in this turn of the hub is settled after it
        self._looked = 0.0  # when we last looked at the signal handlers
        self._over = False
        self._ended = self._hub.gate()
        self._host: Host | None = None

    def limits(self, io: IoThread, on_hard: Callable[[int], None]) -> GreenletLimits:
        """Limits thrown from the hub."""
        limits = GreenletLimits(io, on_hard, self._hub)
        self._limits.append(limits)
        return limits

    def loop(self, leave: Callable[[], Awaitable[None]]) -> LoopThread:
        """The event loop that all slots share."""
        if self._loop is None:
            self._loop = LoopThread(leave)
        return self._loop

    def hand_over(self, batch: Sequence[Delivery]) -> None:
        """Take deliveries to run, in order."""
        self._inbox.extend(batch)
        if not self._called:
            self._called = True
            self._hub.call(self._pump)

    def take_back(self) -> list[Delivery]:
        """Give up what has not started."""
        return drain(self._inbox)

    def waiting(self) -> int:
        """How many deliveries have not started."""
        return len(self._inbox)

    def heard(self) -> bool:
        """Whether the hub has come to what was handed over last."""
        return not self._called

    def stop(self) -> None:
        """Let what runs finish, then let ``run`` return."""
        self._stopped = True
        self._hub.call(self._look_for_the_end)

    def abandon(self, runner: Runner) -> None:
        """Do not wait for what runs in this slot any more."""
        self._unheard = True
        self._hub.call(partial(self._abandon, runner))
        if self._loop is not None:
            self._loop.ask()

    def hung(self) -> bool:
        """Whether the hub, or the loop of the coroutines, does not come to it."""
        return self._unheard or (self._loop is not None and self._loop.hung)

    def run(self, host: Host) -> None:
        """Run tasks until stopped."""
        self._host = host
        self._take_signal()
        self._free = list(reversed(host.runners))
        self._hub.call(self._pump)
        self._hub.call(self._look_for_the_end)
        while not self._over:
            try:
                self._ended.acquire()
            except (SystemExit, KeyboardInterrupt):
                # Raised in a greenlet that a task started, which the hub hands on to this one.
                log.warning("something that a task started has tried to end the process")
        host.idle()
        if self._loop is not None and not self._abandoned:
            self._loop.close()

    # ------------------------------------------------------------ the main thread, in the hub or a greenlet

    def _pump(self) -> None:
        """Start what there are free slots for."""
        self._called = False  # first: what comes from now on calls again
        spawn, serve = self._hub.spawn, self._serve
        for _ in range(min(len(self._free), len(self._inbox)) - self._coming):
            self._coming += 1
            spawn(serve)

    def _serve(self) -> None:
        """One greenlet's life. What it runs it takes only now: before, another process can have it."""
        self._coming -= 1
        if self._stopped or not self._free:
            return
        try:
            delivery = self._inbox.popleft()
        except IndexError:  # the I/O thread has taken it back
            return
        runner = self._free.pop()
        limits = runner.limits
        assert isinstance(limits, GreenletLimits)
        limits.adopt()
        try:
            runner.execute(delivery)
        finally:
            self._done(runner)

    def _done(self, runner: Runner) -> None:
        """A slot is free again."""
        host = self._host
        assert host is not None
        self._abandoned.discard(runner.number)
        self._free.append(runner)
        if runner.executor.exhausted:
            host.after()
        now = time.monotonic()
        if now - self._looked > SIGNALS_LOOK:
            self._looked = now
            host.look_at_signals()
            if signal.getsignal(SOFT_SIGNAL) != self._raise:
                self._take_signal()
        if self._stopped:
            self._look_for_the_end()
        elif self._inbox:
            self._pump()
            return
        # What has ended is settled within milliseconds by itself. At once, when nothing else runs; and whoever held work back
        # because no slot was free hears that one is.
        if len(self._free) in (1, self._slots) and not self._flushing:
            self._flushing = True
            self._hub.soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        assert self._host is not None
        self._host.idle()

    def _take_signal(self) -> None:
        signal.signal(SOFT_SIGNAL, self._raise)
        signal.siginterrupt(SOFT_SIGNAL, True)

    def _raise(self, _signal: int, _frame: FrameType | None) -> None:
        for limits in self._limits:
            limits.raise_here()

    def _abandon(self, runner: Runner) -> None:
        self._unheard = False
        if runner not in self._free:
            self._abandoned.add(runner.number)
            self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        ended = self._stopped and len(self._free) + len(self._abandoned) == self._slots
        if ended and not self._over:
            self._over = True
            self._ended.release()
