"""What a child decides by itself, without a broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from amqtask.amqp.delivery import Delivery
from amqtask.amqp.frames import Deliver
from amqtask.core.message import Properties
from amqtask.worker.child.child import Child, _returned_often


def delivery(count: object, *, redelivered: bool = True) -> Delivery:
    deliver = Deliver(1, b"tag", 1, redelivered, b"\x00\x04work", b"", b"[]")
    return Delivery.of(1, "work", deliver, Properties(headers={"x-delivery-count": count}))


@pytest.mark.parametrize(
    ("count", "redelivered", "often"),
    [
        (50, True, True),
        (49, True, False),
        (50, False, False),
        ("many", True, False),
        (None, True, False),
    ],
)
def test_a_message_that_came_back_again_and_again_stays(
    count: object, redelivered: bool, often: bool
) -> None:
    assert _returned_often(delivery(count, redelivered=redelivered), 50) is often


@pytest.mark.parametrize(
    ("counted", "kept"), [(True, [50]), (False, [])], ids=["before 4.3", "4.3 and later"]
)
def test_what_came_back_often_stays_behind_a_long_task_only_where_that_counts(
    counted: bool, kept: list[int]
) -> None:
    there: list[Any] = []
    given: list[Any] = []
    child = SimpleNamespace(
        _consumer=SimpleNamespace(pause=lambda: None, counts_returns=counted),
        _job=SimpleNamespace(max_returns={"work": 50}),
        _pool=SimpleNamespace(hand_over=there.extend),
        _io_give_back=given.extend,
    )
    counts = [0, 3, 49, 50]
    deliveries = [delivery(count) for count in counts]

    Child._io_pause(cast(Any, child), deliveries)

    def count_of(each: Any) -> int:
        return cast(int, each.properties.headers["x-delivery-count"])

    assert [count_of(each) for each in there] == kept
    assert [count_of(each) for each in given] == [each for each in counts if each not in kept]


def test_what_was_to_run_after_all_and_is_given_back_is_forgotten() -> None:
    executor = SimpleNamespace(admission=SimpleNamespace(released={(1, 1), (1, 2)}))
    settled: list[Any] = []
    child = SimpleNamespace(
        _executor=executor,
        _consumer=SimpleNamespace(settle=lambda each, verdict: settled.append(each)),
    )
    given = delivery(0)

    Child._io_give_back(cast(Any, child), [given])

    assert settled == [given]
    assert executor.admission.released == {(1, 1), (1, 2)} - {(given.epoch, given.tag)}
    assert len(executor.admission.released) == 1
