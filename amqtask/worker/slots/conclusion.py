"""From the outcome of a delivery to its settlement: result, dead letter, next attempt, and the line in the log. Any slot's thread.

What follows is decided by ``core.settlement``; here its publications are written, and the whole is handed to the I/O thread.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from amqtask.amqp.ports import Delivery
from amqtask.core import codec, dead, result, serialization
from amqtask.core.codec import Head
from amqtask.core.message import Publication
from amqtask.core.onward import FIRST_TIME
from amqtask.core.outcome import (
    Deferred,
    Failed,
    Ignored,
    Onward,
    Outcome,
    Rejected,
    Replaced,
    Retried,
    Revoked,
    Sequel,
    Settlement,
    Succeeded,
    Verdict,
    ignored,
)
from amqtask.core.repeats import may_be_repeat, repeat, repeated
from amqtask.core.settlement import DONE, decide, needs_letter
from amqtask.core.verdicts import Standing
from amqtask.core.workflow import leaf_of
from amqtask.errors import AmqtaskError, DecodeError, MessageError, Reject, TaskRevokedError
from amqtask.log import get_logger
from amqtask.task import Task
from amqtask.worker.job import Job
from amqtask.worker.memory.board import Board
from amqtask.worker.memory.journal import SeatJournal
from amqtask.worker.settling.followups import Key
from amqtask.worker.settling.settle import Settler
from amqtask.worker.slots.carry import Carrier
from amqtask.worker.slots.successors import Run, Successors, good_address

log = get_logger("amqtask.worker")

AnyTask = Task[Any, Any]


class Unread(enum.Enum):
    """Nobody has read a message's body yet, so what comes after its task is not known."""

    UNREAD = "unread"


UNREAD: Final = Unread.UNREAD

_DEADLY = frozenset({"crashes", "time limit"})  # reasons for which a process has died, or was stuck


