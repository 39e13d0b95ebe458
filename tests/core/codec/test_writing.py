"""Task messages to envelopes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given

from amqtask.amqp import frames
from amqtask.core import codec
from amqtask.core.codec import Limits, decode, encode
from amqtask.core.message import Envelope, Message, Properties
from amqtask.errors import EncodeError, PayloadTooLarge
from tests.core.codec.values import (
    ANY,
    ID,
    SIGNATURE,
    V2,
    messages,
)


def test_the_smallest_message() -> None:
    envelope = encode(Message(id=ID, task="shop.add"))

    assert envelope == Envelope(
        b"[[],{},{}]",
        Properties(
            content_type="application/json",
            content_encoding="utf-8",
            headers={"lang": "py", "task": "shop.add", "id": ID},
            delivery_mode=2,
            priority=0,
            correlation_id=ID,
        ),
    )


def test_headers_that_hold_their_default_are_left_out() -> None:
    message = Message(id=ID, task="t", root_id=ID, retries=0, stamps={}, correlation_id=ID)

    assert set(encode(message).properties.headers or {}) == {"lang", "task", "id"}


def test_every_field_travels() -> None:
    message = Message(
        id=ID,
        task="shop.add",
        args=[1, "é"],
        kwargs={"x": None},
        retries=2,
        eta="2030-01-01T00:00:00+00:00",
        expires="2030-01-02T00:00:00+02:00",
        time_limit=0.5,
        soft_time_limit=0.25,
        root_id="root",
        parent_id="parent",
        group="group",
        group_index=3,
        callbacks=[SIGNATURE],
        errbacks=[SIGNATURE],
        chain=[SIGNATURE],
        chord=SIGNATURE,
        reply_to="amqtask.reply.1",
        correlation_id="other",
        priority=7,
        ignore_result=True,
        origin="gen1@host",
        shadow="name",
        argsrepr="(1,)",
        kwargsrepr="{}",
        replaced_task_nesting=1,
        stamped_headers=["a"],
        stamps={"a": "b"},
        headers={"x-request-id": "r", "trace": 1.5},
        serializer="msgpack",
        compression="application/zstd",
    )

    envelope = encode(message, now=0)

    assert decode(envelope) == message
    assert (envelope.properties.headers or {})["timelimit"] == [0.5, 0.25]
    assert (envelope.properties.headers or {})["compression"] == "application/zstd"
    assert envelope.properties.content_type == "application/x-msgpack"


@given(messages)
def test_round_trip(message: Message) -> None:
    envelope = encode(message, now=1.9e9)
    again = decode(envelope, accept=ANY)
    expected = message
    if message.serializer.endswith("pickle"):
        expected = msgspec.structs.replace(message, serializer=again.serializer)

    assert repr(again) == repr(expected)
    assert repr(decode(encode(again, now=1.9e9), accept=ANY)) == repr(again)


@given(messages)
def test_round_trip_over_the_wire(message: Message) -> None:
    """The header table codec carries what the message codec makes, and never takes more than was estimated."""
    envelope = encode(message, now=1.9e9)
    headers = envelope.properties.headers or {}
    wire = frames.encode_properties(envelope.properties)

    assert codec.headers_size(headers) >= len(frames.encode_table(headers))
    arrived = Envelope(envelope.body, frames.decode_properties(wire))
    assert repr(decode(arrived, accept=ANY)) == repr(decode(envelope, accept=ANY))


def test_priority_is_always_set() -> None:
    message = Message(id=ID, task="t")

    assert encode(message, priority=4).properties.priority == 4
    assert encode(msgspec.structs.replace(message, priority=0), priority=4).properties.priority == 0


@pytest.mark.parametrize("priority", [-1, 256, True, 1.0, "5"])
def test_a_priority_out_of_range(priority: Any) -> None:
    with pytest.raises(EncodeError, match="from 0 to 255"):
        encode(Message(id=ID, task="t", priority=priority))


@pytest.mark.parametrize(
    ("expires", "expiration"),
    [
        ("1970-01-01T00:01:40.500000+00:00", "500"),
        ("1970-01-01T00:01:40.500000", "500"),
        ("1970-01-01T02:01:41+02:00", "1000"),
        ("1970-01-01T00:00:00+00:00", "0"),
        ("1979-01-01T00:00:00+00:00", str((3287 * 86400 - 100) * 1000)),
        ("1990-01-01T00:00:00+00:00", None),  # more than RabbitMQ's ten years
    ],
)
def test_expiration_is_milliseconds_from_now(expires: str, expiration: str | None) -> None:
    message = Message(id=ID, task="t", expires=expires)
    properties = encode(message, now=100.0).properties

    assert properties.expiration == expiration
    assert (properties.headers or {})["expires"] == expires
    assert encode(message).properties.expiration is None


def test_the_timestamp_is_the_second_of_the_sending() -> None:
    message = Message(id=ID, task="t")

    assert encode(message, sent=1_700_000_000.9).properties.timestamp == 1_700_000_000
    assert encode(message).properties.timestamp is None


@pytest.mark.parametrize("expires", ["", "soon", 5])
def test_a_bad_expires(expires: Any) -> None:
    with pytest.raises(EncodeError, match="ISO 8601"):
        encode(Message(id=ID, task="t", expires=expires), now=0)


def test_broker_headers_are_never_sent_on() -> None:
    headers = {
        "x-death": [{"queue": "q"}],
        "x-first-death-queue": "q",
        "x-delivery-count": 3,
        "x-delay": 5,
        "x-mine": 1,
    }

    sent = encode(Message(id=ID, task="t", headers=headers)).properties.headers or {}
    assert sent.keys() - V2.keys() == {"x-delay", "x-mine"}


def test_a_user_header_cannot_take_the_place_of_the_protocols() -> None:
    with pytest.raises(EncodeError, match="'retries' belongs to the message protocol"):
        encode(Message(id=ID, task="t", headers={"retries": 5}))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"task": ""}, "needs the name of its task"),
        ({"task": None}, "needs the name of its task"),
        ({"id": ""}, "the id must be a string"),
        ({"id": 5}, "the id must be a string"),
        ({"id": "é" * 128}, "the id takes 256 bytes, and AMQP carries at most 255"),
        ({"id": "\ud800"}, "not valid Unicode"),
        ({"reply_to": "q" * 256}, "the reply_to takes 256 bytes"),
        ({"correlation_id": "q" * 256}, "the correlation_id takes 256 bytes"),
        ({"correlation_id": 7}, "the correlation_id must be a string"),
        ({"args": "abc"}, "args must be a list or tuple, not str"),
        ({"args": None}, "args must be a list or tuple, not NoneType"),
        ({"kwargs": [1]}, "kwargs must be a mapping, not list"),
        ({"kwargs": {1: 2}}, "names in kwargs must be strings, not 1"),
        ({"headers": [1]}, "headers must be a mapping"),
        ({"headers": {"n" * 256: 1}}, "takes 256 bytes; AMQP carries at most 255"),
        ({"headers": {"\ud800": 1}}, "not valid Unicode"),
        ({"headers": {"a": "\ud800"}}, "'a' is text that is not valid Unicode"),
        ({"headers": {5: 1}}, "A header name must be a string"),
        ({"headers": {"a": {1}}}, "'a' is of type set, which an AMQP header cannot carry"),
        ({"headers": {"a": [{"b": 2**63}]}}, "'b' is an integer of 64 bits"),
        ({"task": "\ud800"}, "must be valid Unicode"),
        ({"time_limit": float("nan")}, "'timelimit' must be two numbers"),
        ({"soft_time_limit": -1}, "'timelimit' must be two numbers"),
        ({"retries": "2"}, "'retries' must be a whole number"),
        ({"eta": "tomorrow"}, "'eta' must be an ISO 8601 time"),
        ({"group_index": -1}, "'group_index' must be a whole number"),
        ({"args": [{1}]}, r"args\[0\] is of type set"),
    ],
)
def test_what_has_no_form_on_the_wire(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(EncodeError, match=text) as caught:
        encode(Message(**({"id": ID, "task": "shop.add"} | changes)))

    assert "task" not in changes or "\n" not in str(caught.value)
    assert "task" in changes or "Task shop.add: " in str(caught.value)


def test_headers_nested_too_deeply() -> None:
    value: object = 1
    for _ in range(70):
        value = [value]

    with pytest.raises(EncodeError, match="nested more than 64"):
        encode(Message(id=ID, task="t", headers={"a": value}))


def test_a_body_above_the_limit() -> None:
    message = Message(id=ID, task="shop.add", args=["x" * 2000])

    with pytest.raises(
        PayloadTooLarge,
        match=r"^Task shop\.add: the body is 2012 bytes, above message_max_bytes \(1000\)",
    ):
        encode(message, limits=Limits(message_max_bytes=1000))
    small = msgspec.structs.replace(message, compression="gzip")
    assert len(encode(small, limits=Limits(message_max_bytes=1000)).body) < 100


def test_headers_above_the_limit() -> None:
    message = Message(id=ID, task="shop.add", headers={"big": "x" * 70_000})

    with pytest.raises(
        PayloadTooLarge, match=r"^Task shop\.add: the headers take 70\d+ bytes.*largest is 'big'"
    ):
        encode(message)
    with pytest.raises(PayloadTooLarge, match="largest is 'task'"):
        encode(Message(id=ID, task="t" * 70_000))
    with pytest.raises(PayloadTooLarge):
        encode(Message(id=ID, task="t"), limits=Limits(headers_max_bytes=20))
    with pytest.raises(PayloadTooLarge):
        encode(Message(id=ID, task="t", argsrepr="x" * 70_000))


def test_arguments_may_be_any_sequence_and_mapping() -> None:
    message = Message(
        id=ID, task="t", args=range(3), kwargs=msgspec.structs.asdict(Limits(1, 2, 3))
    )

    assert decode(encode(message)).args == [0, 1, 2]
