"""Handles of several: waiting together, looking, telling, keeping."""

from __future__ import annotations

import asyncio
import json
import shelve
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amqtask import (
    ChordError,
    ConfigurationError,
    EagerResult,
    GroupResult,
    ResultError,
    ResultSet,
    ResultTimeout,
)
from amqtask.errors import TaskRevokedError
from amqtask.results.base import ResultBase
from tests.results.table import Table


@pytest.fixture
def table() -> Table:
    return Table()


def ids(count: int) -> list[str]:
    return [str(number) for number in range(count)]


# ---------------------------------------------------------------- waiting


def test_get_gives_the_values_in_order(table: Table) -> None:
    group = table.group("a", "b", "c")
    for task_id, value in (("c", 3), ("a", 1), ("b", 2)):
        table.arrives(task_id, value)

    assert group.get(timeout=1) == [1, 2, 3]
    assert group.join(timeout=1) == [1, 2, 3]
    assert group.join_native(timeout=1) == [1, 2, 3]
    assert asyncio.run(group.aget(timeout=1)) == [1, 2, 3]
    assert asyncio.run(group.ajoin(timeout=1)) == [1, 2, 3]


def test_get_waits_for_what_another_thread_files(table: Table) -> None:
    group = table.group("a", "b")
    table.arrives("b", 2, status="STARTED")

    def later() -> None:
        table.arrives("b", 2)
        table.arrives("a", None, status="STARTED")
        table.arrives("a", 1)

    timer = threading.Timer(0.05, later)
    timer.start()

    assert group.get(timeout=10) == [1, 2]
    timer.join()
    assert table.listeners("a", "b") == 0


def test_a_failure_is_raised_while_others_run(table: Table) -> None:
    group = table.group("a", "b", "c")
    table.fails("c", KeyError("sold out"))

    with pytest.raises(KeyError):
        group.get(timeout=10)
    with pytest.raises(KeyError):
        asyncio.run(group.aget(timeout=10))
    with pytest.raises(KeyError):
        group.maybe_throw()
    with pytest.raises(ResultTimeout, match=r"t\[a\]"):
        group.join(timeout=0)  # in order: a comes first
    assert table.listeners("a", "b", "c") == 0


def test_without_propagate_a_failure_is_a_value(table: Table) -> None:
    group = table.group("a", "b")
    table.fails("a", TaskRevokedError("expired"), "REVOKED")
    table.arrives("b", 2)

    values = group.get(timeout=1, propagate=False)

    assert isinstance(values[0], TaskRevokedError)
    assert values[1] == 2
    assert [type(value) for value in group.join(propagate=False)] == [TaskRevokedError, int]


def test_what_came_before_fails_the_wait(table: Table) -> None:
    parent = table.AsyncResult("p")
    group = table.group("a", "b", parent=parent)
    body = table.AsyncResult("body", parent=group)
    table.fails("p", KeyError("gone"))

    for handle in (group, body):
        with pytest.raises(KeyError):
            handle.get(timeout=10)
        with pytest.raises(KeyError):
            asyncio.run(wait(handle))
    with pytest.raises(ResultTimeout):
        body.get(timeout=0, follow_parents=False)
    assert table.listeners("p", "a", "b", "body") == 0


async def wait(handle: ResultBase) -> Any:
    return await handle.aget(timeout=10)


def test_a_part_that_fails_is_for_the_body_to_tell(table: Table) -> None:
    body = table.AsyncResult("body", parent=table.group("a", "b"))
    table.fails("a", KeyError("gone"))

    with pytest.raises(ResultTimeout):
        body.get(timeout=0)
    table.fails("body", ChordError("Dependency a raised KeyError('gone')"))
    with pytest.raises(ChordError, match="Dependency a"):
        body.get(timeout=1)


def test_a_parent_that_fails_meanwhile_is_heard_at_once(table: Table) -> None:
    tail = table.AsyncResult("b", parent=table.AsyncResult("a"))
    timer = threading.Timer(0.05, table.fails, ("a", KeyError("gone")))
    timer.start()

    with pytest.raises(KeyError):
        tail.get(timeout=10)
    timer.join()

    table.arrives("b", 2)  # its own end goes first
    assert tail.get(timeout=1) == 2


def test_the_timeout_of_a_chain_says_where_it_is(table: Table) -> None:
    first = table.AsyncResult("a")
    table.arrives("a", 1)
    header = table.group("b", "c", parent=first)
    tail = table.AsyncResult("e", parent=table.AsyncResult("d", parent=header))
    table.arrives("b", 2)
    table.arrives("c", None, status="STARTED")

    with pytest.raises(
        ResultTimeout, match=r"t\[e\] .* PENDING; before it, task t\[c\] is STARTED"
    ):
        tail.get(timeout=0)
    table.arrives("c", 3)
    with pytest.raises(ResultTimeout, match=r"before it, task t\[d\] is PENDING"):
        asyncio.run(wait_shortly(tail))


