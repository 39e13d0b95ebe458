"""From a task's end to what has to be published for its workflow: the shell around ``canvas.success``, ``failure`` and ``chord_end``. Any thread.

Nothing is sent here: a ``Sequel`` is handed to the I/O thread with the task's settlement, or to the drainer of a barrier.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from amqtask.amqp.ports import Delivery
from amqtask.app import App
from amqtask.builtin import JOIN
from amqtask.call import Call
from amqtask.canvas.chord_end import after_failed_parts, after_parts
from amqtask.canvas.continuation import (
    Continuation,
    Ended,
    Follows,
    Gone,
    Start,
    Started,
    barrier_of,
    continuation,
    continuation_of_call,
)
from amqtask.canvas.eager import takes_details
from amqtask.canvas.failure import after_failure, bare_errback
from amqtask.canvas.launch import launch
from amqtask.canvas.success import added, after_replacement, after_success
from amqtask.composing import inherited_priority
from amqtask.core import codec, result, serialization
from amqtask.core.barrier import (
    Broken,
    Complete,
    Deadline,
    Ending,
    more_message,
    part_message,
    plan_message,
)
from amqtask.core.codec import Head
from amqtask.core.message import Publication
from amqtask.core.outcome import (
    Failed,
    Ignored,
    Look,
    Outcome,
    PartSent,
    Rejected,
    Revoked,
    Send,
    Sequel,
    ignored,
)
from amqtask.core.result import FAILURE, REVOKED, Record, encode_result, exception_to_wire
from amqtask.core.workflow import Barrier, Part, Sig
from amqtask.errors import (
    ChordError,
    ConfigurationError,
    EncodeError,
    MessageError,
    PayloadTooLarge,
    Reject,
    TaskRevokedError,
)
from amqtask.log import get_logger
from amqtask.request import Asked, Request
from amqtask.settings import Settings
from amqtask.topology.dropped import LATE

log = get_logger("amqtask.worker")

_NOTHING = Sequel()


class Run(msgspec.Struct, frozen=True):
    """A run whose task is part of a workflow: what comes after it, and what it knows of itself."""

    after: Continuation
    request: Request

    @property
    def asked(self) -> Asked:
        """What the task has asked for."""
        return self.request.asked


class Successors:
    """Says what follows from ends of tasks. One for all slots of a child; any thread; nothing is kept.

    Args:
        app: whose routes and tasks count.
        settings: the node's.
        node: its name, as errbacks see it.
        accept: content types that may be decoded.
        limits: sizes that a message may have.
    """

    def __init__(
        self,
        app: App,
        settings: Settings,
        node: str,
        accept: frozenset[str],
        limits: codec.Limits,
    ) -> None:
        self._app = app
        self._node = node
        self._accept = accept
        self._limits = limits
        self._settings = settings
        self._deadline = Deadline(settings.result_chord_expires, LATE)

    # ------------------------------------------------------------ ends of tasks

    def succeeded(self, run: Run, value: object) -> tuple[Sequel, list[object]]:
        """What follows when a task has returned a value, and the results of what that starts, for its record.

        Raises:
            AmqtaskError, TypeError, ValueError: something that follows cannot be started, or told.
        """
        if run.request.task == JOIN:
            return _look(run), []
        follows = after_success(run.after, value, self._starter(run))
        sequel = self._published(follows, None) + self.added(run)
        return sequel, follows.children

    def added(self, run: Run | None) -> Sequel:
        """What a task has added to its chord.

        Raises:
            AmqtaskError, TypeError, ValueError: it cannot be started.
        """
        if run is None or not run.asked.more:
            return _NOTHING
        asked = run.asked
        return self._published(
            added(run.after, asked.added or (), asked.more or (), self._starter(run)), None
        )

    def replaced(self, head: Head, run: Run | None, sig: Sig) -> Sequel:
        """What follows when a task has put a signature in its place.

        Raises:
            AmqtaskError, TypeError, ValueError: it cannot be started.
        """
        after = continuation(head, {}) if run is None else run.after
        nesting = head.replaced_task_nesting + 1
        start = self._start if run is None else self._starter(run)
        follows = after_replacement(after, sig, head.parent_id, nesting, start)
        return self._published(follows, None) + self.added(run)

    def read(self, delivery: Delivery, head: Head, *, deadly: bool = False) -> Run | None:
        """What comes after a task whose body nobody has read yet; ``None`` when nothing does.

        Args:
            delivery: the message.
            head: its header.
            deadly: a process that handled it has died, perhaps of reading it: nothing in it may run.
        """
        embed: Mapping[str, Any] | None = None
        args: Sequence[object] = ()
        kwargs: Mapping[str, object] = {}
        properties = delivery.properties
        if not deadly or properties.content_type != serialization.PICKLE:
            with contextlib.suppress(MessageError):  # its header still tells of its chord
                args, kwargs, embed = codec.read_body(
                    head, properties, delivery.body, accept=self._accept, limits=self._limits
                )
        after = continuation(head, embed)
        if not after:
            return None
        return Run(after, _request(head, delivery, args, kwargs, self._node))

    def failed(self, run: Run, outcome: Outcome, serializer: str) -> Sequel:
        """What follows when a task has failed for good. Never raises.

        Args:
            run: the task.
            outcome: how it ended.
            serializer: how values are written in results.
        """
        if run.request.task == JOIN:
            return _look(run)  # whatever has ended it: the chord is none of that
        ended, errbacks = _ended(run.after, outcome, serializer)
        return self._failed(run.after, ended, _mapping(run.request), errbacks)

    def missed(self, group: object, index: object, task_id: str, error: Exception) -> Sequel:
        """What follows when a message cannot be read but for the header that names its group. Never raises."""
        if not isinstance(group, str) or not group or type(index) is not int or index < 0:
            return _NOTHING
        ended = Ended(FAILURE, exception_to_wire(error))
        part = Part(
            group=group, index=index, size=None, task_id=task_id, state=FAILURE, result=ended.error
        )
        return self._published(Follows(parts=(part,)), ended)

    def passed_on(self, part: Part) -> Sequel:
        """What follows when a Celery worker tells of a part. Never raises."""
        try:
            return Sequel(parts=(PartSent(self._part(part, strict=True), part),))
        except MessageError as error:
            failed = msgspec.structs.replace(
                part, state=FAILURE, result=exception_to_wire(error), traceback=None
            )
            return Sequel(parts=(PartSent(self._part(failed, strict=False), failed),))

    def _failed(
        self,
        after: Continuation,
        ended: Ended,
        request: Mapping[str, object] | None,
        errbacks: bool,
    ) -> Sequel:
        follows = after_failure(
            after,
            ended,
            request=request,
            takes_details=self.takes_details,
            start=self._start,
            errbacks=errbacks,
        )
        return self._published(follows, ended, strict=False)

    def refused(self, started: object, error: Exception) -> Sequel:
        """What follows when something that a sequel sends could not be published. Never raises.

        Args:
            started: what the ``Send`` says that it starts.
            error: why not.
        """
        ended = Ended(FAILURE, exception_to_wire(error))
        if isinstance(started, Call):
            after = continuation_of_call(started)
            request = {
                "id": started.id,
                "task": started.task,
                "root_id": after.root_id,
                "args": started.args,
                "kwargs": started.kwargs,
            }
            reply = self._records([_gone(started)], ended)
            return self._failed(after, ended, request, errbacks=True) + Sequel(results=reply)
        if isinstance(started, Barrier):
            return self._body_failed(started.group, started.plan, ended, ended)
        return _NOTHING

    # ------------------------------------------------------------ chords

    def conclude(self, ending: Ending) -> Sequel:
        """What follows when a chord has ended. Never raises.

        Args:
            ending: what its barrier has come to.
        """
        group, plan = ending.group, ending.plan
        if isinstance(ending, Complete):
            try:
                return self._published(after_parts(group, plan, ending.results, self._start), None)
            except Exception as caught:  # noqa: BLE001  # whatever it is, the body must not be waited for for ever
                ended = Ended(FAILURE, exception_to_wire(caught), result.format_traceback(caught))
                return self._body_failed(group, plan, ended, ended)
        if isinstance(ending, Broken):
            part = ending.part
            error = ChordError(f"Dependency {part.task_id} raised {_shown(part.result)}")
            cause = Ended(part.state, part.result, part.traceback)
            log.info("a chord has failed", group=group, reason=str(error))
            return self._body_failed(group, plan, Ended(FAILURE, exception_to_wire(error)), cause)
        ended = Ended(FAILURE, exception_to_wire(ending.error))
        log.error("the body of a chord cannot be started", group=group, reason=str(ending.error))
        return self._body_failed(group, plan, ended, ended)

    def _body_failed(
        self, group: str, plan: Mapping[str, object], failed: Ended, cause: Ended
    ) -> Sequel:
        sequel = Sequel()
        for ended, follows in after_failed_parts(
            group, plan, failed, cause, takes_details=self.takes_details, start=self._start
        ):
            sequel += self._published(follows, ended, strict=False)
        return sequel

    # ------------------------------------------------------------ into messages

    def takes_details(self, sig: Sig) -> bool:
        """Whether an errback takes request, exception and traceback, as Celery decides it: else it takes the task's id."""
        return takes_details(sig, self._app)

    def _starter(self, run: Run) -> Start:
        """Starts what a task asked for or is followed by, with its priority if the settings have that inherited."""
        priority = inherited_priority(self._settings, run.request)
        return self._start if priority is None else partial(self._start, priority=priority)

    def _start(
        self,
        sig: Sig,
        args: Sequence[object],
        options: Mapping[str, object],
        *,
        root_id: str,
        parent_id: str | None,
        reply_to: str | None,
        ids: Callable[[], str],
        priority: int | None = None,
    ) -> Started:
        started = launch(
            sig,
            args,
            None,
            options,
            root_id=root_id,
            parent_id=parent_id,
            reply_to=reply_to,
            ids=ids,
            defaults=self._defaults,
            priority=priority,
            header_errbacks=self._settings.task_allow_error_cb_on_chord_header,
        )
        return Started(started.barriers, started.calls, started.result)

    def _defaults(self, name: str) -> Mapping[str, Any]:
        task = self._app.tasks.get(name)
        return {} if task is None else task.call_defaults

    def _published(self, follows: Follows, ended: Ended | None, *, strict: bool = True) -> Sequel:
        """The publications of what follows.

        Args:
            follows: what follows.
            ended: what is told of tasks that will never run.
            strict: raise for what cannot be written at all. What is too large, or has no way to a queue, fails instead of
                being started, and so does everything when this is false; what follows from that is in the sequel.
        """
        plans: list[Send] = []
        sends: list[Send] = []
        instead = _NOTHING
        plans += [Send(more_message(each)) for each in follows.more]
        for started in follows.started:
            for barrier in started.barriers:
                try:
                    plan = plan_message(barrier, self._deadline, limits=self._limits)
                except MessageError as error:
                    if strict and isinstance(error, EncodeError):
                        raise
                    instead += self.refused(barrier, error)
                    continue
                plans.append(Send(plan, plan.routing_key, barrier))
            for call in started.calls:
                try:
                    composed = self._composed(call)
                except Exception as error:
                    # What cannot be written is what the task has returned, so it is the task that fails; anything else is
                    # about what was to be started.
                    if strict and not isinstance(error, PayloadTooLarge | ConfigurationError):
                        raise
                    log.error(
                        "what follows a task cannot be sent",
                        task_name=call.task,
                        reason=result.safe_text(error),
                    )
                    instead += self.refused(call, error)
                    continue
                sends += [Send(publication, due_in, call) for publication, due_in in composed]
        parts = tuple(PartSent(self._part(part, strict), part) for part in follows.parts)
        results = () if ended is None else self._records(follows.gone, ended)
        return Sequel(tuple(plans), tuple(sends), results, parts) + instead

    def _composed(self, call: Call) -> tuple[tuple[Publication, str | None], ...]:
        try:
            return self._app.compose(call)
        except MessageError:
            bare = bare_errback(call)  # what its task was called with had another serializer
            if bare is None:
                raise
            return self._app.compose(bare)

    def _part(self, part: Part, strict: bool) -> Publication:
        serializer = self._settings.result_serializer
        try:
            return part_message(part, serializer, limits=self._limits)
        except MessageError:
            if strict:
                raise
            # Its own exception cannot be written: that it failed can.
            said = result.safe_text(part.result)[:1000]
            error = {
                "exc_type": "TaskFailed",
                "exc_message": [said],
                "exc_module": "amqtask.errors",
            }
            bare = msgspec.structs.replace(part, result=error, traceback=None)
            return part_message(bare, limits=self._limits)

    def _records(self, gone: Iterable[Gone], ended: Ended) -> tuple[Publication, ...]:
        """The results of tasks that will never run."""
        made: list[Publication] = []
        now = datetime.now(UTC).isoformat()
        for each in gone:
            if each.reply_to is None or not good_address(each.reply_to) or self._unwanted(each):
                continue
            record = Record(
                task_id=each.task_id,
                status=ended.state,
                result=ended.error,
                traceback=ended.traceback,
                date_done=now,
                group_id=each.group_id,
            )
            try:
                envelope = encode_result(
                    record, self._settings.result_serializer, limits=self._limits
                )
            except MessageError as error:
                wire = exception_to_wire(error)
                bare = msgspec.structs.replace(record, result=wire, traceback=None)
                envelope = encode_result(bare, limits=self._limits)
            made.append(Publication("", each.reply_to, envelope))
        return tuple(made)

    def _unwanted(self, gone: Gone) -> bool:
        if gone.ignore_result is not None:
            return gone.ignore_result
        task = self._app.tasks.get(gone.task)
        return self._settings.task_ignore_result if task is None else task.ignore_result


