"""What is special to pools whose slots share one thread: the patched library, waits that let the others go on, code that does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amqtask.errors import TimeLimitExceeded
from tests.acceptance.nodes import Node, Place
from tests.brokers import Broker
from tests.waiting import eventually

TASKS = Path(__file__).with_name("greens.py")
LIBRARIES = {"gevent": "gevent._socket3", "eventlet": "eventlet.greenio.base"}

pytestmark = pytest.mark.exact("counts how often things ran; what a cut gives back may run again")


@pytest.fixture(scope="module", params=list(LIBRARIES))
def shared(
    request: pytest.FixtureRequest, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Place, Node]]:
    folder = tmp_path_factory.mktemp(request.param)
    with Place(folder, broker, tasks=TASKS, broker_heartbeat=2) as at:
        node = at.node("-P", request.param, "-c", "500", "-Q", at.queue)
        yield at, node
        assert node.stop() == 0, node.output
        assert at.depth() == 0
        assert not node.records("a callback in the hub failed"), node.output
        assert not node.records("the broker took its messages back; consuming again soon")


def test_the_app_is_imported_into_a_patched_library(
    shared: tuple[Place, Node], request: pytest.FixtureRequest
) -> None:
    at, node = shared
    module, has_epoll, _ = at.send("library").get(timeout=20)
    assert (module, has_epoll) == (LIBRARIES[request.node.callspec.params["shared"]], False)
    with open(f"/proc/{node.pid}/maps") as maps:  # noqa: PTH123  # no real file
        assert "greenlet" not in maps.read()  # the supervisor has loaded none of it


def test_what_programs_do_works_beside_each_other(shared: tuple[Place, Node]) -> None:
    at, _ = shared
    plain = [at.send("ordinary") for _ in range(5)]
    loop = [at.send("aordinary") for _ in range(5)]
    forks = [at.send("fork") for _ in range(3)]
    for each in plain:
        assert each.get(timeout=30) == ["hi\n", [0, 2, 4], True, "TLSv1_3", 5, 7]
    for each in loop:
        assert each.get(timeout=30) == ["AMQP", "in a thread"]
    for each in forks:
        assert each.get(timeout=30) == "once"


def test_five_hundred_sleep_beside_each_other(shared: tuple[Place, Node]) -> None:
    at, _ = shared
    with at.app.batch():
        results = [at.send("nap", 3.0) for _ in range(500)]
    assert max(each.get(timeout=30) for each in results) >= 400


def test_a_greenlet_that_sends_and_waits_lets_the_others_go_on(
    shared: tuple[Place, Node],
) -> None:
    at, _ = shared
    assert at.send("many", 200, 0.5).get(timeout=40) < 0.4


def test_limits_reach_a_greenlet_that_does_not_wait(shared: tuple[Place, Node]) -> None:
    """Heartbeats go on meanwhile: the broker would end the connection after four seconds."""
    at, node = shared
    children = node.children()
    soft = at.send("spin", "soft", 60.0, soft_time_limit=0.5)
    assert soft.get(timeout=20) == "interrupted"
    hard = at.send("spin", "hard", 60.0, time_limit=0.5)
    began = time.monotonic()
    with pytest.raises(TimeLimitExceeded):
        hard.get(timeout=20)
    assert at.send("nap", 0.0).get(timeout=20) >= 1
    assert time.monotonic() - began < 10
    long = at.send("spin", "long", 5.0)
    assert long.get(timeout=20) == "not interrupted"
    assert node.children() == children


@pytest.mark.parametrize("pool", ["gevent", "eventlet", "asyncio"])
def test_code_that_lets_nobody_go_on_costs_its_neighbours_no_attempt(
    pool: str, place: Callable[..., Place]
) -> None:
    """The I/O thread settles it at its limit. Its neighbours, which are held up for ever, go to the child that comes next."""
    at = place(tasks=TASKS)
    node = at.node("-P", pool, "-c", "4", "-Q", at.queue)
    hog, neighbour = ("hog", "await_") if pool == "asyncio" else ("crunch", "wait")
    held = at.send(neighbour, "neighbour", "go")
    at.saw("start", "neighbour")
    stuck = at.send(hog, "x", time_limit=1.0)
    with pytest.raises(TimeLimitExceeded):
        stuck.get(timeout=10)
    eventually(lambda: at.count("start")["neighbour"] == 2, 20, interval=0.05)
    at.release("go")
    assert held.get(timeout=10) == "neighbour"
    assert at.count("start")["x"] == 1
    assert not node.records("child crashed")
    assert node.stop() == 0
    assert at.depth() == 0
    assert at.depth(at.dead) == 1  # the one that was ended at its limit
