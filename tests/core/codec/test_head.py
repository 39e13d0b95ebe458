"""What is known of a message that cannot be read."""

from __future__ import annotations

from amqtask.core.codec import identify
from amqtask.core.message import Properties
from tests.core.codec.values import (
    json_properties,
)


def test_identify_finds_where_to_report() -> None:
    identity = identify(json_properties({"task": "t", "id": 5}, correlation_id="c", reply_to="q"))

    assert (identity.id, identity.task, identity.correlation_id, identity.reply_to) == (
        "c",
        "t",
        "c",
        "q",
    )
    assert identify(Properties()).id is None
