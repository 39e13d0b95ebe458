"""Redeliveries that wait for the execution of the same message: how each wait ends."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from amqtask.amqp.threaded.loop import IoThread
from amqtask.core.outcome import Verdict
from amqtask.worker.child import held as module
from amqtask.worker.child.held import Held
from amqtask.worker.memory.board import Board
from amqtask.worker.memory.journal import mark_of
from tests.waiting import eventually

KEY = ("id-1", mark_of(("id-1",)))
DELIVERY = cast(Any, SimpleNamespace(name="again"))


class Room:
    """A node of two children: the first runs the task, the second holds its redelivery."""

    def __init__(self, io: IoThread, board: Board) -> None:
        self.said: list[object] = []
        self.sizes: list[int] = []
        self.io = io
        self.slot = board.child(0).slot(0)
        self.journal = board.journal.seat(0)
        self.held = Held(
            io,
            board,
            settle=lambda delivery, key, verdict: self.said.append(verdict),
            release=lambda delivery, unconcerned: self.said.append(("run", unconcerned)),
            give_back=lambda deliveries: self.said.append(("back", len(deliveries))),
            resized=self.sizes.append,
        )
        self.slot.begin("id-1", "t", 1.0, mark=KEY[1])
        io.post(lambda: self.held.add(DELIVERY, KEY))
        eventually(lambda: self.sizes == [1])

    def end(self) -> int:
        place = self.journal.begin(KEY[1])
        self.slot.end()
        return place

    def ends_with(self, what: object) -> None:
        eventually(lambda: self.said, 5)
        assert self.said == [what]
        eventually(lambda: self.sizes == [1, 0])


@pytest.fixture
def room() -> Iterator[Room]:
    io = IoThread("test-held")
    io.start()
    board = Board(seats=2, slots=1)
    room = Room(io, board)
    yield room
    io.post(room.held.drop)
    io.stop()
    board.close()


@pytest.mark.parametrize("verdict", [Verdict.ACK, Verdict.REJECT])
def test_it_is_settled_as_the_running_one_was(room: Room, verdict: Verdict) -> None:
    place = room.end()
    room.journal.settled(place, KEY[1], acked=verdict is Verdict.ACK, lost=True)

    room.ends_with(verdict)


def test_it_waits_for_the_confirms_and_runs_when_they_never_come(room: Room) -> None:
    place = room.end()
    room.io.post(room.held._look)
    room.io.post(lambda: room.said.append("looked"))
    eventually(lambda: room.said == ["looked"])
    room.said.clear()

    room.journal.withdraw(place, KEY[1])

    room.ends_with(("run", False))


def test_it_runs_when_the_running_one_died(room: Room) -> None:
    room.slot.end()  # as the supervisor does for a dead child, whose journal has no word of it

    room.ends_with(("run", False))


def test_it_runs_when_the_other_was_acked_on_a_channel_that_lives(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DOUBT", 0.1)
    room.journal.settled(room.end(), KEY[1], acked=True, lost=False)

    room.ends_with(("run", True))


def test_it_is_given_back_before_the_broker_loses_patience(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST", 0.0)

    room.ends_with(("back", 1))


def test_dropped_it_is_forgotten(room: Room) -> None:
    dropped: list[object] = []
    room.io.post(lambda: dropped.extend(room.held.drop()))

    eventually(lambda: dropped == [DELIVERY])
    assert room.sizes == [1, 0]
    assert room.said == []
