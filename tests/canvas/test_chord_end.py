"""What follows from the end of a chord, as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from amqtask.canvas.chord_end import after_failed_parts, after_parts, shaped
from amqtask.canvas.continuation import (
    Ended,
)
from tests.canvas.following import FAILED, Launcher, sig, stub


@pytest.mark.parametrize(
    ("shape", "results", "expected"),
    [
        (None, [1, 2], [1, 2]),
        ([[0, 1], 2], [1, 2, 3], [[1, 2], 3]),
        ([[0, [1]], 2], [1, 2, 3, "more", "most"], [[1, [2]], 3, "more", "most"]),
        ([], [], []),
    ],
)
def test_results_take_the_form_of_the_header(
    shape: object, results: list[object], expected: list[object]
) -> None:
    assert shaped(shape, results) == expected


def test_a_body_gets_the_results_and_what_follows_it() -> None:
    start = Launcher()
    plan = {
        "body": sig("body", task_id="b", reply_to="r"),
        "chain": [sig("last")],
        "shape": None,
        "root_id": "root",
        "parent_id": "p",
    }
    after_parts("g", plan, [1, 2], start)
    assert start.asked == [("body", ([1, 2],), {"chain": [sig("last")]})]
    assert start.ids == ["root<p>r"]


def failed_plan(plan: Mapping[str, Any], start: Launcher) -> Any:
    cause = Ended("FAILURE", {"exc_type": "KeyError", "exc_message": ["k"]})
    return after_failed_parts(
        "g", plan, FAILED, cause, takes_details=lambda _sig: False, start=start
    )


def test_a_chord_that_failed_fails_its_body_and_all_after_it() -> None:
    start = Launcher()
    last = sig("last", task_id="z", chord=stub("outer"), group_index=1)
    body = sig("body", task_id="b", reply_to="r", link_error=[sig("eb")])
    ends = failed_plan({"body": body, "chain": [last], "root_id": "root"}, start)
    assert start.asked == [("eb", ("b",), {})]
    assert [each.task_id for _, follows in ends for each in follows.gone] == ["b", "z"]
    assert all(ended is FAILED for ended, _ in ends)
    ((_, _), (_, rest)) = ends
    assert [(part.group, part.index) for part in rest.parts] == [("outer", 1)]


def test_the_tasks_of_a_body_that_is_a_group_fail_as_the_part_did() -> None:
    start = Launcher()
    tasks = [sig("m", task_id="m", link_error=[sig("own")]), sig("n", task_id="n")]
    body = sig("celery.group", "group", tasks=tasks, task_id="group", link_error=[sig("all")])
    ((ended, follows),) = failed_plan({"body": body}, start)
    assert ended.error == {"exc_type": "KeyError", "exc_message": ["k"]}
    assert {each.task_id for each in follows.gone} == {"m", "n"}
    assert sorted((task, args) for task, args, _ in start.asked) == [
        ("all", ("m",)),
        ("all", ("n",)),
        ("own", ("m",)),
    ]
