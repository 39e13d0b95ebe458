"""What follows when a task has failed for good: all that was to come has failed too, so that nobody waits for it.

Pure, but for a line in the log about an error callback that makes no sense. Any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from amqtask.call import Call
from amqtask.canvas.continuation import (
    Continuation,
    Ended,
    Follows,
    Gone,
    Start,
    Started,
    barrier_of,
    list_of,
    options_of,
    part_of,
    start_after,
)
from amqtask.canvas.within import part_index
from amqtask.core.result import safe_text
from amqtask.core.workflow import Part, Sig
from amqtask.log import get_logger

log = get_logger("amqtask.worker")

ERRBACK = "amqtask-errback"
"""Header of an errback whose first arguments are the request, the exception and the traceback, to be rebuilt before the call."""


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
        called = called_errbacks(after, ended, after.errbacks, request, takes_details, start)
    gone, missing = unreached(after.chain, after.reply_to)
    parts = [*part_of(after, ended.state, ended.error, ended.traceback)]
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


def called_errbacks(
    after: Continuation,
    ended: Ended,
    sigs: Iterable[Sig],
    request: Mapping[str, object],
    takes_details: Callable[[Sig], bool],
    start: Start,
) -> list[Started]:
    """Error callbacks as they are called; one that cannot be started is logged and left out.

    Args:
        after: the task that failed.
        ended: how it ended.
        sigs: its error callbacks.
        request: the task's request.
        takes_details: as for ``after_failure``.
        start: makes their calls.
    """
    called = []
    for n, sig in enumerate(sigs):
        try:
            args: tuple[object, ...] = (after.id,)
            options: dict[str, object] = {}
            if takes_details(sig):
                args = (request, ended.error, ended.traceback)
                if not sig.get("immutable"):
                    headers = options_of(sig).get("headers")
                    own = headers if isinstance(headers, Mapping) else {}
                    options["headers"] = {**own, ERRBACK: 1}
            called.append(start_after(after, sig, args, options, start, f"errback{n}"))
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
        options = options_of(sig)
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
            (part, direct)
            for part in (*list_of(options.get("chain")), *list_of(options.get("link")))
        ]
        left += _parts_of(sig, kind, direct)
    return gone, missing


_MADE_OF_PARTS = frozenset({"chain", "group", "chord"})


def _parts_of(sig: Sig, kind: str, direct: bool) -> Iterator[tuple[Any, bool]]:
    """The signatures a signature is made of, and whether each is as direct as it."""
    kwargs = sig.get("kwargs")
    if kind not in _MADE_OF_PARTS or not isinstance(kwargs, Mapping):
        return
    for part in list_of(kwargs.get("tasks")):
        yield part, direct
    if kind == "chord":
        header, body = kwargs.get("header"), kwargs.get("body")
        if isinstance(header, Mapping):
            header = [header]
        for part in list_of(header):
            yield part, False  # its barrier was never made
        yield body, direct