def _look(run: Run) -> Sequel:
    """What a task is for that looks at a chord."""
    chord = run.after.chord or {}
    group, size = barrier_of(chord), chord.get("chord_size")
    if group is None:
        return _NOTHING
    return Sequel(looks=(Look(group, size if type(size) is int else None),))


def good_address(address: str) -> bool:
    """Whether a reply address may be published to.

    ``amq.`` names are the broker's own; a made-up ``amq.rabbitmq.reply-to.…`` closes the publisher's connection on
    RabbitMQ 3.10, so a hostile sender could take the node's results down with it.
    """
    return not address.startswith("amq.") and len(address.encode()) <= 255


def _gone(call: Call) -> Gone:
    group = None if call.workflow is None else call.workflow.group
    return Gone(call.id, call.task, call.reply_to, group, call.ignore_result)


def foreign_chord(head: Head, embed: Mapping[str, Any]) -> str | None:
    """Why a task cannot run here: it is a part of a chord that cannot be told of its end. ``None`` when it can."""
    chord = embed.get("chord")
    if not chord or barrier_of(chord) is not None:
        return None
    return (
        f"Task {head.task}[{head.id}] is part of a chord that a Celery client began, whose parts are counted in Celery's "
        "result store: begin the chord with amqtask, or run its tasks in a Celery worker."
    )


