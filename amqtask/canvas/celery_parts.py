"""Parts of chords that Celery's workers run, which know nothing of barriers: their callbacks and errbacks tell of their ends.

A message that goes to a queue of Celery's carries no chord of ours. Its task, or the last link of its chain, is linked to a
task ``amqtask.part`` instead, which no worker runs: Celery publishes it to the exchange that amqtask's workers take dropped
messages from, and whoever gets it puts the part into the barrier. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from amqtask.canvas.continuation import barrier_of, list_of, options_of
from amqtask.canvas.within import part_index
from amqtask.core.result import FAILURE, SUCCESS
from amqtask.core.workflow import Part, Sig, Workflow
from amqtask.topology.dropped import DROPPED, LATE

PART: Final = "amqtask.part"
"""The task that tells of a part's end: with its value, or with the id of the task that failed."""

Theirs = Callable[[Sig], bool]


def for_celery(flow: Workflow, task_id: str, theirs: Theirs) -> Workflow:
    """What a message to a queue of Celery's carries of its workflow.

    Args:
        flow: what it would carry to a worker of ours.
        task_id: its task.
        theirs: whether a later link of its chain goes to Celery, too.
    """
    if not flow.chain:
        end = _ends(flow.chord, flow.group_index, task_id)
        if end is None:
            return flow
        callbacks = [*list_of(flow.callbacks), end(SUCCESS)]
        errbacks = [*list_of(flow.errbacks), end(FAILURE)]
        return msgspec.structs.replace(flow, chord=None, callbacks=callbacks, errbacks=errbacks)
    last: Any = flow.chain[0]
    if not _simple(last):
        return flow
    options = options_of(last)
    end = _ends(options.get("chord"), options.get("group_index"), options.get("task_id"))
    if end is None:
        return flow
    goes = theirs(last)
    # Celery tells nobody behind a link that fails. Nor do we where the last link has no chord any more.
    chain = [
        _linked(link, {"link_error": end(FAILURE)}) if goes or _told(link, theirs) else link
        for link in flow.chain
    ]
    if goes:
        chain[0] = _linked(chain[0], {"link": end(SUCCESS)}, without="chord")
    errbacks = [*list_of(flow.errbacks), end(FAILURE)]
    return msgspec.structs.replace(flow, chain=chain, errbacks=errbacks)


def part_of_message(args: Sequence[object], kwargs: Mapping[str, object]) -> Part | None:
    """The part that a message of the task ``amqtask.part`` tells of; ``None`` when it makes no sense."""
    group, index, size = (kwargs.get(name) for name in ("barrier", "index", "size"))
    state, task_id = kwargs.get("state"), kwargs.get("task_id")
    if not isinstance(group, str) or type(index) is not int or not isinstance(task_id, str):
        return None
    if len(args) != 1 or state not in (SUCCESS, FAILURE):
        return None
    result = args[0]
    if state == FAILURE:
        failed = result if isinstance(result, str) else task_id
        told = f"Task {failed} failed in a Celery worker; its own result says why."
        result = {"exc_type": "TaskFailed", "exc_message": [told], "exc_module": "amqtask.errors"}
        task_id = failed if index >= 0 else task_id
    return Part(
        group=group,
        index=index,
        size=size if type(size) is int else None,
        task_id=task_id,
        state=str(state),
        result=result,
    )


def _ends(chord: object, index: object, task_id: object) -> Callable[[str], Sig] | None:
    """Makes what tells of a part's end; ``None`` of what is no part of a chord of ours."""
    group = barrier_of(chord)
    if group is None or not isinstance(chord, Mapping):
        return None
    part = {
        "barrier": group,
        "index": part_index(chord, index),
        "size": chord.get("chord_size"),
        "task_id": task_id,
    }

    def end(state: str) -> Sig:
        return {
            "task": PART,
            "args": [],
            "kwargs": {**part, "state": state},
            "options": {"exchange": DROPPED, "routing_key": LATE, "ignore_result": True},
            "subtask_type": None,
            "immutable": False,
        }

    return end


def _simple(link: object) -> bool:
    return isinstance(link, Mapping) and not link.get("subtask_type")


def _told(link: object, theirs: Theirs) -> bool:
    return isinstance(link, Mapping) and _simple(link) and theirs(link)


def _linked(link: Any, more: Mapping[str, Sig], without: str = "") -> Any:
    if not _simple(link):
        return link
    options = {name: value for name, value in options_of(link).items() if name != without}
    for name, sig in more.items():
        options[name] = [*list_of(options.get(name)), sig]
    return {**link, "options": options}
