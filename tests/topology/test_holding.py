"""How long a message may be held, and what consumers ask for."""

from __future__ import annotations

import pytest

from amqtask.topology import holding
from amqtask.topology.model import Queue, Topology


@pytest.mark.parametrize(
    ("queue", "release", "expected"),
    [
        (Queue(name="q", type="quorum"), (3, 10, 8), (1800.0, False)),
        (Queue(name="q", type="quorum", consumer_timeout=60), (3, 10, 8), (1800.0, False)),
        (Queue(name="q", type="quorum", consumer_timeout=60), (3, 12, 0), (60, True)),
        (Queue(name="q", type="classic"), (4, 2, 0), (1800.0, False)),
        (Queue(name="q", type="classic"), (4, 3, 0), (None, False)),
    ],
)
def test_how_long_a_message_may_be_held(
    queue: Queue, release: holding.Release, expected: tuple[float | None, bool]
) -> None:
    assert holding.allowed(queue, release) == expected


@pytest.mark.parametrize(
    ("limits", "ahead", "expected"),
    [
        ([], 1, 1800.0),
        ([10.0, 20.0], 1, 1800.0),  # never below the broker's own
        ([7200.0, 20.0], 1, 7500.0),
        ([7200.0], 4, 29_100.0),
        ([7200.0, None], 1, holding.NEVER),
        ([1e12], 1, holding.NEVER),
    ],
)
def test_what_is_wanted(limits: list[float | None], ahead: int, expected: float) -> None:
    assert holding.wanted(limits, ahead) == expected


def test_quorum_queues_without_a_timeout_of_their_own_ask() -> None:
    topology = Topology(
        queues={
            "plain": Queue(name="plain", type="quorum"),
            "own": Queue(name="own", type="quorum", consumer_timeout=60),
            "raw": Queue(name="raw", type="quorum", arguments={"x-consumer-timeout": 5}),
            "classic": Queue(name="classic", type="classic"),
        }
    )
    asked = holding.for_consumers(topology, ["plain", "own", "raw", "classic", "unknown"], 9.0)
    assert asked == {"plain": 9.0}
