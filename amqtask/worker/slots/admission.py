"""What of the deliveries may run: header, standing, task, expiry and eta, before anything of it runs. Any slot's thread.

The steps, in order, each of which may end the delivery:

1. read the header (the body is not touched);
2. it is looked up: revoked; and, when it was delivered before, finished in this node, still running in it, killed at its hard
   limit, or guilty of too many crashes, on whatever node;
3. the task is looked up and an expired one is refused;
4. one that is early goes to the delay ladder, and has not run.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from amqtask.amqp.ports import Delivery
from amqtask.core import codec, dead
from amqtask.core.codec import Head
from amqtask.core.outcome import Deferred, Failed, Outcome, Revoked, Settlement, Verdict
from amqtask.core.repeats import may_be_repeat
from amqtask.core.verdicts import Standing
from amqtask.errors import MessageError, NotRegistered, TimeLimitExceeded, WorkerLostError
from amqtask.log import get_logger
from amqtask.worker.job import Job
from amqtask.worker.memory.board import Board
from amqtask.worker.memory.journal import Ended, mark_of
from amqtask.worker.settling.followups import Key
from amqtask.worker.settling.settle import Settler
from amqtask.worker.slots.conclusion import AnyTask, Conclusion
from amqtask.worker.slots.trial import Trial

log = get_logger("amqtask.worker")

EARLY = 0.05  # seconds before its eta at which a task may start
MAX_CRASHES = 3  # for a queue that the topology does not name
REVOKED = Revoked("revoked")

Work = tuple[Delivery, Head, AnyTask, Key]
"""A delivery that may run now: its header, its task, and what the journal calls the execution."""


class Admission:
    """Decides which deliveries run. One for all slots of a child; any thread.

    Args:
        job: what the node works on.
        board: what is known of task ids, and what runs and ran in this node.
        conclusion: settles what does not run.
        settler: remembers results.
        stale: whether a delivery is the broker's again.
        hold: takes a redelivery whose task runs in this node already.
        accept: content types that may be decoded.
        limits: sizes that a message may have.
        trial: has those wait that ran when their process died; ``None`` where one task runs at a time.
    """

    def __init__(
        self,
        job: Job,
        board: Board,
        conclusion: Conclusion,
        settler: Settler,
        stale: Callable[[Delivery], bool],
        hold: Callable[[Delivery, Key], None],
        accept: frozenset[str],
        limits: codec.Limits,
        trial: Trial | None,
    ) -> None:
        self._job = job
        self._board = board
        self._trial = trial
        self._conclusion = conclusion
        self._settler = settler
        self._stale = stale
        self._hold = hold
        self._accept = accept
        self._sizes = limits
        self._tasks = job.app.tasks
        self._builtins = job.app.builtins
        # Held deliveries that are to run after all, by epoch and tag. The I/O thread adds, a slot's thread takes.
        self.released: set[tuple[int, int]] = set()

    def admit(self, delivery: Delivery) -> Work | None:
        """Return what is to run; ``None`` when the delivery is settled, held, or not ours any more."""
        if self._stale(delivery):
            return None
        try:
            head = delivery.head(self._accept, self._sizes)
        except MessageError as error:
            self._conclusion.refuse(delivery, error)
            return None
        key = key_of(delivery, head)
        board = self._board
        if board.news() or delivery.redelivered:
            standing = board.standing(head.id)
            if (
                standing is not None or delivery.redelivered or board.revokes_by_header
            ) and self._known(delivery, head, key, standing):
                return None
        task = self._tasks.get(head.task) or self._builtins.get(head.task)
        if task is None:
            self._conclusion.end(delivery, head, None, self._unknown(head), key)
            return None
        if head.expires is not None and (head.expires_at() or 0.0) < time.time():
            expired = Revoked(f"expired at {head.expires}", expired=True)
            self._conclusion.end(delivery, head, task, expired, key)
            return None
        if head.eta is not None:
            wait = (head.eta_at() or 0.0) - time.time()
            if wait > EARLY:
                # No key: it has not run, and comes back from the ladder as the same execution.
                self._conclusion.end(delivery, head, task, Deferred(wait), None)
                return None
        if (
            self._trial is not None
            and delivery.redelivered
            and self._suspect(delivery, head)
            and not self._trial.begins(delivery)
        ):
            return None
        return delivery, head, task, key

    def holds(self, work: Work, news: int) -> bool:
        """Whether an admission holds still, for a pool that runs what it admitted a while ago. If not, it is settled.

        Args:
            work: what was admitted.
            news: the board's at that time, or before: nothing is looked up again while nothing new is known.
        """
        delivery, head, task, key = work
        if self._stale(delivery):
            return False
        if self._board.news() != news and self.revoked(head):
            self._conclusion.end(delivery, head, task, REVOKED, key)
            return False
        return True

    def revoked(self, head: Head) -> bool:
        """Whether a message was revoked, by its id, a header or one of Celery's stamps."""
        standing = dead.of_this_life(self._board.standing(head.id), head.headers)
        if standing is not None and standing.revoked:
            return True
        return self.revoked_by_header(head)

    def revoked_by_header(self, head: Head) -> bool:
        """Whether a message was revoked by a header or one of Celery's stamps."""
        board = self._board
        return board.revoked_by_header(head.headers) or (
            head.stamps is not None and board.revoked_by_header(head.stamps)
        )

    def _suspect(self, delivery: Delivery, head: Head) -> bool:
        """Whether a task ran so often when a process died that once more would be the last time."""
        standing = dead.of_this_life(self._board.standing(head.id), head.headers)
        return (
            standing is not None
            and standing.crashes > 0
            and standing.crashes + 1 >= self._job.max_crashes.get(delivery.queue, MAX_CRASHES)
        )

    def _known(self, delivery: Delivery, head: Head, key: Key, standing: Standing | None) -> bool:
        """Settle a delivery that must not run. True when it is settled."""
        if delivery.redelivered:
            if (delivery.epoch, delivery.tag) in self.released:
                self.released.discard((delivery.epoch, delivery.tag))
            elif self._answered(delivery, head, key):
                return True
        standing = dead.of_this_life(standing, head.headers)
        outcome: Outcome
        if self.revoked(head):
            outcome = REVOKED
        elif standing is None or not (delivery.redelivered or may_be_repeat(head.headers)):
            # what a task did to its process counts against the message that did it: sent anew, it is tried anew
            return False
        elif standing.hard_limit:
            error: Exception = TimeLimitExceeded(
                f"Task {head.task}[{head.id}] was killed at its time limit."
            )
            outcome = Failed(error, None, "time limit")
        elif standing.crashes >= self._job.max_crashes.get(delivery.queue, MAX_CRASHES):
            error = WorkerLostError(
                f"Task {head.task}[{head.id}] killed the process that ran it {standing.crashes} times, "
                f"last by {standing.cause or 'an unknown cause'} on node {standing.node}."
            )
            outcome = Failed(error, None, "crashes")
        else:
            return False
        self._conclusion.end(delivery, head, self._tasks.get(head.task), outcome, key)
        return True

    def _answered(self, delivery: Delivery, head: Head, key: Key) -> bool:
        """Let an execution that this node knows answer for a redelivery. True when it has, or will."""
        journal = self._board.journal
        ended = journal.find(key[1])
        if ended is Ended.UNKNOWN and not self._board.runs(*key):
            # It may have ended between the two looks; what has ended is in the journal before it leaves the board.
            ended = journal.find(key[1])
            if ended is Ended.UNKNOWN:
                return False
        if ended in (Ended.ACK_LOST, Ended.REJECT_LOST):
            log.info("finished before, not run again", task_name=head.task, task_id=head.id)
            verdict = Verdict.ACK if ended is Ended.ACK_LOST else Verdict.REJECT
            self._conclusion.post(delivery, Settlement(verdict, self._settler.remembered(key)), key)
            return True
        self._hold(delivery, key)
        return True

    def _unknown(self, head: Head) -> Failed:
        return Failed(
            NotRegistered(
                f"Task {head.task} is not registered with app {self._job.app.name}; this node knows "
                f"{len(self._tasks)} tasks."
            ),
            None,
            "unknown task",
        )


def key_of(delivery: Delivery, head: Head, queue: str | None = None) -> Key:
    """What tells an execution from every other, in the processes of one node.

    ``queue`` is where the message was when it was to run, if not where it came from now.
    """
    # The queue, because each queue a message was routed to runs its own copy. The timestamp, because what is taken from
    # the dead letters and sent again carries the time of that: it is to run though its first life has ended.
    # What has taken a task's place has its id, and is another execution.
    attempt = head.retries + (head.replaced_task_nesting << 32)
    return head.id, mark_of((head.id, attempt, head.task, queue or delivery.queue, head.sent))
