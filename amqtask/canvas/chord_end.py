"""What follows from the end of a chord's parts: its body, or the failure of that and of all after it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from amqtask.canvas.continuation import (
    Continuation,
    Ended,
    Follows,
    Start,
    Started,
    ids_of,
    list_of,
    options_of,
)
from amqtask.canvas.failure import called_errbacks, unreached
from amqtask.core.result import FAILURE, REVOKED
from amqtask.core.workflow import Part, Sig


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
            called += called_errbacks(of_task, ended, sigs, request, takes_details, start)
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
    options = options_of(body)
    own: list[Sig] = []
    inner = body
    while inner.get("subtask_type") == "chord":  # a chord's result is its body's
        own += list_of(options_of(inner).get("link_error"))
        kwargs = inner.get("kwargs")
        following = kwargs.get("body") if isinstance(kwargs, Mapping) else None
        if not isinstance(following, Mapping):
            break
        inner = following
    kwargs = inner.get("kwargs")
    if inner.get("subtask_type") == "group" and isinstance(kwargs, Mapping):
        own += list_of(options_of(inner).get("link_error"))
        for task in list_of(kwargs.get("tasks")):
            for task_id, sigs in _errbacks_of_body(task):
                yield task_id, [*sigs, *(each for each in own if each not in sigs)]
        return
    if inner.get("subtask_type") == "chain" and isinstance(kwargs, Mapping):
        tasks = list_of(kwargs.get("tasks"))
        first = tasks[0] if tasks else {}
        options = options_of(first) or options
        own += list_of(options.get("link_error"))
    own += [each for each in list_of(options_of(inner).get("link_error")) if each not in own]
    task_id = options_of(inner).get("task_id") or options.get("task_id")
    yield (task_id if isinstance(task_id, str) else None), own


def _of_plan(group: str, plan: Mapping[str, Any]) -> Continuation:
    body = plan.get("body")
    options = options_of(body) if isinstance(body, Mapping) else {}
    task_id, reply_to = options.get("task_id"), plan.get("reply_to") or options.get("reply_to")
    return Continuation(
        id=task_id if isinstance(task_id, str) else group,
        task="",
        root_id=str(plan.get("root_id") or group),
        reply_to=reply_to if isinstance(reply_to, str) else None,
        chain=list_of(plan.get("chain")),
    )
