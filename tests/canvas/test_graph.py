"""Signatures as pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from amqtask import App, chain, chord, group
from amqtask.canvas.graph import flow_of, mermaid, svg
from amqtask.core.flow import Beside, Box, Flow, Steps, boxes
from amqtask.errors import ConfigurationError

app = App("shop")


@app.task(name="shop.add")
def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(name="shop.total")
def total(values: list[int]) -> int:
    return sum(values)


def shape(flow: Flow) -> Any:
    """A flow as nested lists of titles."""
    match flow:
        case Box():
            return flow.title
        case Steps():
            return [shape(part) for part in flow.parts]
        case Beside():
            return (flow.title, *[shape(part) for part in flow.parts])


def test_a_task_shows_its_arguments_and_options() -> None:
    box = flow_of(add.si(1, y=2).set(queue="mail", countdown=5))

    assert isinstance(box, Box)
    assert (box.title, box.detail) == ("shop.add(1, y=2)", "immutable, queue mail, countdown 5")
    assert box.tip == "shop.add(1, y=2)"


def test_chains_groups_and_chords() -> None:
    work: Any = add.s(1, 2) | group(add.s(3) | add.s(4), add.s(5)) | total.s()

    assert shape(flow_of(work)) == [
        "shop.add(1, 2)",
        ("chord of 2", ["shop.add(3)", "shop.add(4)"], "shop.add(5)"),
        "shop.total()",
    ]
    assert shape(flow_of(group(add.s(1)))) == ("group of 1", "shop.add(1)")
    assert shape(flow_of(chord([add.s(1), add.s(2)], total.s() | add.s(3)))) == [
        ("chord of 2", "shop.add(1)", "shop.add(2)"),
        "shop.total()",
        "shop.add(3)",
    ]


def test_what_travels_as_json_is_drawn_alike() -> None:
    work: Any = chain(add.s(1), group(add.s(2), add.s(3)), total.s())

    assert flow_of(json.loads(json.dumps(work))) == flow_of(work)


def test_callbacks_hang_on_their_task() -> None:
    task = add.s(1)
    task.link(add.s(2))
    task.link_error(total.s())

    box = flow_of(task)

    assert [(aside.label, shape(aside.flow), aside.error) for aside in box.asides] == [
        ("then", "shop.add(2)", False),
        ("on error", "shop.total()", True),
    ]


def test_maps_and_chunks() -> None:
    assert shape(flow_of(add.map(range(3)))) == "shop.add.map"
    chunks = flow_of(add.chunks([(1, 2), (3, 4)], 10))
    assert isinstance(chunks, Box)
    assert (chunks.title, chunks.detail) == ("shop.add.chunks", "2 items in chunks of 10")


def test_a_generator_is_asked_for_some_and_loses_nothing() -> None:
    asked = 0

    def members() -> Iterator[Any]:
        nonlocal asked
        while True:
            asked += 1
            yield add.s(asked)

    flow = flow_of(group(members()))

    assert isinstance(flow, Beside)
    assert flow.title == "group of 10,000 or more"
    assert asked <= 10_001
    few: group[Any] = group(add.s(number) for number in range(3))
    assert shape(flow_of(few)) == ("group of 3", "shop.add(0)", "shop.add(1)", "shop.add(2)")
    assert len(few) == 3


@pytest.mark.parametrize("render", [mermaid, svg])
def test_a_thousand_links_and_a_thousand_members_are_a_page(render: Any) -> None:
    links: Any = chain(*[add.s(number) for number in range(1000)])
    members: Any = chord([add.s(number) for number in range(1000)], total.s())

    for work in (links, members):
        text = render(work)
        assert text in (work.graph_mermaid(), work.graph_svg())
        assert "993 more" in text
        assert len(text) < 10_000


def test_signatures_in_signatures_end_somewhere() -> None:
    work: dict[str, Any] = {"task": "t"}
    for _ in range(400):
        work = {"task": "group", "subtask_type": "group", "kwargs": {"tasks": [work]}}

    assert next(iter(boxes(flow_of(work)))).detail == "deeper"


@pytest.mark.parametrize("what", [7, [], {}, {"task": 7}, {"task": "c", "subtask_type": "chain", "kwargs": {"tasks": [3]}}])  # fmt: skip
def test_what_is_no_signature_is_one_sentence(what: Any) -> None:
    with pytest.raises(ConfigurationError, match="A signature is a mapping with task"):
        flow_of(what)


@pytest.mark.parametrize("kind", ["chain", "group", "chord", "xmap", "chunks", "odd"])
def test_signatures_with_parts_missing_are_drawn_as_they_are(kind: str) -> None:
    assert flow_of({"task": "x", "subtask_type": kind}) is not None
