"""Sending a workflow from here: what to publish in which order, and the handle of what comes of it.

A chord's plan must be in its barrier's queue, confirmed, before the first part is sent. Everything that can go wrong without the
broker goes wrong before anything is published, except in a group of a generator, which is sent while it is made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol

from amqtask.amqp.ports import Publisher
from amqtask.batch import DELAYED_WINDOW, Awaits, Batch, Explain
from amqtask.builtin import REFUSED
from amqtask.call import Call, make_call
from amqtask.canvas.continuation import barrier_of
from amqtask.canvas.failure import unreached
from amqtask.canvas.launch import Stream, only_child, stream
from amqtask.canvas.options import PLACE
from amqtask.canvas.stages import Said, first_task
from amqtask.canvas.within import part_index
from amqtask.composing import Sending, inherited_priority
from amqtask.core import codec
from amqtask.core.barrier import ADDED, Deadline, part_message, plan_message, queue_name
from amqtask.core.message import Publication
from amqtask.core.result import FAILURE, exception_to_wire
from amqtask.core.workflow import Barrier, Part, Sig, Workflow, kind_of
from amqtask.errors import AmqtaskError, PublishNacked, ResultError, Unroutable
from amqtask.log import get_logger
from amqtask.request import Request
from amqtask.results import handle
from amqtask.results.base import ResultBase
from amqtask.results.group import GroupResult
from amqtask.results.pending import Awaited
from amqtask.results.tree import result_from_tuple
from amqtask.settings import Settings
from amqtask.topology.dropped import LATE

if TYPE_CHECKING:
    from amqtask.amqp.aio.publisher import AioPublisher
    from amqtask.loop_client import AsyncBatch

log = get_logger("amqtask")

Settled = Callable[[object], None]

AT_A_TIME: Final = 500  # members of a generator's group that are made before they are sent

# What an option says of the place in a workflow, and not of the one call.
_WORKFLOW: Final = frozenset(
    {
        "task_id", "reply_to", "group_id", "group_index", "chord", "root_id", "parent_id", "chain", "stamped_headers",
        "replaced_task_nesting", "add_to_parent",
    }
)  # fmt: skip


def result_elsewhere(name: str, task_id: str, reply_to: str | None) -> ResultError:
    """Why the result of a task that names a queue of its own for it does not come here."""
    return ResultError(
        f"The result of task {name}[{task_id}] goes to {reply_to!r}, as its reply_to asked; read it there."
    )


class Sender(Protocol):
    """What launching needs of the app."""

    settings: Settings

    def call_defaults(self, name: str) -> Mapping[str, Any]:
        """The options of a task by its name."""
        ...

    def check(self, call: Call) -> None:
        """Do nothing when a call fits the function of its task."""
        ...

    def compose(self, call: Call) -> tuple[Sending, ...]:
        """The publications of a call whose results go where it says."""
        ...

    def awaited(self, task_id: str, reply_to: str | None) -> Awaited:
        """Where a result is expected, before anything is sent."""
        ...

    def handle_of(
        self, task_id: str, name: str | None, ignored: bool, parent: ResultBase | None
    ) -> handle.AsyncResult[Any]:
        """The handle of a task."""
        ...


def alone(sig: Sig, options: Mapping[str, object]) -> bool:
    """Whether a signature is one call like any other, with no place in a workflow."""
    own: Any = sig.get("options") or {}
    return (
        kind_of(sig) == "task"
        and not str(sig["task"]).startswith("celery.")
        and _WORKFLOW.isdisjoint(own)
        and _WORKFLOW.isdisjoint(options)
    )


class Launching:
    """One workflow on its way. One thread or event loop.

    Args:
        sender: the app.
        sig: the signature.
        args: partial arguments.
        kwargs: partial keyword arguments.
        options: as ``apply_async`` takes them.
        parent: the task that runs here.
        reply_to: the reply queue of this process.
        limits: of messages.

    Raises:
        TypeError, ValueError: the signature makes no sense, or an option does not.
    """

    def __init__(
        self,
        sender: Sender,
        sig: Sig,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        options: Mapping[str, object],
        *,
        parent: Request | None,
        reply_to: str,
        limits: codec.Limits,
    ) -> None:
        self._sender = sender
        self._reply_to = reply_to
        self._limits = limits
        self._parent = parent if options.get("add_to_parent", True) else None
        settings = sender.settings
        self._deadline = Deadline(settings.result_chord_expires, LATE)
        self._stream: Stream = stream(
            sig,
            args,
            kwargs,
            options,
            root_id=None if parent is None else (parent.root_id or parent.id),
            parent_id=None if parent is None else parent.id,
            reply_to=reply_to,
            defaults=sender.call_defaults,
            priority=inherited_priority(settings, parent),
            header_errbacks=settings.task_allow_error_cb_on_chord_header,
            strict=True,
        )
        self._barriers: dict[str, Barrier] = {}
        # Held here until there are handles, so that a failure which comes before them is not lost.
        self._awaited: dict[str, Awaited] = {}
        self._publish: Callable[[Publication, Settled], None] | None = None
        self._hold: Callable[[], Callable[[], None]] | None = None
        self._told: set[str] = set()  # barriers that a worker is asked to look at

    def send(self, publisher: Publisher, batch: Batch, explain: Explain) -> None:
        """Send it all; the confirms of the calls are waited for by who has the batch.

        Raises:
            AmqtaskError: a message cannot be made, or a plan was not taken.
        """
        timeout = self._sender.settings.publish_timeout
        self._publish = lambda what, settled: publisher.submit(what, settled, timeout)
        self._hold = batch.hold
        for plans, calls in self.rounds():
            if plans:
                publisher.publish_many(
                    [plan for plan, _ in plans], timeout, due_in=[queue for _, queue in plans]
                )
            for call, sendings, awaits in calls:
                if call.later:
                    batch.room(DELAYED_WINDOW)
                    sendings = self._sender.compose(call)  # its delay begins now
                for publication, due_in in sendings:
                    batch.submit(publisher, publication, timeout, awaits, explain, due_in)

    async def asend(self, publisher: AioPublisher, batch: AsyncBatch, explain: Explain) -> None:
        """``send`` for coroutines."""
        timeout = self._sender.settings.publish_timeout
        self._publish = lambda what, settled: publisher.submit(what, settled, timeout)
        self._hold = batch.hold
        for plans, calls in self.rounds():
            if plans:
                await publisher.publish_many(
                    [plan for plan, _ in plans], timeout, due_in=[queue for _, queue in plans]
                )
            for call, sendings, awaits in calls:
                if call.later:
                    await batch.room(DELAYED_WINDOW)
                    sendings = self._sender.compose(call)
                for publication, due_in in sendings:
                    await batch.submit(publisher, publication, timeout, awaits, explain, due_in)

    def lost(
        self, tasks: Iterable[str], missing: Mapping[str, tuple[int, str]], error: BaseException
    ) -> None:
        """These tasks will not run, and these parts of chords never end. Where confirms come; never raises.

        Args:
            tasks: their ids.
            missing: by barrier, the index and the id of the part.
            error: why.
        """
        self._fail(tasks, error)
        if isinstance(error, (Unroutable, PublishNacked)):
            for group, (index, task_id) in missing.items():
                self._tell(group, index, task_id, exception_to_wire(error))
        behind = [group for group in missing if group in self._barriers]
        known = set(behind)
        while behind:
            plan: Any = self._barriers[behind.pop()].plan
            gone, further = unreached([plan["body"], *plan["chain"]], None)
            self._fail([each.task_id for each in gone], error)
            for group in further:
                if group in self._barriers and group not in known:
                    known.add(group)
                    behind.append(group)

    def _tell(self, group: str, index: int, task_id: str, error: Mapping[str, object]) -> None:
        """Have a barrier hear of a part that was refused, and somebody look at it.

        The failed part ends the chord as soon as another part has ended. That may never be, or have been already: so a task
        takes the part's place that does nothing but fail, where the body would have run. Its worker does all that follows.
        """
        part = Part(
            group=group, index=index, size=None, task_id=task_id, state=FAILURE, result=error
        )
        with contextlib.suppress(AmqtaskError):  # the app is being closed
            self._submit(part_message(part), _ignored)
        if group not in self._told:  # one failed part ends a chord
            self._told.add(group)
            barrier = self._barriers.get(group)
            body = None if barrier is None else first_task(barrier.plan["body"])
            assert self._hold is not None  # confirms come only of what was sent
            # Whoever waits for the batch may end the process after it.
            self._stand_in(part, [*([] if body is None else [body]), None], self._hold())

    def _stand_in(
        self, part: Part, places: Sequence[Sig | None], on_end: Callable[[], None]
    ) -> None:
        """Send what fails in a part's place, to where the first of these tasks goes; ``None`` is the default queue."""
        place, *others = places

        def settled(error: object) -> None:
            if others and isinstance(error, Unroutable):
                self._stand_in(part, others, on_end)
                return
            if error is not None:
                log.warning(
                    "a chord with a part that could not be sent ends only when another part does",
                    group=part.group,
                    reason=str(error),
                )
            on_end()

        try:
            ((publication, _),) = self._sender.compose(self._failing(part, place))
            self._submit(publication, settled)
        except Exception as error:  # noqa: BLE001  # whatever it is, confirms must go on
            settled(error)

    def _failing(self, part: Part, place: Sig | None) -> Call:
        name = None if place is None else str(place["task"])
        own: Any = {} if place is None else place.get("options") or {}
        defaults = {} if name is None else self._sender.call_defaults(name)
        parent = self._parent
        added = {"added": True} if part.index == ADDED else {}
        return make_call(
            REFUSED,
            (part.result,),
            {},
            {each: value for each, value in defaults.items() if each in PLACE},
            {
                **{each: own[each] for each in PLACE if own.get(each) is not None},
                "task_id": part.task_id,
                "ignore_result": True,
            },
            workflow=Workflow(
                root_id=None if parent is None else (parent.root_id or parent.id),
                parent_id=None if parent is None else parent.id,
                group=part.group,
                group_index=max(0, part.index),
                chord={"task": name or "", "options": {"barrier": part.group, **added}},
            ),
            route_name=name,
        )

    def _submit(self, publication: Publication, settled: Settled) -> None:
        if self._publish is not None:
            self._publish(publication, settled)

    def _fail(self, tasks: Iterable[str], error: BaseException) -> None:
        for task_id in tasks:
            entry = self._awaited.get(task_id)
            if entry is not None:
                entry.fail(error)

    def rounds(
        self,
    ) -> Iterator[tuple[list[Sending], list[tuple[Call, tuple[Sending, ...], Awaits | None]]]]:
        """What to send: plans, and when these are confirmed, calls, each with who is told when it could not be sent.

        Raises:
            AmqtaskError: a message cannot be made.
            TypeError: arguments do not fit the function.
        """
        most = AT_A_TIME if self._stream.lazy else None
        while steps := list(islice(self._stream.steps, most)):
            plans: list[Sending] = []
            calls = []
            for step in steps:
                if isinstance(step, Barrier):
                    self._barriers[step.group] = step
                    plan = plan_message(step, self._deadline, limits=self._limits)
                    plans.append((plan, queue_name(step.group)))
                else:
                    self._sender.check(step)
                    calls.append((step, self._sender.compose(step)))
            for task_id, said in islice(self._stream.tasks.items(), len(self._awaited), None):
                entry = self._awaited[task_id] = self._sender.awaited(task_id, said.reply_to)
                if said.reply_to != self._reply_to:
                    entry.fail(result_elsewhere(said.name, task_id, said.reply_to))
            yield plans, [(call, sendings, self._awaits(call)) for call, sendings in calls]

    def _awaits(self, call: Call) -> Awaits | None:
        awaited = None if call.ignore_result else self._awaited[call.id]
        flow = call.workflow
        if flow is not None and (flow.chain or flow.chord):
            return Waiting(self, awaited, call)
        return awaited

    def result(self) -> handle.AsyncResult[Any] | GroupResult:
        """The handle, when all rounds are over; the running task knows of it from then on."""
        result = only_child(self._stream.result)
        if self._parent is not None:
            self._parent.asked.sent(result)
        made = result_from_tuple(result, _Handles(self._sender, self._stream.tasks))
        assert isinstance(made, (handle.AsyncResult, GroupResult))
        return made


