"""The graph of what started what."""

from __future__ import annotations

import io

import pytest

from amqtask import IncompleteStream
from amqtask.results.dependencies import DependencyGraph
from tests.results.table import Table

DIAMOND = DependencyGraph([("a", ["b", "c"]), ("b", ["d"]), ("c", ["d"])])


def test_order_edges_and_reach() -> None:
    order = DIAMOND.topsort()

    assert (order[0], order[-1], len(DIAMOND)) == ("a", "d", 4)
    assert DIAMOND.edges() == ["a", "b", "c"]
    assert (DIAMOND.valency_of("a"), DIAMOND.valency_of("d")) == (3, 0)
    assert (DIAMOND["a"], "d" in DIAMOND, list(DIAMOND)) == (["b", "c"], True, ["a", "b", "c", "d"])


def test_a_circle_has_no_order() -> None:
    with pytest.raises(ValueError, match="circle"):
        DependencyGraph([("a", ["b"]), ("b", ["a"])]).topsort()


def test_graphs_are_joined_and_printed() -> None:
    graph = DependencyGraph([("x", ["a"])])
    graph.connect(DIAMOND)

    assert graph.topsort()[0] == "x"
    assert repr(graph).startswith("x(1)\n     a\na(2)\n     b\n     c")


def test_dot_escapes_what_things_are_called() -> None:
    file = io.StringIO()

    DependencyGraph([('say "hi"', ["\\"])]).to_dot(file)

    assert file.getvalue() == (
        'digraph dependencies {\n    n0 [label="say \\"hi\\""];\n    n1 [label="\\\\"];\n    n0 -> n1;\n}\n'
    )


def test_the_graph_of_a_handle() -> None:
    table = Table()
    table.arrives("a", 1, children=[[["b", None], None], [["g", None], [[["c", None], None]]]])
    handle = table.AsyncResult("a")

    with pytest.raises(IncompleteStream):
        _ = handle.graph
    graph = handle.build_graph(intermediate=True)
    for task_id in "bc":
        table.arrives(task_id, 1)

    assert [(str(node), [str(each) for each in following]) for node, following in graph.items()] == [
        ("a", ["b", "g"]), ("b", []), ("g", ["c"]), ("c", []),
    ]  # fmt: skip
    assert [str(node) for node in handle.graph.topsort()] == ["a", "b", "g", "c"]