async def wait_shortly(handle: ResultBase) -> Any:
    return await handle.aget(timeout=0)


def test_a_parent_that_succeeds_is_passed_over(table: Table) -> None:
    tail = table.AsyncResult("b", parent=table.AsyncResult("a"))
    table.arrives("a", 1)
    timer = threading.Timer(0.05, table.arrives, ("b", 2))
    timer.start()

    assert tail.get(timeout=10) == 2
    timer.join()


def test_the_timeout_says_what_is_missing(table: Table) -> None:
    group = table.group("a", "b", "c")
    table.arrives("a", 1)
    table.arrives("b", None, status="STARTED")
    missing = r"2 of the 3 results of group g .* t\[b\] is STARTED"

    with pytest.raises(ResultTimeout, match=missing):
        group.get(timeout=0.01)
    with pytest.raises(ResultTimeout, match=missing):
        asyncio.run(group.aget(timeout=0.01))
    with pytest.raises(ResultTimeout):
        list(group.iterate(timeout=0))
    assert table.listeners("a", "b", "c") == 0


def test_groups_in_groups_are_lists_in_lists(table: Table) -> None:
    inner = GroupResult("inner", [table.AsyncResult("b"), table.AsyncResult("c")])
    outer = GroupResult("outer", [table.AsyncResult("a"), inner, GroupResult("none", [])])
    for number, task_id in enumerate("cab"):
        table.arrives(task_id, number)

    assert outer.get(timeout=1) == outer.join(timeout=1) == [1, [2, 0], []]
    assert [str(member) for member in outer.as_completed(timeout=1)] == ["none", "a", "inner"]
    assert outer.completed_count() == 3
    assert dict(outer.iter_native())["inner"] == ["b", "c"]


def test_an_empty_group_has_ended(table: Table) -> None:
    group = table.group()

    assert group.get() == []
    assert asyncio.run(group.aget()) == []
    assert (group.ready(), group.successful(), group.failed(), group.waiting()) == (
        True, True, False, False,
    )  # fmt: skip


def test_values_as_they_come(table: Table) -> None:
    group = table.group("a", "b", "c")
    values = group.iterate(timeout=10)

    table.arrives("b", 2)
    assert next(values) == 2
    table.arrives("c", 3)
    assert next(values) == 3
    table.arrives("a", 1)
    assert next(values) == 1
    assert next(values, "end") == "end"
    assert [each["result"] for _, each in group.iter_native(timeout=1)] == [1, 2, 3]


def test_a_callback_gets_them_instead(table: Table) -> None:
    group = table.group("a", "b")
    table.arrives("a", 1)
    table.arrives("b", 2)
    seen: list[tuple[str | None, int]] = []

    assert group.get(callback=lambda *each: seen.append(each)) == []
    assert group.join(callback=lambda *each: seen.append(each)) == []
    assert seen == [("a", 1), ("b", 2)] * 2


def test_coroutines_iterate_and_await(table: Table) -> None:
    group = table.group("a", "b", "c")
    table.arrives("c", 3)

    async def iterate() -> list[object]:
        timer = threading.Timer(0.02, table.arrives, ("a", 1))
        timer.start()
        asyncio.get_running_loop().call_later(0.06, table.arrives, "b", 2)
        values = [value async for value in group]
        timer.join()
        native = [task_id async for task_id, _ in group.aiter_native(timeout=1)]
        return [values, await group, native]

    assert asyncio.run(iterate()) == [[3, 1, 2], [1, 2, 3], ["a", "b", "c"]]
    assert table.listeners("a", "b", "c") == 0


def test_get_in_a_running_loop_is_refused(table: Table) -> None:
    group = table.group("a")

    async def attempt() -> None:
        with pytest.raises(RuntimeError, match="aget"):
            group.get(timeout=1)

    asyncio.run(attempt())


def test_ten_thousand_members_cost_as_many_looks(table: Table) -> None:
    """Twice as many take about twice as long, in whatever order they come, and whoever waits."""

    def seconds(count: int) -> float:
        here = Table()
        group = here.group(*ids(count))
        started = threading.Event()

        def feed() -> None:
            started.wait()
            for task_id in reversed(ids(count)):
                here.arrives(task_id, 1)

        feeder = threading.Thread(target=feed)
        feeder.start()
        began = time.thread_time()
        started.set()
        assert group.get(timeout=60) == [1] * count
        spent = time.thread_time() - began
        feeder.join()
        assert asyncio.run(group.aget(timeout=60)) == [1] * count
        return spent

    small = min(seconds(1000) for _ in range(3))
    assert seconds(10_000) < 40 * small + 0.5


