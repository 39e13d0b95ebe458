"""Handles of nested workflows between real processes: walked while they run, revoked, broken in the middle, passed on."""

from __future__ import annotations

import asyncio
import io
import json
import shelve
import uuid
from pathlib import Path
from typing import Any

import pytest

from amqtask import (
    AsyncResult,
    ChordError,
    GroupResult,
    IncompleteStream,
    ResultSet,
    ResultTimeout,
    TaskRevokedError,
)
from amqtask.canvas import primitives
from tests.acceptance.workflows import SOON, Canvas
from tests.waiting import eventually

chain: Any = primitives.chain  # what comes of them is looked at without types here
chord: Any = primitives.chord
group: Any = primitives.group


def nested(canvas: Canvas, part: Any) -> Any:
    """A chord whose parts are a chord, a chain that ends in one of the given tasks, and a task, between two tasks."""
    s, si = canvas.s, canvas.si
    inner = chord([si("add", 1, 1), si("add", 2, 2)], s("total"))
    return si("same", 1) | group(inner, chain(si("same", 2), part), si("same", 3)) | s("same")


def test_a_nested_chord_is_walked_from_its_end(canvas: Canvas) -> None:
    body = nested(canvas, canvas.s("add", 5)).delay()

    assert body.get(timeout=SOON) == [6, 7, 3]
    header = body.parent
    assert isinstance(header, GroupResult)
    inner, tail, single = header
    assert [each.get(timeout=SOON) for each in (inner, tail, single)] == [6, 7, 3]
    assert isinstance(inner.parent, GroupResult)
    assert inner.parent.get(timeout=SOON) == [2, 4]
    first = header.parent
    assert first is not None
    assert first.get(timeout=SOON) == 1
    assert first.get_leaf(timeout=SOON) == [6, 7, 3]
    found = [value for _, value in first.collect(timeout=SOON)]
    assert found[0] == 1
    assert found[-1] == [6, 7, 3]
    assert asyncio.run(first.aget_leaf(timeout=SOON)) == [6, 7, 3]
    order = first.graph.topsort()
    assert (order[0], order[-1]) == (first, body)
    text = io.StringIO()
    first.graph.to_dot(text)
    assert body.id in text.getvalue()
    again = GroupResult(header.id, list(header), first)
    assert again == header
    assert again.completed_count() == 3


def test_what_has_not_ended_is_seen_on_the_way(canvas: Canvas) -> None:
    tag = uuid.uuid4().hex
    body = nested(canvas, canvas.si("steer", "hang", tag)).delay()
    first = body.parent.parent
    canvas.place.saw("start", tag)
    first.get(timeout=SOON)

    with pytest.raises(IncompleteStream, match="has not ended"):
        list(first.iterdeps())
    seen = [node for _, node in first.iterdeps(intermediate=True)]
    assert seen[0] == first
    assert seen[1:] == [body]  # which leads to its parts, as its parent
    assert body.parent.waiting()
    eventually(lambda: body.parent.completed_count() == 2, SOON)

    body.parent.revoke(terminate=True)

    with pytest.raises((TaskRevokedError, ChordError)):
        body.get(timeout=SOON)
    assert body.parent[1].state == "REVOKED"
    assert body.parent[0].get(timeout=SOON) == 6  # what had ended stays as it was


def test_a_failure_in_the_middle_is_told_by_every_handle_behind_it(canvas: Canvas) -> None:
    s = canvas.s
    body = (nested(canvas, s("fail")) | s("same") | s("same")).delay()

    with pytest.raises(ChordError, match="no luck"):
        body.get(timeout=SOON)
    middle = body.parent.parent
    for each in (body, body.parent, middle):
        with pytest.raises(ChordError):
            each.get(timeout=SOON, follow_parents=False)
        assert each.failed()
    header = middle.parent
    values = header.get(timeout=SOON, propagate=False)
    assert (values[0], repr(values[1]), values[2]) == (6, "ValueError('no luck')", 3)
    assert (header.failed(), header.successful(), header.completed_count()) == (True, False, 2)
    with pytest.raises(ValueError, match="no luck"):
        header.maybe_throw()
    with pytest.raises(ValueError, match="no luck"):
        header.get(timeout=SOON)
    first = header.parent
    with pytest.raises((ValueError, ChordError)):
        first.get_leaf(timeout=SOON)
    told = dict(first.collect(timeout=SOON, propagate=False))
    assert told[first] == 1
    assert len(told) > 1


