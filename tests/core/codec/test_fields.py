"""Times in messages."""

from __future__ import annotations

import pytest

from amqtask.core.codec import moment


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2024-02-29T00:00:00"]
)
def test_moments_at_the_ends_of_time(text: str) -> None:
    assert isinstance(moment(text), float)
