"""Several results together: waiting for them, looking at them."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from amqtask import (
    ChordError,
    EagerResult,
    GroupResult,
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