class Conclusion:
    """Makes settlements of outcomes and posts them. One for all slots of a child; any thread.

    Args:
        job: what the node works on.
        board: tells what a dead letter shall say of its task.
        journal: this child's ring of ended executions.
        settler: takes the settlements.
        carrier: writes what a message is carried on with.
        limits: sizes that a message may have.
        successors: says what follows in workflows.
    """

    def __init__(
        self,
        job: Job,
        board: Board,
        journal: SeatJournal,
        settler: Settler,
        carrier: Carrier,
        limits: codec.Limits,
        successors: Successors,
    ) -> None:
        self._job = job
        self._board = board
        self._journal = journal
        self._settler = settler
        self._carrier = carrier
        self._sizes = limits
        self._successors = successors
        self._extended = job.settings.result_extended
        self._accept = serialization.accepted(job.settings.accept_content)
        # Asked once: a line per task is for those who want one.
        self.tells_success = logging.getLogger("amqtask.worker").isEnabledFor(logging.DEBUG)

    def end(
        self,
        delivery: Delivery,
        head: Head,
        task: AnyTask | None,
        outcome: Outcome,
        key: Key | None,
        *,
        acked: bool = False,
        place: int = -1,
        run: Run | Unread | None = UNREAD,
        safe: Callable[[Settlement], None] | None = None,
    ) -> None:
        """Settle a delivery by its outcome.

        Args:
            delivery: the message.
            head: its header.
            task: ``None`` when nobody knows it.
            outcome: what became of it.
            key: the execution; ``None`` when none took place.
            acked: it was acked before it ran.
            place: the execution's in the journal, when it has one already.
            run: what comes after the task, as far as it is known: ``None`` when nothing does.
            safe: given what follows before it is handed over.
        """
        settlement = self.settlement(delivery, head, task, outcome, acked, run)
        if safe is not None:
            safe(settlement)
        self.post(delivery, settlement, key, place)

    def settlement(
        self,
        delivery: Delivery,
        head: Head,
        task: AnyTask | None,
        outcome: Outcome,
        acked: bool,
        run: Run | Unread | None = UNREAD,
    ) -> Settlement:
        """What has to follow from an outcome; see ``end``."""
        sequel: Sequel | None = None
        children = outcome.children if type(outcome) is Succeeded else ()
        if run is not None or type(outcome) is Replaced:
            outcome, sequel, children, run = self._followed(delivery, head, outcome, run)
        told = outcome
        reply, outcome = self._result(delivery, head, task, told, children)
        if outcome is not told and run is not None:
            outcome, sequel, _, run = self._followed(delivery, head, outcome, run)
        repeats = delivery.redelivered or may_be_repeat(head.headers)
        if repeats and sequel is not None:
            sequel = repeated(sequel)
        if type(outcome) is Succeeded:
            if self.tells_success:
                log.debug(
                    "task succeeded",
                    task_name=head.task,
                    task_id=head.id,
                    runtime=round(outcome.runtime, 6),
                )
            settlement = decide(outcome, reply, None, sequel=sequel)
        else:
            onward = None
            if type(outcome) is Deferred:
                onward = self._carrier.deferred(delivery, outcome.delay)
            elif type(outcome) is Retried:
                try:
                    onward = self._carrier.next_attempt(delivery, head, outcome.again, time.time())
                    if repeats:
                        onward = Onward(repeat(onward.publication), onward.queue)
                except (AmqtaskError, ValueError, OverflowError) as error:
                    # What the task wants to be different cannot be sent, or its moment lies outside the calendar.
                    failed = Failed(error, outcome.traceback, "retry", outcome.runtime)
                    return self.settlement(delivery, head, task, failed, acked, run)
            self._report(head, task, outcome)
            letter = (
                self._letter(delivery, outcome, head.retries + 1, head.id)
                if needs_letter(outcome)
                else None
            )
            settlement = decide(outcome, reply, letter, onward, sequel)
        if acked:
            return msgspec.structs.replace(settlement, verdict=None)
        return settlement

    def _followed(
        self, delivery: Delivery, head: Head, outcome: Outcome, run: Run | Unread | None
    ) -> tuple[Outcome, Sequel | None, Sequence[object], Run | None]:
        """What follows in the workflow, and the outcome, which becomes a failure when what should follow cannot be sent."""
        if type(outcome) is Deferred or (type(outcome) is Rejected and outcome.requeue):
            return outcome, None, (), None
        if run is UNREAD:
            deadly = type(outcome) is Failed and outcome.reason in _DEADLY
            run = self._successors.read(delivery, head, deadly=deadly)
        try:
            if type(outcome) is Replaced:
                made = self._successors.replaced(head, run, outcome.replacement)
                return outcome, made, (), run
            if run is None:
                return outcome, None, (), None
            if type(outcome) is Succeeded:
                made, children = self._successors.succeeded(run, outcome.value)
                return outcome, made or None, [*outcome.children, *children], run
            if type(outcome) is Retried:
                return outcome, self._successors.added(run) or None, (), run
        except Exception as error:  # noqa: BLE001  # values' own __json__ and __reduce__ run here
            outcome = Failed(error, None, "successors")
        if run is None:
            return outcome, None, (), None
        made = self._successors.failed(run, outcome, self._job.settings.result_serializer)
        return outcome, made or None, (), run

    def post(
        self, delivery: Delivery, settlement: Settlement, key: Key | None, place: int = -1
    ) -> None:
        """Hand a settlement over, with the execution in the journal."""
        if key is not None and place < 0:
            place = self._journal.begin(key[1])
        if settlement is DONE and key is not None:
            self._journal.safe(place, key[1])
        self._settler.post(delivery, settlement, key, place)

    def wants_result(self, head: Head, task: AnyTask | None) -> bool:
        """Whether somebody waits for the task's result, at an address that may be published to."""
        if not head.reply_to or not good_address(head.reply_to):
            return False
        if head.ignore_result is not None:
            return not head.ignore_result
        if task is not None and task.options.ignore_result is not None:
            return not task.options.ignore_result
        return not self._job.settings.task_ignore_result

    def _result(
        self,
        delivery: Delivery,
        head: Head,
        task: AnyTask | None,
        outcome: Outcome,
        children: Sequence[object] = (),
    ) -> tuple[Publication | None, Outcome]:
        """The result to send, and the outcome, which becomes a failure when the value cannot be written."""
        if type(outcome) in (Replaced, Deferred) or not self.wants_result(head, task):
            return None, outcome
        if type(outcome) is Ignored and head.group is None:
            return (
                None,
                outcome,
            )  # a member of a group is told: whoever waits for all would wait for ever
        if type(outcome) is Rejected and outcome.requeue:
            return None, outcome
        try:
            record = self._record(head, outcome, children)
            if self._extended:
                return self._extended_reply(delivery, head, record, outcome), outcome
            return self._reply(head, record), outcome
        except BaseException as error:  # noqa: BLE001  # the value's own __json__ or __reduce__ may raise anything
            failed = Failed(error, None, "result")
            return self._reply(head, self._record(head, failed)), failed

    def _record(
        self, head: Head, outcome: Outcome, children: Sequence[object] = ()
    ) -> result.Record:
        state, value, traceback = _state(head, outcome, self._job.settings.result_serializer)
        return result.Record(
            task_id=head.id,
            status=state,
            result=value,
            traceback=traceback,
            children=[result.trimmed(child) for child in children],
            date_done=datetime.now(UTC).isoformat(),
            group_id=head.group,
            parent_id=head.parent_id,
        )

    def _extended_reply(
        self, delivery: Delivery, head: Head, record: result.Record, outcome: Outcome
    ) -> Publication:
        """A reply with what ``result_extended`` adds; without the arguments where they cannot be read again, or written."""
        told = msgspec.structs.replace(
            record,
            name=head.task,
            worker=self._job.node,
            retries=head.retries,
            queue=delivery.queue,
        )
        if type(outcome) is not Failed or outcome.reason not in _DEADLY:
            try:
                args, kwargs, _ = codec.read_body(
                    head,
                    delivery.properties,
                    delivery.body,
                    accept=self._accept,
                    limits=self._sizes,
                )
                return self._reply(head, msgspec.structs.replace(told, args=args, kwargs=kwargs))
            except MessageError:
                pass  # undecodable, of another serializer's types, or too large together with the result
        return self._reply(head, told)

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

    def send_started(self, delivery: Delivery, head: Head) -> None:
        """Tell whoever waits for the result that the task runs."""
        record = result.Record(
            task_id=head.id,
            status="STARTED",
            result={"hostname": self._job.node},
            worker=self._job.node,
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

    def refuse(self, delivery: Delivery, error: MessageError) -> None:
        """Settle a message whose header cannot be read: dead letter with the reason, failure to whoever asked."""
        log.error("not a task message", queue=delivery.queue, reason=str(error))
        outcome = Failed(error, None, reason_of(error))
        try:
            known = codec.identify(delivery.properties)
        except DecodeError:
            # Even its properties are damaged, so it cannot be published again: the broker dead-letters it.
            self.post(delivery, Settlement(Verdict.REJECT), None)
            return
        reply, sequel = self._unread(known, delivery, error)
        letter = self._letter(delivery, outcome, 1)
        self.post(delivery, decide(outcome, reply, letter, sequel=sequel), None)

    def refuse_dropped(self, delivery: Delivery, error: MessageError) -> None:
        """Settle a message that the broker dropped, and whose header cannot be read: a failure to whoever asked, if it was a task."""
        try:
            known = codec.identify(delivery.properties)
        except DecodeError:
            known = codec.Identity(None, None, None, None)
        log.warning("dropped by the broker, and cannot be read", reason=str(error))
        if known.task is None:
            # Whatever it was and whoever it was for, a reply of ours is not what they know.
            self.post(delivery, Settlement(Verdict.ACK), None)
            return
        reply, sequel = self._unread(known, delivery, error)
        results = () if reply is None else (reply,)
        self.post(delivery, Settlement(Verdict.ACK, results, sequel=sequel), None)

    def _unread(
        self, known: codec.Identity, delivery: Delivery, error: MessageError
    ) -> tuple[Publication | None, Sequel | None]:
        """What is told of a message that cannot be read: to whoever asked, and to its chord."""
        reply = None
        if known.reply_to and known.correlation_id and good_address(known.reply_to):
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
        headers = delivery.properties.headers or {}
        group, index = leaf_of(headers) or (headers.get("group"), headers.get("group_index"))
        sequel = self._successors.missed(
            group,
            index,
            known.id or known.correlation_id or "unknown",
            error,
        )
        return reply, sequel or None

    def _report(self, head: Head, task: AnyTask | None, outcome: Outcome) -> None:
        """One line for everything but success."""
        if isinstance(outcome, Ignored | Replaced | Deferred):
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


def _state(head: Head, outcome: Outcome, serializer: str) -> tuple[str, object, str | None]:
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
        case Ignored():
            return (
                "FAILURE",
                result.exception_to_wire(ignored(head.task, head.id), serializer),
                None,
            )
        case Replaced() | Deferred():
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


def reason_of(error: MessageError) -> str:
    """Why a message could not be read, as its dead letter says it."""
    return "refused content" if type(error).__name__ == "ContentRefused" else "undecodable"
