"""The message of a next attempt: the same task, one retry more."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from amqtask import App
from amqtask.amqp import frames
from amqtask.amqp.delivery import Delivery
from amqtask.core import codec, serialization
from amqtask.core.message import Envelope, Message, Properties, Publication
from amqtask.core.onward import EXCHANGE, FIRST_TIME, ROUTING_KEY
from amqtask.core.retry import Again
from amqtask.errors import AmqtaskError
from amqtask.topology.ladder import STEPS, Ladder
from amqtask.worker.slots.carry import Carrier

ANY = serialization.accepted(("json", "msgpack", "pickle"))
NOW = 1_800_000_000.0
LADDER = Ladder("shop")
MESSAGE = Message(
    id="1",
    task="shop.mail",
    args=[1, "two"],
    kwargs={"three": 3},
    expires="2030-01-01T00:00:00+00:00",
    time_limit=60,
    soft_time_limit=50,
    root_id="0",
    parent_id="p",
    group="g",
    group_index=2,
    callbacks=[{"task": "next"}],
    chain=[{"task": "then"}],
    chord={"task": "body"},
    reply_to="replies",
    correlation_id="corr",
    priority=7,
    origin="me",
    shadow="mail",
    stamped_headers=["s"],
    stamps={"s": 1},
    headers={"mine": {"deep": [1.5]}},
    argsrepr="(1, 'two')",
)


@pytest.fixture
def carrier() -> Carrier:
    return Carrier(App("shop"), ANY, codec.LIMITS)


def delivered(
    envelope: Envelope, exchange: str = "tasks", routing_key: str = "mail.send"
) -> Delivery:
    header = frames.encode_properties(envelope.properties)
    route = b"".join(bytes((len(part),)) + part.encode() for part in (exchange, routing_key))
    deliver = frames.Deliver(1, b"c", 1, False, route, header, envelope.body)
    return Delivery.of(1, "mail", deliver, envelope.properties)


def carried(
    carrier: Carrier, delivery: Delivery, delay: float = 5.0, **changes: Any
) -> Publication:
    head = codec.read_header(delivery.properties, delivery.body, accept=ANY)
    again = Again(**{"due": NOW + delay, "first": NOW - 10, **changes})
    return carrier.next_attempt(delivery, head, again, NOW).publication


def read(publication: Publication) -> Message:
    return codec.decode(publication.envelope, accept=ANY)


def but(message: Message, **changes: Any) -> dict[str, Any]:
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    return fields | changes


def test_everything_is_kept_and_the_body_is_the_same_bytes(carrier: Carrier) -> None:
    sent = codec.encode(MESSAGE, now=NOW)
    publication = carried(carrier, delivered(sent))

    assert (publication.exchange, publication.routing_key) == LADDER.entry(5, "mail")
    assert publication.envelope.body is sent.body
    properties = publication.envelope.properties
    assert (properties.priority, properties.reply_to, properties.correlation_id) == (
        7, "replies", "corr",
    )  # fmt: skip
    assert (properties.expiration, properties.delivery_mode) == (None, 2)
    got = read(publication)
    assert but(got) == but(
        read(Publication("", "", sent)),
        retries=1,
        eta="2027-01-15T08:00:05.000000+00:00",
        headers={
            "mine": {"deep": [1.5]},
            FIRST_TIME: "2027-01-15T07:59:50.000000+00:00",
            EXCHANGE: "tasks",
            ROUTING_KEY: "mail.send",
        },
    )


def test_attempt_after_attempt(carrier: Carrier) -> None:
    publication = carried(carrier, delivered(codec.encode(MESSAGE)))
    for _ in range(3):
        delivery = delivered(publication.envelope, LADDER.delivery, "0.1.mail")
        publication = carried(carrier, delivery)

    headers = publication.envelope.properties.headers or {}
    assert headers["retries"] == 4
    assert (headers[EXCHANGE], headers[ROUTING_KEY]) == ("tasks", "mail.send")


@pytest.mark.parametrize(
    "exchange", ["", LADDER.delivery, LADDER.step(0), LADDER.step(STEPS - 1), "celery_delayed_3"]
)
def test_whatever_it_waited_in_the_address_is_the_senders(carrier: Carrier, exchange: str) -> None:
    sent = codec.encode(
        Message(id="1", task="t", headers={EXCHANGE: "tasks", ROUTING_KEY: "mail.send"})
    )
    assert carrier.came_by(delivered(sent, exchange, "0.1.0.mail")) == ("tasks", "mail.send")


@pytest.mark.parametrize("exchange", ["celery_delayed_delivery", "celery_delayed_3"])
def test_kombus_steps_are_taken_off_the_key(carrier: Carrier, exchange: str) -> None:
    sent = codec.encode(Message(id="1", task="t"))
    key = ".".join(["0"] * 24 + ["1", "0", "0", "0", "mail.send"])
    assert carrier.came_by(delivered(sent, exchange, key)) == ("", "mail.send")


def test_what_is_due_goes_straight_to_its_queue(carrier: Carrier) -> None:
    sent = codec.encode(Message(id="1", task="t", eta="2020-01-01T00:00:00+00:00"))
    delivery = delivered(sent)
    head = codec.read_header(delivery.properties)
    made = carrier.next_attempt(delivery, head, Again(due=NOW, first=NOW), NOW)

    assert (made.publication.exchange, made.publication.routing_key) == ("", "mail")
    assert made.queue is None
    assert read(made.publication).eta is None


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle"])
def test_new_arguments_keep_the_form(
    carrier: Carrier, serializer: str, compression: str | None
) -> None:
    sent = codec.encode(Message(**but(MESSAGE, serializer=serializer, compression=compression)))
    publication = carried(carrier, delivered(sent), args=[9])
    properties = publication.envelope.properties
    got = read(publication)

    assert (properties.content_type, properties.content_encoding) == (
        sent.properties.content_type, sent.properties.content_encoding,
    )  # fmt: skip
    assert got.compression == (sent.properties.headers or {}).get("compression")
    assert (list(got.args), got.kwargs, got.chain) == ([9], {"three": 3}, [{"task": "then"}])
    assert (got.argsrepr, got.retries, got.root_id, got.stamps) == (None, 1, "0", {"s": 1})
    assert got.headers["mine"] == {"deep": [1.5]}


def test_another_form(carrier: Carrier) -> None:
    sent = codec.encode(Message(**but(MESSAGE, compression="gzip")))
    options = {"serializer": "msgpack", "compression": "zstd"}
    got = read(carried(carrier, delivered(sent), options=options))

    assert (got.serializer, got.compression) == ("msgpack", "application/zstd")
    assert list(got.args) == [1, "two"]


def test_options(carrier: Carrier) -> None:
    options = {
        "queue": "slow",
        "priority": 2,
        "expires": 60,
        "time_limit": 9,
        "headers": {"more": 1},
        "shadow": "other",
        "ignore_result": True,
    }
    publication = carried(carrier, delivered(codec.encode(MESSAGE)), options=options)
    got = read(publication)

    assert (publication.exchange, publication.routing_key) == LADDER.entry(5, "slow")
    assert got.headers["mine"] == {"deep": [1.5]}
    assert (got.headers["more"], got.headers[EXCHANGE], got.headers[ROUTING_KEY]) == (1, "", "slow")
    assert (got.priority, got.expires) == (2, "2027-01-15T08:01:00.000000+00:00")
    assert (got.time_limit, got.soft_time_limit) == (9, 50)
    assert (got.shadow, got.ignore_result) == ("other", True)


def test_a_message_of_protocol_1_becomes_one_of_protocol_2(carrier: Carrier) -> None:
    fields = {
        "task": "t",
        "id": "1",
        "args": [1],
        "kwargs": {"a": 2},
        "retries": 2,
        "callbacks": None,
    }
    properties = Properties(content_type="application/json", content_encoding="utf-8")
    envelope = Envelope(json.dumps(fields).encode(), properties)
    got = read(carried(carrier, delivered(envelope)))

    assert (got.id, got.task, list(got.args), got.kwargs) == ("1", "t", [1], {"a": 2})
    assert got.retries == 3
    assert got.correlation_id == "1"


def test_headers_that_celery_sends_as_null(carrier: Carrier) -> None:
    sent = codec.encode(Message(id="1", task="t"))
    headers = {
        **(sent.properties.headers or {}),
        "shadow": None,
        "group": None,
        "timelimit": [None, None],
    }
    properties = msgspec.structs.replace(sent.properties, headers=headers)
    delivery = delivered(Envelope(sent.body, properties))
    got = read(carried(carrier, delivery, options={"headers": {"mine": 1}}))

    assert (got.retries, got.headers["mine"], got.shadow) == (1, 1, None)


def test_what_cannot_be_sent_is_told(carrier: Carrier) -> None:
    delivery = delivered(codec.encode(MESSAGE))
    for changes in (
        {"args": [object()]},
        {"options": {"serializer": "morse"}},
        {"options": {"headers": {"large": "x" * 70_000}}},
        {"options": {"exchange": "nowhere", "routing_key": "k"}},
    ):
        with pytest.raises(AmqtaskError):
            carried(carrier, delivery, **changes)


def test_a_deferred_message_changes_nothing_but_its_way(carrier: Carrier) -> None:
    sent = codec.encode(MESSAGE)
    made = carrier.deferred(delivered(sent), 3.0)

    assert made.queue == "mail"
    assert (made.publication.exchange, made.publication.routing_key) == LADDER.entry(3, "mail")
    got = read(made.publication)
    assert (got.retries, got.eta) == (0, None)
    assert got.headers == {"mine": {"deep": [1.5]}, EXCHANGE: "tasks", ROUTING_KEY: "mail.send"}
