"""``--pool asyncio``: slots are coroutines on one event loop, uvloop's when it is installed. For tasks that wait, by the thousand.

A batch of deliveries reaches the loop with one wake-up. A coroutine task is one asyncio task in a context of its own; a plain
function runs in a thread, so that it does not hold up the loop. The free slots and everything about them belong to the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from amqtask.amqp.ports import Delivery
from amqtask.amqp.threaded.loop import IoThread
from amqtask.log import get_logger
from amqtask.worker.pools.base import SIGNALS_LOOK, Host
from amqtask.worker.pools.single import drain
from amqtask.worker.slots.admission import Work
from amqtask.worker.slots.coroutines import wind_up
from amqtask.worker.slots.execution import Runner
from amqtask.worker.slots.limits import LoopLimits, ThreadLimits

# The fastest kind of event loop there is; imported before the fork.
_new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
try:
    import uvloop
except ImportError:
    pass  # it is an extra
else:
    _new_loop = uvloop.new_event_loop

log = get_logger("amqtask.worker")

THREAD_AGAIN = 1.0  # seconds before a thread is asked for again that could not be started


class LoopSlots:
    """Runs deliveries on an event loop on the main thread. Implements ``Pool``.

    Args:
        slots: how many tasks at a time.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._loop = _new_loop()
        self._inbox: deque[Delivery] = deque()  # I/O thread appends and clears, the loop pops
        self._called = True  # the loop will look into the inbox; before `run`, it does so by itself
        self._stopped = False
        self._unheard = False  # the loop has not come yet to what `abandon` told it
        # All that follows belongs to the loop.
        self._free: list[Runner] = []
        self._coming = 0  # slots on their way to a delivery
        self._abandoned: set[int] = set()
        self._threads: ThreadPoolExecutor | None = None  # for plain functions, when there is one
        self._flushing = False  # what has ended in this turn of the loop is settled after it
        self._looked = 0.0  # when we last looked at the signal handlers
        self._over = False
        self._host: Host | None = None
        # Of each slot: those of a coroutine, and those of a plain function.
        self._limits: list[tuple[LoopLimits, ThreadLimits]] = []

    def limits(self, io: IoThread, on_hard: Callable[[int], None]) -> LoopLimits:
        """Limits by cancellation."""
        limits = LoopLimits(io, on_hard, self._loop, len(self._limits))
        self._limits.append((limits, ThreadLimits(io, on_hard)))
        return limits

    def loop(self, leave: Callable[[], Awaitable[None]]) -> None:
        """None: coroutines run on the pool's own."""

    def hand_over(self, batch: Sequence[Delivery]) -> None:
        """Take deliveries to run, in order."""
        self._inbox.extend(batch)
        if not self._called:
            self._called = True
            self._call(self._pump)

    def take_back(self) -> list[Delivery]:
        """Give up what has not started."""
        return drain(self._inbox)

    def waiting(self) -> int:
        """How many deliveries have not started."""
        return len(self._inbox)

    def heard(self) -> bool:
        """Whether the loop has come to what was handed over last."""
        return not self._called

    def stop(self) -> None:
        """Let what runs finish, then let ``run`` return."""
        self._stopped = True
        self._call(self._look_for_the_end)

    def abandon(self, runner: Runner) -> None:
        """Do not wait for what runs in this slot any more."""
        self._unheard = True
        self._call(self._abandon, runner)

    def hung(self) -> bool:
        """Whether the loop does not come to it."""
        return self._unheard

    def run(self, host: Host) -> None:
        """Run tasks until stopped."""
        self._host = host
        self._free = list(reversed(host.runners))
        loop = self._loop
        loop.call_soon(self._pump)
        loop.call_soon(self._look_for_the_end)
        # No asyncio task of ours is on the loop, for one that a task can find it can also cancel.
        self._turn(host, lambda: self._over)
        host.idle()
        leaving = loop.create_task(host.leave_loop())
        leaving.add_done_callback(lambda _: loop.stop())
        self._turn(host, leaving.done)
        if not self._abandoned:  # what does not end would keep the loop from closing
            wind_up(loop)
            if self._threads is not None:
                self._threads.shutdown()

    def _turn(self, host: Host, over: Callable[[], bool]) -> None:
        """Run the loop until it is over, whatever a task does to it."""
        while not over():
            self._loop.call_soon(host.take_signals)  # the loop takes them with each beginning
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # Raised in an asyncio task that a task started: whoever awaits that one gets it, and nobody else.
                log.warning("something that a task started has tried to end the process")
            else:
                if not over():
                    log.warning("a task has stopped the event loop, which goes on")

    # ------------------------------------------------------------ on the loop

    def _pump(self) -> None:
        """Start what there are free slots for."""
        self._called = False  # first: what comes from now on calls again
        free = self._free
        while free and not self._stopped and self._next(free[-1]):
            free.pop()

    def _next(self, runner: Runner) -> bool:
        """Have a slot begin with the next delivery; False when there is none for it."""
        if len(self._inbox) <= self._coming:
            return False
        host = self._host
        assert host is not None
        self._coming += 1
        self._limits[runner.number][0].drive(self._serve(runner), host.context())
        return True

    async def _serve(self, runner: Runner) -> None:
        """What a slot does with a delivery. Only the task's own coroutine is waited for: see ``LoopLimits.drive``.

        It takes the delivery only now: a task that began in this turn of the loop may hold it up, and before, another process
        can have what waits.
        """
        self._coming -= 1
        try:
            delivery = None if self._stopped else self._inbox.popleft()
        except IndexError:  # the I/O thread has taken it back
            delivery = None
        if delivery is None:
            self._free.append(runner)
            self._look_for_the_end()
            return
        work = runner.admit(delivery)
        if work is not None:
            if not work[2].is_coroutine:
                self._start_thread(runner, work)
                return
            coroutine = runner.start(work)
            if coroutine is not None:
                try:
                    value = await coroutine
                except BaseException as error:  # noqa: BLE001  # SystemExit and KeyboardInterrupt of a task end that task only
                    runner.raised(error)
                else:
                    runner.returned(value)
        self._done(runner)

    def _start_thread(self, runner: Runner, work: Work) -> None:
        """Have a plain function run in a thread."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._slots, "amqtask-slot")
        runner.limits = self._limits[runner.number][1]
        self._submit(self._serve_in_thread, runner, work, runner.news)

    def _submit(self, call: Callable[..., object], *args: object) -> None:
        """Have a thread do something."""
        assert self._threads is not None
        try:
            self._threads.submit(call, *args)
        except RuntimeError as error:
            # It is queued all the same: a thread that is there takes it, or the next that can be started.
            log.warning("no thread can be started for a plain function", reason=str(error))
            self._loop.call_later(THREAD_AGAIN, self._submit, _nothing)

    def _serve_in_thread(self, runner: Runner, work: Work, news: int) -> None:
        limits = runner.limits
        assert isinstance(limits, ThreadLimits)
        limits.adopt()
        if runner.readmit(work, news):  # it may have waited long for a thread
            runner.run(work)
        self._call(self._done_in_thread, runner)

    def _done_in_thread(self, runner: Runner) -> None:
        runner.limits = self._limits[runner.number][0]
        self._done(runner)

    def _done(self, runner: Runner) -> None:
        """A slot has ended its work: it goes on with the next, or is free."""
        if self._abandoned:
            self._abandoned.discard(runner.number)
        if runner.executor.exhausted or runner.ended_at - self._looked > SIGNALS_LOOK:
            self._look(runner)
        if self._inbox and not self._stopped and self._next(runner):
            return
        self._free.append(runner)
        if self._stopped:
            self._look_for_the_end()
        self._flush_soon()

    def _look(self, runner: Runner) -> None:
        """Look after what need not be looked at for each task."""
        host = self._host
        assert host is not None
        if runner.executor.exhausted:
            host.after()
        if runner.ended_at - self._looked > SIGNALS_LOOK:
            self._looked = runner.ended_at
            host.look_at_signals()

    def _flush_soon(self) -> None:
        """Settle what ends in this turn of the loop together."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        assert self._host is not None
        self._host.idle()

    def _abandon(self, runner: Runner) -> None:
        self._unheard = False
        if runner not in self._free:
            self._abandoned.add(runner.number)
            self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        if self._stopped and len(self._free) + len(self._abandoned) == self._slots:
            if not self._over:
                self._loop.stop()
            self._over = True

    # ------------------------------------------------------------ any thread

    def _call(self, callback: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            pass  # the loop has ended


def _nothing() -> None:
    """Something for a thread to be started for."""
