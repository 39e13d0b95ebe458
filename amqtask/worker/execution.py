"""From a delivery to its settlement: decode, resolve, run, decide. On the slot's thread; never raises.

The steps, in order, each of which may end the delivery:

1. read the header (the body is not touched);
2. it is looked up: revoked; and, when it was delivered before, finished in this node, still running in it, killed at its hard
   limit, or guilty of too many crashes, on whatever node;
3. the task is looked up and an expired one is refused;
4. one that is early goes to the delay ladder, and has not run;
5. the body is decoded and the task runs, within its limits;
6. the outcome becomes a settlement, which is handed to the I/O thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any, NoReturn

import msgspec

from amqtask.amqp.ports import Delivery
from amqtask.core import codec, dead, result, serialization
from amqtask.core.codec import Head
from amqtask.core.message import Properties, Publication
from amqtask.core.onward import FIRST_TIME, KOMBU_DELIVERY, senders_own
from amqtask.core.outcome import (
    Deferred,
    Failed,
    Ignored,
    Outcome,
    Rejected,
    Retried,
    Revoked,
    Settlement,
    Succeeded,
    Verdict,
)
from amqtask.core.retry import Again
from amqtask.core.settlement import DONE, decide, needs_letter
from amqtask.core.verdicts import Standing
from amqtask.errors import (
    AmqtaskError,
    DecodeError,
    Ignore,
    MessageError,
    NotRegistered,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    Unsupported,
    WorkerLostError,
)
from amqtask.log import get_logger
from amqtask.request import DeliveryInfo, Request, current
from amqtask.task import Task
from amqtask.worker.carry import Carrier
from amqtask.worker.coroutines import Interruptible
from amqtask.worker.job import Job
from amqtask.worker.journal import Ended, mark_of
from amqtask.worker.limits import MainThreadLimits
from amqtask.worker.prepared import ChildContext, ChildExit
from amqtask.worker.settle import Key, Settler

log = get_logger("amqtask.worker")

EARLY = 0.05  # seconds before its eta at which a task may start
MAX_CRASHES = 3  # for a queue that the topology does not name
EMPTY = Properties()
REVOKED = Revoked("revoked")
TERMINATED = Revoked("terminated")
AnyTask = Task[Any, Any]


class Executor:
    """Runs deliveries in one slot and posts their settlements.

    ``execute`` belongs to the slot's thread; ``timed_out``, ``terminated`` and ``running`` to the I/O thread.

    Args:
        job: what the node works on.
        context: the child's place in its node.
        settler: takes the settlements.
        limits: raises the soft limit and watches the hard one.
        stale: whether a delivery is the broker's again.
        hold: takes a redelivery whose task runs in this node already.
        waker: the descriptor without which nothing that ends here reaches the broker; -1 if it is not known.
    """

    def __init__(
        self,
        job: Job,
        context: ChildContext,
        settler: Settler,
        limits: MainThreadLimits,
        stale: Callable[[Delivery], bool],
        hold: Callable[[Delivery, Key], None],
        waker: int,
    ) -> None:
        settings = job.settings
        self.exhausted = False  # this child has reached its limit of tasks; slot's thread
        self._job = job
        self._context = context
        self._slot = context.record.slot(0)
        self._board = context.board
        self._settler = settler
        self._limits = limits
        self._stale = stale
        self._hold = hold
        self._waker = waker
        self._journal = context.board.journal.seat(context.index)
        # Slot's thread: the place in the journal of the execution that is about to be settled.
        self._place = -1
        # Held deliveries that are to run after all, by epoch and tag. The I/O thread adds, the slot's thread takes.
        self.released: set[tuple[int, int]] = set()
        self._tasks = job.app.tasks
        self._accept = serialization.accepted(settings.accept_content)
        self._sizes = codec.Limits(
            message_max_bytes=settings.message_max_bytes,
            headers_max_bytes=settings.headers_max_bytes,
            decompressed_max_bytes=settings.decompressed_max_bytes,
        )
        self._carrier = Carrier(job.app, self._accept, self._sizes)
        # Read by the I/O thread for the prefetch: tasks ended, seconds spent on them, start of the one that runs (or 0).
        self.ended = 0
        self.busy = 0.0
        self.running_since = 0.0
        self._runner: asyncio.Runner | None = None
        # Asked once: a line per task is for those who want one.
        self._tells_success = logging.getLogger("amqtask.worker").isEnabledFor(logging.DEBUG)
        # What runs now, its hard limit (or 0) and whether it is acked already; read by whoever took the run from the slot.
        self._current: tuple[Delivery, Head, AnyTask, float, bool] | None = None
        self.copied = False  # this process is a copy that a task made of its child

    # ------------------------------------------------------------ the slot's thread

    def execute(self, delivery: Delivery) -> None:
        """Run one delivery and post its settlement."""
        try:
            self._execute(delivery)
        except BaseException:  # whatever it is: thrown at the process, it would come again for ever
            log.exception("a message could not be settled and is rejected", queue=delivery.queue)
            if self.running_since:
                if not self._limits.end():
                    _wait_for_the_end()
                self._slot.end(True)
                self.running_since = 0.0
            self._post(delivery, Settlement(Verdict.REJECT), None)

    def _execute(self, delivery: Delivery) -> None:
        if self._stale(delivery):
            return
        try:
            head = codec.read_header(
                delivery.properties, delivery.body, accept=self._accept, limits=self._sizes
            )
        except MessageError as error:
            self._refuse(delivery, error)
            return
        key = self._key(delivery, head)
        board = self._board
        if board.knows or delivery.redelivered:
            standing = board.standing(head.id)
            if (
                standing is not None or delivery.redelivered or board.revokes_by_header
            ) and self._known(delivery, head, key, standing):
                return
        task = self._tasks.get(head.task)
        if task is None:
            self._end(delivery, head, None, self._unknown(head), key)
            return
        if head.expires is not None and self._expired(head):
            self._end(
                delivery, head, task, Revoked(f"expired at {head.expires}", expired=True), key
            )
            return
        if head.eta is not None:
            wait = (head.eta_at() or 0.0) - time.time()
            if wait > EARLY:
                # No key: it has not run, and comes back from the ladder as the same execution.
                self._end(delivery, head, task, Deferred(wait), None)
                return
        self._run(delivery, head, task, key)

    def _run(self, delivery: Delivery, head: Head, task: AnyTask, key: Key) -> None:
        options = task.options
        settings = self._job.settings
        acks_late = settings.task_acks_late if options.acks_late is None else options.acks_late
        if not acks_late:
            self._post(delivery, DONE, key)
            self._settler.flush()
        soft = head.soft_time_limit or options.soft_time_limit or settings.task_soft_time_limit
        hard = head.time_limit or options.time_limit or settings.task_time_limit
        if self._context.solo:
            hard = None  # the process that would be ended is the whole node
        started = self.running_since = time.monotonic()
        slot = self._slot
        self._current = (delivery, head, task, hard or 0.0, not acks_late)
        run = slot.begin(
            head.id,
            head.task,
            started,
            None if soft is None else started + soft,
            None if hard is None else started + hard,
            key[1],
        )
        outcome: Outcome
        try:
            self._limits.begin(run, soft, hard)
            outcome = self._call(delivery, head, task, started)
            mine = self._limits.end()
        except (
            SoftTimeLimitExceeded
        ) as error:  # it came between the task's last instruction and ours
            mine = self._limits.end()
            outcome = Failed(error, None, "soft time limit", time.monotonic() - started)
        try:
            os.get_inheritable(self._waker)  # the cheapest question about a descriptor
        except OSError:
            if self._waker >= 0:
                _end_cut_off(head)
        if type(outcome) is not Succeeded:
            if isinstance(outcome, Failed | Retried) and starved(outcome.error):
                log.error("tasks have used up the file descriptors of this process; it is replaced")
                self.exhausted = True
            if self._limits.revoked(run) and type(outcome) in (Failed, Retried):
                outcome = TERMINATED
            elif type(outcome) is Retried and self._revoked(head):
                outcome = REVOKED  # now, and not when its next attempt is due
        if not mine:
            _wait_for_the_end()
        # In the journal before it leaves the board, so that no other child finds it on neither.
        self._place = place = self._journal.begin(key[1])
        slot.end(type(outcome) is not Succeeded)
        self.running_since = 0.0
        self.busy += time.monotonic() - started
        self.ended += 1
        if self.ended == self._job.max_tasks or (
            self._job.max_memory is not None and self._too_large()
        ):
            self.exhausted = True
        if (
            type(outcome) is Succeeded
            and acks_late
            and not head.reply_to
            and not self._tells_success
        ):
            # the short way for what most often happens, and as ``_end`` would
            self._place = -1
            self._journal.safe(place, key[1])
            self._settler.post(delivery, DONE, key, place)
            return
        self._end(delivery, head, task, outcome, key, acked=not acks_late)

    def _call(self, delivery: Delivery, head: Head, task: AnyTask, started: float) -> Outcome:
        """Decode the arguments and run the task's function."""
        try:
            args, kwargs, embed = codec.read_body(
                head, delivery.properties, delivery.body, accept=self._accept, limits=self._sizes
            )
        except MessageError as error:
            return Failed(error, None, _reason(error))
        if embed and any(embed.values()):
            return Failed(
                Unsupported(
                    f"Task {head.task} came with callbacks or a chain, which this version of amqtask cannot continue."
                ),
                None,
                "unsupported",
            )
        if task.tracks_started(self._job.settings) and self._wants_result(head, task):
            self._send_started(delivery, head)
        request = self._request(delivery, head, args, kwargs, started)
        token = current.set(request)
        try:
            value = task.run(*args, **kwargs)
            if task.is_coroutine and inspect.iscoroutine(value):
                value = self._run_coroutine(value)
        except BaseException as error:  # noqa: BLE001  # SystemExit and KeyboardInterrupt of a task end that task only
            return self._raised(error, task, request, time.monotonic() - started)
        finally:
            if self.copied:
                _end_copy()
            current.reset(token)
        if request.asked.retry is not None:
            return _retried(request.asked.retry, None, time.monotonic() - started)
        return Succeeded(value, time.monotonic() - started)

    def close(self) -> None:
        """Close the event loop that coroutine tasks shared, and what they opened on it. The slot's thread."""
        if self._runner is not None:
            self._runner.run(self._job.app.aclose())
            self._runner.close()
            self._runner = None

    def _run_coroutine(self, coroutine: Any) -> object:
        if self._runner is None:
            self._runner = asyncio.Runner()
        carried = Interruptible(coroutine)
        self._limits.divert = carried.interrupt
        try:
            # In a context of its own: the runner's is that of the first task it ran, whose request it would show.
            return self._runner.run(carried.run(), context=copy_context())
        except SoftTimeLimitExceeded:
            # What the coroutine had started on the loop would go on beside the next task.
            runner, self._runner = self._runner, None
            runner.close()
            raise
        finally:
            self._limits.divert = None

    def _raised(
        self, error: BaseException, task: AnyTask, request: Request, runtime: float
    ) -> Outcome:
        """The outcome of a run that raised."""
        follows = task.follows(request, error)
        if isinstance(follows, Retry):
            return _retried(follows, error, runtime)
        if isinstance(follows, Ignore):
            return Ignored()
        if isinstance(follows, Reject):
            return Rejected(str(follows.reason), follows.requeue)
        return self._failed(follows, task, request.args, request.kwargs, runtime)

    def _failed(
        self, error: BaseException, task: AnyTask, args: Any, kwargs: Any, runtime: float
    ) -> Failed:
        reason = "failure"
        if isinstance(error, SoftTimeLimitExceeded):
            reason = "soft time limit"
        elif isinstance(error, TypeError) and not task.accepts(args, kwargs):
            reason = "wrong arguments"
        return Failed(error, result.format_traceback(error), reason, runtime)

    def _known(self, delivery: Delivery, head: Head, key: Key, standing: Standing | None) -> bool:
        """Settle a delivery that must not run. True when it is settled."""
        if delivery.redelivered:
            if (delivery.epoch, delivery.tag) in self.released:
                self.released.discard((delivery.epoch, delivery.tag))
            elif self._answered(delivery, head, key):
                return True
        standing = dead.of_this_life(standing, head.headers)
        outcome: Outcome
        if self._revoked(head):
            outcome = REVOKED
        elif standing is None or not delivery.redelivered:
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
        self._end(delivery, head, self._tasks.get(head.task), outcome, key)
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
            self._post(delivery, Settlement(verdict, self._settler.remembered(key)), key)
            return True
        self._hold(delivery, key)
        return True

    def _key(self, delivery: Delivery, head: Head) -> Key:
        # The queue, because each queue a message was routed to runs its own copy. The timestamp, because what is taken from
        # the dead letters and sent again carries the time of that: it is to run though its first life has ended.
        return head.id, mark_of(
            (head.id, head.retries, head.task, delivery.queue, delivery.properties.timestamp)
        )

    def _revoked(self, head: Head) -> bool:
        """Whether a message was revoked, by its id, a header or one of Celery's stamps. Any thread."""
        board = self._board
        standing = dead.of_this_life(board.standing(head.id), head.headers)
        if standing is not None and standing.revoked:
            return True
        return board.revoked_by_header(head.headers) or (
            head.stamps is not None and board.revoked_by_header(head.stamps)
        )

    def _unknown(self, head: Head) -> Failed:
        return Failed(
            NotRegistered(
                f"Task {head.task} is not registered with app {self._job.app.name}; this node knows "
                f"{len(self._tasks)} tasks."
            ),
            None,
            "unknown task",
        )

    def _expired(self, head: Head) -> bool:
        return (head.expires_at() or 0.0) < time.time()

    def _too_large(self) -> bool:
        limit = self._job.max_memory
        return limit is not None and resident_kib() > limit

    def _request(
        self, delivery: Delivery, head: Head, args: Any, kwargs: Any, started: float
    ) -> Request:
        headers: Mapping[str, object] = head.headers
        first_time: object = None
        if headers or delivery.exchange == KOMBU_DELIVERY:
            exchange, routing_key = self._carrier.came_by(delivery)
            first_time = headers.get(FIRST_TIME)
            headers = senders_own(headers)
        else:  # nothing says that it went another way first
            exchange, routing_key = delivery.exchange, delivery.routing_key
        return Request(
            id=head.id,
            task=head.task,
            root_id=head.root_id,
            parent_id=head.parent_id,
            group=head.group,
            group_index=head.group_index,
            retries=head.retries,
            eta=head.eta,
            expires=head.expires,
            timelimit=(head.time_limit, head.soft_time_limit),
            reply_to=head.reply_to,
            correlation_id=head.correlation_id,
            delivery_info=DeliveryInfo(
                exchange=exchange,
                routing_key=routing_key,
                priority=head.priority,
                redelivered=delivery.redelivered,
                queue=delivery.queue,
            ),
            hostname=self._job.node,
            origin=head.origin,
            args=args,
            kwargs=kwargs,
            headers=headers,
            shadow=head.shadow,
            called_directly=False,
            ignore_result=not self._wants_result(head, self._tasks.get(head.task)),
            first_time=first_time if isinstance(first_time, str) else None,
            started=started,
        )

    # ------------------------------------------------------------ outcome → settlement

    def _end(
        self,
        delivery: Delivery,
        head: Head,
        task: AnyTask | None,
        outcome: Outcome,
        key: Key | None,
        *,
        acked: bool = False,
    ) -> None:
        self._post(delivery, self._settlement(delivery, head, task, outcome, acked), key)

    def _settlement(
        self, delivery: Delivery, head: Head, task: AnyTask | None, outcome: Outcome, acked: bool
    ) -> Settlement:
        reply, outcome = self._result(head, task, outcome)
        if type(outcome) is Succeeded:
            if self._tells_success:
                log.debug(
                    "task succeeded",
                    task_name=head.task,
                    task_id=head.id,
                    runtime=round(outcome.runtime, 6),
                )
            settlement = decide(outcome, reply, None)
        else:
            onward = None
            if type(outcome) is Deferred:
                onward = self._carrier.deferred(delivery, outcome.delay)
            elif type(outcome) is Retried:
                try:
                    onward = self._carrier.next_attempt(delivery, head, outcome.again, time.time())
                except (AmqtaskError, ValueError, OverflowError) as error:
                    # What the task wants to be different cannot be sent, or its moment lies outside the calendar.
                    failed = Failed(error, outcome.traceback, "retry", outcome.runtime)
                    return self._settlement(delivery, head, task, failed, acked)
            self._report(head, task, outcome)
            letter = (
                self._letter(delivery, outcome, head.retries + 1, head.id)
                if needs_letter(outcome)
                else None
            )
            settlement = decide(outcome, reply, letter, onward)
        if acked:
            return msgspec.structs.replace(settlement, verdict=None)
        return settlement

    def _post(self, delivery: Delivery, settlement: Settlement, key: Key | None) -> None:
        place, self._place = self._place, -1
        if key is not None and place < 0:
            place = self._journal.begin(key[1])
        if settlement is DONE and key is not None:
            self._journal.safe(place, key[1])
        self._settler.post(delivery, settlement, key, place)

    def _wants_result(self, head: Head, task: AnyTask | None) -> bool:
        if not head.reply_to or not _good_address(head.reply_to):
            return False
        if head.ignore_result is not None:
            return not head.ignore_result
        if task is not None and task.options.ignore_result is not None:
            return not task.options.ignore_result
        return not self._job.settings.task_ignore_result

    def _result(
        self, head: Head, task: AnyTask | None, outcome: Outcome
    ) -> tuple[Publication | None, Outcome]:
        """The result to send, and the outcome, which becomes a failure when the value cannot be written."""
        if type(outcome) in (Ignored, Deferred) or not self._wants_result(head, task):
            return None, outcome
        if type(outcome) is Rejected and outcome.requeue:
            return None, outcome
        try:
            return self._reply(head, self._record(head, outcome)), outcome
        except BaseException as error:  # noqa: BLE001  # the value's own __json__ or __reduce__ may raise anything
            failed = Failed(error, None, "result")
            return self._reply(head, self._record(head, failed)), failed

    def _record(self, head: Head, outcome: Outcome) -> result.Record:
        state, value, traceback = _state(outcome, self._job.settings.result_serializer)
        return result.Record(
            task_id=head.id,
            status=state,
            result=value,
            traceback=traceback,
            date_done=datetime.now(UTC).isoformat(),
            group_id=head.group,
            parent_id=head.parent_id,
        )

    def _reply(self, head: Head, record: result.Record) -> Publication:
        assert head.reply_to is not None
        return Publication(
            "",
            head.reply_to,
            result.encode_result(
                record,
                self._job.settings.result_serializer,
                correlation_id=head.correlation_id,
                limits=self._sizes,
            ),
        )

    def _send_started(self, delivery: Delivery, head: Head) -> None:
        record = result.Record(
            task_id=head.id, status="STARTED", result={"hostname": self._job.node}
        )
        self._settler.post(delivery, Settlement(None, (self._reply(head, record),)), None)
        self._settler.flush()

    def _letter(
        self, delivery: Delivery, outcome: Outcome, attempts: int, task_id: str | None = None
    ) -> Publication | None:
        target = self._job.dead_letters.get(delivery.queue)
        if target is None:
            return None
        exception, message, traceback, reason = _cause(outcome)
        headers = delivery.properties.headers or {}
        first_time = headers.get(FIRST_TIME)
        standing = None if task_id is None else self._board.standing(task_id) or Standing()
        return dead.letter(
            delivery.body,
            delivery.properties,
            dead.Death(
                reason=reason,
                exception=exception,
                message=message,
                traceback=traceback,
                queue=delivery.queue,
                node=self._job.node,
                attempts=attempts,
                time=datetime.now(UTC).isoformat(),
                first_time=first_time if isinstance(first_time, str) else None,
                standing=standing,
            ),
            (
                target.exchange,
                self._carrier.came_by(delivery)[1]
                if target.routing_key is None
                else target.routing_key,
            ),
        )

    def _refuse(self, delivery: Delivery, error: MessageError) -> None:
        """Settle a message whose header cannot be read: dead letter with the reason, failure to whoever asked."""
        log.error("not a task message", queue=delivery.queue, reason=str(error))
        outcome = Failed(error, None, _reason(error))
        try:
            known = codec.identify(delivery.properties)
        except DecodeError:
            # Even its properties are damaged, so it cannot be published again: the broker dead-letters it.
            self._post(delivery, Settlement(Verdict.REJECT), None)
            return
        reply = None
        if known.reply_to and known.correlation_id and _good_address(known.reply_to):
            record = result.Record(
                task_id=known.id or known.correlation_id,
                status="FAILURE",
                result=result.exception_to_wire(error),
                date_done=datetime.now(UTC).isoformat(),
            )
            reply = Publication(
                "",
                known.reply_to,
                result.encode_result(record, correlation_id=known.correlation_id),
            )
        self._post(delivery, decide(outcome, reply, self._letter(delivery, outcome, 1)), None)

    def _report(self, head: Head, task: AnyTask | None, outcome: Outcome) -> None:
        """One line for everything but success."""
        if isinstance(outcome, Ignored | Deferred):
            return
        exception, message, traceback, reason = _cause(outcome)
        if type(outcome) is Retried:
            log.info(
                "retry scheduled",
                task_name=head.task,
                task_id=head.id,
                retries=head.retries + 1,
                delay=round(max(0.0, outcome.again.due - time.time()), 3),
                exception=exception,
                text=message,
            )
            return
        expected = (
            type(outcome) is Failed
            and task is not None
            and isinstance(outcome.error, task.options.throws)
        )
        if expected:
            traceback = None
        level = log.info if expected or isinstance(outcome, Revoked | Rejected) else log.error
        level(
            "task did not succeed",
            task_name=head.task,
            task_id=head.id,
            outcome=reason,
            exception=exception,
            text=message,
            **({"retries": head.retries} if head.retries else {}),
            **({"traceback": traceback} if traceback else {}),
        )

    # ------------------------------------------------------------ the I/O thread

    def timed_out(self) -> tuple[Delivery, Settlement, Key]:
        """The settlement of the task that is past its hard limit. Called once its run has been taken from the slot."""
        assert self._current is not None
        _, head, _, limit, _ = self._current
        error = TimeLimitExceeded(
            f"Task {head.task}[{head.id}] was ended at its time limit of {limit:g} s."
        )
        return self._taken(Failed(error, None, "time limit", limit))

    def revoked(self) -> bool:
        """Whether the task that runs now was revoked, by its id or by a header. A guess unless the run is the same afterwards."""
        if self._current is None:
            return False
        return self._revoked(self._current[1])

    def is_aborted(self, task_id: str) -> bool:
        """Whether a task was asked to stop. Any thread."""
        standing = self._board.standing(task_id)
        if standing is None or not standing.aborted:
            return False
        current = self._current
        if current is not None and current[1].id == task_id:
            standing = dead.of_this_life(standing, current[1].headers)
        return standing is not None and standing.aborted > 0

    def terminated(self) -> tuple[Delivery, Settlement, Key]:
        """The settlement of the task that was revoked while it ran. Called once its run has been taken from the slot."""
        return self._taken(TERMINATED)

    def _taken(self, outcome: Outcome) -> tuple[Delivery, Settlement, Key]:
        assert self._current is not None
        delivery, head, task, _, acked = self._current
        settlement = self._settlement(delivery, head, task, outcome, acked)
        return delivery, settlement, self._key(delivery, head)


