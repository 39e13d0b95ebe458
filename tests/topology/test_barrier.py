"""The declaration of a barrier's queue."""

from __future__ import annotations

from amqtask.topology.barrier import barrier_queue
from amqtask.topology.plan import NO_DELIVERY_LIMIT


def test_it_has_an_end() -> None:
    declared = barrier_queue("amqtask.join.g", 1.5)

    assert declared.durable
    assert declared.arguments == {
        "x-queue-type": "classic",
        "x-expires": 1500,
    }


def test_a_quorum_queue_never_drops_what_is_given_back() -> None:
    declared = barrier_queue("amqtask.join.g", 60, "quorum")

    assert declared.arguments["x-delivery-limit"] == NO_DELIVERY_LIMIT
    assert declared.arguments["x-single-active-consumer"] is True


def test_no_setting_is_too_short_for_the_broker() -> None:
    assert barrier_queue("amqtask.join.g", 0.0001).arguments["x-expires"] == 1
