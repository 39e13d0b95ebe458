"""What is known of a run that was acked before it began, when its process has died."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from amqtask.core import codec, serialization
from amqtask.core.message import Envelope, Message, Properties, Publication
from amqtask.core.outcome import Look, Onward, PartSent, Send, Sequel, Settlement
from amqtask.core.workflow import Part
from amqtask.worker.memory.board import Board
from amqtask.worker.memory.early import ENDS, MOST, EarlyRuns
from amqtask.worker.settling.orphan import Orphan, read, written, written_end


def delivery(size: int = 10, headers: int = 0) -> Any:
    message = Message(id="i", task="t", args=("x" * size,), group="g", group_index=3, reply_to="r")
    envelope = codec.encode(message)
    properties = envelope.properties
    if headers:
        properties = Properties(headers={"x": "y" * headers})
    return SimpleNamespace(
        properties=properties, body=envelope.body, queue="q", exchange="e", routing_key="k"
    )


@pytest.mark.parametrize(("size", "whole"), [(10, True), (MOST, False), (1_000_000, False)])
def test_a_delivery_is_read_as_it_was(size: int, whole: bool) -> None:
    sent = delivery(size)
    found = read(written(sent))
    assert isinstance(found, Orphan)
    assert found.body == (sent.body if whole else b"")
    assert (found.queue, found.exchange, found.routing_key) == ("q", "e", "k")
    head = found.head(serialization.accepted(["json"]), codec.LIMITS)
    assert (head.id, head.task, head.group, head.group_index, head.reply_to) == (
        "i",
        "t",
        "g",
        3,
        "r",
    )


def test_what_has_no_room_and_what_is_damaged_is_not_kept() -> None:
    assert written(delivery(headers=MOST)) == b""
    assert read(b"") is None
    assert read(written(delivery())[:-1]) is None


def test_only_what_runs_is_lost_and_once() -> None:
    runs = EarlyRuns(2, 3)
    first, second = runs.seat(0), runs.seat(1)
    first.keep(0, b"ended")
    first.drop(0)
    first.keep(1, b"one")
    first.keep(2, b"x" * MOST)
    second.keep(0, b"another's")
    assert runs.seat(0).lost() == [b"one", b"x" * MOST]
    assert runs.seat(0).lost() == []
    assert second.lost() == [b"another's"]
    first.keep(0, b"")
    assert first.lost() == []
    runs.close()


def publication(key: str, size: int = 3) -> Publication:
    headers = {"n": 1, "text": "x", "list": [1, "a"]}
    properties = Properties(content_type="application/json", headers=headers, delivery_mode=2)
    return Publication("e", key, Envelope(b"x" * size, properties), mandatory=key != "reply")


def test_what_follows_an_end_is_read_as_it_was() -> None:
    part = Part(group="g", index=1, size=2, task_id="i", state="SUCCESS")
    sequel = Sequel(
        (Send(publication("plan"), "amqtask.join.h"),),
        (Send(publication("next"), None),),
        (publication("gone"),),
        (PartSent(publication("part"), part),),
        (Look("g", None),),
    )
    onward = Onward(publication("again"), "q")
    whole = Settlement(None, (publication("reply"),), publication("dead"), onward, sequel)
    for settlement in (whole, Settlement(None, (publication("reply"),))):
        found = read(written_end("q", settlement))
        assert isinstance(found, tuple)
        assert found[0].queue == "q"
        assert found[1] == settlement


def test_what_follows_an_end_and_is_too_large_is_not_kept() -> None:
    assert written_end("q", Settlement(None, (publication("reply", MOST),))) == b""


def test_what_was_lost_in_a_seat_that_stays_empty_is_found() -> None:
    board = Board(4, 1)
    for index in range(4):
        board.early.seat(index).keep(0, b"%d" % index)
    board.child(1).open(7, 1, 0.0)
    board.child(2).open(8, 1, 0.0)

    assert board.first_taken() == 1
    assert board.lost_early() == [b"0", b"3"]
    assert board.lost_early() == []
    board.child(1).clear()
    assert board.first_taken() == 2
    assert board.lost_early() == [b"1"]
    board.child(2).clear()
    assert board.first_taken() is None
    board.close()


def test_what_has_ended_is_lost_until_it_is_safe() -> None:
    runs = EarlyRuns(2, 2)
    seat, other = runs.seat(0), runs.seat(1)
    other.keep(0, b"another's")
    seat.keep(1, b"runs")
    places = [seat.hold(1, b"end %d" % number) for number in range(ENDS)]
    assert None not in places
    assert seat.hold(1, b"no room") is None
    assert seat.hold(0, b"of the first") is not None
    assert places[0] is not None
    seat.release(places[0])
    assert seat.hold(1, b"") == places[0]  # too large to be kept: as it was said to run
    taken = [seat.take_over(b"left %d" % number) for number in range(ENDS + 1)]
    assert taken[-1] is None
    for place in taken[1:-1]:
        assert place is not None
        seat.release(place)
    seat.drop(1)

    ends = [b"left 0", b"runs", *(b"end %d" % number for number in range(1, ENDS))]
    assert sorted(runs.seat(0).lost()) == sorted([*ends, b"of the first"])
    assert runs.seat(0).lost() == []
    assert other.lost() == [b"another's"]
    runs.close()
