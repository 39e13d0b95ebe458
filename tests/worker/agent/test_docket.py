"""The docket: what comes from the stream and what the node does itself end on one board, and nothing of its own is forgotten."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from amqtask.core.verdicts import Kind, Record, new_event
from amqtask.worker.agent import docket as module
from amqtask.worker.agent.docket import Docket
from amqtask.worker.memory.board import Board


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board(seats=1, slots=1, standings=64)
    yield board
    board.close()


@pytest.fixture
def docket(board: Board) -> Docket:
    return Docket("here", board, 60.0)


def record(kind: Kind, *ids: str, **more: Any) -> Record:
    values = {"origin": "there", "time": time.time(), **more}
    return Record(kind=kind, event=new_event(), ids=ids, **values)


def test_what_is_read_is_on_the_board_with_the_place_to_go_on(board: Board, docket: Docket) -> None:
    docket.read(7, [record(Kind.REVOKED, "a"), record(Kind.CRASHED, "b", cause="exit code 3")])

    a, b = board.standing("a"), board.standing("b")
    assert a is not None
    assert b is not None
    assert a.revoked
    assert (b.crashes, b.cause, b.node) == (1, "exit code 3", "there")
    assert board.offset == 7


def test_what_is_too_old_is_passed_over(board: Board, docket: Docket) -> None:
    docket.read(1, [record(Kind.REVOKED, "a", time=time.time() - 61)])

    assert board.standing("a") is None
    assert board.offset == 1


def test_a_charge_holds_at_once_and_counts_once(board: Board, docket: Docket) -> None:
    told = record(Kind.CRASHED, "x", cause="signal 9 (SIGKILL)", time=time.time() - 5)
    docket.read(1, [told])

    own, standing = docket.charge(Kind.CRASHED, "x", "shop.add", "signal 11 (SIGSEGV)")

    assert (standing.crashes, standing.cause, standing.node) == (2, "signal 11 (SIGSEGV)", "here")
    assert board.standing("x") == standing
    assert (own.origin, own.ids, own.task) == ("here", ("x",), "shop.add")
    docket.read(3, [told, own])  # the node reads its own records, too
    assert board.standing("x") == standing


@pytest.mark.parametrize("way", ["confirmed", "read"])
def test_a_charge_is_kept_until_the_stream_has_it(docket: Docket, way: str) -> None:
    first, _ = docket.charge(Kind.CRASHED, "x", "t")
    second, _ = docket.charge(Kind.HARD_LIMIT, "y", "t")
    assert list(docket.unconfirmed) == [first, second]

    if way == "confirmed":
        docket.confirmed(first.event)
        docket.confirmed(first.event)
    else:
        docket.read(1, [first])

    assert list(docket.unconfirmed) == [second]


def test_what_cannot_be_told_is_bounded(docket: Docket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OUTBOX", 2)
    charged = [docket.charge(Kind.CRASHED, name, "t")[0] for name in "abc"]

    assert docket.unconfirmed == tuple(charged[1:])
