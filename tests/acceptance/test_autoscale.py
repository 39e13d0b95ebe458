"""A node that scales itself: as many children as the work needs, and not a message lost, run twice or charged on the way."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable

import pytest

from tests.acceptance.nodes import Node, Place
from tests.waiting import eventually

Places = Callable[..., Place]


def changes(node: Node) -> list[tuple[int, int]]:
    """How the number of children changed: before and after."""
    found = [*node.records("more children"), *node.records("fewer children")]
    return [(line["before"], line["children"]) for line in found]


def complaints(node: Node) -> list[object]:
    """What it warned of since it was ready; every verdict is a line of an error."""
    lines = node.records()
    began = next(number for number, line in enumerate(lines) if line["event"] == "ready")
    return [line for line in lines[began:] if line["level"] in ("warning", "error")]


def test_it_grows_under_a_backlog_and_shrinks_when_idle(place: Places) -> None:
    at = place(type="quorum", worker_autoscale_keepalive=1.5)
    node = at.node("--autoscale", "4,1", "-Q", at.queue)
    assert len(node.children()) == 1
    names = at.send_notes(40, 0.1)

    node.whole(4, timeout=15)
    at.everything_done(names)
    last = node.whole(1, timeout=20)
    # what comes now is run by who stayed, at once
    assert at.send("add", 1, 2).get(timeout=10) == 3
    assert node.children() == last
    assert node.stop() == 0

    assert at.count("start") == at.count("end") == Counter(names)
    at.all_settled()
    assert at.depth(at.dead) == 0
    assert changes(node)[:2] == [(1, 2), (2, 4)]
    assert complaints(node) == []


def test_it_comes_up_from_nothing_and_works_on_while_it_shrinks(place: Places) -> None:
    at = place(type="quorum", worker_autoscale_keepalive=1.0)
    node = at.node("--autoscale", "3,0", "--max-tasks-per-child", "10", "-Q", at.queue)
    eventually(lambda: node.agent() and not node.children())
    names = at.send_notes(60, 0.02, "first-")
    node.says("more children", times=2)
    at.everything_done(names)

    # again, in the middle of the shrink
    node.says("fewer children")
    more = at.send_notes(40, 0.03, "second-")
    at.everything_done(more)
    eventually(lambda: not node.children(), 15)
    assert node.stop() == 0

    assert at.count("start") == at.count("end") == Counter([*names, *more])
    at.all_settled()
    assert complaints(node) == []


@pytest.mark.parametrize(("flags", "tasks"), [((), "abc"), (("-P", "threads", "-c", "2"), "abcde")])
def test_a_busy_child_is_not_cut_short(place: Places, flags: tuple[str, ...], tasks: str) -> None:
    """As many processes as there is work for their slots; a reload brings up as many; what runs there ends by itself."""
    at = place(worker_autoscale_keepalive=1.0)
    node = at.node("--autoscale", "4,1", *flags, "-Q", at.queue)
    for name in tasks:
        at.send("hold", name, "go", ignore_result=True)
    for name in tasks:
        at.saw("start", name)
    node.whole(3)

    node.kill(signal.SIGHUP)
    node.wait_ready(times=2)
    assert [line["children"] for line in node.records("ready")] == [1, 3]
    at.release("go")
    at.finished(len(tasks))
    node.whole(1, timeout=15)
    assert node.stop() == 0
    assert at.count("start") == at.count("end") == Counter(tasks)


def test_a_stop_while_it_grows(place: Places) -> None:
    at = place(type="quorum")
    node = at.node("--autoscale", "6,1", "-c", "3", "-Q", at.queue)
    assert [line["level"] for line in node.records() if "-c has no effect" in line["event"]] == [
        "warning"
    ]
    names = at.send_notes(300, 0.05)
    node.says("more children", times=2)

    assert node.stop() == 0

    once = at.count("end")
    assert at.count("start") == once == Counter(set(once))
    assert len(once) + at.depth() == len(names)
    assert complaints(node) == []
