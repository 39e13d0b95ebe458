"""What a node settles before its children start."""

from __future__ import annotations

import pytest

from amqtask.core.prefetch import FIRST
from amqtask.topology.parse import parse
from amqtask.worker.node import _prefetch, _single_active
from amqtask.worker.options import WorkerOptions

TOPOLOGY = parse(
    "version: 1\nqueues: {plain: {}, single: {single_active_consumer: true}}\n", "test.yaml"
)


@pytest.mark.parametrize(
    ("queues", "multiplier", "expected"),
    [
        (("plain",), None, None),
        (("plain", "elsewhere"), None, None),
        (("plain",), 3, 3),
        (("plain", "single"), None, FIRST),
        (("single",), 3, 3),
    ],
)
def test_the_prefetch_stays_where_an_active_consumer_must(
    queues: tuple[str, ...], multiplier: int | None, expected: int | None
) -> None:
    options = WorkerOptions.parse(app="shop", concurrency=2, prefetch_multiplier=multiplier)

    assert _prefetch(_single_active(TOPOLOGY, queues), options) == expected
