"""Handles from tuples and back, and the walks over what was started."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask import AsyncResult, EagerResult, GroupResult, IncompleteStream, result_from_tuple
from tests.results.table import Table


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.mark.parametrize(
    "form",
    [
        (("a", None), None),
        (("b", (("a", None), None)), None),
        (("g", None), [(("a", None), None), (("b", None), None)]),
        (("g", (("a", None), None)), [(("h", None), [(("b", None), None)]), (("c", None), None)]),
        (("body", (("g", (("a", None), None)), [(("b", None), None)])), None),
        (("g", None), []),
    ],
)
def test_a_tuple_makes_handles_and_handles_the_tuple(table: Table, form: object) -> None:
    made = result_from_tuple(form, table)

    assert made.as_tuple() == form
    assert result_from_tuple(json.loads(json.dumps(form)), table).as_tuple() == form
    assert result_from_tuple(made, table) is made


def test_what_tuples_stand_for(table: Table) -> None:
    single = result_from_tuple(("b", None), table)
    tail = result_from_tuple((("b", (("a", None), None)), None), table)
    group = result_from_tuple((("g", None), [(("a", None), None)]), table)

    assert isinstance(single, AsyncResult)
    assert (single.id, single.parent) == ("b", None)
    assert isinstance(tail.parent, AsyncResult)
    assert tail.as_list() == ["b", "a"]
    assert isinstance(group, GroupResult)
    assert group.as_list() == ["g", "a"]
    assert [leaf.id for leaf in group.leaves()] == ["a"]


@pytest.mark.parametrize(
    "form", [7, "a", (), ("a",), ("a", 7), ((None, None), None), (("a", 7), None), ((1, None), []), None]
)  # fmt: skip
def test_what_is_no_tuple_of_a_result_is_one_sentence(table: Table, form: object) -> None:
    with pytest.raises(ValueError, match=r"A result as a tuple is") as caught:
        result_from_tuple(form, table)

    assert "\n" not in str(caught.value)


def test_a_chain_of_ten_thousand_is_no_recursion(table: Table) -> None:
    form: Any = None
    for number in range(10_000):
        form = ((str(number), form), None)

    tail = result_from_tuple(form, table)

    assert len(tail.as_list()) == 10_000
    again: Any = tail.as_tuple()
    for number in reversed(range(10_000)):
        assert again[0][0] == str(number)
        again = again[0][1]


# ---------------------------------------------------------------- what was started


def test_children_are_what_the_worker_told(table: Table) -> None:
    handle = table.AsyncResult("a")
    assert not handle.children

    table.arrives("a", 1, children=[[["b", None], None], [["g", None], [[["c", None], None]]], 7])

    children = handle.children
    assert children is not None
    single, group = children
    assert (str(single), str(group)) == ("b", "g")
    assert isinstance(group, GroupResult)
    assert handle.children is children  # so that what arrives for them is kept
    table.arrives("b", "late")
    assert single.get(timeout=1) == "late"


def started(table: Table) -> AsyncResult[object]:
    """A task that started b and a group of c and d; c started e."""
    table.arrives("a", 1, children=[[["b", None], None], [["g", None], [[["c", None], None], [["d", None], None]]]])  # fmt: skip
    table.arrives("b", 2)
    table.arrives("c", 3, children=[[["e", None], None]])
    table.arrives("d", 4)
    table.arrives("e", 5)
    return table.AsyncResult("a")


def test_collect_goes_breadth_first(table: Table) -> None:
    pairs = [(str(node), value) for node, value in started(table).collect(timeout=1)]

    assert pairs == [("a", 1), ("b", 2), ("g", [3, 4]), ("c", 3), ("d", 4), ("e", 5)]
    assert started(table).get_leaf(timeout=1) == 5


def test_collect_for_coroutines(table: Table) -> None:
    async def collect() -> list[object]:
        handle = started(table)
        values = [value async for _, value in handle.acollect(timeout=1)]
        return [*values, await handle.aget_leaf(timeout=1)]

    assert asyncio.run(collect()) == [1, 2, [3, 4], 3, 4, 5, 5]


def test_iterdeps_tells_who_started_whom_and_stops_at_what_has_not_ended(table: Table) -> None:
    handle = table.AsyncResult("a")
    table.arrives("a", 1, children=[[["b", None], None]])

    with pytest.raises(IncompleteStream, match="b has not ended"):
        list(handle.iterdeps())
    assert [(str(above), str(node)) for above, node in handle.iterdeps(intermediate=True)] == [
        ("None", "a"),
        ("a", "b"),
    ]


def test_what_started_itself_again_is_walked_once(table: Table) -> None:
    table.arrives("a", 1, children=[[["b", None], None], [["c", None], None]])
    table.arrives("b", 2, children=[[["a", None], None], [["d", None], None]])
    table.arrives("c", 3, children=[[["d", None], None]])
    table.arrives("d", 4)

    walked = [f"{above}-{node}" for above, node in table.AsyncResult("a").iterdeps()]

    assert walked == ["None-a", "a-b", "a-c", "b-a", "b-d", "c-d"]


def test_children_nested_without_end_are_left_out(table: Table) -> None:
    form: Any = [["x", None], None]
    for _ in range(300):
        form = [["g", None], [form]]
    table.arrives("a", 1, children=[form, [["b", None], None]])

    children = table.AsyncResult("a").children

    assert children is not None
    assert str(children[-1]) == "b"


def test_an_eager_tree_is_walked_in_the_same_way() -> None:
    leaf: EagerResult[int] = EagerResult("b", 2, "SUCCESS", name="t")
    root: EagerResult[int] = EagerResult("a", 1, "SUCCESS", name="t", children=[leaf])
    tail: EagerResult[int] = EagerResult("c", 3, "SUCCESS", name="t", parent=root)

    assert [value for _, value in root.collect()] == [1, 2]
    assert tail.as_tuple() == (("c", (("a", None), None)), None)
    assert tail == "c"
    assert len({tail, root, leaf, "a"}) == 3


nothing_or_text = st.none() | st.text(max_size=3) | st.integers()


@given(
    st.recursive(
        nothing_or_text,
        lambda inner: (
            st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=2)
        ),
        max_leaves=6,
    )
)  # fmt: skip
def test_rubbish_is_a_handle_or_one_sentence(form: object) -> None:
    made: object = None
    said = ""
    try:
        made = result_from_tuple(form, Table())
    except ValueError as error:
        said = str(error)

    assert isinstance(made, AsyncResult | GroupResult) or said.startswith("A result as a tuple is")


def test_members_nested_without_end_are_one_sentence(table: Table) -> None:
    form: Any = ("a", None)
    for _ in range(100_000):
        form = ("g", [form])

    with pytest.raises(ValueError, match="A result as a tuple is"):
        result_from_tuple(form, table)
    while form[1]:  # what is nested so deeply must not be freed at once
        ((form,),) = (form[1],)
