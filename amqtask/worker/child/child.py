"""One child of a worker: consumes its queues, runs tasks, settles them. Also the whole of a ``solo`` worker.

It does not begin before the node has read the verdicts of the cluster: a task that was revoked while no node ran must not start
because its message was faster. A solo worker reads them itself.

The I/O thread owns the connections (one consumes, one publishes results, so that a broker that holds publishers back never
holds back acks, and one brings chords together), the timers and the signals' wake-up pipe; the pool runs tasks, on the main thread or in threads it starts.
All of these may be stuck in C code for minutes: the I/O thread keeps heartbeats, limits and shutdown going.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import partial

from amqtask.amqp import ports
from amqtask.amqp.address import in_order
from amqtask.amqp.reach import reach_of
from amqtask.amqp.threaded.aside import Aside
from amqtask.amqp.threaded.consumer import ThreadedConsumer
from amqtask.amqp.threaded.join import Joiner
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.core.codec import Head
from amqtask.core.fleet import ChildExit
from amqtask.core.outcome import Settlement, Verdict
from amqtask.core.prefetch import first
from amqtask.core.verdicts import Record
from amqtask.errors import BrokerError, DecodeError
from amqtask.log import get_logger
from amqtask.request import set_abort_lookup
from amqtask.topology.barrier import barriers_of
from amqtask.topology.dropped import DROPPED
from amqtask.topology.holding import NEVER
from amqtask.worker.agent.solo_verdicts import SoloVerdicts
from amqtask.worker.child.dropped import PREFETCH, Teller
from amqtask.worker.child.held import Held
from amqtask.worker.child.pilot import Pilot
from amqtask.worker.forking.lineage import ASK_SIGNAL, fork_clean
from amqtask.worker.forking.prepared import ChildContext
from amqtask.worker.job import Job
from amqtask.worker.memory.board import Ending
from amqtask.worker.pools import choice
from amqtask.worker.settling.followups import Key
from amqtask.worker.settling.reminders import Reminders
from amqtask.worker.settling.settle import Settler
from amqtask.worker.slots import collector
from amqtask.worker.slots.execution import Runner, aborted
from amqtask.worker.slots.executor import Executor
from amqtask.worker.slots.limits import SOFT_SIGNAL, MainThreadLimits
from amqtask.worker.slots.process import starved
from amqtask.worker.slots.trial import Trial

log = get_logger("amqtask.worker")

Ended = tuple[ports.Delivery, Settlement, Key]
"""A run that was taken from its slot: what it ran, what follows, and the execution."""

SETTLE_GRACE = (
    10.0  # seconds a stopping child waits for the broker to confirm what its tasks left behind
)
CLOSE_GRACE = 3.0
VERDICTS_WITHIN = 33.0  # seconds to wait for a node's word that verdicts were read; longer than the node itself waits
VERDICTS_LOOK = 0.01
SPARE = 4  # descriptors
EVICT_GRACE = 2.0  # seconds for the code of a run that was taken, before its process is replaced
EVICT_LOOK = 0.05
HUNG_GRACE = 1.0  # seconds more until the code that goes on must have let the others go on, too
COLD_GRACE = 2.0  # seconds a cold stop waits for the broker to confirm what its tasks left behind


class Child:
    """Runs one child until it is told to stop, or until it has reached its limit of tasks. Implements ``Host`` for its pool.

    ``run`` is called once, on the main thread. Methods that begin with ``_io_`` run on the I/O thread.
    """

    def __init__(self, job: Job, context: ChildContext) -> None:
        self._job = job
        self._context = context
        self._io = IoThread(f"amqtask-io-{context.index}")
        self._io.on_failure = self._io_failed
        # Descriptors kept for when a task has leaked all others: enough to send what has ended. I/O thread.
        self._spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(SPARE)]
        reach = reach_of(
            in_order(job.addresses, job.settings.broker_failover_strategy), job.settings
        )
        # Connects when the first result, dead letter or task is published.
        self._publisher = ThreadedPublisher(
            self._io,
            reach,
            name=f"{job.node}/{context.index} publisher",
            window=job.settings.publish_window,
            buffer=job.settings.publish_buffer,
            ladder=job.app.ladder,
            barriers=barriers_of(job.settings),
        )
        self._consumer = ThreadedConsumer(
            self._io,
            reach,
            name=f"{job.node}/{context.index}",
            queues=job.queues,
            prefetch=job.prefetch or first(context.slots),
            declarations=job.declarations,
            declared=job.declared_lately,
            on_batch=self._io_batch,
            on_lost=self._io_lost,
            on_ready=self._io_ready,
            # what the broker dropped may have to wait for a task that runs all the same
            consumer_timeouts={**job.consumer_timeouts, DROPPED: NEVER},
            aside=Aside(DROPPED, PREFETCH, self._io_dropped, self._io_cannot_tell),
        )
        journal = context.board.journal.seat(context.index)
        journal.open()
        self._journal = journal
        self._settler = Settler(
            self._io, self._consumer, self._publisher, job.settings.worker_successful_max, journal
        )
        self._settler.set_window(job.prefetch or first(context.slots))
        self._trial: Trial | None = None  # I/O thread, but for what it says of itself
        if job.pool not in ("prefork", "solo"):
            self._trial = Trial(
                self._io,
                release=lambda delivery: self._io_batch([delivery]),
                give_back=self._io_give_back,
                resized=partial(self._io_room, "suspects"),
            )
        self._executor = Executor(
            job,
            context,
            self._settler,
            self._consumer.stale,
            lambda delivery, key: self._io.post(lambda: self._io_hold_back(delivery, key)),
            self._io.waker,
            self._trial,
        )
        self._teller = Teller(
            self._io,
            job,
            context.board,
            self._executor,
            self._consumer.settle,
            self._consumer.stale,
        )
        # Connects when the first part of a chord ends here.
        self._joiner = Joiner(
            self._io,
            reach,
            name=f"{job.node}/{context.index} chords",
            publisher=self._publisher,
            concluder=self._executor.successors,
            ladder=job.app.ladder,
            accept=self._executor.accept,
            limits=self._executor.sizes,
            classic=job.settings.chord_queue_type != "quorum",
        )
        self._settler.joins = self._joiner
        self._settler.reminders = Reminders(job.app.ladder, self._executor.sizes)
        self._pool = choice.make(job.pool, context.slots)
        self._runners: list[Runner] = []
        for number in range(context.slots):
            limits = self._pool.limits(self._io, partial(self._io_hard_limit, number))
            loop = self._pool.loop(self.leave_loop)
            self._runners.append(Runner(self._executor, number, limits, loop))
        # Where tasks run on the main thread, a signal carries their soft limit.
        main = self._runners[0].limits
        self._main_limits = main if isinstance(main, MainThreadLimits) else None
        self._draining = False  # written by the I/O thread
        self._stopping = False  # I/O thread: a signal has asked for the end
        self._cold = False  # I/O thread
        # I/O thread: redeliveries of what runs in this node already
        self._running_elsewhere = Held(
            self._io,
            context.board,
            settle=self._io_settle_as,
            release=self._io_release,
            give_back=self._io_give_back,
            resized=partial(self._io_room, "held"),
        )
        self._prefetch = job.prefetch or first(context.slots)  # without the room for what is held
        self._rooms: dict[
            str, int
        ] = {}  # what waits without being work for the slots: where, how many
        # I/O thread: the prefetch autopilot, when no multiplier was given
        self._pilot: Pilot | None = None
        if job.prefetch is None:
            self._pilot = Pilot(
                self._io,
                self._runners,
                self._pool,
                self._io_prefetch,
                self._io_pause,
                self._consumer.resume,
                lambda: self._consumer.unsettled,
            )
        self._told = False  # I/O thread: the supervisor knows that we are ready
        self._exit = ChildExit.DONE
        self._cold_exit = ChildExit.DONE  # I/O thread
        self._signals: socket.socket | None = None
        self._verdicts: SoloVerdicts | None = None
        if context.solo:
            self._verdicts = SoloVerdicts(
                self._io, job, self._publisher, context.board, self._io_end_solo
            )

    # ------------------------------------------------------------ main thread

    def run(self) -> int:
        """Work until told to stop; the exit code."""
        self._install_signals()
        collector.make_room(self._context.slots)
        self._io.start()
        self._job.app.adopt(self._io, self._publisher)  # what tasks publish goes the same way
        self._io.post(self._io_start)
        try:
            self._pool.run(self)
        finally:
            self._finish()
        return int(self._exit)

    # ------------------------------------------------------------ the slots

    @property
    def runners(self) -> Sequence[Runner]:
        """The slots."""
        return self._runners

    def after(self) -> None:
        """The child has reached its limit: let it be replaced."""
        if not self._draining:
            self._exit = ChildExit.RECYCLE
            self._pool.stop()  # nothing more starts; the I/O thread gives the rest back
            self._io.post(self._io_worn_out)

    def idle(self) -> None:
        """A slot has run out of work."""
        self._settler.flush()
        pilot = self._pilot
        if pilot is not None and pilot.paused:
            self._io.post(pilot.slot_free)

    def context(self) -> Context:
        """A context for a run, with nothing in it of other runs."""
        return self._executor.base.copy()

    async def leave_loop(self) -> None:
        """Close what the app holds on the running event loop, which is about to end."""
        await self._job.app.leave_loop(CLOSE_GRACE)

    # ------------------------------------------------------------ main thread

    def _finish(self) -> None:
        """Wait until everything is settled, then close both connections and the I/O thread."""
        settled = threading.Event()
        self._io.post(self._joiner.hurry)
        self._io.post(lambda: self._settler.when_idle(settled.set))
        in_time = settled.wait(SETTLE_GRACE)
        if not in_time:
            log.warning(
                "stopping with unsettled tasks; the broker will give them to another worker",
                unsettled=self._consumer.unsettled,
            )
        self._job.app.close(CLOSE_GRACE)
        if self._verdicts is not None:
            self._io.post(self._verdicts.close)
        closed = threading.Event()

        def parted() -> None:
            self._io_parted()
            closed.set()

        self._consumer.close(parted)
        joined = threading.Event()
        self._joiner.close(joined.set)
        # Given up now: what has no confirm is not acked either, the consumer takes no verdict any more.
        self._publisher.close(CLOSE_GRACE if in_time else 0.0)
        closed.wait(CLOSE_GRACE)
        joined.wait(CLOSE_GRACE)
        self._io.stop()
        if self._signals is not None:
            signal.set_wakeup_fd(-1)
            self._signals.close()

    def _install_signals(self) -> None:
        """Have signals reach the I/O thread whatever the main thread does: their numbers arrive on a socket."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._signals = reader
        self._writer = writer
        standing = self._context.board.standing
        set_abort_lookup(lambda task_id: aborted(self._runners, standing, task_id))
        self.take_signals()
        fork_clean(signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGHUP)
        os.register_at_fork(after_in_child=self._copied)
        self._io.post(
            lambda: self._io.loop.add_handler(
                reader.fileno(), lambda _fd, _events: self._io_signal(reader), self._io.loop.READ
            )
        )

    def take_signals(self) -> None:
        """Have the worker's signals arrive at its socket."""
        if self._main_limits is not None:
            self._main_limits.install()
        for number in self._taken():
            signal.signal(number, _noted)
            signal.siginterrupt(number, False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

    def _taken(self) -> tuple[int, ...]:
        """The signals that are the worker's own."""
        taken = (signal.SIGTERM, signal.SIGQUIT, ASK_SIGNAL)
        return (*taken, signal.SIGINT) if self._context.solo else taken

    def look_at_signals(self) -> None:
        """Put back handlers, wake-up socket and mask, if a task has left others behind (an event loop of its own does)."""
        number = self._writer.fileno()
        replaced = signal.set_wakeup_fd(number, warn_on_full_buffer=False) != number
        replaced |= any(signal.getsignal(number) is not _noted for number in self._taken())
        if replaced or (self._main_limits is not None and not self._main_limits.installed):
            log.warning("a task replaced the worker's signal handlers; they are put back")
            self.take_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*self._taken(), SOFT_SIGNAL))

    def _copied(self) -> None:
        """In a process that a task forked."""
        self._executor.copied = True

    # ------------------------------------------------------------ I/O thread

    def _io_start(self) -> None:
        """Connect; consume as soon as the verdicts are known."""
        if self._verdicts is not None:
            self._verdicts.start()
        if not self._context.board.released:
            self._consumer.pause()
            self._io_await_verdicts(time.monotonic() + VERDICTS_WITHIN)
        self._consumer.start()

    def _io_await_verdicts(self, deadline: float) -> None:
        def look() -> None:
            if self._context.board.released or time.monotonic() >= deadline:
                self._consumer.resume()
            else:
                self._io_await_verdicts(deadline)

        self._io.call_later(VERDICTS_LOOK, look)

    def _io_failed(self, error: Exception) -> None:
        """The I/O loop has failed. Without descriptors no task can do much here: settle what has ended, and be replaced."""
        if self._io.cut_off:
            # Whatever ends here can never be settled. What runs is charged, like any crash.
            log.critical("a task has closed the file descriptors of this process, which ends")
            os._exit(int(ChildExit.SOFTWARE))
        if starved(error):
            spare, self._spare = self._spare, []
            for descriptor in spare:
                os.close(descriptor)
            if spare and not self._draining:
                log.error("tasks have used up the file descriptors of this process; it is replaced")
                self._exit = ChildExit.RECYCLE
                self._io_worn_out()

    def _io_ready(self) -> None:
        if not self._told:
            self._told = True
            self._io_adopt(self._executor.early.lost())
            self._io_adopt(self._context.board.lost_early())
            self._context.ready()
            if self._context.solo:
                log.info("ready")  # as the supervisor says of its children

    def _io_adopt(self, orphans: Sequence[bytes]) -> None:
        """Tell of runs that were acked early, and whose processes have died."""
        early = self._executor.early
        for orphan in orphans:
            # This process may be killed before that is safe, too.
            place = early.take_over(orphan)
            self._executor.adopt(orphan, None if place is None else partial(early.release, place))
        if orphans:
            self._settler.flush()

    def _io_lost(self, error: BrokerError) -> None:
        kept = [each for each in self._pool.take_back() if not self._consumer.stale(each)]
        self._pool.hand_over(kept)  # the broker has the others again
        self._running_elsewhere.forget(self._consumer.stale)
        self._teller.forget()
        if self._trial is not None:
            self._trial.forget(self._consumer.stale)
        self._executor.admission.released.clear()  # at worst one waits a second more
        self._journal.lose()
        log.warning("the broker took its messages back; consuming again soon", reason=str(error))

    def _io_batch(self, batch: Sequence[ports.Delivery]) -> None:
        if self._draining:
            self._io_give_back(batch)
            return
        self._pool.hand_over(batch)
        if self._pilot is not None:
            self._pilot.wake()

    def _io_dropped(self, delivery: ports.Delivery) -> None:
        """The broker has dropped a message: somebody must tell."""
        self._teller.take(delivery)

    def _io_cannot_tell(self, error: BrokerError) -> None:
        log.warning(
            "this process cannot tell of tasks that the broker drops; others may", reason=str(error)
        )

    def _io_prefetch(self, prefetch: int) -> None:
        """The autopilot asks for another prefetch."""
        self._prefetch = prefetch
        self._consumer.set_prefetch(prefetch + sum(self._rooms.values()))
        self._settler.set_window(prefetch)

    def _io_room(self, where: str, held: int) -> None:
        """So many messages wait without being work for the slots: have as many more delivered."""
        if self._draining or self._job.single_active:
            return  # a consumer that is replaced would lose the active role; and order is what the queue is for
        if self._rooms.get(where, 0) != held:
            self._rooms[where] = held
            self._consumer.set_prefetch(self._prefetch + sum(self._rooms.values()))

    def _io_pause(self, unstarted: Sequence[ports.Delivery]) -> None:
        """The autopilot hands over what the child should not hoard."""
        self._consumer.pause()  # first, or the broker could deliver them here again
        counted, most = self._consumer.counts_returns, self._job.max_returns
        kept: list[ports.Delivery] = []
        given: list[ports.Delivery] = []
        for delivery in unstarted:
            # Busy children that pass a message on to each other would have the broker drop it, though it was never started.
            often = counted and _returned_often(delivery, most[delivery.queue])
            (kept if often else given).append(delivery)
        self._pool.hand_over(kept)
        self._io_give_back(given)

    def _io_give_back(self, deliveries: Sequence[ports.Delivery]) -> None:
        released = self._executor.admission.released
        if released:
            released.difference_update([(each.epoch, each.tag) for each in deliveries])
        for delivery in deliveries:
            self._consumer.settle(delivery, Verdict.GIVE_BACK)

    def _io_hold_back(self, delivery: ports.Delivery, key: Key) -> None:
        """The task of a redelivery runs in this node: keep it until that one can answer for it."""
        if self._draining:
            self._io_give_back([delivery])
        elif not self._consumer.stale(delivery):
            log.info("runs in this node already, not started again", task_id=key[0])
            self._running_elsewhere.add(delivery, key)

    def _io_settle_as(self, delivery: ports.Delivery, key: Key, verdict: Verdict) -> None:
        """An execution ended and answers for the redelivery that was held."""
        log.info("finished meanwhile, not run again", task_id=key[0])
        settlement = Settlement(verdict, self._settler.remembered(key))
        self._settler.settle_now(delivery, settlement, key)

    def _io_release(self, delivery: ports.Delivery, unconcerned: bool) -> None:
        """Run a redelivery that was held after all."""
        if unconcerned:
            self._executor.admission.released.add((delivery.epoch, delivery.tag))
        self._io_batch([delivery])

    def _io_signal(self, reader: socket.socket) -> None:
        try:
            numbers = reader.recv(64)
        except BlockingIOError:
            return
        for number in numbers:
            if number == ASK_SIGNAL:
                self._io_asked()
            elif number == signal.SIGQUIT:
                self._io_quit()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._io_stop()

    def _io_stop(self) -> None:
        """TERM. Without a supervisor this process keeps its own time limit, and takes the second one as QUIT."""
        settings = self._job.settings
        if self._context.solo and self._stopping:
            self._io_cold()
            return
        self._stopping = True
        self._io_drain()
        within = settings.worker_shutdown_timeout or settings.worker_soft_shutdown_timeout
        if self._context.solo and within:
            self._io.call_later(within, self._io_cold)

    def _io_quit(self) -> None:
        """QUIT: now, or after what runs has had its last seconds. (A supervisor sends it when those are over.)"""
        within = self._job.settings.worker_soft_shutdown_timeout
        if self._context.solo and within and not self._stopping:
            self._stopping = True
            self._io_drain()
            self._io.call_later(within, self._io_cold)
        else:
            self._io_cold()

    def _io_drain(self) -> None:
        """Warm shutdown: take nothing new, give back what has not started, let the running task finish."""
        if self._draining:
            return
        self._draining = True
        self._context.draining()
        self._consumer.stop(self._pool.stop)  # first, or the broker could deliver them here again
        self._io_give_back(self._pool.take_back())
        self._io_give_back(self._running_elsewhere.finish())
        self._teller.stop()
        if self._told and self._context.board.first_taken() == self._context.index:
            self._io_adopt(
                self._context.board.lost_early()
            )  # nobody will take those seats any more
        if self._trial is not None:
            self._io_give_back(self._trial.finish())
        # A broker that hangs does not answer the cancel: what it still sends is given back.
        self._io.call_later(CLOSE_GRACE, self._pool.stop)

    def _io_cold(self) -> None:
        """Cold shutdown: give back everything, the running task too, and go."""
        if self._cold:
            return
        self._cold = self._draining = True
        log.warning("cold shutdown: giving back what runs")
        self._consumer.stop()
        self._io_give_back(self._pool.take_back())
        self._io_give_back(self._running_elsewhere.finish())
        self._teller.stop()
        if self._trial is not None:
            self._io_give_back(self._trial.finish())

        def go() -> None:
            self._consumer.give_back()
            self._consumer.close(lambda: self._io_exit(self._cold_exit))

        self._joiner.hurry()
        # What has ended is settled first; a publisher that cannot confirm is not waited for long.
        self._settler.when_idle(go)
        self._io.call_later(COLD_GRACE, go)
        self._io.call_later(CLOSE_GRACE, lambda: os._exit(int(self._cold_exit)))

    def _io_parted(self) -> None:
        """The consumer's connection is gone, in order or not."""
        if self._consumer.parted:
            self._journal.parted()

    def _io_exit(self, code: ChildExit) -> None:
        """End the process, whatever its main thread does."""
        self._io_parted()
        os._exit(int(code))

    def _io_hard_limit(self, number: int, run: int) -> None:
        """A task is past its hard limit."""
        runner = self._runners[number]
        if runner.take(run):
            self._io_end_run(runner, run, runner.timed_out, ChildExit.LIMIT)

    def _io_asked(self, tries: int = 20) -> None:
        """The supervisor asks for the end of runs."""
        again = False
        for number, runner in enumerate(self._runners):
            slot = self._context.record.slot(number)
            asked = slot.asked()
            if asked is None:
                continue
            run, how, by_header = asked
            admission = self._executor.admission
            meant = admission.revoked_by_header if by_header else admission.revoked
            now = slot.read()
            if now is None or now.sequence != run:
                continue  # it has ended
            if self._io_run_of(runner, meant) != run:
                # it has ended meanwhile, or if it is the same still, it is not what was revoked: only we know its headers
                slot.decline(run)
            elif how is Ending.NOW and runner.take(run):
                self._io_end_run(runner, run, runner.terminated, ChildExit.REVOKED)
            elif how is Ending.NOW or not runner.limits.interrupt(run):
                again = True  # on the board already and not yet begun, or about to end
        if again and tries:
            self._io.call_later(0.02, lambda: self._io_asked(tries - 1))

    def _io_end_solo(self, records: Sequence[Record], looks: int = 20) -> None:
        """A solo worker is to end revoked tasks: nobody would replace its process, so it can only raise in the one that runs.

        It looks again for a moment, for a task that was looked up before the record came and is about to start.

        Args:
            records: what they were revoked with. One that was revoked otherwise, and runs meanwhile, goes on.
            looks: how often to look again.
        """
        (runner,) = self._runners

        def meant(head: Head) -> bool:
            return self._executor.admission.revoked(head) and any(
                record.concerns(head.id, head.headers, head.stamps) for record in records
            )

        run = self._io_run_of(runner, meant)
        ended = run is not None and runner.limits.interrupt(run)
        if looks and not ended:
            self._io.call_later(0.1, lambda: self._io_end_solo(records, looks - 1))

    def _io_run_of(self, runner: Runner, meant: Callable[[Head], bool]) -> int | None:
        """The number of the run that goes on in a slot now, if it is of a task that is meant."""
        slot = self._context.record.slot(runner.number)
        before = slot.read()
        head = runner.current
        mine = head is not None and meant(head)
        now = slot.read()
        if before is None or now is None or now.sequence != before.sequence or not mine:
            return None  # what was asked about may have been another
        return now.sequence

    def _io_end_run(
        self,
        runner: Runner,
        run: int,
        conclude: Callable[[], Ended],
        code: ChildExit,
    ) -> None:
        """Settle a run that was taken from its slot, and have its code end: by itself, or with this process."""
        try:
            ended = conclude()
        except Exception:  # whatever it is, the slot must be let go
            log.exception("a task that was ended could not be settled and is rejected")
            ended = runner.rejected()
        if self._main_limits is not None:
            self._draining = True
            self._io_leave(ended, code)
            return
        self._settler.settle_now(*ended)
        runner.evict(run)
        self._io_await_eviction(runner, run, code, time.monotonic() + EVICT_GRACE)

    def _io_await_eviction(
        self, runner: Runner, run: int, code: ChildExit, deadline: float
    ) -> None:
        if runner.left(run):
            return
        if time.monotonic() < deadline:
            self._io.call_later(
                EVICT_LOOK, lambda: self._io_await_eviction(runner, run, code, deadline)
            )
            return
        log.warning(
            "the code of a task that was ended goes on; its process is replaced when its other tasks have ended"
        )
        if self._exit is ChildExit.DONE:
            self._exit = code
        self._io_worn_out()
        # Looked at again now that the slot cannot take anything new: what runs in it is what was ended, or nothing.
        if not runner.left(run):
            self._pool.abandon(runner)
        self._io.call_later(HUNG_GRACE, self._io_look_whether_hung)

    def _io_look_whether_hung(self) -> None:
        """Where one loop serves all slots, code that does not let go of it holds up the others for ever: they go back."""
        if self._pool.hung():
            self._cold_exit = self._exit  # which tells the supervisor that nobody crashed here
            self._io_cold()

    def _io_worn_out(self) -> None:
        """This child can take no more tasks: have it replaced, at once where others still run in it."""
        if len(self._runners) > 1:
            self._context.retire()
        self._io_drain()

    def _io_leave(self, ended: Ended, code: ChildExit) -> None:
        """Settle the task that was taken from the slot, give the rest back, and end the process that is stuck in it."""
        self._settler.settle_now(*ended)
        self._consumer.stop(
            lambda: self._settler.when_idle(
                lambda: self._consumer.close(lambda: self._io_exit(code))
            )
        )
        self._io_give_back(self._pool.take_back())
        self._io_give_back(self._running_elsewhere.drop())


def _returned_often(delivery: ports.Delivery, most: int) -> bool:
    """Whether a message has come back so often that it had better stay, by the count of a broker that counts returns."""
    if not delivery.redelivered:
        return False
    try:
        count = (delivery.properties.headers or {}).get("x-delivery-count", 0)
    except DecodeError:
        return False
    return isinstance(count, int) and count >= most


def _noted(_signal: int, _frame: object) -> None:
    """The number went to the wake-up socket already; a Python handler is what makes the interpreter write it."""
