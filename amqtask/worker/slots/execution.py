"""One slot at work: an admitted message becomes arguments, the function runs within its limits, what came of it is settled.

A ``Runner`` is one slot, with one run at a time; what the slots of a child share is their ``Executor``. Nothing here raises:
what breaks while a message is handled costs that message only.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from types import CoroutineType
from typing import Any, Protocol

import msgspec

from amqtask.amqp.ports import Delivery
from amqtask.canvas.continuation import continuation
from amqtask.canvas.failure import ERRBACK
from amqtask.core import codec, dead
from amqtask.core.codec import Head
from amqtask.core.outcome import Failed, Outcome, Retried, Settlement, Succeeded, Verdict
from amqtask.core.settlement import DONE
from amqtask.core.verdicts import Standing
from amqtask.errors import MessageError, SoftTimeLimitExceeded, TimeLimitExceeded, Unsupported
from amqtask.log import get_logger
from amqtask.request import current
from amqtask.worker.settling.followups import Key
from amqtask.worker.settling.orphan import written, written_end
from amqtask.worker.settling.settle import follows
from amqtask.worker.slots.admission import REVOKED, Work
from amqtask.worker.slots.conclusion import UNREAD, AnyTask, Unread, reason_of
from amqtask.worker.slots.coroutines import Evicted, Interruptible
from amqtask.worker.slots.executor import Executor
from amqtask.worker.slots.limits import Limits
from amqtask.worker.slots.outcomes import TERMINATED, outcome_of, outcome_of_error
from amqtask.worker.slots.process import end_copy, end_cut_off, starved
from amqtask.worker.slots.successors import Run, foreign_chord, request_of
from amqtask.worker.slots.underway import Underway

log = get_logger("amqtask.worker")


class CoroutineLoop(Protocol):
    """Runs the coroutine tasks of a slot whose pool has no event loop of its own."""

    def run(self, carried: Interruptible) -> object:
        """Run a coroutine to its end; its value or its exception. The slot's thread, which waits."""
        ...

    def close(self) -> None:
        """End the loop, and what the app and its tasks hold on it. The slot's thread."""
        ...


