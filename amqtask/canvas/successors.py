"""What follows from a task's end, for the workflow it is part of: what is started, what will never run, and which chord hears of it.

A task carries its continuation in its message: callbacks and errbacks, the rest of its chain (last first) and the chord that it is
a part of. When it has succeeded the continuation is started; when it has failed for good, everything that was to come is reported as
failed, so that nobody waits for it.

Pure, but for a line in the log about an error callback that makes no sense: how a signature becomes calls is ``Start``, handed
in. Any thread.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from amqtask.call import Call
from amqtask.canvas.within import part_index
from amqtask.core.codec import Head
from amqtask.core.result import FAILURE, REVOKED, SUCCESS, safe_text
from amqtask.core.workflow import Barrier, More, Part, Sig
from amqtask.log import get_logger

log = get_logger("amqtask.worker")

ERRBACK = "amqtask-errback"
"""Header of an errback whose first arguments are the request, the exception and the traceback, to be rebuilt before the call."""

_EMPTY: Sequence[Any] = ()
_NAMESPACE = uuid.UUID("5d8f3c4e-26a5-5f0a-9d1b-0c8a6d1c7b1e")


class Continuation(msgspec.Struct, frozen=True, kw_only=True):
    """One task, and what comes after it. ``chain`` is in Celery's order, last first."""

    id: str
    task: str
    root_id: str
    reply_to: str | None = None
    group: str | None = None
    group_index: int | None = None
    callbacks: Sequence[Any] = _EMPTY
    errbacks: Sequence[Any] = _EMPTY
    chain: Sequence[Any] = _EMPTY
    chord: Mapping[str, Any] | None = None

    def __bool__(self) -> bool:
        return bool(self.callbacks or self.errbacks or self.chain or self.chord)


def continuation(head: Head, embed: Mapping[str, Any] | None) -> Continuation:
    """The continuation of a received message; with ``embed=None`` (nobody could read the body) only what its header tells."""
    if embed is None:
        chord = None
        if head.group is not None and head.group_index is not None:
            # Perhaps of a chord: if it is a plain group, there is no barrier to hear of it.
            chord = {"options": {"barrier": head.group}}
        embed = {"chord": chord}
    return Continuation(
        id=head.id,
        task=head.task,
        root_id=head.root_id,
        reply_to=head.reply_to,
        group=head.group,
        group_index=head.group_index,
        callbacks=embed.get("callbacks") or _EMPTY,
        errbacks=embed.get("errbacks") or _EMPTY,
        chain=embed.get("chain") or _EMPTY,
        chord=embed.get("chord"),
    )


def continuation_of_call(call: Call) -> Continuation:
    """The continuation of a call that was never received, because it could not be published."""
    flow = call.workflow
    if flow is None:
        return Continuation(id=call.id, task=call.task, root_id=call.id, reply_to=call.reply_to)
    chord = flow.chord
    return Continuation(
        id=call.id,
        task=call.task,
        root_id=flow.root_id or call.id,
        reply_to=call.reply_to,
        group=flow.group,
        group_index=flow.group_index,
        callbacks=flow.callbacks or _EMPTY,
        errbacks=flow.errbacks or _EMPTY,
        chain=flow.chain or _EMPTY,
        chord=chord if isinstance(chord, Mapping) else None,
    )


class Started(msgspec.Struct, frozen=True):
    """What has to be sent to start a signature: barriers first, then calls. ``result`` is its result in Celery's tuple form."""

    barriers: Sequence[Barrier]
    calls: Sequence[Call]
    result: object


class Start(Protocol):
    """Turns a signature into calls."""

    def __call__(
        self,
        sig: Sig,
        args: Sequence[object],
        options: Mapping[str, object],
        *,
        root_id: str,
        parent_id: str | None,
        reply_to: str | None,
        ids: Callable[[], str],
    ) -> Started:
        """The calls of a signature; see ``canvas.launch``."""
        ...


