"""How a place in a file is written."""

from __future__ import annotations

import pytest

from amqtask.topology.problems import Path, format_path


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("queues", "email", "bindings", 0, "exchange"), "queues.email.bindings[0].exchange"),
        (("queues", "shop.email", "type"), 'queues["shop.email"].type'),
        (("queues", 'a"b', "type"), 'queues["a\\"b"].type'),
        (("queues", "a\nb\u2028"), 'queues["a\\nb\\u2028"]'),
        (("queues", "é"), 'queues["é"]'),
        (("queues", "q" * 100), f'queues["{"q" * 59}…"]'),
    ],
)
def test_paths(path: Path, text: str) -> None:
    assert format_path(path) == text