def _retried(retry: Retry, error: BaseException | None, runtime: float) -> Retried:
    """The outcome of a run that is to be tried again.

    Args:
        retry: asked for by the task or its options.
        error: what the run raised, if it did.
        runtime: seconds.
    """
    assert isinstance(retry.sig, Again)
    cause = retry.exc or (retry if error is None else error)
    traceback = None if error is None else result.format_traceback(error)
    return Retried(cause, traceback, retry.sig, runtime)


def _state(outcome: Outcome, serializer: str) -> tuple[str, object, str | None]:
    """State, result and traceback of a result record."""
    match outcome:
        case Succeeded():
            return "SUCCESS", outcome.value, None
        case Failed():
            return (
                "FAILURE",
                result.exception_to_wire(outcome.error, serializer),
                outcome.traceback,
            )
        case Revoked():
            return (
                "REVOKED",
                result.exception_to_wire(TaskRevokedError(outcome.reason), serializer),
                None,
            )
        case Rejected():
            return "FAILURE", result.exception_to_wire(Reject(outcome.reason), serializer), None
        case Retried():
            return "RETRY", result.exception_to_wire(outcome.error, serializer), outcome.traceback
        case Ignored() | Deferred():
            return "IGNORED", None, None


def _cause(outcome: Outcome) -> tuple[str, str, str | None, str]:
    """Exception type, its text, traceback and reason of an outcome that is no success."""
    match outcome:
        case Failed() | Retried():
            error = outcome.error
            reason = outcome.reason if isinstance(outcome, Failed) else "retry"
            return (
                type(error).__qualname__,
                result.safe_text(error),
                outcome.traceback,
                reason,
            )
        case Revoked():
            reason = "expired" if outcome.expired else "revoked"
            return "TaskRevokedError", outcome.reason, None, reason
        case Rejected():
            return "Reject", outcome.reason, None, "rejected"
        case _:
            return "", "", None, ""


