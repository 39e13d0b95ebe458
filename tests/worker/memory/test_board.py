"""The shared memory of a node: what one process writes another one reads, whole."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.core.verdicts import Standing, header_key, key
from amqtask.worker.memory.board import Board, ChildState, Ending, Running, stored
from tests.waiting import eventually


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board(seats=3, slots=2, standings=8)
    yield board
    board.close()


def test_empty_board_says_so(board: Board) -> None:
    status = board.child(2).read()

    assert (status.state, status.pid, status.done) == (ChildState.EMPTY, 0, 0)
    assert board.child(2).running() == ()
    assert board.standing("any") is None
    assert not board.released


def test_slot_shows_its_task_until_it_ends(board: Board) -> None:
    slot = board.child(1).slot(1)

    slot.begin("id-1", "shop.add", 10.5, None, 40.5, 2**64 - 256)
    assert slot.read() == Running("id-1", "shop.add", 10.5, None, 40.5, 1, 2**64 - 256)
    assert board.child(1).running() == (slot.read(),)
    assert board.child(0).running() == board.child(2).running() == ()
    slot.end()

    assert slot.read() is None
    assert slot.counts() == (1, 0)


def test_a_task_is_found_in_whatever_slot_it_runs(board: Board) -> None:
    slot = board.child(2).slot(1)
    slot.begin("id-12", "id-1", 1.0, mark=256)

    assert board.runs("id-12", 256)
    assert not board.runs("id-12", 512)  # another message with the same id
    assert not board.runs("id-1", 256)  # the start of another's id, and another's name
    slot.end()
    assert not board.runs("id-12", 256)
    slot.begin("ü" * 100, "t", 1.0)
    assert board.runs("ü" * 100, 0)


def test_second_run_of_a_task_has_its_own_sequence(board: Board) -> None:
    slot = board.child(0).slot(0)
    slot.begin(b"id-1", "t", 1.0)
    first = slot.read()
    slot.end(failed=True)
    slot.begin(b"id-1", "t", 1.0)
    second = slot.read()

    assert first is not None
    assert second is not None
    assert first.sequence != second.sequence


def test_child_record_adds_up_its_slots(board: Board) -> None:
    record = board.child(0)
    record.open(4711, 3, 99.0)
    for number, failed in ((0, False), (0, True), (1, False)):
        record.slot(number).begin("x", "t", 1.0)
        record.slot(number).end(failed)
    record.update(ChildState.READY, rss=123_000_000)

    status = record.read()
    assert (status.pid, status.generation, status.since) == (4711, 3, 99.0)
    assert (status.state, status.rss) == (ChildState.READY, 123_000_000)
    assert (status.done, status.failed) == (2, 1)


def test_clearing_a_seat_leaves_its_neighbours(board: Board) -> None:
    for index in range(3):
        board.child(index).open(index + 1, 1, 0.0)
        board.child(index).slot(1).begin(f"id-{index}", "t", 1.0)

    board.child(1).clear()

    assert board.child(1).read().pid == 0
    assert board.child(1).running() == ()
    assert [task.task_id for task in board.child(0).running()] == ["id-0"]
    assert [task.task_id for task in board.child(2).running()] == ["id-2"]


@given(
    task_id=st.text(max_size=100) | st.binary(max_size=100),
    name=st.text(max_size=200),
    started=st.floats(min_value=0, max_value=1e9),
)
def test_any_text_can_be_shown(task_id: str | bytes, name: str, started: float) -> None:
    board = Board(seats=1, slots=1, standings=2)
    slot = board.child(0).slot(0)

    slot.begin(task_id, name, started)
    task = slot.read()

    assert task is not None
    raw = task_id.encode("utf-8", "replace") if isinstance(task_id, str) else task_id
    if len(raw) <= 64:
        assert task.task_id == raw.decode("utf-8", "replace")
    encoded = name.encode("utf-8", "replace")
    assert task.name == encoded[:128].decode("utf-8", "replace")
    board.put(key(task_id), Standing(crashes=1))
    assert board.standing(task_id) == Standing(crashes=1)
    board.close()


def test_long_ids_that_begin_alike_stay_apart(board: Board) -> None:
    board.put(key("x" * 100 + "a"), Standing(revoked=True))

    assert board.standing("x" * 100 + "a") is not None
    assert board.standing("x" * 100 + "b") is None


@given(st.text(min_size=20, max_size=200))
def test_what_a_slot_showed_stands_for_the_whole_id(whole: str) -> None:
    """The supervisor charges what it read from the slot, cut; the child asks with the whole id."""
    board = Board(seats=1, slots=1, standings=2)
    slot = board.child(0).slot(0)
    slot.begin(whole, "t", 1.0)
    task = slot.read()
    assert task is not None

    board.put(key(task.task_id), Standing(hard_limit=True))

    assert board.standing(whole) is not None
    board.close()


def test_the_newest_standing_counts(board: Board) -> None:
    whole = Standing(9.5, 10.5, 11.5, 7, "signal 11 (SIGSEGV)", "one@host", 12.5, (12.5, 8.0))
    board.put(b"a", Standing(crashes=1))
    board.put(b"b", Standing(revoked=True))
    board.put(b"a", whole)

    assert board.standing("a") == board.standing(b"a") == whole
    assert board.standing("b") == Standing(revoked=True)
    assert board.standing("c") is None


def test_revokes_by_header(board: Board) -> None:
    board.put(b"customer=7", Standing(revoked=True))
    assert not board.revoked_by_header({"customer": "7"})
    board.put(header_key("customer", "7"), Standing(revoked=True))

    assert board.revokes_by_header
    assert board.revoked_by_header({"id": "x", "customer": "7"})
    assert board.revoked_by_header({"customer": 7})
    assert board.revoked_by_header({"customer": ["6", "7"]})
    assert not board.revoked_by_header({"customer": "8", "other": "7"})


def in_child(board: Board, *asked: str) -> list[int]:
    """Fork a reader; return the crashes it saw (0: none)."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            standings = [board.standing(task_id) for task_id in asked]
            os.write(write, bytes(each.crashes if each else 0 for each in standings))
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    counts = list(os.read(read, 100))
    os.close(read)
    return counts


