"""What is known of a run that was acked before it began, when its process has died."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from amqtask.core import codec, serialization
from amqtask.core.message import Message, Properties
from amqtask.worker.early import MOST, EarlyRuns
from amqtask.worker.orphan import read, written


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
    assert found is not None
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