def test_replaced_tasks_answer_under_their_own_id(canvas: Canvas) -> None:
    s = canvas.s
    for kind, expected in (("task", 3), ("chain", 13), ("group", [2, 3]), ("chord", 5)):
        result = s("becomes", kind, 1, 2).delay()
        assert result.get(timeout=SOON) == expected, kind
        assert result.state == "SUCCESS"
        for _, value in result.collect(timeout=SOON):
            assert value is not None


def test_a_chain_is_revoked_as_a_whole_by_any_of_its_handles(canvas: Canvas) -> None:
    tag = uuid.uuid4().hex
    result = chain(
        canvas.si("steer", "hang", tag), *[canvas.si("note", f"{tag}-later")] * 3
    ).delay()
    canvas.place.saw("start", tag)

    asyncio.run(result.arevoke(tree=True, terminate=True))

    for each in (result, *result.ancestors()):
        with pytest.raises(TaskRevokedError):
            each.get(timeout=SOON, follow_parents=False)
    assert f"{tag}-later" not in canvas.place.count("end")


def test_sets_of_anything_are_awaited_together(canvas: Canvas) -> None:
    s = canvas.s

    async def run() -> Any:
        single = await s("add", 1, 2).aapply_async()
        several = await group(s("add", n, 1) for n in range(3)).aapply_async()
        body = await nested(canvas, s("add", 5)).aapply_async()
        everything = ResultSet([single, several, body])
        values = [value async for value in everything]
        heard: list[str] = []
        ordered = await everything.aget(on_message=lambda meta: heard.append(meta["status"]))
        assert await several == [1, 2, 3]
        assert await body.parent == [6, 7, 3]
        return values, ordered, heard

    values, ordered, heard = asyncio.run(run())
    assert ordered == [3, [1, 2, 3], [6, 7, 3]]
    assert sorted(map(str, values)) == sorted(map(str, ordered))
    assert heard == ["SUCCESS"] * 5


def test_a_saved_group_in_another_process_says_where_its_results_are(
    canvas: Canvas, tmp_path: Path
) -> None:
    tag = uuid.uuid4().hex
    results = group(canvas.si("steer", "hang", tag), canvas.si("same", 2)).delay()
    canvas.place.saw("start", tag)
    with shelve.open(str(tmp_path / "groups")) as store:
        results.save(store)
    shown = canvas.place.script(
        f"""
import shelve
from amqtask import GroupResult, ResultError
from canvas import add, app
assert add.delay(1, 2).get(timeout=20) == 3  # it asks for results of its own
with shelve.open({str(tmp_path / "groups")!r}) as store:
    assert GroupResult.restore("nobody", store, app=app) is None
    group = GroupResult.restore({results.id!r}, store, app=app)
print(group.as_list(), group.ready())
try:
    group.get()
except ResultError as error:
    print(error)
group.revoke(terminate=True)
"""
    )
    listed, error = shown.splitlines()
    assert listed == f"{results.as_list()} False"
    assert "comes to the process that sent group" in error
    with pytest.raises(TaskRevokedError):
        results.get(timeout=SOON)
    with shelve.open(str(tmp_path / "groups")) as store:
        again = GroupResult.restore(results.id, store, app=canvas.app)
        assert again == results
        assert again is not None
        assert again[1].get(timeout=SOON) == 2
        results.delete(store)
        assert not store


def test_what_a_task_sent_answers_its_worker_and_who_waits_for_it_here_is_told(
    canvas: Canvas,
) -> None:
    result = canvas.s("begins", 2).delay()
    assert result.get(timeout=SOON) == result.children[0].id
    with pytest.raises(ResultTimeout, match="answers that one's worker"):
        result.get_leaf(timeout=0.1)


def test_forms_go_through_json(canvas: Canvas) -> None:
    body = nested(canvas, canvas.s("add", 5)).delay()
    form = json.loads(json.dumps(body.as_tuple()))
    again = canvas.app.AsyncResult(form[0][0])

    assert again.get(timeout=SOON) == [6, 7, 3]
    made: AsyncResult[Any] = AsyncResult(body.id, app=canvas.app)
    assert made.get(timeout=SOON, interval=1, no_ack=True) == [6, 7, 3]
