"""What comes after a task: the continuation that its message carries, and what may follow from its end. Values, pure.

A task carries its continuation in its message: callbacks and errbacks, the rest of its chain (last first) and the chord that it is
a part of. ``success``, ``failure`` and ``chord_end`` say what follows from an end. How a signature becomes calls is ``Start``,
handed in. Any thread.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from amqtask.call import Call
from amqtask.canvas.within import part_index
from amqtask.core.codec import Head
from amqtask.core.workflow import Barrier, More, Part, Sig, leaf_of

EMPTY: Sequence[Any] = ()
_NAMESPACE = uuid.UUID("5d8f3c4e-26a5-5f0a-9d1b-0c8a6d1c7b1e")


class Continuation(msgspec.Struct, frozen=True, kw_only=True):
    """One task, and what comes after it. ``chain`` is in Celery's order, last first."""

    id: str
    task: str
    root_id: str
    reply_to: str | None = None
    group: str | None = None
    group_index: int | None = None
    callbacks: Sequence[Any] = EMPTY
    errbacks: Sequence[Any] = EMPTY
    chain: Sequence[Any] = EMPTY
    chord: Mapping[str, Any] | None = None

    def __bool__(self) -> bool:
        return bool(self.callbacks or self.errbacks or self.chain or self.chord)


def continuation(head: Head, embed: Mapping[str, Any] | None) -> Continuation:
    """The continuation of a received message; with ``embed=None`` (nobody could read the body) only what its header tells."""
    index = head.group_index
    if embed is None:
        chord = None
        if leaf := leaf_of(head.headers):
            group, index = leaf
            chord = {"options": {"barrier": group}}
        elif head.group is not None and index is not None:
            # Perhaps of a chord: if it is a plain group, there is no barrier to hear of it.
            chord = {"options": {"barrier": head.group}}
        embed = {"chord": chord}
    return Continuation(
        id=head.id,
        task=head.task,
        root_id=head.root_id,
        reply_to=head.reply_to,
        group=head.group,
        group_index=index,
        callbacks=embed.get("callbacks") or EMPTY,
        errbacks=embed.get("errbacks") or EMPTY,
        chain=embed.get("chain") or EMPTY,
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
        callbacks=flow.callbacks or EMPTY,
        errbacks=flow.errbacks or EMPTY,
        chain=flow.chain or EMPTY,
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


def start_after(
    after: Continuation,
    sig: Sig,
    args: Sequence[object],
    options: Mapping[str, object],
    start: Start,
    what: str,
) -> Started:
    """Start a signature that follows a task.

    Args:
        after: the task.
        sig: the signature.
        args: partial arguments.
        options: options over its own.
        start: makes its calls.
        what: tells it from the other things that follow the same task.

    Raises:
        AmqtaskError: as ``start``.
    """
    return start(
        sig,
        args,
        options,
        root_id=after.root_id,
        parent_id=after.id,
        reply_to=after.reply_to,
        ids=ids_of(after.id, what),
    )


def part_of(
    after: Continuation, state: str, result: object, traceback: str | None
) -> tuple[Part, ...]:
    """The part of its chord that a task's end is, if it has one.

    Args:
        after: the task.
        state: how it ended.
        result: its value, or its exception in wire form.
        traceback: of the exception.
    """
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


def barrier_of(chord: object) -> str | None:
    """The barrier that a chord stub names; ``None`` for a chord of Celery's, which has none."""
    if not isinstance(chord, Mapping):
        return None
    barrier = options_of(chord).get("barrier")
    return barrier if isinstance(barrier, str) and barrier else None


def options_of(sig: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of a signature that comes from a message, and may be anything."""
    options = sig.get("options")
    return options if isinstance(options, Mapping) else {}


def list_of(value: object) -> list[Any]:
    """A list of what a message has for one; a value alone is a list of one."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