class Gone(msgspec.Struct, frozen=True):
    """A task that will never run, and where that is to be said."""

    task_id: str
    task: str
    reply_to: str | None
    group_id: str | None = None
    ignore_result: bool | None = None


class Follows(msgspec.Struct, frozen=True):
    """What follows from one end.

    ``children`` are the results of what is started, for the record of the task that ended. ``gone`` are told the end's own
    exception, in its state.
    """

    started: tuple[Started, ...] = ()
    gone: tuple[Gone, ...] = ()
    parts: tuple[Part, ...] = ()
    more: tuple[More, ...] = ()

    @property
    def children(self) -> list[object]:
        """The results of what is started, in Celery's tuple form."""
        return [each.result for each in self.started]


class Ended(msgspec.Struct, frozen=True):
    """How a task ended that did not succeed: its state, its exception in wire form, and the traceback as text."""

    state: str
    error: object
    traceback: str | None = None


def ids_of(task_id: str, what: str) -> Callable[[], str]:
    """Ids for what is started after a task: the same ones each time that is done, so that what is repeated collapses.

    Args:
        task_id: the task whose end it follows.
        what: tells several things that follow from one end apart.
    """
    count = 0

    def made() -> str:
        nonlocal count
        count += 1
        return str(uuid.uuid5(_NAMESPACE, f"{task_id}/{what}/{count}"))

    return made


# ---------------------------------------------------------------- success


def after_success(after: Continuation, value: object, start: Start) -> Follows:
    """What follows when a task has returned ``value``: its callbacks, the next of its chain, its part of a chord.

    Raises:
        AmqtaskError: as ``start``: a signature that cannot be started.
    """
    started = [
        _start(after, sig, (value,), {}, start, f"link{n}") for n, sig in enumerate(after.callbacks)
    ]
    if after.chain:
        *rest, following = after.chain
        options = {"chain": rest} if rest else {}
        started.append(_start(after, following, (value,), options, start, "chain"))
    return Follows(tuple(started), parts=_part(after, SUCCESS, value, None))


def after_replacement(
    after: Continuation, sig: Sig, parent_id: str | None, nesting: int, start: Start
) -> Follows:
    """What follows when a task has put a signature in its place: that, under its id, with all that was to follow the task.

    Args:
        after: the task; its callbacks and errbacks are the signature's already.
        sig: what takes its place.
        parent_id: the task's own parent.
        nesting: how many replacements this makes.
        start: makes its calls.

    Raises:
        AmqtaskError: as ``start``.
    """
    options: dict[str, object] = {"task_id": after.id, "replaced_task_nesting": nesting}
    if after.chain:
        options["chain"] = list(after.chain)
    if after.chord is not None:
        options["chord"] = after.chord
    if after.group is not None:
        options |= {"group_id": after.group, "group_index": after.group_index}
    started = start(
        sig,
        (),
        options,
        root_id=after.root_id,
        parent_id=parent_id,
        reply_to=after.reply_to,
        ids=ids_of(after.id, f"replace{nesting}"),
    )
    return Follows((started,))


def added(after: Continuation, sigs: Sequence[Sig], more: Sequence[str], start: Start) -> Follows:
    """What a task has added to its chord.

    Args:
        after: the task.
        sigs: signatures that say which part they are.
        more: the ids of the parts that are to be waited for.
        start: makes their calls.

    Raises:
        AmqtaskError: as ``start``.
    """
    group = barrier_of(after.chord)
    if group is None:
        return Follows()
    started = []
    for sig in sigs:
        options = _options(sig)
        own = {name: options.get(name) for name in ("task_id", "chord", "group_id")}
        started.append(_start(after, sig, (), own, start, f"added/{own['task_id']}"))
    return Follows(tuple(started), more=tuple(More(group, task_id) for task_id in more))


def _start(
    after: Continuation,
    sig: Sig,
    args: Sequence[object],
    options: Mapping[str, object],
    start: Start,
    what: str,
) -> Started:
    return start(
        sig,
        args,
        options,
        root_id=after.root_id,
        parent_id=after.id,
        reply_to=after.reply_to,
        ids=ids_of(after.id, what),
    )