class Waiting:
    """All that would have followed a call: none of it will come when that could not be sent.

    A chord of it hears of a part that failed, so that it ends: unless it is not certain that the call was refused.
    """

    __slots__ = ("_awaited", "_call", "_launching")

    def __init__(self, launching: Launching, awaited: Awaited | None, call: Call) -> None:
        self._launching = launching
        self._awaited = awaited
        self._call = call

    def fail(self, error: BaseException) -> None:
        """No result will come, of the call and of what follows."""
        if self._awaited is not None:
            self._awaited.fail(error)
        call, flow = self._call, self._call.workflow
        assert flow is not None
        if flow.chain:
            gone, missing = unreached(flow.chain, None)
        else:
            gone, missing = [], {}
            barrier = barrier_of(flow.chord)
            if barrier is not None:
                missing[barrier] = (part_index(flow.chord, flow.group_index), call.id)
        self._launching.lost([each.task_id for each in gone], missing, error)


def _ignored(_error: object) -> None:
    """A failed part that is not taken: its chord is over, or what stands in for the part tells it."""


class _Handles:
    """Makes the handles of a workflow's tasks, with what its signatures say of them."""

    def __init__(self, sender: Sender, tasks: Mapping[str, Said]) -> None:
        self._sender = sender
        self._tasks = tasks

    def AsyncResult(  # noqa: N802  # as result_from_tuple asks an app
        self, task_id: str, *, parent: ResultBase | None = None
    ) -> handle.AsyncResult[Any]:
        """The handle of one task."""
        said = self._tasks.get(task_id)
        if said is None:
            return self._sender.handle_of(task_id, None, False, parent)
        ignored = said.ignore_result
        if ignored is None:
            ignored = self._sender.call_defaults(said.name).get("ignore_result")
        return self._sender.handle_of(task_id, said.name, bool(ignored), parent)
