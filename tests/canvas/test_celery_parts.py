"""What a message to a queue of Celery's carries of a chord of ours, and what its workers tell of the part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from amqtask.canvas.celery_parts import PART, for_celery, part_of_message
from amqtask.core.barrier import ADDED
from amqtask.core.workflow import Workflow

STUB = {"task": "body", "options": {"barrier": "g"}, "chord_size": 3}


def theirs(sig: Mapping[str, object]) -> bool:
    return str(sig["task"]).startswith("theirs")


def link(name: str, **options: object) -> dict[str, Any]:
    return {"task": name, "args": [], "kwargs": {}, "options": options, "subtask_type": None}


def states(sigs: Any) -> list[str]:
    return [sig["kwargs"]["state"] for sig in sigs or () if sig["task"] == PART]


def test_a_part_is_told_by_its_callbacks() -> None:
    flow = Workflow(chord=STUB, group="g", group_index=2, callbacks=[link("mine")])

    made = for_celery(flow, "t", theirs)

    assert made.chord is None
    assert made.callbacks is not None
    assert made.callbacks[0] == link("mine")
    callback: Any = made.callbacks[1]
    part = part_of_message([42], callback["kwargs"])
    assert part is not None
    assert (part.group, part.index, part.size, part.task_id) == ("g", 2, 3, "t")
    assert (part.state, part.result) == ("SUCCESS", 42)
    errback: Any = (made.errbacks or [None])[-1]
    failed = part_of_message(["t"], errback["kwargs"])
    assert failed is not None
    assert (failed.group, failed.index, failed.state) == ("g", 2, "FAILURE")
    assert "Task t failed in a Celery worker" in str(failed.result)


def test_a_part_that_was_added_keeps_its_id() -> None:
    stub = {**STUB, "options": {"barrier": "g", "added": True}}

    made: Any = for_celery(Workflow(chord=stub), "new", theirs)

    failed = part_of_message(["another"], made.errbacks[0]["kwargs"])
    assert failed is not None
    assert (failed.index, failed.task_id) == (ADDED, "new")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["theirs.c", "theirs.b"], [True, True]),
        (["theirs.c", "ours.b"], [True, True]),
        (["ours.c", "theirs.b"], [False, True]),
        (["ours.c", "ours.b"], [False, False]),
    ],
)
def test_a_chain_is_told_of_where_nobody_else_does(names: list[str], told: list[bool]) -> None:
    """Last first, as it travels. The first of it runs in Celery."""
    last, before = names
    chain = [link(last, chord=STUB, group_index=1, task_id="c"), link(before)]

    made: Any = for_celery(Workflow(chain=chain), "a", theirs)

    assert states(made.errbacks) == ["FAILURE"]
    assert not made.callbacks
    fails = [states(each["options"].get("link_error")) == ["FAILURE"] for each in made.chain]
    assert fails == told
    options = made.chain[0]["options"]
    assert ("chord" in options) == (not theirs(chain[0]))
    assert states(options.get("link")) == (["SUCCESS"] if theirs(chain[0]) else [])
    assert "link_error" not in chain[0]["options"]


@pytest.mark.parametrize(
    "flow",
    [
        Workflow(group="g", callbacks=[link("x")]),
        Workflow(chord={"task": "body", "options": {}}),
        Workflow(chain=[link("theirs.b")]),
        Workflow(chain=[{**link("celery.chord"), "subtask_type": "chord"}]),
        Workflow(chain=["nonsense"]),
    ],
)
def test_what_is_no_part_stays_as_it_is(flow: Workflow) -> None:
    assert for_celery(flow, "t", theirs) is flow


@pytest.mark.parametrize(
    ("args", "changed"),
    [
        ([], {}),
        ([1, 2], {}),
        ([1], {"barrier": None}),
        ([1], {"index": "0"}),
        ([1], {"task_id": 5}),
        ([1], {"state": "RETRY"}),
        ([1], {"state": ["x"]}),
    ],
)
def test_what_makes_no_sense_is_no_part(args: list[object], changed: dict[str, object]) -> None:
    said = {"barrier": "g", "index": 0, "size": 1, "task_id": "t", "state": "SUCCESS"}

    assert part_of_message([1], said) is not None
    assert part_of_message(args, {**said, **changed}) is None
