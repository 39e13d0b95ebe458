"""What a running task does to the workflow it is part of: puts a signature in its own place, adds one to its chord.

Nothing is published here: what is asked for is kept with the request and follows when the task has ended. Any thread.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from amqtask.canvas.checks import no_signature
from amqtask.canvas.signature import Signature, maybe_signature
from amqtask.core.barrier import ADDED
from amqtask.core.workflow import listed
from amqtask.errors import ConfigurationError
from amqtask.request import Request

_NAMESPACE = uuid.UUID("9b0c2c52-3c3e-5b0e-8a8e-6f5d6a5c4f10")


def replacement(request: Request, sig: Any, app: Any) -> Signature[Any]:
    """The signature that takes the running task's place, with the task's callbacks, errbacks and stamps; the given one stays.

    Args:
        request: the running task's.
        sig: what the task gave.
        app: the task's.

    Raises:
        ConfigurationError: it is part of a chord already, or an empty chain.
        TypeError: it is no signature.
    """
    made = _signature(sig, app, "replace")
    if "chord" in made.options:
        raise ConfigurationError(
            "A signature that replaces a task must not be part of a chord; the task's own chord is passed on to it."
        )
    if made["subtask_type"] == "chain" and not made.kwargs.get("tasks"):
        raise ConfigurationError("A task cannot be replaced with an empty chain.")
    if _ends_in_group(made):
        # What follows needs one value: the list of theirs.
        made = made.__or__(Signature("celery.accumulate", (), {"index": 0}, app=app))
    for callback in request.callbacks or ():
        made.link(maybe_signature(callback, app))
    for errback in request.errbacks or ():
        made.link_error(maybe_signature(errback, app))
    if request.stamps:
        made.stamp(None, **_stamps(request))
    return made


def addition(request: Request, sig: Any, app: Any) -> Signature[Any]:
    """A signature as one part more of the running task's chord, with its id; the given one stays.

    Args:
        request: the running task's.
        sig: what the task gave.
        app: the task's.

    Raises:
        ValueError: the task is not part of a chord.
        TypeError: it is no signature.
    """
    chord = request.chord
    if not chord and request.id is None:
        raise ValueError(
            "add_to_chord() is for a task that runs as a part of a chord; nothing runs it here."
        )
    if not chord:
        raise ValueError(
            f"Task {request.task}[{request.id}] is not part of a chord, so nothing can be added to that."
        )
    made = _signature(sig, app, "add_to_chord")
    # The same id each time this attempt runs, so that what is added twice counts once.
    name = f"{request.id}/{request.retries}/{len(request.asked.more or ())}"
    task_id = made.options.get("task_id") or str(uuid.uuid5(_NAMESPACE, name))
    stub = {**chord, "options": {**chord["options"], "added": True}}
    made.set(task_id=task_id, chord=stub, group_id=request.group, root_id=request.root_id)
    return made


def is_addition(chord: object) -> bool:
    """Whether a chord stub is that of a part that was added."""
    options = chord.get("options") if isinstance(chord, Mapping) else None
    return isinstance(options, Mapping) and options.get("added") is True


def part_index(chord: object, group_index: object) -> int:
    """Which part of a chord it is that carries this stub: its place in the chord, or one that was added."""
    if is_addition(chord):
        return ADDED
    return group_index if type(group_index) is int else 0


def _ends_in_group(sig: Mapping[str, Any]) -> bool:
    """Whether what a signature comes to is told by several tasks at its end."""
    kind, parts = sig.get("subtask_type"), sig.get("kwargs") or {}
    if kind == "chain" and parts["tasks"]:
        return _ends_in_group(parts["tasks"][-1])
    if kind == "chord" and parts["body"]:
        return _ends_in_group(parts["body"])
    return kind == "group"


def _signature(sig: Any, app: Any, function: str) -> Signature[Any]:
    made = maybe_signature(sig, app)
    if not isinstance(made, Signature):
        raise no_signature(sig, f"{function}() takes a signature, not")
    return made.clone()


def _stamps(request: Request) -> dict[str, Any]:
    names = listed(request.stamped_headers) or list(request.stamps or ())
    values = {name: value for name, value in (request.stamps or {}).items() if name in names}
    return {**values, "stamped_headers": list(values)}