# ---------------------------------------------------------------- failure


def after_failure(
    after: Continuation,
    ended: Ended,
    *,
    request: Mapping[str, object] | None,
    takes_details: Callable[[Sig], bool],
    start: Start,
    errbacks: bool,
) -> Follows:
    """What follows when a task has failed for good: all that was to come has failed, and its errbacks are called.

    An errback that cannot be started is left out; nothing is raised.

    Args:
        after: the task and what was to come.
        ended: how it ended.
        request: the failed task's request, for errbacks that take it.
        takes_details: whether an errback takes request, exception and traceback; else it takes the task's id.
        start: makes the errbacks' calls.
        errbacks: whether this kind of end calls errbacks at all.
    """
    called = []
    if errbacks and request is not None:
        called = _errbacks(after, ended, after.errbacks, request, takes_details, start)
    gone, missing = unreached(after.chain, after.reply_to)
    parts = [*_part(after, ended.state, ended.error, ended.traceback)]
    parts += [
        Part(
            group=group,
            index=index,
            size=None,
            task_id=task_id,
            state=ended.state,
            result=ended.error,
            traceback=ended.traceback,
        )
        for group, (index, task_id) in missing.items()
    ]
    if after.chord is not None and barrier_of(after.chord) is None:
        # Celery's own chord, which cannot be told: but whoever waits for its body can.
        more, _ = unreached((after.chord,), after.reply_to)
        gone += more
    return Follows(tuple(called), tuple(gone), tuple(parts))


def _errbacks(
    after: Continuation,
    ended: Ended,
    sigs: Iterable[Sig],
    request: Mapping[str, object],
    takes_details: Callable[[Sig], bool],
    start: Start,
) -> list[Started]:
    called = []
    for n, sig in enumerate(sigs):
        try:
            args: tuple[object, ...] = (after.id,)
            options: dict[str, object] = {}
            if takes_details(sig):
                args = (request, ended.error, ended.traceback)
                if not sig.get("immutable"):
                    headers = _options(sig).get("headers")
                    own = headers if isinstance(headers, Mapping) else {}
                    options["headers"] = {**own, ERRBACK: 1}
            called.append(_start(after, sig, args, options, start, f"errback{n}"))
        except Exception as error:  # noqa: BLE001  # whatever is wrong with it, the failure itself must be told
            log.error(
                "an error callback cannot be started",
                errback=n,
                task_name=after.task,
                task_id=after.id,
                reason=safe_text(error),
            )
    return called


def bare_errback(call: Call) -> Call | None:
    """An errback whose request has no arguments, for one whose request cannot be written; ``None`` for any other call."""
    if ERRBACK not in call.headers:
        return None
    request, *rest = call.args
    if not isinstance(request, Mapping) or not (request.get("args") or request.get("kwargs")):
        return None
    bare = {**request, "args": [], "kwargs": {}}
    return msgspec.structs.replace(call, args=(bare, *rest))


def unreached(
    sigs: Iterable[Any], reply_to: str | None
) -> tuple[list[Gone], dict[str, tuple[int, str]]]:
    """The tasks of signatures that will never run, and of each barrier that waits for one of them a missing part.

    Args:
        sigs: what was to come; all of it, the callbacks of its tasks too.
        reply_to: where results go when a signature does not say.

    Returns:
        The tasks, and by barrier the index and the id of one part.
    """
    gone: list[Gone] = []
    missing: dict[str, tuple[int, str]] = {}
    known: set[str] = set()
    # A signature, and whether what waits for its end is a barrier that is there already.
    left: list[tuple[Any, bool]] = [(sig, True) for sig in sigs]
    while left:
        sig, direct = left.pop()
        if not isinstance(sig, Mapping):
            continue
        options = _options(sig)
        task_id = options.get("task_id")
        kind = str(sig.get("subtask_type"))
        if isinstance(task_id, str) and task_id not in known and kind not in _MADE_OF_PARTS:
            known.add(task_id)
            own = options.get("reply_to")
            group, ignored = options.get("group_id"), options.get("ignore_result")
            gone.append(
                Gone(
                    task_id,
                    str(sig.get("task")),
                    own if isinstance(own, str) else reply_to,
                    group if isinstance(group, str) else None,
                    ignored if isinstance(ignored, bool) else None,
                )
            )
        chord = options.get("chord")
        barrier = barrier_of(chord)
        if direct and barrier is not None and barrier not in missing:
            missing[barrier] = (
                part_index(chord, options.get("group_index")),
                task_id if isinstance(task_id, str) else barrier,
            )
        left += [
            (part, direct) for part in (*_list(options.get("chain")), *_list(options.get("link")))
        ]
        left += _parts_of(sig, kind, direct)
    return gone, missing