def _reason(error: MessageError) -> str:
    return "refused content" if type(error).__name__ == "ContentRefused" else "undecodable"


def _good_address(address: str) -> bool:
    """Whether a reply address may be published to.

    ``amq.`` names are the broker's own; a made-up ``amq.rabbitmq.reply-to.…`` closes the publisher's connection on
    RabbitMQ 3.10, so a hostile sender could take the node's results down with it.
    """
    return not address.startswith("amq.") and len(address.encode()) <= 255


def _wait_for_the_end() -> None:
    """The I/O thread has settled this task at its hard limit and is about to end the process."""
    while True:
        time.sleep(3600)


def _end_copy() -> None:
    """End a process that a task forked off and that came back to us: the message is the original's to settle."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(0)


def _end_cut_off(head: Head) -> NoReturn:
    """End a process whose descriptors a task has closed, while the board says that it runs: the crash is charged to it alone."""
    log.critical(
        "a task has closed the file descriptors of this process, which ends",
        task_name=head.task,
        task_id=head.id,
    )
    os._exit(int(ChildExit.SOFTWARE))


def starved(error: BaseException) -> bool:
    """Whether an error says that there are no more file descriptors, which every next task in this process would hear, too."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def resident_kib() -> int:
    """Resident memory of this process in KiB; 0 where /proc does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  # once per task: a Path object costs more than the read
            pages = int(file.read().split()[1])
    except OSError:
        return 0
    return pages * 4
