"""The declaration of a barrier's queue."""

from __future__ import annotations

import pytest

from amqtask.topology.barrier import barrier_queue
from amqtask.topology.plan import NO_DELIVERY_LIMIT


@pytest.mark.parametrize(
    ("expires", "goes"), [(1.5, 3000), (600, 1200_000), (7 * 86400.0, 605_400_000)]
)
def test_it_lasts_longer_than_its_plan_and_has_an_end(expires: float, goes: int) -> None:
    declared = barrier_queue("amqtask.join.g", expires)

    assert declared.durable
    assert declared.arguments == {
        "x-queue-type": "classic",
        "x-expires": goes,
        "x-dead-letter-exchange": "amqtask.dropped",
    }


def test_a_quorum_queue_never_drops_what_is_given_back() -> None:
    declared = barrier_queue("amqtask.join.g", 60, "quorum")

    assert declared.arguments["x-delivery-limit"] == NO_DELIVERY_LIMIT
    assert declared.arguments["x-single-active-consumer"] is True


def test_no_setting_is_too_short_for_the_broker() -> None:
    assert barrier_queue("amqtask.join.g", 0.0001).arguments["x-expires"] == 1