_MADE_OF_PARTS = frozenset({"chain", "group", "chord"})


def _parts_of(sig: Sig, kind: str, direct: bool) -> Iterator[tuple[Any, bool]]:
    """The signatures a signature is made of, and whether each is as direct as it."""
    kwargs = sig.get("kwargs")
    if kind not in _MADE_OF_PARTS or not isinstance(kwargs, Mapping):
        return
    for part in _list(kwargs.get("tasks")):
        yield part, direct
    if kind == "chord":
        header, body = kwargs.get("header"), kwargs.get("body")
        if isinstance(header, Mapping):
            header = [header]
        for part in _list(header):
            yield part, False  # its barrier was never made
        yield body, direct


def _part(
    after: Continuation, state: str, result: object, traceback: str | None
) -> tuple[Part, ...]:
    group = barrier_of(after.chord)
    if group is None or after.chord is None:
        return ()
    size = after.chord.get("chord_size")
    return (
        Part(
            group=group,
            index=part_index(after.chord, after.group_index),
            size=size if type(size) is int else None,
            task_id=after.id,
            state=state,
            result=result,
            traceback=traceback,
        ),
    )


# ---------------------------------------------------------------- chords


def after_parts(
    group: str, plan: Mapping[str, Any], results: Sequence[object], start: Start
) -> Follows:
    """What follows when all parts of a chord have succeeded: its body, with their values in order.

    Args:
        group: the chord's.
        plan: what its barrier's first message says.
        results: the values by index; those of parts that were added come last.
        start: makes the body's calls.

    Raises:
        AmqtaskError: as ``start``.
    """
    after = _of_plan(group, plan)
    options = {"chain": list(after.chain)} if after.chain else {}
    body = plan.get("body")
    if not isinstance(body, Mapping):
        return Follows()
    parent_id = plan.get("parent_id")
    started = start(
        body,
        (shaped(plan.get("shape"), results),),
        options,
        root_id=after.root_id,
        parent_id=parent_id if isinstance(parent_id, str) else None,
        reply_to=after.reply_to,
        ids=ids_of(group, "body"),
    )
    return Follows((started,))


def shaped(shape: object, results: Sequence[object]) -> list[object]:
    """The values of a chord's parts, in lists as the chord was written; what was added to it comes last.

    Args:
        shape: indices in nested lists; ``None`` is all of them in order.
        results: the values by index.
    """
    if not isinstance(shape, list | tuple):
        return list(results)
    count = 0

    def filled(part: object) -> object:
        nonlocal count
        if isinstance(part, list | tuple):
            return [filled(each) for each in part]
        assert isinstance(part, int)
        count += 1
        return results[part]

    inside = [filled(part) for part in shape]
    return [*inside, *results[count:]]


