"""Tells how tasks have ended whose messages the broker dropped by itself: the one end of a task that no run of it has.

The broker puts a copy of such a message into the queue ``amqtask.dropped``. Whichever child of whatever node gets it says what a
worker would have said of the task: the result, its errbacks, the end of all that was to follow, its part of a chord. The other
copy is the dead letter, so none is written here. Nothing of the task runs; that its app is not ours does not matter.

The plans of chords that did not end in time come the same way: then the body has failed, and all after it. So does what Celery's
workers tell of the parts of chords that they have run.

Deliveries are read in a thread of their own, which there is only while something is told: a body may be large, and the I/O
thread has heartbeats to send.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from amqtask.amqp.ports import Delivery
from amqtask.amqp.threaded.loop import IoThread
from amqtask.canvas.celery_parts import PART, part_of_message
from amqtask.core import codec
from amqtask.core.barrier import Late, late
from amqtask.core.codec import Head
from amqtask.core.dropped import BrokerDeath, deadly, death_in, may_run, outcome_of
from amqtask.core.outcome import Look, Outcome, Sequel, Settlement, Verdict
from amqtask.errors import MessageError
from amqtask.log import get_logger
from amqtask.topology.dropped import origin_of
from amqtask.worker.child.held import Held
from amqtask.worker.job import Job
from amqtask.worker.memory.board import Board
from amqtask.worker.memory.journal import Ended
from amqtask.worker.settling.followups import Key
from amqtask.worker.slots.admission import REVOKED, key_of
from amqtask.worker.slots.executor import Executor

log = get_logger("amqtask.worker")

PREFETCH = 20  # of dropped messages that a child holds
PASS_ON = 0.1  # seconds before the next process has a look at one whose task may run there


class Teller:
    """Tells of dropped messages for one child. I/O thread, but for what its own thread does.

    Args:
        io: the child's I/O thread.
        job: what the node works on.
        board: what is known of task ids, and what runs and ran in this node.
        executor: what reads messages and makes settlements.
        settle: settles a delivery of which nothing follows.
        stale: whether a delivery is the broker's again.
    """

    def __init__(
        self,
        io: IoThread,
        job: Job,
        board: Board,
        executor: Executor,
        settle: Callable[[Delivery, Verdict], None],
        stale: Callable[[Delivery], bool],
    ) -> None:
        self._io = io
        self._job = job
        self._board = board
        self._executor = executor
        self._settle = settle
        self._stale = stale
        # Those whose task runs in this node all the same: it tells by itself how it ends, or dies.
        self._held = Held(
            io,
            board,
            settle=self._ended,
            release=self._released,
            give_back=self._look_again,
            resized=_nothing,
        )
        self._stopped = False
        self._lock = threading.Lock()
        # with the lock:
        self._waiting: deque[tuple[Delivery, bool]] = deque()
        self._telling = False  # the thread is there

    # ------------------------------------------------------------ I/O thread

    def take(self, delivery: Delivery) -> None:
        """Tell of a dropped message, and ack it when that is safe."""
        if self._stopped:
            self._settle(delivery, Verdict.GIVE_BACK)
        else:
            self._add(delivery, False)

    def forget(self) -> None:
        """A channel is gone, and with it what came on it."""
        self._held.forget(self._stale)

    def stop(self) -> None:
        """Give back what nobody has begun to tell."""
        self._stopped = True
        with self._lock:
            left = [delivery for delivery, _ in self._waiting]
            self._waiting.clear()
        self._give_back([*left, *self._held.drop()])

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._settle(delivery, Verdict.GIVE_BACK)

    def _look_again(self, deliveries: Sequence[Delivery]) -> None:
        """It runs for long: whoever got these instead would not know of it."""
        for delivery in deliveries:
            self._add(delivery, False)

    def _ended(self, delivery: Delivery, _key: Key, verdict: Verdict) -> None:
        """The run that was waited for has ended."""
        if verdict is Verdict.ACK:
            self._settle(delivery, Verdict.ACK)
        else:
            self._add(delivery, True)  # rejected, it may have ended without a word

    def _pass_on(self, delivery: Delivery) -> None:
        """Have another process look whether it runs the task: the broker hands it to the consumers in turn."""
        if not self._stale(delivery):
            self._settle(delivery, Verdict.GIVE_BACK)

    def _released(self, delivery: Delivery, _unconcerned: bool) -> None:
        """The run that was waited for has not ended in any way that it could tell of."""
        self._add(delivery, True)

    def _add(self, delivery: Delivery, waited: bool) -> None:
        with self._lock:
            self._waiting.append((delivery, waited))
            begin, self._telling = not self._telling, True
        if begin:
            threading.Thread(target=self._run, name="amqtask-dropped", daemon=True).start()

    def _hold(self, delivery: Delivery, key: Key) -> None:
        if self._stopped:
            self._settle(delivery, Verdict.GIVE_BACK)
        elif not self._stale(delivery):
            log.info("dropped by the broker, but runs in this node", task_id=key[0])
            self._held.add(delivery, key)

    # ------------------------------------------------------------ a thread of its own

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._telling = False
                    return
                delivery, waited = self._waiting.popleft()
            try:
                self._tell(delivery, waited)
            except BaseException:  # values' own code may run here; it would come again for ever
                log.exception("what became of a dropped message could not be told")
                self._settle(delivery, Verdict.ACK)

    def _tell(self, delivery: Delivery, waited: bool) -> None:
        if self._stale(delivery):
            return
        origin = origin_of(delivery.routing_key)
        try:
            plan = late(delivery.properties, delivery.body)
            if plan is not None:
                self._end(delivery, plan)
                return
            if (delivery.properties.headers or {}).get("task") == PART:
                self._pass_part(delivery)
                return
            headers = delivery.properties.headers or {}
            death = None if origin is None else death_in(headers, origin.queue)
            if origin is None or death is None:
                log.warning("not a message that the broker dropped", key=delivery.routing_key)
                self._settle(delivery, Verdict.ACK)
                return
            if origin.refuses and death.reason == "maxlen":
                # its publisher was refused, and sends it again, or tells its caller
                self._settle(delivery, Verdict.ACK)
                return
            head = codec.read_header(
                delivery.properties,
                delivery.body,
                accept=self._executor.accept,
                limits=self._executor.sizes,
            )
        except MessageError as error:
            self._executor.conclusion.refuse_dropped(delivery, error)
            return
        if waited or self._untold(delivery, head, death):
            self._conclude(delivery, head, death)

    def _end(self, delivery: Delivery, plan: Late) -> None:
        """A chord has not ended in time: what is left of its barrier tells which of its parts have not."""
        sequel = Sequel(looks=(Look(plan.group, plan.size, plan),))
        self._executor.settler.post(delivery, Settlement(Verdict.ACK, sequel=sequel), None)
        self._executor.settler.flush()

    def _pass_part(self, delivery: Delivery) -> None:
        """A Celery worker tells of a part of a chord: put it into the barrier."""
        executor = self._executor
        head = delivery.head(executor.accept, executor.sizes)
        content = codec.read_body(
            head, delivery.properties, delivery.body, accept=executor.accept, limits=executor.sizes
        )
        part = part_of_message(content.args, content.kwargs)
        if part is None:
            log.warning("not a part of a chord", task_id=head.id)
            self._settle(delivery, Verdict.ACK)
            return
        sequel = executor.successors.passed_on(part)
        executor.settler.post(delivery, Settlement(Verdict.ACK, sequel=sequel), None)
        executor.settler.flush()

    def _untold(self, delivery: Delivery, head: Head, death: BrokerDeath) -> bool:
        """Whether nobody has told of the task by itself, or will; else the delivery is settled, held or passed on."""
        key = key_of(delivery, head, death.queue)
        runs = self._board.runs(*key)  # first: what leaves the board is in the journal already
        ended = self._board.journal.find(key[1])
        if ended is Ended.ACK_LOST:
            self._settle(delivery, Verdict.ACK)
        elif runs or ended is Ended.SETTLING:
            self._io.post(lambda: self._hold(delivery, key))
        elif may_run(death, head, time.time()):
            self._io.post(lambda: self._io.call_later(PASS_ON, lambda: self._pass_on(delivery)))
        else:
            return True
        return False

    def _conclude(self, delivery: Delivery, head: Head, death: BrokerDeath) -> None:
        executor = self._executor
        outcome: Outcome = outcome_of(death, head, self._job.delivery_limits.get(death.queue))
        if executor.admission.revoked(head):
            outcome = REVOKED
        harmful = deadly(death, delivery.properties.headers or {}, delivery.redelivered)
        run = executor.successors.read(delivery, head, deadly=harmful)
        app = self._job.app
        task = app.tasks.get(head.task) or app.builtins.get(head.task)
        settlement = executor.conclusion.settlement(delivery, head, task, outcome, False, run)
        settlement = msgspec.structs.replace(settlement, verdict=Verdict.ACK)
        executor.settler.post(delivery, settlement, None)
        executor.settler.flush()


def _nothing(_held: int) -> None:
    """What is held here takes no room from what is to run."""
