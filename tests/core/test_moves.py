"""The journal of a move: what is known of a letter, whenever the one that moved it was killed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.core import letters, moves
from amqtask.core.message import Properties
from amqtask.core.moves import Entry, Fate, Journal, Step
from amqtask.errors import DecodeError

A, B = b"a" * 16, b"b" * 16
ALIVE = Entry(Step.ALIVE, "1")
INTENT = Entry(Step.INTENT, "1", (A, B), ("work",))
SENT = Entry(Step.SENT, "1")
MOVED = Entry(Step.MOVED, "1")


def fate(*entries: Entry, which: bytes = A, alone: bool = True) -> Fate:
    return Journal(entries).fate(which, lambda: alone)[0]


def test_killed_at_each_step() -> None:
    assert fate() is Fate.STAYS
    assert fate(ALIVE) is Fate.STAYS
    assert fate(ALIVE, INTENT) is Fate.STAYS  # the copies come with the next
    assert fate(ALIVE, INTENT, SENT) is Fate.MOVED
    # the letters were taken away with this one, so what is there is another
    assert fate(ALIVE, INTENT, SENT, MOVED) is Fate.STAYS
    assert fate(ALIVE, INTENT, SENT, which=b"c" * 16) is Fate.STAYS


def test_the_broker_was_restarted_meanwhile() -> None:
    assert fate(INTENT) is Fate.DOUBT
    # it may have forgotten that they were taken away
    assert fate(INTENT, MOVED) is Fate.MOVED
    assert fate(INTENT, MOVED, alone=False) is Fate.DOUBT
    assert fate(INTENT, Entry(Step.MOVED, "1", (B,))) is Fate.STAYS


def test_a_queue_refused() -> None:
    assert fate(ALIVE, INTENT, SENT, Entry(Step.FAILED, "1")) is Fate.STAYS
    assert fate(ALIVE, INTENT, SENT, Entry(Step.FAILED, "1", (A,))) is Fate.DOUBT


def test_as_many_are_taken_away_as_were_sent() -> None:
    journal = Journal([ALIVE, Entry(Step.INTENT, "1", (A, A)), SENT])

    fates = [journal.fate(A, lambda: False)[0] for _ in range(3)]

    assert fates == [Fate.MOVED, Fate.MOVED, Fate.STAYS]


def test_what_this_process_saw_itself_holds_after_a_restart() -> None:
    journal = Journal([INTENT], {"1": frozenset({A})})

    assert journal.fate(A, lambda: True) == (Fate.MOVED, "1")
    assert journal.fate(B, lambda: True)[0] is Fate.STAYS


def test_a_target_that_may_have_refused_is_not_trusted() -> None:
    journal = Journal([ALIVE, INTENT, SENT])
    assert journal.unverified() == {"work"}

    journal.distrust(["work"])

    assert journal.fate(A, lambda: True)[0] is Fate.DOUBT
    assert not Journal([ALIVE, INTENT, SENT, MOVED]).unverified()


def test_the_newest_batch_counts() -> None:
    again = (Entry(Step.ALIVE, "2"), Entry(Step.INTENT, "2", (A,)), Entry(Step.SENT, "2"))

    assert fate(INTENT, *again) is Fate.MOVED
    assert fate(INTENT, *again[:2]) is Fate.DOUBT


def test_marks_tell_letters_apart_and_stay() -> None:
    def mark(**headers: object) -> bytes:
        properties = Properties(headers={"id": "1", "task": "t", **headers})
        return moves.mark(properties, b"x", letters.read(properties, b"x", "q.dead"))

    died = {"queue": "q", "reason": "expired", "count": 1, "time": datetime.now(UTC)}
    plain = mark()
    assert mark(**{"x-delivery-count": 2}) == plain
    assert len({plain, mark(more=1), mark(**{"x-death": [died]})}) == 3
    assert mark(**{"x-death": [died]}) != mark(**{"x-death": [died | {"queue": "r"}]})


def test_who_is_alone() -> None:
    timed = {"id": "1", "task": "t", "amqtask-dead-reason": "x", "amqtask-dead-time": "2026-11-21T12:00:00Z"}  # fmt: skip
    for headers, expected in ((timed, True), (timed | {"id": None}, False), ({"id": "1"}, False)):
        properties = Properties(headers=headers)
        letter = letters.read(properties, b"", "q.dead")
        assert moves.alone(letter, properties) is expected
    assert not moves.alone(letter, None)


def test_names() -> None:
    assert moves.journal_of("email.dead") == "amqtask.moves.email.dead"
    long = {moves.journal_of("ä" * 120 + end) for end in ("a", "b")}
    assert len(long) == 2
    assert all(len(name.encode()) <= 255 for name in long)


@given(
    st.builds(
        Entry,
        st.sampled_from(Step),
        st.text(max_size=5),
        st.lists(st.binary(max_size=16)).map(tuple),
        st.lists(st.text(max_size=5)).map(tuple),
    )
)
def test_entries_survive_the_wire(entry: Entry) -> None:
    assert moves.decode(moves.encode(entry)) == entry


@pytest.mark.parametrize("body", [b"", b"\x00", b"{}", b"\x94\xa3odd\xa0\x90\x90"])
def test_what_is_no_entry_is_an_error(body: bytes) -> None:
    with pytest.raises(DecodeError):
        moves.decode(body)
