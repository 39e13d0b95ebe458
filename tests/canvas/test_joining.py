"""``|`` and ``chain``: what joining costs, and that nothing which is joined is changed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from amqtask import App, Signature, chain, chord, group

app = App("joining")


@app.task
def note(*values: Any) -> Any:
    """Says what it was called with."""
    return values


def calls(function: Callable[[], object]) -> int:
    """How many functions of Python are called."""
    count = 0

    def hear(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(hear)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def pairs(count: int) -> Signature[Any]:
    """A task, a group, a task, a group, and so on."""
    made: Signature[Any] = chain(
        *(sig for _ in range(count) for sig in (note.s(1), group(note.s(), note.s())))
    )
    return made


@pytest.mark.parametrize(
    "build",
    [
        pairs,
        lambda count: chain(note.s(n) for n in range(count)),
        lambda count: (
            chain(note.s(n) for n in range(count)) | chain(note.s() for _ in range(count))
        ),
        lambda count: chain([group(note.s(), note.s()), *(note.s() for _ in range(count))]),
        lambda count: chain([chord([note.s()], note.s()), *(note.s() for _ in range(count))]),
    ],
)
def test_what_is_twice_as_long_costs_twice_as_much(build: Callable[[int], Signature[Any]]) -> None:
    assert calls(lambda: build(100)) < 2.3 * calls(lambda: build(50))


def test_a_hundred_pairs_of_a_task_and_a_group_are_chords_inside_each_other() -> None:
    sig: Any = pairs(100)
    depth = 0
    while (last := sig.tasks[-1])["subtask_type"] == "chord":
        sig, depth = last.body, depth + 1
    assert depth == 99
    assert [each["subtask_type"] for each in sig.tasks] == [None, "group"]


def test_joining_changes_nothing_that_is_joined() -> None:
    parts = [
        chain(note.s(1), group(note.s(2), note.s(3))),
        chord([note.s(4)], chain(note.s(5), note.s(6))),
        chain(note.s(7), chord([note.s(8)], note.s(9))),
        group(note.s(10), chord([note.s(11)], note.s(12))),
        note.s(13),
    ]
    before = json.dumps(parts)
    for first in parts:
        for second in parts:
            for third in parts:
                chain(first, second, third)
                first | second | third  # what it does to its operands is looked at
    assert json.dumps(parts) == before


def test_a_copy_of_a_chord_has_parts_of_its_own() -> None:
    sig = chord([note.s(1), note.s(2)], note.s())
    sig.clone().tasks[0].link(note.s())
    assert sig.tasks[0].options == {}


def test_the_links_of_a_chain_with_an_errback_have_copies_of_it() -> None:
    errback = note.s(9)
    sig: Any = note.s(1) | chain(note.s(2), note.s(3)).on_error(errback)
    own = [task.options["link_error"][0] for task in sig.tasks[1:]]
    assert own == [errback, errback]
    assert len({id(each) for each in [errback, *own]}) == 3