# ---------------------------------------------------------------- looking


def test_states_of_a_group(table: Table) -> None:
    group = table.group("a", "b")
    assert (group.ready(), group.waiting(), group.completed_count()) == (False, True, 0)

    table.arrives("a", 1)
    assert (group.ready(), group.completed_count(), group.successful()) == (False, 1, False)

    table.fails("b", ValueError())
    assert (group.ready(), group.failed(), group.successful(), group.completed_count()) == (
        True, True, False, 1,
    )  # fmt: skip
    group.forget()
    assert not group.ready()


def test_a_group_of_eager_results_is_there_at_once() -> None:
    group = GroupResult(
        "g", [EagerResult("a", 1, "SUCCESS", name="t"), EagerResult("b", 2, "SUCCESS", name="t")]
    )
    broken = GroupResult("h", [EagerResult("a", KeyError("x"), "FAILURE", name="t")])

    assert (group.get(), asyncio.run(wait(group)), group.ready()) == ([1, 2], [1, 2], True)
    assert (group.completed_count(), broken.failed()) == (2, True)
    with pytest.raises(KeyError):
        broken.get()
    assert isinstance(broken.get(propagate=False)[0], KeyError)
    group.revoke(terminate=True)
    asyncio.run(group.arevoke())
    group.revoke_by_stamped_headers({"a": "b"})


def test_a_set_of_results_is_a_list_without_repetition(table: Table) -> None:
    a, b, c = (table.AsyncResult(task_id) for task_id in "abc")
    results = ResultSet([a])

    results.add(a)
    results.add(b)
    results.update([a, b, c, c])
    assert list(results) == [a, b, c]
    assert (len(results), results[1]) == (3, b)

    results.remove("b")
    results.discard(b)
    with pytest.raises(KeyError):
        results.remove(b)
    assert results == ResultSet([a, c])
    assert repr(results) == "<ResultSet: [a, c]>"
    results.clear()
    assert results.get() == []


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


# ---------------------------------------------------------------- telling


class Told:
    """A control that notes what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def revoke(self, task_id: object, *, terminate: bool = False, signal: object = "") -> None:
        self.calls.append((task_id, terminate, signal))

    async def arevoke(
        self, task_id: object, *, terminate: bool = False, signal: object = ""
    ) -> None:
        self.calls.append((task_id, terminate, signal))

    def revoke_by_stamped_headers(
        self, headers: object, *, terminate: bool = False, signal: object = ""
    ) -> None:
        self.calls.append((headers, terminate, signal))

    async def arevoke_by_stamped_headers(
        self, headers: object, *, terminate: bool = False, signal: object = ""
    ) -> None:
        self.calls.append((headers, terminate, signal))

    def abort(self, task_id: str) -> None:
        self.calls.append((task_id,))

    async def aabort(self, task_id: str) -> None:
        self.calls.append((task_id,))


def test_revoking_a_group_tells_all_its_ids_at_once() -> None:
    told = Told()
    table = Table(told)
    group = table.group("a", "b", parent=table.AsyncResult("p"))

    group.revoke()
    asyncio.run(group.arevoke(terminate=True, signal="SIGKILL"))
    group.revoke_by_stamped_headers({"run": "7"})
    asyncio.run(group.arevoke_by_stamped_headers({"run": "7"}, terminate=True))

    assert told.calls == [
        (["a", "b"], False, "SIGTERM"),
        (["a", "b"], True, "SIGKILL"),
        ({"run": "7"}, False, "SIGTERM"),
        ({"run": "7"}, True, "SIGTERM"),
    ]


def test_revoking_a_tree_reaches_what_came_before_and_what_was_started() -> None:
    told = Told()
    table = Table(told)
    header = table.group("b", "c", parent=table.AsyncResult("a"))
    body = table.AsyncResult("d", parent=header)
    table.arrives("d", 1, children=[[["e", None], None]])

    body.revoke(tree=True)
    asyncio.run(body.arevoke(tree=True, terminate=True))
    body.revoke()

    assert told.calls == [
        (["a", "b", "c", "d", "e"], False, "SIGTERM"),
        (["a", "b", "c", "d", "e"], True, "SIGTERM"),
        ("d", False, "SIGTERM"),
    ]


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
