"""Records of verdicts and what they come to: whatever the order, and however often each arrives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.core.verdicts import (
    RECENT,
    Book,
    Kind,
    Record,
    Standing,
    decode,
    header_key,
    key,
    new_event,
    parts,
    publication,
)
from amqtask.errors import DecodeError

NOW = 1_000_000.0


def crash(
    event: str, at: float = NOW, node: str = "a", cause: str = "signal 9 (SIGKILL)"
) -> Record:
    return Record(
        kind=Kind.CRASHED, event=event, origin=node, time=at, ids=("x",), cause=cause, task="t"
    )


records = st.builds(
    Record,
    kind=st.sampled_from(Kind),
    event=st.sampled_from("abcdefghij"),
    origin=st.sampled_from(["one", "two"]),
    time=st.integers(0, 50).map(lambda ago: NOW - ago),
    ids=st.lists(st.sampled_from("xyz"), max_size=3, unique=True).map(tuple),
    headers=st.dictionaries(
        st.sampled_from("hk"), st.lists(st.sampled_from("12"), max_size=2), max_size=2
    ),
    cause=st.none() | st.sampled_from(["signal 11 (SIGSEGV)", "exit code 3"]),
)
# one event is one record, whoever tells of it
streams = st.lists(records, max_size=20, unique_by=lambda record: record.event)


def fold(events: list[Record]) -> dict[str, Standing | None]:
    book = Book()
    for record in events:
        book.add(record, NOW)
    keys = [*map(str.encode, "xyz"), *(header_key(n, v) for n in "hk" for v in "12")]
    return {repr(each): book.standing(each) for each in keys}


@given(streams, st.data())
def test_order_and_repetition_change_nothing(events: list[Record], data: st.DataObject) -> None:
    repeated = events + (data.draw(st.lists(st.sampled_from(events), max_size=9)) if events else [])
    shuffled = data.draw(st.permutations(repeated))

    assert fold(events) == fold(list(shuffled))


@given(streams)
def test_what_changes_is_told_and_nothing_else(events: list[Record]) -> None:
    book = Book()
    told: dict[bytes, Standing] = {}
    for record in events:
        told.update(book.add(record, NOW))
        assert book.add(record, NOW) == []

    for which, standing in told.items():
        assert book.standing(which) == standing
    assert len(told) == len(book)


def test_crashes_are_counted_by_event_and_the_last_one_is_named() -> None:
    book = Book()
    for event, at, node in (("b", 3.0, "two"), ("a", 1.0, "one"), ("b", 3.0, "two")):
        book.add(crash(event, NOW + at, node, cause=f"signal {at:g}"), NOW)

    standing = book.standing("x")
    assert standing is not None
    assert (standing.crashes, standing.node, standing.cause) == (2, "two", "signal 3")
    assert standing.time == NOW + 3.0


def test_kinds_stand_beside_each_other() -> None:
    book = Book()
    for kind in (Kind.REVOKED, Kind.HARD_LIMIT, Kind.ABORTED):
        book.add(Record(kind=kind, event=kind.value, origin="a", time=NOW, ids=("x", "y")), NOW)

    expected = Standing(revoked=NOW, aborted=NOW, hard_limit=NOW, time=NOW)
    assert book.standing("x") == book.standing("y") == expected
    assert book.standing("z") is None


def test_each_thing_keeps_its_own_time() -> None:
    book = Book()
    for kind, time in ((Kind.HARD_LIMIT, NOW), (Kind.REVOKED, NOW + 1), (Kind.REVOKED, NOW - 1)):
        book.add(Record(kind=kind, event=new_event(), origin="a", time=time, ids=("x",)), NOW)
    for number in range(10):
        book.add(crash(f"c{number}", NOW + number), NOW)

    standing = book.standing("x")
    assert standing is not None
    assert (standing.hard_limit, standing.revoked, standing.aborted) == (NOW, NOW + 1, 0.0)
    assert (standing.crashes, standing.time) == (10, NOW + 9)
    assert standing.recent == tuple(NOW + 9 - back for back in range(RECENT))


def test_the_longest_without_news_gives_way() -> None:
    book = Book(limit=3)
    for name in ("a", "b", "c", "a", "d"):
        book.add(
            Record(kind=Kind.REVOKED, event=new_event(), origin="n", time=NOW, ids=(name,)), NOW
        )

    assert [name for name in "abcd" if book.standing(name)] == ["a", "c", "d"]


def test_what_is_too_old_means_nothing() -> None:
    book = Book(max_age=10.0)

    assert book.add(crash("a", NOW - 11.0), NOW) == []
    assert book.standing("x") is None


def test_a_crash_is_not_counted_with_those_that_are_too_old() -> None:
    book = Book(max_age=10.0)
    book.add(crash("a", NOW), NOW)
    book.add(crash("b", NOW + 9.0), NOW + 9.0)
    assert book.standing("x") == Standing(
        crashes=2, cause="signal 9 (SIGKILL)", node="a", time=NOW + 9.0, recent=(NOW + 9.0, NOW)
    )

    book.add(crash("c", NOW + 20.0), NOW + 20.0)

    standing = book.standing("x")
    assert standing is not None
    assert standing.crashes == 1


@given(st.text() | st.binary())
def test_a_key_is_short_and_its_own_key(task_id: str | bytes) -> None:
    found = key(task_id)

    assert len(found) <= 64
    assert key(found) == found


@given(records)
def test_a_record_survives_the_stream(record: Record) -> None:
    assert decode(publication(record).envelope.body) == record


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"kind":"other"}', b"\xff"])
def test_what_is_no_record_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(body)


@given(st.integers(0, 50), st.integers(1, 20))
def test_parts_are_the_whole(count: int, size: int) -> None:
    ids = tuple(f"id-{number}" for number in range(count))
    record = Record(kind=Kind.REVOKED, event="e", origin="n", time=NOW, ids=ids)
    pieces = list(parts(record, size))

    assert tuple(each for piece in pieces for each in piece.ids) == ids
    assert all(len(piece.ids) <= size and piece.event == "e" for piece in pieces)


def test_whom_a_record_concerns() -> None:
    by_id = Record(kind=Kind.REVOKED, event="e", origin="n", time=NOW, ids=("x", "y"))
    by_header = Record(
        kind=Kind.REVOKED, event="e", origin="n", time=NOW, headers={"customer": ["42", "43"]}
    )

    assert by_id.concerns("x", {}, None)
    assert not by_id.concerns("z", {"customer": 42}, None)
    assert by_header.concerns("z", {"customer": 42}, None)
    assert by_header.concerns("z", {}, {"customer": ["1", "43"]})
    assert not by_header.concerns("z", {"customer": [1]}, {"other": ["42"]})
    assert not by_header.concerns("z", {"customer": None}, None)