def test_other_processes_read_the_standings(board: Board) -> None:
    board.put(b"a", Standing(crashes=1))
    board.put(b"b", Standing(crashes=1))
    board.put(b"a", Standing(crashes=2))

    assert in_child(board, "a", "b", "c") == [2, 1, 0]


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60))
def test_the_newest_are_kept_and_the_oldest_give_way(names: list[str]) -> None:
    board = Board(seats=1, slots=1, standings=8)
    board._mask = 1  # two chains for all of them
    for number, name in enumerate(names):
        board.put(name.encode(), Standing(crashes=number))

    newest = {name: number for number, name in enumerate(names)}
    for name in "abcdefgh":
        found = board.standing(name)
        kept = name in newest and newest[name] >= len(names) - 8
        assert (found and found.crashes) == (newest[name] if kept else None)
    board.close()


def test_reader_never_sees_half_a_standing(board: Board) -> None:
    """One process overwrites a small ring as fast as it can while this one looks."""
    short, long = Standing(crashes=1), Standing(crashes=2, cause="c" * 64, node="n" * 80)
    pid = os.fork()
    if pid == 0:
        try:
            while os.getppid() != 1:
                for _ in range(5):
                    board.put(b"a" * 64, short)
                    board.put(b"b", short)
                    board.put(b"a" * 64, long)
        finally:
            os._exit(0)
    seen = set()

    def look() -> bool:
        for _ in range(30_000):
            standing = board.standing("a" * 64)
            if standing is not None:
                seen.add((standing.crashes, standing.cause, standing.node))
        return len(seen) == 2

    try:
        eventually(look)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)

    assert seen == {(1, "", ""), (2, "c" * 64, "n" * 80)}


def test_reader_never_sees_half_a_task(board: Board) -> None:
    """A process writes two very different tasks as fast as it can while this one reads."""
    slot = board.child(0).slot(0)
    short, long = ("a", "n"), ("b" * 64, "m" * 128)
    pid = os.fork()
    if pid == 0:
        try:
            while os.getppid() != 1:
                slot.begin(*short, 1.0, 1.0, 1.0)
                slot.begin(*long, 2.0, 2.0, 2.0)
                slot.end()
        finally:
            os._exit(0)
    try:
        seen = set()

        def look() -> bool:
            for _ in range(30_000):
                task = slot.read()
                if task is not None:
                    seen.add((task.task_id, task.name, task.started, task.hard_deadline))
            return bool(seen)

        eventually(look)  # on a busy machine the writer may not have begun
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)

    assert seen <= {(*short, 1.0, 1.0), (*long, 2.0, 2.0)}


def test_a_run_is_asked_to_end_by_its_number() -> None:
    board = Board(seats=1, slots=2)
    first, second = board.child(0).slots
    assert first.asked() is None
    run = first.begin("x", "t", 1.0)
    first.ask(run, Ending.NOW)

    assert first.asked() == (run, Ending.NOW, False)
    first.ask(run, Ending.ASKED, by_header=True)
    assert first.asked() == (run, Ending.ASKED, True)
    assert second.asked() is None
    assert not first.declined(run)
    first.decline(run)
    assert first.declined(run)
    assert not second.declined(run)
    running = first.read()
    assert running is not None
    assert (running.task_id, running.sequence) == ("x", run)
    first.end()
    assert first.begin("x", "t", 2.0) != run
    board.child(0).clear()
    assert first.asked() is None


@pytest.mark.parametrize("task_id", ["short", "x" * 200, "é" * 40])
def test_the_board_shows_a_task_id_as_it_is_stored(task_id: str) -> None:
    slot = Board(seats=1, slots=1).child(0).slot(0)
    slot.begin(task_id, "t", 1.0)
    running = slot.read()
    assert running is not None
    assert running.task_id == stored(task_id)


def test_what_is_too_old_holds_no_longer() -> None:
    board = Board(seats=1, slots=1, standings=8, max_age=60.0)
    now = time.time()
    board.put(b"young", Standing(revoked=True, time=now - 50))
    board.put(b"old", Standing(revoked=True, time=now - 70))
    board.put(header_key("tenant", "old"), Standing(revoked=True, time=now - 70))

    assert board.standing("young") == Standing(revoked=True, time=now - 50)
    assert board.standing("old") is None
    assert not board.revoked_by_header({"tenant": "old"})
    board.close()