def _ended(after: Continuation, outcome: Outcome, serializer: str) -> tuple[Ended, bool]:
    """How a task ended for what was to come after it, and whether that calls its errbacks."""
    match outcome:
        case Failed():
            return Ended(
                FAILURE, exception_to_wire(outcome.error, serializer), outcome.traceback
            ), True
        case Revoked():
            return Ended(
                REVOKED, exception_to_wire(TaskRevokedError(outcome.reason), serializer)
            ), False
        case Rejected():
            return Ended(FAILURE, exception_to_wire(Reject(outcome.reason), serializer)), False
        case Ignored():
            told = ignored(after.task, after.id)
            return Ended(FAILURE, exception_to_wire(told, serializer)), False
        case _:
            raise AssertionError(f"{type(outcome).__name__} is no failure")


def _shown(wire: object) -> str:
    """An exception in wire form as ``repr`` shows it."""
    if not isinstance(wire, Mapping):
        return result.safe_repr(wire)
    name, message = wire.get("exc_type"), wire.get("exc_message")
    args = message if isinstance(message, list | tuple) else [message]
    return f"{str(name).rpartition('.')[2]}({', '.join(map(result.safe_repr, args))})"


def _request(
    head: Head,
    delivery: Delivery,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    node: str,
) -> Request:
    """What an errback gets of a task that did not run."""
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
        hostname=node,
        origin=head.origin,
        args=args,
        kwargs=kwargs,
        shadow=head.shadow,
        called_directly=False,
        replaced_task_nesting=head.replaced_task_nesting,
        stamped_headers=head.stamped_headers,
        stamps=head.stamps,
    )


_TRAVELS = (
    "id", "task", "root_id", "parent_id", "group", "group_index", "retries", "eta", "expires", "timelimit", "reply_to",
    "correlation_id", "hostname", "origin", "args", "kwargs", "shadow", "replaced_task_nesting", "stamped_headers", "stamps",
)  # fmt: skip


def _mapping(request: Request) -> dict[str, object]:
    """A request as an errback's message carries it."""
    made: dict[str, object] = {}
    for name in _TRAVELS:
        value = getattr(request, name)
        if value is not None:
            made[name] = list(value) if isinstance(value, tuple) else value
    return made


def request_of(wire: object) -> Request:
    """The request that an errback's message carries. Never raises: what makes no sense is left out."""
    if not isinstance(wire, Mapping):
        return Request()
    known = {name: wire[name] for name in _TRAVELS if name in wire}
    limits = known.get("timelimit")
    if isinstance(limits, list) and len(limits) == 2:
        known["timelimit"] = tuple(limits)
    return Request(**known, called_directly=False)
