"""A message that is carried on is the same message."""

from __future__ import annotations

from amqtask.core.message import Properties
from amqtask.core.onward import EXCHANGE, FIRST_TIME, ROUTING_KEY, address, onward, senders_own

ENTRY = ("ladder", "0.1.mail")
RECEIVED = Properties(
    content_type="application/json",
    content_encoding="utf-8",
    headers={
        "task": "t",
        "id": "1",
        "eta": "2026-01-01T00:00:00+00:00",
        "mine": [1, 2],
        "x-mine": True,
        "x-death": [{"queue": "q"}],
        "x-first-death-queue": "q",
        "amqtask-dead-reason": "failure",
    },
    delivery_mode=1,
    priority=7,
    correlation_id="1",
    reply_to="replies",
    expiration="5000",
    message_id="m",
    timestamp=5,
    user_id="guest",
    app_id="a",
)


def test_it_is_the_same_message_on_another_way() -> None:
    sent = onward(b"body", RECEIVED, ENTRY, published=("tasks", "mail.send"))

    assert (sent.exchange, sent.routing_key, sent.mandatory) == (*ENTRY, True)
    assert sent.envelope.body == b"body"
    assert sent.envelope.properties == Properties(
        content_type="application/json",
        content_encoding="utf-8",
        headers={
            "task": "t",
            "id": "1",
            "eta": "2026-01-01T00:00:00+00:00",
            "mine": [1, 2],
            "x-mine": True,
            EXCHANGE: "tasks",
            ROUTING_KEY: "mail.send",
        },
        delivery_mode=2,
        priority=7,
        correlation_id="1",
        reply_to="replies",
        message_id="m",
        timestamp=5,
        app_id="a",
    )


def test_headers_change_and_go() -> None:
    sent = onward(
        b"", RECEIVED, ENTRY, published=("", "q"), changes={"retries": 1, "eta": None, "none": None}
    )

    headers = sent.envelope.properties.headers or {}
    assert headers["retries"] == 1
    assert "eta" not in headers
    assert "none" not in headers


def test_the_first_address_is_kept_over_many_rounds() -> None:
    first = onward(b"", RECEIVED, ENTRY, published=("tasks", "mail.send"))
    properties = first.envelope.properties
    second = onward(b"", properties, ENTRY, published=("ladder.deliver", "0.1.mail"))

    headers = second.envelope.properties.headers or {}
    assert address(headers, "ladder.deliver", "0.1.mail") == ("tasks", "mail.send")
    assert address({}, "e", "k") == ("e", "k")
    assert address({EXCHANGE: 3, ROUTING_KEY: "k"}, "e", "k2") == ("e", "k2")


def test_a_message_without_headers_or_priority() -> None:
    sent = onward(b"", Properties(), ENTRY, published=("", "q"))

    assert sent.envelope.properties == Properties(
        headers={EXCHANGE: "", ROUTING_KEY: "q"}, delivery_mode=2, priority=0
    )


def test_what_the_sender_gave() -> None:
    assert senders_own({"a": 1, FIRST_TIME: "now", EXCHANGE: ""}) == {"a": 1}
    assert senders_own({}) == {}
