"""The handle of a group: its id, and keeping it in a store."""

from __future__ import annotations

import json
import shelve
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amqtask import (
    ConfigurationError,
    GroupResult,
    ResultError,
)
from tests.results.table import Table


@pytest.fixture
def table() -> Table:
    return Table()


def test_a_group_is_known_by_its_id(table: Table) -> None:
    group = table.group("a", "b")

    assert group == table.group("a", "b") == "g"
    assert group != table.group("a")
    assert group != table.group("a", "b", parent=table.AsyncResult("p"))
    assert len({group, table.group("a", "b")}) == 1
    assert (str(group), repr(group), bool(group), bool(GroupResult())) == (
        "g", "<GroupResult: g [a, b]>", True, False,
    )  # fmt: skip
    assert group.children == [table.AsyncResult("a"), table.AsyncResult("b")]


# ---------------------------------------------------------------- keeping


def nested(table: Table) -> GroupResult:
    first = table.AsyncResult("a")
    inner = GroupResult("inner", [table.AsyncResult("c")], first)
    return GroupResult("g", [table.AsyncResult("b", parent=first), inner], table.AsyncResult("p"))


def test_a_group_is_saved_and_restored(table: Table, tmp_path: Path) -> None:
    with shelve.open(str(tmp_path / "groups")) as store:
        nested(table).save(store)
    with shelve.open(str(tmp_path / "groups")) as store:
        restored = GroupResult.restore("g", store, app=table)
        assert restored == nested(table)
        assert restored.as_tuple() == nested(table).as_tuple()
        assert GroupResult.restore("other", store, app=table) is None
        restored.delete(store)
        restored.delete(store)
        assert not store


def test_a_store_may_give_bytes_and_a_long_chain_is_no_recursion(table: Table) -> None:
    parent = None
    for number in range(3000):
        parent = table.AsyncResult(str(number), parent=parent)
    store: dict[str, Any] = {}
    GroupResult("g", [table.AsyncResult("a")], parent).save(store)
    store = {name: text.encode() for name, text in store.items()}

    restored = GroupResult.restore("g", store, app=table)

    assert restored is not None
    assert restored.as_list()[:3] == ["g", "a", "2999"]
    assert len(restored.as_list()) == 102  # as far as results tell what came before, too


class Shop(dict[str, str]):
    """A store as a client of Redis is one: nothing but items, and no error for what is not there."""

    def __getitem__(self, name: str) -> Any:
        return self.get(name)

    def __delitem__(self, name: str) -> None:
        self.pop(name, None)


def test_what_is_kept_is_celerys_form_and_a_store_needs_items_only(table: Table) -> None:
    store = Shop()
    group = table.group("a", "b", parent=table.AsyncResult("p"))
    group.save(store)

    assert json.loads(store["amqtask.group.g"]) == {
        "result": [["g", [["p", None], None]], [[["a", None], None], [["b", None], None]]],
        "home": "here/1",
    }
    assert GroupResult.restore("g", store, app=table) == group
    assert GroupResult.restore("h", store, app=table) is None
    group.delete(store)
    group.delete(store)
    assert not store


def test_a_group_restored_where_its_results_do_not_come_says_so(table: Table) -> None:
    store: dict[str, str] = {}
    table.group("a", "b", parent=table.AsyncResult("p")).save(store)
    elsewhere = Table(name="there/2", sends=False)
    elsewhere.pending.sending("another")

    restored = GroupResult.restore("g", store, app=elsewhere)

    assert restored is not None
    assert (restored.ready(), restored.as_list()) == (False, ["g", "a", "b", "p"])
    attempts: list[Callable[[], object]] = [
        restored.get, restored.join, lambda: list(restored.iterate()),
    ]  # fmt: skip
    for attempt in attempts:
        with pytest.raises(
            ResultError, match=r"comes to the process that sent group g \(here\) and not here"
        ):
            attempt()


@pytest.mark.parametrize("store", [5, "text", [1], object(), print])
def test_what_is_no_store_is_one_sentence(table: Table, store: Any) -> None:
    for attempt in (table.group("a").save, table.group("a").delete):
        with pytest.raises(TypeError, match="A store is a mapping"):
            attempt(store)
    with pytest.raises(TypeError, match="A store is a mapping"):
        GroupResult.restore("g", store, app=table)


@pytest.mark.parametrize("group_id", [None, "", 5, b"g"])
def test_a_group_is_kept_under_an_id(table: Table, group_id: Any) -> None:
    with pytest.raises(ValueError, match="A group is kept under its id"):
        GroupResult.restore(group_id, {}, app=table)
    with pytest.raises(ValueError, match="A group is kept under its id"):
        GroupResult(group_id, [table.AsyncResult("a")]).save({})


def test_without_a_store_is_one_sentence(table: Table) -> None:
    group = table.group("a")

    for attempt in (group.save, group.delete):
        with pytest.raises(ConfigurationError, match=r"with any mapping of texts"):
            attempt()
    with pytest.raises(ConfigurationError, match=r"restore\(store\) with any mapping of texts"):
        GroupResult.restore("g", app=table)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", "{}", '{"result":7}', '{"result":[["a",null],null]}', '{"result":[["g",null],[7]]}', b"\xff", 7,
        '{"result":' + "[" * 5000 + "]" * 5000 + "}",
    ],
)  # fmt: skip
def test_what_is_no_saved_group_is_one_sentence(table: Table, text: Any) -> None:
    with pytest.raises(ValueError, match="no saved group"):
        GroupResult.restore("g", {"amqtask.group.g": text}, app=table)
