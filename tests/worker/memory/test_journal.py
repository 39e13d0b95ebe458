"""The journal of ended executions: what one child wrote, any other can tell, and only a lost ack counts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from amqtask.worker.memory import journal as module
from amqtask.worker.memory.journal import Ended, Journal, SeatJournal, mark_of

MARK = mark_of(("id-1", 0, "shop.add", "email", None))


@pytest.fixture
def journal() -> Iterator[Journal]:
    journal = Journal(3, size=16)
    yield journal
    journal.close()


def ended(seat: SeatJournal, mark: int, *, acked: bool = True, lost: bool = False) -> None:
    seat.settled(seat.begin(mark), mark, acked=acked, lost=lost)


def test_an_execution_is_settling_until_what_follows_is_safe(journal: Journal) -> None:
    seat = journal.seat(1)
    assert journal.find(MARK) is Ended.UNKNOWN

    place = seat.begin(MARK)
    assert journal.find(MARK) is Ended.SETTLING
    seat.settled(place, MARK, acked=True, lost=False)

    assert journal.find(MARK) is Ended.ACKED
    assert journal.find(mark_of(("id-1", 1, "shop.add", "email", None))) is Ended.UNKNOWN


@pytest.mark.parametrize(
    ("acked", "found"), [(True, Ended.ACK_LOST), (False, Ended.REJECT_LOST)], ids=["ack", "reject"]
)
def test_a_lost_channel_takes_acks_with_it(journal: Journal, acked: bool, found: Ended) -> None:
    seat = journal.seat(0)
    ended(seat, MARK, acked=acked)
    settling = mark_of(("id-2",))
    place = seat.begin(settling)

    seat.lose()

    assert journal.find(MARK) is found
    assert journal.find(settling) is Ended.SETTLING
    seat.settled(place, settling, acked=acked, lost=True)
    assert journal.find(settling) is found


def test_old_acks_are_not_lost(journal: Journal) -> None:
    seat = journal.seat(0)
    ended(seat, MARK)
    now = time.monotonic()
    for windows in (1, 2, 3):
        seat.turn(now + windows * (module.WINDOW + 1))

    seat.lose()

    assert journal.find(MARK) is Ended.ACKED


def test_a_lost_ack_answers_for_some_minutes_only(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = [mark_of((how,)) for how in ("before", "after", "safe")]
    seat, late = journal.seat(0), journal.seat(1)
    ended(seat, marks[0])
    seat.lose()
    ended(seat, marks[1], acked=False, lost=True)
    late.safe(late.begin(marks[2]), marks[2])
    late.bury()
    now = time.monotonic()

    monkeypatch.setattr(time, "monotonic", lambda: now + module.ANSWERS - 2)
    found = [journal.find(mark) for mark in marks]
    assert found == [Ended.ACK_LOST, Ended.REJECT_LOST, Ended.ACK_LOST]
    monkeypatch.setattr(time, "monotonic", lambda: now + module.ANSWERS + 1)
    seat.lose()  # another loss makes none of them young again
    assert [journal.find(mark) for mark in marks] == [Ended.ACKED, Ended.REJECTED, Ended.ACKED]


def test_what_a_child_acked_before_it_left_in_order_is_not_lost(journal: Journal) -> None:
    seat = journal.seat(0)
    ended(seat, MARK)
    settling = mark_of(("id-2",))
    seat.begin(settling)
    seat.parted()

    seat.bury()

    assert journal.find(MARK) is Ended.ACKED
    assert journal.find(settling) is Ended.UNKNOWN
    seat.open()
    ended(seat, settling)
    seat.lose()
    assert journal.find(settling) is Ended.ACK_LOST


def test_what_a_dead_child_was_settling_is_lost_with_it(journal: Journal) -> None:
    seat = journal.seat(2)
    pid = os.fork()
    if pid == 0:
        seat.open()
        ended(seat, MARK)
        seat.begin(mark_of(("id-2",)))
        os._exit(0)
    os.waitpid(pid, 0)
    assert journal.find(mark_of(("id-2",))) is Ended.SETTLING

    seat.bury()

    assert journal.find(MARK) is Ended.ACK_LOST
    assert journal.find(mark_of(("id-2",))) is Ended.UNKNOWN
    # who takes the seat next goes on behind what is there
    seat.open()
    for number in range(14):
        ended(seat, mark_of((number,)))
    assert journal.find(MARK) is Ended.ACK_LOST
    ended(seat, mark_of((14,)))
    assert journal.find(MARK) is Ended.UNKNOWN


def test_what_was_safe_outlives_its_child_and_the_next_one_writes_behind_it(
    journal: Journal,
) -> None:
    seat = journal.seat(2)
    safe = [mark_of(("safe", number)) for number in range(3)]
    for mark in safe:
        seat.safe(seat.begin(mark), mark)
    assert {journal.find(mark) for mark in safe} == {Ended.SETTLING}  # its child is about to ack it

    seat.bury()

    assert {journal.find(mark) for mark in safe} == {Ended.ACK_LOST}
    seat.open()
    for number in range(13):
        ended(seat, mark_of((number,)))
    assert {journal.find(mark) for mark in safe} == {Ended.ACK_LOST}


def test_what_is_safe_ends_as_anything_else_does(journal: Journal) -> None:
    seat = journal.seat(0)
    for lost, found in ((False, Ended.ACKED), (True, Ended.ACK_LOST)):
        mark = mark_of(("safe", lost))
        place = seat.begin(mark)
        seat.safe(place, mark)
        seat.settled(place, mark, acked=True, lost=lost)
        assert journal.find(mark) is found
    place = seat.begin(MARK)
    seat.safe(place, MARK)
    seat.withdraw(place, MARK)
    assert journal.find(MARK) is Ended.UNKNOWN


def test_an_execution_whose_message_comes_again_is_forgotten(journal: Journal) -> None:
    seat = journal.seat(0)
    seat.withdraw(seat.begin(MARK), MARK)

    assert journal.find(MARK) is Ended.UNKNOWN


def test_a_place_that_was_taken_by_another_is_left_alone(journal: Journal) -> None:
    seat = journal.seat(0)
    place = seat.begin(MARK)
    others = [mark_of((number,)) for number in range(16)]
    for mark in others:
        ended(seat, mark)

    seat.settled(place, MARK, acked=True, lost=True)

    assert journal.find(MARK) is Ended.UNKNOWN
    assert {journal.find(mark) for mark in others} == {Ended.ACKED}


def test_a_mark_is_found_at_its_own_place_only(journal: Journal) -> None:
    # the bytes of the mark, but across two words
    high = (MARK << 32) & (2**64 - 1) & ~0xFF
    low = (MARK >> 32) & ~0xFF
    for mark in (high, low):
        ended(journal.seat(0), mark)

    assert journal.find(MARK) is Ended.UNKNOWN
