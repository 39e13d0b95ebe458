"""Handles of workflows between real processes: waiting, walking, drawing, revoking."""

from __future__ import annotations

import asyncio
import queue
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from amqtask import GroupResult, TaskRevokedError, result_from_tuple
from amqtask.canvas import primitives
from amqtask.canvas.signature import Signature
from tests.acceptance.nodes import Place
from tests.brokers import Broker

chain: Any = primitives.chain  # what comes of them is looked at without types here
chord: Any = primitives.chord
group: Any = primitives.group
SOON = 20.0  # seconds within which a result comes on a busy machine


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> Iterator[Place]:
    with Place(tmp_path_factory.mktemp("trees"), broker) as place:
        node = place.node("-c2", "-Q", place.queue)
        yield place
        assert node.stop() == 0
        assert not node.records("a callback on the I/O thread failed"), node.output


def s(at: Place, name: str, *args: Any, immutable: bool = False) -> Any:
    return Signature(f"work.{name}", args, {}, immutable=immutable, app=at.app)


def note(at: Place, what: str) -> Any:
    return s(at, "note", what, immutable=True)


def test_the_tree_of_a_chord(at: Place) -> None:
    work = note(at, "first") | group(s(at, "add", n, n, immutable=True) for n in range(3))
    body = (work | note(at, "body")).delay()

    assert body.get(timeout=SOON) == "body"
    header = body.parent
    assert isinstance(header, GroupResult)
    assert header.get(timeout=SOON) == [0, 2, 4]
    assert header.parent is not None
    assert header.parent.get(timeout=SOON) == "first"
    # the first one tells what it started, and so the body is found from there
    assert header.parent.get_leaf(timeout=SOON) == "body"
    again = result_from_tuple(body.as_tuple(), at.app)
    assert again.as_tuple() == body.as_tuple()
    assert again.get(timeout=SOON) == "body"
    picture = body.graph_svg()
    assert picture.count(">SUCCESS<") == 5
    assert "group of 3: 3 SUCCESS" in picture


def test_a_group_from_threads_and_loops(at: Place) -> None:
    results = group(s(at, "add", n, 1) for n in range(300)).delay()
    called: queue.Queue[int] = queue.Queue()
    results.then(lambda handle: called.put(handle.completed_count()))

    assert sorted(results.iterate(timeout=SOON)) == list(range(1, 301))
    assert results.get(timeout=SOON) == list(range(1, 301))
    assert called.get(timeout=SOON) == 300

    async def from_a_loop() -> tuple[list[int], list[int]]:
        async with at.app.abatch():
            sent = await group(s(at, "add", n, 2) for n in range(300)).aapply_async()
        values = [value async for value in sent]
        return values, await sent

    values, ordered = asyncio.run(from_a_loop())
    assert sorted(values) == ordered == list(range(2, 302))


def test_a_failure_is_raised_while_others_run(at: Place) -> None:
    tag = uuid.uuid4().hex
    results = group(s(at, "hold", tag, tag), s(at, "fail", tag)).delay()

    with pytest.raises(Exception, match=tag):
        results.get(timeout=SOON)
    assert results.waiting()
    at.release(tag)
    values = results.get(timeout=SOON, propagate=False)
    assert (values[0], results.failed(), results.completed_count()) == (tag, True, 1)


def test_a_tree_is_revoked_from_its_last_handle(at: Place) -> None:
    tag = uuid.uuid4().hex
    result = chain(s(at, "hold", tag, "never"), note(at, f"{tag}-2"), note(at, f"{tag}-3")).delay()
    at.saw("start", tag)

    result.revoke(tree=True, terminate=True)

    with pytest.raises(TaskRevokedError):
        result.get(timeout=SOON)
    first = result.parent.parent
    with pytest.raises(TaskRevokedError):
        first.get(timeout=SOON)
    assert set(at.count("start")).isdisjoint({f"{tag}-2", f"{tag}-3"})


def test_stamped_tasks_are_revoked_where_they_run_and_where_they_wait(at: Place) -> None:
    tag = uuid.uuid4().hex
    running = s(at, "hold", f"{tag}-runs", "never")
    stamped = group(running, chain(s(at, "hold", f"{tag}-1", tag), note(at, f"{tag}-2")))
    stamped.stamp(run=[tag, "other"])
    free = note(at, f"{tag}-free")
    free.stamp(run="another")
    results = group(stamped, chain(note(at, f"{tag}-unstamped"), free)).delay()
    for what in (f"{tag}-runs", f"{tag}-1"):
        at.saw("start", what)

    results.revoke_by_stamped_headers({"run": [tag, "nobody"]}, terminate=True)

    runs, tail, unstamped = results.leaves()
    for each in (runs, tail):
        with pytest.raises(TaskRevokedError):
            each.get(timeout=SOON)
    assert unstamped.get(timeout=SOON) == f"{tag}-free"
    # what is sent with that stamp later is refused too
    late = note(at, f"{tag}-late")
    late.stamp(run=tag)
    with pytest.raises(TaskRevokedError):
        late.delay().get(timeout=SOON)
    assert set(at.count("start")).isdisjoint({f"{tag}-2", f"{tag}-late"})
