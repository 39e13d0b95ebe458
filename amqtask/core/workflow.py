"""What a task carries of the workflow it is part of, and a chord to be: values that launching and succession share.

Signatures are mappings in Celery's form; a chain travels in reverse order, as on Celery's wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec

Sig = Mapping[str, object]
"""A signature in its wire form: task, args, kwargs, options, subtask_type, immutable."""


class Workflow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one call carries of its workflow; a call that belongs to none has none of these.

    ``callbacks`` and ``errbacks`` are signatures, ``chain`` is what follows, last first; ``chord`` tells of the chord that
    the task is a part of.
    """

    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    callbacks: Sequence[object] | None = None
    errbacks: Sequence[object] | None = None
    chain: Sequence[object] | None = None
    chord: object = None
    replaced_task_nesting: int = 0
    stamped_headers: Sequence[str] | None = None
    stamps: Mapping[str, object] | None = None


class Barrier(msgspec.Struct, frozen=True):
    """A chord to be: where its parts gather, how many there are, and what follows.

    ``plan`` is what the first message in the barrier's queue says: the body and all that comes after it. ``delay`` is for how many
    seconds its parts are put off: as much longer it may be that none ends.
    """

    group: str
    size: int
    plan: Mapping[str, object]
    delay: float = 0.0


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The end of one part of a chord. ``result`` is the value, or the exception in its wire form.

    ``size`` is ``None`` when the sender does not know how many parts there are.
    """

    group: str
    index: int
    size: int | None
    task_id: str
    state: str
    result: object = None
    traceback: str | None = None


class More(msgspec.Struct, frozen=True):
    """One part more for a chord whose parts run already: ``task_id`` is the part's, which counts once."""

    group: str
    task_id: str


# ---------------------------------------------------------------- the chord behind a chain

LEAF: Final = "amqtask-leaf"
"""Header of a link whose chain ends as a part of a chord: the part's index and the chord, which its body tells, too, if it can be read."""


def leaf_header(chain: Sequence[object]) -> str | None:
    """The header's value for a link before these, last first; ``None`` when the last is no part of a chord, or one that was added."""
    sig = chain[0] if chain else None
    while isinstance(sig, Mapping):
        options, kwargs = sig.get("options"), sig.get("kwargs")
        chord = options.get("chord") if isinstance(options, Mapping) else None
        if isinstance(options, Mapping) and isinstance(chord, Mapping):
            stub, index = chord.get("options"), options.get("group_index")
            if not isinstance(stub, Mapping) or stub.get("added") or type(index) is not int:
                return None
            group = stub.get("barrier")
            return f"{index} {group}" if isinstance(group, str) else None
        if not isinstance(kwargs, Mapping):
            return None
        kind, tasks = kind_of(sig), kwargs.get("tasks")
        if kind == "chord":
            sig = kwargs.get("body")
        elif kind in ("chain", "group") and isinstance(tasks, list | tuple) and tasks:
            sig = tasks[-1 if kind == "chain" else 0]
        else:
            return None
    return None


def leaf_of(headers: Mapping[str, object]) -> tuple[str, int] | None:
    """The chord and the index of the part that a message's header names."""
    value = headers.get(LEAF) if headers else None
    if not isinstance(value, str):
        return None
    index, _, group = value.partition(" ")
    return (group, int(index)) if index.isascii() and index.isdigit() and group else None


# ---------------------------------------------------------------- signatures

MAPS: Final = frozenset({"celery.map", "celery.starmap"})
"""Tasks that run another one, whose signature is their argument ``task``."""

_KINDS: Final = {
    "celery.chain": "chain",
    "celery.group": "group",
    "celery.chord": "chord",
    "celery.chunks": "chunks",
}
_SIGNATURES_IN: Final = frozenset({"tasks", "header", "body", "task"})
_LISTS_OF_SIGNATURES: Final = frozenset({"link", "link_error", "chain"})


def kind_of(sig: Sig) -> str:
    """What a signature is: ``task``, ``chain``, ``group``, ``chord`` or ``chunks``."""
    kind = sig.get("subtask_type")
    if isinstance(kind, str) and kind in _KINDS.values():
        return kind
    return _KINDS.get(str(sig.get("task")), "task")


def listed(value: object) -> list[Any]:
    """What may be one, several or none, as a list of its own."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return list(value)
    return [value]


def plain(sig: object) -> Any:
    """A signature of nothing but dicts and lists, as every serializer writes it. Arguments are left as they are."""
    if not isinstance(sig, Mapping):
        return sig
    made = dict(sig)
    kwargs = made.get("kwargs")
    if isinstance(kwargs, Mapping) and (kind_of(made) != "task" or made.get("task") in MAPS):
        made["kwargs"] = {
            name: _plain_members(value) if name in _SIGNATURES_IN else value
            for name, value in kwargs.items()
        }
    options = made.get("options")
    if isinstance(options, Mapping):
        made["options"] = {
            name: [plain(each) for each in listed(value)]
            if name in _LISTS_OF_SIGNATURES
            else plain_option(value)
            for name, value in options.items()
        }
    return made


def plain_option(value: object) -> object:
    """An option of a signature as it can travel: a time span has no form of its own."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    return plain(value) if isinstance(value, Mapping) and "task" in value else value


def _plain_members(value: object) -> object:
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return value
    return [plain(each) for each in value]
