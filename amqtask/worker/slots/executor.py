"""What the slots of a child share: what admits and settles, what is known of tasks, and when the child has had its share."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextvars import copy_context

from amqtask.amqp.ports import Delivery
from amqtask.core import codec, dead, serialization
from amqtask.core.outcome import Failed, Outcome, Settlement
from amqtask.errors import MessageError, TimeLimitExceeded, WorkerLostError
from amqtask.log import get_logger
from amqtask.worker.forking.prepared import ChildContext
from amqtask.worker.job import Job
from amqtask.worker.memory.board import stored_name
from amqtask.worker.settling.followups import Key
from amqtask.worker.settling.orphan import read
from amqtask.worker.settling.settle import Settler
from amqtask.worker.slots.admission import Admission
from amqtask.worker.slots.carry import Carrier
from amqtask.worker.slots.conclusion import AnyTask, Conclusion
from amqtask.worker.slots.outcomes import TERMINATED
from amqtask.worker.slots.process import resident_kib
from amqtask.worker.slots.successors import Successors
from amqtask.worker.slots.trial import Trial

log = get_logger("amqtask.worker")

Rules = tuple[bool, float | None, float | None, bytes]
"""Whether a task is acked late, its limits where the message has none (soft and hard, in seconds), its name for the board."""


class Executor:
    """What all slots of a child share.

    Args:
        job: what the node works on.
        context: the child's place in its node.
        settler: takes the settlements.
        stale: whether a delivery is the broker's again.
        hold: takes a redelivery whose task runs in this node already.
        waker: the descriptor without which nothing that ends here reaches the broker; -1 if it is not known.
        trial: as for ``Admission``.

    Attributes:
        admission: decides what runs.
        conclusion: settles what has ended.
        exhausted: this child has reached its limit of tasks or memory, or cannot do its work any more.
        trial: those that ran when their process died.
        copied: this process is a copy that a task made of its child.
        base: the context that every run begins with a copy of.
        successors: says what follows in workflows.
        rebuilt: makes exceptions of their wire form.
    """

    def __init__(
        self,
        job: Job,
        context: ChildContext,
        settler: Settler,
        stale: Callable[[Delivery], bool],
        hold: Callable[[Delivery, Key], None],
        waker: int,
        trial: Trial | None = None,
    ) -> None:
        settings = job.settings
        self.job = job
        self.context = context
        self.settler = settler
        self.waker = waker
        self.journal = context.board.journal.seat(context.index)
        self.early = context.board.early.seat(context.index)
        self.accept = serialization.accepted(settings.accept_content)
        self.json = serialization.JSON in self.accept
        self.sizes = codec.Limits(
            message_max_bytes=settings.message_max_bytes,
            headers_max_bytes=settings.headers_max_bytes,
            decompressed_max_bytes=settings.decompressed_max_bytes,
        )
        self.carrier = Carrier(job.app, self.accept, self.sizes)
        self.successors = Successors(job.app, job.settings, job.node, self.accept, self.sizes)
        settler.workflows = self.successors
        self.rebuilt = job.app.rebuilt
        self.conclusion = Conclusion(
            job, context.board, self.journal, settler, self.carrier, self.sizes, self.successors
        )
        self.admission = Admission(
            job,
            context.board,
            self.conclusion,
            settler,
            stale,
            hold,
            self.accept,
            self.sizes,
            trial,
        )
        self.trial = trial
        self.exhausted = False
        self.copied = False
        self.base = copy_context()
        self.rules: dict[str, Rules] = {}  # by name, as needed
        self._count = itertools.count(1).__next__
        self._wears = job.max_tasks is not None or job.max_memory is not None

    def learn(self, task: AnyTask) -> Rules:
        """Look up the rules of a task, and remember them."""
        options, settings = task.options, self.job.settings
        rules = self.rules[task.name] = (
            settings.task_acks_late if options.acks_late is None else options.acks_late,
            options.soft_time_limit or settings.task_soft_time_limit,
            # The process that would be ended is a solo worker's whole node.
            None if self.context.solo else options.time_limit or settings.task_time_limit,
            stored_name(task.name),
        )
        return rules

    def acquit(self, delivery: Delivery) -> None:
        """A delivery does not run, or not any more: if it was on trial, the next may be."""
        trial = self.trial
        if trial is not None and trial.tried is delivery:
            trial.ended()

    def adopt(self, data: bytes, release: Callable[[], None] | None = None) -> None:
        """Tell of a run that was acked before it began, and whose process has died: nobody else can.

        Args:
            data: what is known of it.
            release: called when what follows is safe, or nothing does.
        """
        delivery = read(data)

        def safe(settlement: Settlement) -> None:
            if release is not None:
                self.settler.hold(settlement, release)

        if isinstance(delivery, tuple):
            log.info("a task had ended when its process died; what follows is sent now")
            safe(delivery[1])
            self.settler.post(*delivery, None)
            return
        try:
            head = None if delivery is None else delivery.head(self.accept, self.sizes)
        except MessageError:
            head = None
        if delivery is None or head is None:
            log.error("a task was lost with its process, which has damaged what is known of it")
            if release is not None:
                release()
            return
        standing = dead.of_this_life(self.context.board.standing(head.id), head.headers)
        outcome: Outcome
        if self.admission.revoked(head):
            outcome = TERMINATED
        elif standing is not None and standing.hard_limit:
            error: Exception = TimeLimitExceeded(
                f"Task {head.task}[{head.id}] was killed at its time limit."
            )
            outcome = Failed(error, None, "time limit")
        else:
            error = WorkerLostError(
                f"The process that ran task {head.task}[{head.id}] died. It was acked before it ran, and does not run again."
            )
            outcome = Failed(error, None, "crashes")
        task = self.job.app.tasks.get(head.task)
        self.conclusion.end(delivery, head, task, outcome, None, acked=True, safe=safe)

    def ended(self, delivery: Delivery) -> None:
        """A run has ended: see whether the child has had its share."""
        trial = self.trial
        if trial is not None and trial.tried is delivery:
            trial.ended()
        if self._wears:
            job = self.job
            if self._count() == job.max_tasks or (
                job.max_memory is not None and resident_kib() > job.max_memory
            ):
                self.exhausted = True
