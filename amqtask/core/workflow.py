"""What a task carries of the workflow it is part of, and a chord to be: values that launching and succession share.

Signatures are mappings in Celery's form; a chain travels in reverse order, as on Celery's wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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

    ``plan`` is what the first message in the barrier's queue says: the body and all that comes after it.
    """

    group: str
    size: int
    plan: Mapping[str, object]


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
