"""What to publish for a signature: pure code that makes calls, and chords to be, of a workflow.

A signature is read into stages (``stages``), and these become calls and barriers (``sender``). Nothing is said twice: a message
grows with the work that remains and with nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack

import msgspec

from amqtask.call import Call, new_id
from amqtask.canvas.sender import Defaults, Sender, no_defaults
from amqtask.canvas.stages import Fan, Ids, Reader, Result, Said, Task, result_of
from amqtask.core.workflow import Barrier, Sig, listed


class Launch(msgspec.Struct, frozen=True):
    """What a signature comes to. The barriers must be in place before the first of the calls is sent."""

    barriers: Sequence[Barrier]
    calls: Sequence[Call]
    result: Result


class Stream(msgspec.Struct, frozen=True):
    """``Launch`` for what is too long to be held: every barrier comes before the calls that need it.

    ``result`` is complete when ``steps`` has ended: the children of a group are appended as they are made.

    ``tasks`` fills meanwhile: what its signature says of each task, by id.
    ``lazy``: it comes from a generator, so that somebody may want it to be sent while it is made.
    """

    steps: Iterator[Barrier | Call]
    result: Result
    tasks: Mapping[str, Said]
    lazy: bool


class Around(TypedDict, total=False):
    """What surrounds a signature that is compiled.

    Attributes:
        root_id: the workflow's; ``None`` where this begins one.
        parent_id: the task that sends.
        reply_to: where the results go of everything that does not say so itself.
        ids: makes ids; the order of its calls depends on the signature alone.
        defaults: the options of a task by its name, a subset of the fields of ``Call``.
        priority: for what names none.
        header_errbacks: whether the errback of a chord is also one of each part (``task_allow_error_cb_on_chord_header``).
        strict: refuse options that nobody knows, as a caller's mistake; what comes by message is taken as it is.
    """

    root_id: str | None
    parent_id: str | None
    reply_to: str | None
    ids: Ids
    defaults: Defaults | None
    priority: int | None
    header_errbacks: bool
    strict: bool


def launch(
    sig: Sig,
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
    **around: Unpack[Around],
) -> Launch:
    """``stream``, with all its calls at once."""
    made = stream(sig, args, kwargs, options, **around)
    barriers: list[Barrier] = []
    calls: list[Call] = []
    for step in made.steps:
        if isinstance(step, Call):
            calls.append(step)
        else:
            barriers.append(step)
    return Launch(barriers, calls, only_child(made.result))


def stream(
    sig: Sig,
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
    **around: Unpack[Around],
) -> Stream:
    """Compile a signature; calls are made while they are asked for, so that a group of a generator is never held as a whole.

    Args:
        sig: the signature; ids that it has are kept, whoever has none gets one.
        args: partial arguments, put before those of whatever runs first.
        kwargs: partial keyword arguments.
        options: as ``apply_async`` takes them, and how the whole goes on: ``chain`` (what follows, as a message carries it:
            frozen, last first), ``chord`` with ``group_id`` and ``group_index`` (the part of a chord that its end is),
            ``replaced_task_nesting``.
        around: what surrounds it, see ``Around``.

    Raises:
        TypeError, ValueError: the signature makes no sense, or an option does not. Those of the members come while iterating.
    """
    strict = around.get("strict", False)
    given = {name: value for name, value in (options or {}).items() if value is not None}
    reader = Reader(
        around.get("ids", new_id),
        given.pop("reply_to", None) or around.get("reply_to"),  # type: ignore[arg-type]  # a text
        around.get("header_errbacks", False),
        strict,
    )
    stages = reader.stages(sig, given)
    if not stages:
        raise ValueError("This signature holds nothing to run: an empty chain.")
    follows = listed(given.get("chain"))  # plain already: it comes from a message
    chord = given.get("chord")
    if chord is not None and isinstance(stages[-1], Fan):
        # It is one part, and a fan is as many as it has branches.
        stages.append(reader.accumulate(given.get("task_id")))
    last = stages[-1]
    if isinstance(last, Task):
        for name in ("group_id", "group_index", "chord"):
            if name in given:
                last.options[name] = given[name]
    first = stages[0]
    if "replaced_task_nesting" in given:
        first.options["replaced_task_nesting"] = given["replaced_task_nesting"]
    sender = Sender(
        reader,
        around.get("root_id"),
        around.get("parent_id"),
        around.get("defaults") or no_defaults,
        around.get("priority"),
        strict,
    )
    kept: list[Any] | None = None
    if len(stages) == 1 and isinstance(first, Fan) and not follows:
        kept = []  # filled while it is sent: it may be a generator
        result: Result = ((first.id, None), kept)
    else:
        result = result_of(stages)
    lazy = kept is not None and isinstance(first, Fan) and not isinstance(first.branches, list)
    return Stream(
        sender.emit(stages, args, kwargs or {}, follows, kept), result, reader.tasks, lazy
    )


def only_child(result: Result) -> Result:
    """The result to hand out: a group of one branch that ends in a group is that group."""
    children = result[1]
    if children is not None and len(children) == 1 and children[0][1] is not None:
        return children[0]  # type: ignore[no-any-return]  # a result
    return result
