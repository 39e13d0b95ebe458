"""What a node sees of itself when it scales: busy and idle slots, and who goes first."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from amqtask.core import fleet
from amqtask.worker.memory.board import Board
from amqtask.worker.start.options import WorkerOptions
from amqtask.worker.supervision.scaling import Scaling

SLOTS = 2


class Node:
    """Children on a board, without processes."""

    def __init__(self, ready: int, least: int, most: int, released: bool = True) -> None:
        self.board = Board(seats=3 * most, slots=SLOTS, standings=8)
        if released:
            self.board.release()
        options = WorkerOptions(
            app="shop", pool="threads", concurrency=SLOTS, autoscale=(most, least)
        )
        self.scaling = Scaling(options, self.board)
        self.now = 50.0
        config = fleet.Config(children=ready, seats=3 * most, most=most)
        self.state, _ = fleet.begin(config)
        self.tell(fleet.ServerReady(1))
        for index in range(ready):
            self.tell(fleet.ChildReady(index, 100 + index, 1))

    def tell(self, event: fleet.Event) -> None:
        self.state, _ = fleet.step(self.state, event, self.now)

    def begin(self, index: int, *slots: int) -> None:
        for slot in slots:
            self.board.child(index).slot(slot).begin("id", "shop.add", self.now)

    def end(self, index: int, *slots: int) -> None:
        for slot in slots:
            self.board.child(index).slot(slot).end()

    def look(self, waiting: int | None, seconds: float = 1.0) -> list[fleet.Rescale]:
        self.now += seconds
        return list(self.scaling.look(waiting, self.state, self.now))


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node(ready=1, least=1, most=4)
    yield made
    made.board.close()


def test_it_grows_when_every_slot_runs_something(node: Node) -> None:
    node.look(0)
    node.begin(0, 0)
    assert node.look(3) == []  # the other slot is idle
    node.begin(0, 1)

    assert node.look(3) == [fleet.Rescale(2, (0,), 3, 2)]


def test_a_slot_between_two_tasks_is_not_idle(node: Node) -> None:
    node.look(0)
    for slot in range(SLOTS):
        node.begin(0, slot)
        node.end(0, slot)

    assert [each.children for each in node.look(30)] == [2]


def test_nothing_is_decided_before_the_children_may_run_anything() -> None:
    node = Node(ready=1, least=1, most=4, released=False)
    try:
        assert [node.look(50) for _ in range(5)] == [[]] * 5
    finally:
        node.board.close()


def test_nothing_is_decided_while_stopping(node: Node) -> None:
    node.begin(0, *range(SLOTS))
    node.tell(fleet.SignalArrived("TERM"))

    assert node.look(50) == []


def test_those_that_do_nothing_go_first() -> None:
    node = Node(ready=3, least=0, most=3)
    node.scaling._scale = msgspec.structs.replace(node.scaling._scale, wanted=3)
    try:
        node.begin(0, 0, 1)
        node.begin(1, 0)
        found: list[fleet.Rescale] = []
        while not found:
            found = node.look(0)
        assert found == [fleet.Rescale(2, (2, 1, 0), 0, 3)]
        node.tell(found[0])
        phases = [node.state.children[index].phase for index in range(3)]
        assert phases == [fleet.Phase.READY, fleet.Phase.READY, fleet.Phase.DRAINING]
    finally:
        node.board.close()