def after_failed_parts(
    group: str,
    plan: Mapping[str, Any],
    failed: Ended,
    cause: Ended,
    *,
    takes_details: Callable[[Sig], bool],
    start: Start,
) -> tuple[tuple[Ended, Follows], ...]:
    """What follows when a chord cannot have its body: the body and all after it has failed, and the body's errbacks are called.

    Args:
        group: the chord's.
        plan: what its barrier's first message says.
        failed: how the body ends.
        cause: how the part ended; the tasks of a body that is a group end so, as in Celery.
        takes_details: as for ``after_failure``.
        start: makes the errbacks' calls.

    Returns:
        What follows, by how it ends.
    """
    after = _of_plan(group, plan)
    body = plan.get("body")
    ends: list[tuple[Ended, Follows]] = []
    rest = after
    if isinstance(body, Mapping):
        many = body.get("subtask_type") == "group"
        ended = cause if many else failed
        gone, missing = unreached((body,), after.reply_to)
        called: list[Started] = []
        for task_id, sigs in _errbacks_of_body(body):
            of_task = msgspec.structs.replace(after, id=task_id or after.id)
            request = {
                "id": of_task.id,
                "task": str(body.get("task") or ""),
                "root_id": after.root_id,
            }
            called += _errbacks(of_task, ended, sigs, request, takes_details, start)
        ends.append((ended, Follows(tuple(called), tuple(gone), tuple(_missed(missing, ended)))))
    gone, missing = unreached(rest.chain, after.reply_to)
    if gone or missing:
        ends.append((failed, Follows(gone=tuple(gone), parts=tuple(_missed(missing, failed)))))
    return tuple(ends)


def _missed(missing: Mapping[str, tuple[int, str]], ended: Ended) -> Iterator[Part]:
    for group, (index, task_id) in missing.items():
        yield Part(
            group=group,
            index=index,
            size=None,
            task_id=task_id,
            state=FAILURE if ended.state != REVOKED else REVOKED,
            result=ended.error,
            traceback=ended.traceback,
        )


def _errbacks_of_body(body: Sig) -> Iterator[tuple[str | None, list[Sig]]]:
    """Whose errbacks a body that cannot run has, and which: for a group, each task's own and the group's, each once."""
    options = _options(body)
    own: list[Sig] = []
    inner = body
    while inner.get("subtask_type") == "chord":  # a chord's result is its body's
        own += _list(_options(inner).get("link_error"))
        kwargs = inner.get("kwargs")
        following = kwargs.get("body") if isinstance(kwargs, Mapping) else None
        if not isinstance(following, Mapping):
            break
        inner = following
    kwargs = inner.get("kwargs")
    if inner.get("subtask_type") == "group" and isinstance(kwargs, Mapping):
        own += _list(_options(inner).get("link_error"))
        for task in _list(kwargs.get("tasks")):
            for task_id, sigs in _errbacks_of_body(task):
                yield task_id, [*sigs, *(each for each in own if each not in sigs)]
        return
    if inner.get("subtask_type") == "chain" and isinstance(kwargs, Mapping):
        tasks = _list(kwargs.get("tasks"))
        first = tasks[0] if tasks else {}
        options = _options(first) or options
        own += _list(options.get("link_error"))
    own += [each for each in _list(_options(inner).get("link_error")) if each not in own]
    task_id = _options(inner).get("task_id") or options.get("task_id")
    yield (task_id if isinstance(task_id, str) else None), own


def _of_plan(group: str, plan: Mapping[str, Any]) -> Continuation:
    body = plan.get("body")
    options = _options(body) if isinstance(body, Mapping) else {}
    task_id, reply_to = options.get("task_id"), plan.get("reply_to") or options.get("reply_to")
    return Continuation(
        id=task_id if isinstance(task_id, str) else group,
        task="",
        root_id=str(plan.get("root_id") or group),
        reply_to=reply_to if isinstance(reply_to, str) else None,
        chain=_list(plan.get("chain")),
    )


# ---------------------------------------------------------------- signatures


def barrier_of(chord: object) -> str | None:
    """The barrier that a chord stub names; ``None`` for a chord of Celery's, which has none."""
    if not isinstance(chord, Mapping):
        return None
    barrier = _options(chord).get("barrier")
    return barrier if isinstance(barrier, str) and barrier else None


def _options(sig: Mapping[str, Any]) -> Mapping[str, Any]:
    options = sig.get("options")
    return options if isinstance(options, Mapping) else {}


def _list(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
