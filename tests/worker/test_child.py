"""What a child decides by itself, without a broker."""

from __future__ import annotations

import pytest

from amqtask.amqp.delivery import Delivery
from amqtask.amqp.frames import Deliver
from amqtask.core.message import Properties
from amqtask.worker.child import KEEP, _returned_often


def delivery(count: object, *, redelivered: bool = True) -> Delivery:
    deliver = Deliver(1, b"tag", 1, redelivered, b"\x00\x04work", b"", b"[]")
    return Delivery(1, "work", deliver, Properties(headers={"x-delivery-count": count}))


@pytest.mark.parametrize(
    ("count", "redelivered", "often"),
    [
        (KEEP, True, True),
        (KEEP - 1, True, False),
        (KEEP, False, False),
        ("many", True, False),
        (None, True, False),
    ],
)
def test_a_message_that_came_back_again_and_again_stays(
    count: object, redelivered: bool, often: bool
) -> None:
    assert _returned_often(delivery(count, redelivered=redelivered)) is often
