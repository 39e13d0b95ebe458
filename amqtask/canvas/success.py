"""What follows when a task has succeeded: its callbacks, the next of its chain, its part of a chord, what it asked for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from amqtask.canvas.continuation import (
    Continuation,
    Follows,
    Start,
    barrier_of,
    ids_of,
    options_of,
    part_of,
    start_after,
)
from amqtask.core.result import SUCCESS
from amqtask.core.workflow import More, Sig


def after_success(after: Continuation, value: object, start: Start) -> Follows:
    """What follows when a task has returned ``value``: its callbacks, the next of its chain, its part of a chord.

    Raises:
        AmqtaskError: as ``start``: a signature that cannot be started.
    """
    started = [
        start_after(after, sig, (value,), {}, start, f"link{n}")
        for n, sig in enumerate(after.callbacks)
    ]
    if after.chain:
        *rest, following = after.chain
        options = {"chain": rest} if rest else {}
        started.append(start_after(after, following, (value,), options, start, "chain"))
    return Follows(tuple(started), parts=part_of(after, SUCCESS, value, None))


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
        options = options_of(sig)
        own = {name: options.get(name) for name in ("task_id", "chord", "group_id")}
        started.append(start_after(after, sig, (), own, start, f"added/{own['task_id']}"))
    return Follows(tuple(started), more=tuple(More(group, task_id) for task_id in more))