class Runner:
    """One slot. ``admit``, ``execute``, ``run``, ``start`` and its ends belong to the slot, and never raise.

    ``take`` and what follows it belong to the I/O thread.

    Args:
        executor: what the slots share.
        number: the slot's.
        limits: raise the soft limit here and watch the hard one.
        loop: runs coroutine tasks for ``run``.

    Attributes:
        limits: those of the run that goes on. A pool that runs tasks in several ways sets them before each.
        ended, busy: tasks ended here, and seconds spent on them; for the prefetch.
        running_since: when the task that runs here began, 0 when none does.
        ended_at: when the last one ended.
        executor: what the slots share.
    """

    def __init__(
        self, executor: Executor, number: int, limits: Limits, loop: CoroutineLoop | None = None
    ) -> None:
        self.number = number
        self.limits = limits
        self.ended = 0
        self.busy = 0.0
        self.running_since = 0.0
        self.ended_at = 0.0
        self.executor = executor
        self._job = executor.job
        self._settler = executor.settler
        self._conclusion = executor.conclusion
        self._journal = executor.journal
        self._early = executor.early
        self._admit = executor.admission.admit
        self._board = executor.context.board
        self._board_slot = executor.context.record.slot(number)
        self._loop = loop
        self._solo = executor.context.solo
        self._rules = executor.rules
        self._unlimited: set[str] = set()  # names of tasks whose hard limit was told not to hold
        # What runs now, its hard limit (or 0) and whether it is acked already; read by whoever took the run.
        self._current: tuple[Work, float, bool] | None = None
        # The run that ``start`` has begun, and its number.
        self._awaited: tuple[Work, int, Underway]
        # What comes after that: ``None`` when nothing does.
        self._ran: Run | Unread | None = UNREAD
        self._released = threading.Event()  # who takes a run is through with the slot

    # ------------------------------------------------------------ the slot

    @property
    def news(self) -> int:
        """What is known of tasks now, for ``readmit``. Ask before ``admit``."""
        return self._board.news()

    def admit(self, delivery: Delivery) -> Work | None:
        """Return what is to run here; ``None`` when the delivery needs no run."""
        try:
            return self._admit(delivery)
        except BaseException as error:  # noqa: BLE001  # thrown at the process, it would come again for ever
            self._broken(delivery, error)
            return None

    def readmit(self, work: Work, news: int) -> bool:
        """Whether what was admitted when ``news`` was known is to run still; else it is settled, or the broker's again."""
        try:
            if self.executor.admission.holds(work, news):
                return True
        except BaseException as error:  # noqa: BLE001  # as in ``admit``
            self._broken(work[0], error)
            return False
        self.executor.acquit(work[0])
        return False

    def execute(self, delivery: Delivery) -> None:
        """Admit a delivery, run it and post its settlement."""
        work = self.admit(delivery)
        if work is not None:
            self.run(work)

    def run(self, work: Work) -> None:
        """Run an admitted message and post its settlement."""
        try:
            outcome: Outcome
            run, started, soft, hard = self._begin(work)
            limits = self.limits
            try:
                limits.begin(run, soft, hard)
                outcome = self._call(work, started)
                mine = limits.end()
            except (SoftTimeLimitExceeded, Evicted) as error:
                # it came between the task's last instruction and ours
                mine = limits.end()
                outcome = Failed(error, None, "soft time limit", time.monotonic() - started)
            self._finish(work, run, outcome, mine)
        except BaseException as error:  # noqa: BLE001  # as in ``admit``
            self._broken(work[0], error)

    def start(self, work: Work) -> Coroutine[Any, Any, object] | None:
        """``run`` for a coroutine task on the event loop that the caller is a task of, in a context of its own: its first half.

        What is returned is to be awaited there, and then ``returned`` or ``raised`` is to be called. ``None``: it has ended.
        Three plain calls, because each coroutine more between the loop and the task's own costs the task a microsecond.
        """
        try:
            run, started, soft, hard = self._begin(work)
            self.limits.begin(run, soft, hard)
            underway = self._prepare(work, started)
            if type(underway) is not Underway:
                self._finish(work, run, underway, self.limits.end())
                return None
            self._awaited = (work, run, underway)
            current.set(underway)
            try:
                value = work[2].run(*underway.args, **underway.kwargs)
            except BaseException as error:  # noqa: BLE001  # as in ``_call``
                self.raised(error)
                return None
        except BaseException as error:  # noqa: BLE001  # as in ``admit``
            self._broken(work[0], error)
            return None
        if type(value) is CoroutineType:
            return value
        self.returned(value)
        return None

    def returned(self, value: object) -> None:
        """The run that ``start`` began has returned: post its settlement."""
        work, run, underway = self._awaited
        try:
            if self.executor.copied:
                end_copy()
            self._finish(work, run, outcome_of(underway, value), self.limits.end())
        except BaseException as error:  # noqa: BLE001  # as in ``admit``
            self._broken(work[0], error)

    def raised(self, error: BaseException) -> None:
        """The run that ``start`` began has raised: post its settlement."""
        work, run, underway = self._awaited
        try:
            if self.executor.copied:
                end_copy()
            outcome = outcome_of_error(error, work[2], underway)
            self._finish(work, run, outcome, self.limits.end())
        except BaseException as broken:  # noqa: BLE001  # as in ``admit``
            self._broken(work[0], broken)

    def close(self) -> None:
        """End the slot's event loop, if it has one. The slot's thread."""
        if self._loop is not None:
            self._loop.close()

    def _begin(self, work: Work) -> tuple[int, float, float | None, float | None]:
        """The run begins: its number, when, and its limits in seconds."""
        delivery, head, task, key = work
        acks_late, soft, hard, name = self._rules.get(head.task) or self.executor.learn(task)
        if not acks_late:
            self._early.keep(self.number, written(delivery))
            self._conclusion.post(delivery, DONE, key)
            self._settler.flush()
        soft = head.soft_time_limit or soft
        if not self._solo:
            hard = head.time_limit or hard
        elif head.time_limit and head.task not in self._unlimited:
            self._unlimited.add(head.task)
            log.warning(
                "a message asks for a hard time limit, which the solo pool does not enforce; use --pool prefork",
                task_name=head.task,
                task_id=head.id,
                seconds=head.time_limit,
            )
        started = self.running_since = time.monotonic()
        self._ran = UNREAD
        self._current = (work, hard or 0.0, not acks_late)
        run = self._board_slot.begin(
            head.id,
            name,
            started,
            None if soft is None else started + soft,
            None if hard is None else started + hard,
            key[1],
        )
        return run, started, soft, hard

    def _finish(self, work: Work, run: int, outcome: Outcome, mine: bool) -> None:
        """The run is over: settle it, unless somebody else has."""
        delivery, head, task, key = work
        executor = self.executor
        try:
            os.get_inheritable(executor.waker)  # the cheapest question about a descriptor
        except OSError:
            if executor.waker >= 0:
                end_cut_off(head)
        succeeded = type(outcome) is Succeeded
        if not succeeded:
            outcome = self._reconsidered(outcome, run, head)
        if not mine:
            self._released.wait()  # for ever, where the process ends with the run
            return
        assert self._current is not None
        acked = self._current[2]
        # the short way for what most often happens, and as ``end`` would
        alone = (
            succeeded
            and self._ran is None
            and not acked
            and not head.reply_to
            and not self._conclusion.tells_success
        )
        # In the journal before it leaves the board, so that no other child finds it on neither.
        place = self._journal.begin(key[1], alone)
        self._board_slot.end(not succeeded)
        self.ended_at = now = time.monotonic()
        self.busy += now - self.running_since
        self.running_since = 0.0
        self.ended += 1
        executor.ended(delivery)
        if alone:
            self._settler.post(delivery, DONE, key, place)
            return
        # What was acked before it ran has its place since then.
        safe = partial(self._hold_end, delivery.queue) if acked else None
        try:
            self._conclusion.end(
                delivery,
                head,
                task,
                outcome,
                key,
                acked=acked,
                place=place,
                run=self._ran,
                safe=safe,
            )
        finally:
            if acked:
                self._early.drop(self.number)

    def _hold_end(self, queue: str, settlement: Settlement) -> None:
        """Keep what follows from a run that was acked before, until it is safe: if this process dies, the next one sees to it."""
        if follows(settlement):
            place = self._early.hold(self.number, written_end(queue, settlement))
            if place is not None:
                self._settler.hold(settlement, partial(self._early.release, place))
        self._early.drop(self.number)

    def _reconsidered(self, outcome: Outcome, run: int, head: Head) -> Outcome:
        """What an outcome that is no success comes to: an end that was asked for may be behind it."""
        executor = self.executor
        if isinstance(outcome, Failed | Retried) and starved(outcome.error):
            log.error("tasks have used up the file descriptors of this process; it is replaced")
            executor.exhausted = True
        if self.limits.revoked(run) and type(outcome) in (Failed, Retried):
            return TERMINATED
        if type(outcome) is Retried and executor.admission.revoked(head):
            return REVOKED  # now, and not when its next attempt is due
        return outcome

    def _call(self, work: Work, started: float) -> Outcome:
        """Decode the arguments and run the task's function."""
        underway = self._prepare(work, started)
        if type(underway) is not Underway:
            return underway
        task = work[2]
        context = self.executor.base.copy()
        try:
            value = context.run(self._enter, task, underway)
        except BaseException as error:  # noqa: BLE001  # SystemExit and KeyboardInterrupt of a task end that task only
            return context.run(outcome_of_error, error, task, underway)
        finally:
            if self.executor.copied:
                end_copy()
        return outcome_of(underway, value)

    def _enter(self, task: AnyTask, underway: Underway) -> object:
        """Run the function, as the task that ``underway`` tells of."""
        current.set(underway)
        value = task.run(*underway.args, **underway.kwargs)
        if task.is_coroutine and type(value) is CoroutineType and self._loop is not None:
            carried = self.limits.carry(value)
            try:
                value = self._loop.run(carried)
            finally:
                self.limits.carried = None
        return value

    def _prepare(self, work: Work, started: float) -> Underway | Failed:
        """Decode the arguments: what is to run, or why it cannot."""
        delivery, head, task, _ = work
        executor = self.executor
        content: tuple[Any, Any, Any] | None = None
        if executor.json:
            content = codec.read_plain(head, delivery.body, executor.sizes)
        if content is None:
            try:
                content = codec.read_body(
                    head,
                    delivery.properties,
                    delivery.body,
                    accept=executor.accept,
                    limits=executor.sizes,
                )
            except MessageError as error:
                return Failed(error, None, reason_of(error))
        args, kwargs, embed = content
        if embed:
            if not any(embed.values()):
                embed = {}  # a Celery client names what a task has none of
            else:
                foreign = foreign_chord(head, embed)
                if foreign is not None:
                    return Failed(Unsupported(foreign), None, "unsupported")
        wants_result = head.reply_to is not None and self._conclusion.wants_result(head, task)
        if wants_result and task.tracks_started(self._job.settings):
            self._conclusion.send_started(delivery, head)
        if head.headers and ERRBACK in head.headers and len(args) > 2:
            args = [
                request_of(args[0]),
                executor.rebuilt(args[1], args[2]),
                *args[2:],
            ]
        underway = Underway(
            delivery,
            head,
            args,
            kwargs,
            started,
            wants_result,
            executor.carrier,
            self._job.node,
        )
        if not embed and not head.replaced_task_nesting and head.stamped_headers is None:
            self._ran = None
            return underway
        after = continuation(head, embed)
        request = underway.made = msgspec.structs.replace(
            underway.request,
            callbacks=after.callbacks or None,
            errbacks=after.errbacks or None,
            chain=after.chain or None,
            chord=after.chord,
            replaced_task_nesting=head.replaced_task_nesting,
            stamped_headers=head.stamped_headers,
            stamps=head.stamps,
        )
        self._ran = Run(after, request) if after else None
        return underway

    def _broken(self, delivery: Delivery, error: BaseException) -> None:
        """Something that must not fail has failed: the message is rejected, or it would come again for ever."""
        log.error(
            "a message could not be settled and is rejected", queue=delivery.queue, exc_info=error
        )
        if self.running_since:
            if not self.limits.end():
                self._released.wait()
                return
            self._board_slot.end(True)
            self._early.drop(self.number)
            self.running_since = 0.0
            self.executor.ended(delivery)
        else:
            self.executor.acquit(delivery)
        self._conclusion.post(delivery, Settlement(Verdict.REJECT), None)

    # ------------------------------------------------------------ the I/O thread

    @property
    def current(self) -> Head | None:
        """The header of what runs here, or ran last. Any thread; a guess unless the run is the same afterwards."""
        return None if self._current is None else self._current[0][1]

    def take(self, run: int) -> bool:
        """Take a run: its settlement is the caller's. False when it does not go on (any more)."""
        self._released.clear()
        if self.limits.take(run):
            return True
        self._released.set()
        return False

    def timed_out(self) -> tuple[Delivery, Settlement, Key]:
        """The settlement of the task that is past its hard limit."""
        assert self._current is not None
        (_, head, _, _), limit, _ = self._current
        error = TimeLimitExceeded(
            f"Task {head.task}[{head.id}] was ended at its time limit of {limit:g} s."
        )
        return self._taken(Failed(error, None, "time limit", limit))

    def rejected(self) -> tuple[Delivery, Settlement, Key]:
        """The settlement of a task for which no other can be made."""
        assert self._current is not None
        (delivery, _, _, key), _, acked = self._current
        return delivery, Settlement(None if acked else Verdict.REJECT), key

    def terminated(self) -> tuple[Delivery, Settlement, Key]:
        """The settlement of the task that was revoked while it ran."""
        return self._taken(TERMINATED)

    def evict(self, run: int) -> None:
        """Take a run that was taken, and is in the journal, off the board; and have its code end, if that can be."""
        self._board_slot.end(True)
        self.running_since = 0.0
        self.ended += 1
        assert self._current is not None
        self.executor.ended(self._current[0][0])
        self.limits.evict(run)
        self._released.set()

    def left(self, run: int) -> bool:
        """Whether the code of a run that was evicted has ended."""
        return self.limits.left(run)

    def _taken(self, outcome: Outcome) -> tuple[Delivery, Settlement, Key]:
        assert self._current is not None
        (delivery, head, task, key), _, acked = self._current
        self._early.drop(self.number)
        return (
            delivery,
            self._conclusion.settlement(delivery, head, task, outcome, acked, self._ran),
            key,
        )


def aborted(
    runners: Sequence[Runner], standing_of: Callable[[str], Standing | None], task_id: str
) -> bool:
    """Whether a task was asked to stop. Any thread.

    Args:
        runners: the slots of this child.
        standing_of: what is known of a task id.
        task_id: the task's.
    """
    standing = standing_of(task_id)
    if standing is None or not standing.aborted:
        return False
    for runner in runners:
        head = runner.current
        if head is not None and head.id == task_id and runner.running_since:
            standing = dead.of_this_life(standing, head.headers)
            break
    return standing is not None and standing.aborted > 0
