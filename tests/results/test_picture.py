"""Trees of results as pictures with states."""

from __future__ import annotations

from typing import Any

from amqtask import EagerResult, GroupResult
from amqtask.core.flow import Beside, Box, Flow, Steps, from_json
from amqtask.results.picture import flow_of
from tests.results.table import Table


def shape(flow: Flow) -> Any:
    match flow:
        case Box():
            hanging = [shape(aside.flow) for aside in flow.asides]
            return (flow.detail or flow.title, flow.state, *hanging)
        case Steps():
            return [shape(part) for part in flow.parts]
        case Beside():
            return {flow.title: [shape(part) for part in flow.parts]}


def test_a_chord_with_what_came_before() -> None:
    table = Table()
    header = table.group("b", "c", parent=table.AsyncResult("a"))
    body = table.AsyncResult("d", parent=header)
    # each told what it had started, which is what follows in the chain
    table.arrives("a", 1, children=[[["g", None], [[["b", None], None], [["c", None], None]]]])
    table.arrives("b", 2, children=[[["d", None], None]])
    table.fails("c", ValueError("sold out"))

    assert shape(flow_of(body)) == [
        ("a", "SUCCESS"),
        {"group of 2: 1 SUCCESS, 1 FAILURE": [("b", "SUCCESS"), ("c", "FAILURE")]},
        ("d", "PENDING"),
    ]
    assert "FAILURE" in body.graph_svg()
    assert ":::failure" in body.graph_mermaid()
    assert from_json(body.graph_json()) == flow_of(body)


def test_what_was_started_follows_in_a_row_and_hangs_where_there_is_more() -> None:
    table = Table()
    table.arrives("a", 1, children=[[["b", None], None]])
    table.arrives("b", 2, children=[[["c", None], None], [["d", None], None]])
    table.arrives("c", 3, children=[[["e", None], None]])

    assert shape(flow_of(table.AsyncResult("a"))) == [
        ("a", "SUCCESS"),
        ("b", "SUCCESS"),
        {"2 started": [[("c", "SUCCESS"), ("e", "PENDING")], ("d", "PENDING")]},
    ]
    tail = table.AsyncResult("z", parent=table.AsyncResult("b"))
    assert shape(flow_of(tail)) == [
        ("b", "SUCCESS", [("c", "SUCCESS"), ("e", "PENDING")], ("d", "PENDING")),
        ("z", "PENDING"),
    ]


def test_a_task_that_started_itself_again_is_drawn_once() -> None:
    table = Table()
    table.arrives("a", 1, children=[[["a", None], None]])

    assert shape(flow_of(table.AsyncResult("a"))) == ("a", "SUCCESS")


def test_long_chains_either_way_are_no_recursion() -> None:
    table = Table()
    tail = None
    for number in range(3000):
        tail = table.AsyncResult(str(number), parent=tail)
    assert tail is not None
    for number in range(900):
        table.arrives(f"s{number}", 1, children=[[[f"s{number + 1}", None], None]])

    assert "2,993 more" in tail.graph_svg()
    assert "more" in table.AsyncResult("s0").graph_mermaid()


def test_groups_in_groups_and_eager_results() -> None:
    inner = GroupResult("i", [EagerResult("a", 7, "SUCCESS", name="shop.add")])
    outer = GroupResult("o", [inner, EagerResult("b", KeyError("x"), "FAILURE")])

    flow = flow_of(outer)

    assert shape(flow) == {
        "group of 2: 1 SUCCESS, 1 FAILURE": [{"group of 1: 1 SUCCESS": [("a", "SUCCESS")]}, ("b", "FAILURE")]
    }  # fmt: skip
    assert "KeyError" in outer.graph_svg()
