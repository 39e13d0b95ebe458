"""Task messages to envelopes and back; other people's messages; everything that is none."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.amqp import frames
from amqtask.core import codec, serialization
from amqtask.core.codec import Limits, decode, encode, identify, moment, read_body, read_header
from amqtask.core.message import Envelope, Message, Properties
from amqtask.errors import ContentRefused, DecodeError, EncodeError, MessageError, PayloadTooLarge

celery: Any = importlib.import_module("celery")
kombu_serialization: Any = importlib.import_module("kombu.serialization")

ANY = serialization.accepted(("json", "msgpack", "pickle"))
ID = "7c5f8e0a-8d0e-4f0c-9c66-3a4f0f0f6e11"
SIGNATURE = {"task": "shop.log", "args": [], "kwargs": {}, "options": {"task_id": "x"}}


def json_properties(headers: Mapping[str, object] | None = None, **more: Any) -> Properties:
    more = {"content_type": "application/json", "content_encoding": "utf-8"} | more
    return Properties(headers=headers, **more)


def received(body: bytes, headers: Mapping[str, object] | None, **more: Any) -> Message:
    return decode(Envelope(body, json_properties(headers, **more)), accept=ANY)


V2 = {"lang": "py", "task": "shop.add", "id": ID}

# ---------------------------------------------------------------- sending


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


header_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3)
    ),
    max_leaves=5,
)
header_names = st.text(max_size=20).filter(
    lambda name: name not in codec.PROTOCOL_HEADERS and not codec.is_broker_header(name)
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
ids = st.text(min_size=1, max_size=60)
moments = st.datetimes(
    timezones=st.integers(-720, 720).map(lambda m: timezone(timedelta(minutes=m)))
).map(datetime.isoformat)
limits = st.none() | st.floats(min_value=0.001, max_value=1e9)
signatures = st.none() | st.lists(st.just(SIGNATURE), max_size=2)
messages = st.builds(
    Message,
    id=ids,
    task=ids,
    args=st.lists(plain, max_size=4),
    kwargs=st.dictionaries(st.text(), plain, max_size=4),
    retries=st.integers(0, 100),
    eta=st.none() | moments,
    expires=st.none() | moments,
    time_limit=limits,
    soft_time_limit=limits,
    root_id=ids,
    parent_id=st.none() | ids,
    group=st.none() | ids,
    group_index=st.none() | st.integers(0, 1000),
    callbacks=signatures,
    errbacks=signatures,
    chain=signatures,
    chord=st.none() | st.just(SIGNATURE),
    reply_to=st.none() | ids,
    correlation_id=ids,
    priority=st.integers(0, 255),
    ignore_result=st.none() | st.booleans(),
    origin=st.none() | ids,
    shadow=st.none() | ids,
    argsrepr=st.none() | ids,
    kwargsrepr=st.none() | ids,
    replaced_task_nesting=st.integers(0, 3),
    stamped_headers=st.none() | st.lists(ids, max_size=2),
    stamps=st.none() | st.dictionaries(ids, header_values, min_size=1, max_size=2),
    headers=st.dictionaries(header_names, header_values, max_size=4),
    serializer=st.sampled_from(["json", "msgpack", "pickle", "cloudpickle"]),
    compression=st.none() | st.sampled_from(["application/x-gzip", "application/zstd"]),
)


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


@given(messages, st.integers(0, 60))
def test_a_plain_body_is_read_as_by_the_long_way(message: Message, cut: int) -> None:
    envelope = encode(message, now=1.9e9)
    head = read_header(envelope.properties, envelope.body, accept=ANY)
    for body in (envelope.body, envelope.body[: len(envelope.body) - cut]):
        found = codec.read_plain(head, body)
        if found is not None:
            assert repr(found) == repr(
                tuple(read_body(head, envelope.properties, body, accept=ANY))
            )


@pytest.mark.parametrize(
    "body",
    [
        b"[[],{}]",
        b"{}",
        b"[[],{},null]",
        b"[{},{},{}]",
        b"[[],[],{}]",
        b"[[],{},{}",
        b"",
        b"[[1e999],{},{}]",
    ],
)
def test_a_body_of_another_form_is_not_plain(body: bytes) -> None:
    head = read_header(json_properties(V2), b"[")

    assert head.plain
    assert codec.read_plain(head, body) is None


def test_a_body_above_the_limit_is_not_plain() -> None:
    head = read_header(json_properties(V2), b"[")

    assert codec.read_plain(head, b"[[],{},{}]") == ([], {}, {})
    assert codec.read_plain(head, b"[[],{},{}]", Limits(message_max_bytes=9)) is None


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


# ---------------------------------------------------------------- Celery's messages


@pytest.fixture(scope="module")
def app() -> Any:
    made = celery.Celery("peer", broker="memory://", set_as_current=False)
    made.conf.task_default_queue = "celery"
    return made


def published(app: Any, message: Any, serializer: str = "json", **extra: Any) -> Envelope:
    """What Celery's producer would put on the wire for a message of its own making."""
    headers, properties, body, _ = message
    content_type, content_encoding, data = kombu_serialization.dumps(body, serializer)
    if isinstance(data, str):
        data = data.encode()
    return Envelope(
        data,
        Properties(
            content_type=content_type,
            content_encoding=content_encoding,
            headers=headers | extra,
            priority=0,
            delivery_mode=2,
            **properties,
        ),
    )


@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle"])
def test_a_v2_message_of_celery(app: Any, serializer: str) -> None:
    made = app.amqp.as_task_v2(
        ID,
        "shop.add",
        args=(1, 2),
        kwargs={"x": "é"},
        countdown=10,
        expires=60,
        retries=1,
        group_id="g",
        group_index=2,
        time_limit=5,
        soft_time_limit=2.5,
        root_id="r",
        parent_id="p",
        reply_to="queue",
        callbacks=[SIGNATURE],
        errbacks=[SIGNATURE],
        chain=[SIGNATURE],
        chord=SIGNATURE,
        shadow="s",
        stamped_headers=["who"],
        who="me",
        ignore_result=True,
        replaced_task_nesting=1,
    )
    envelope = published(app, made, serializer, trace="t1", **{"x-death": [{"queue": "a"}]})

    message = decode(envelope, accept=ANY)

    headers = made.headers
    assert message == Message(
        id=ID,
        task="shop.add",
        args=message.args,
        kwargs={"x": "é"},
        retries=1,
        eta=headers["eta"],
        expires=headers["expires"],
        time_limit=5,
        soft_time_limit=2.5,
        root_id="r",
        parent_id="p",
        group="g",
        group_index=2,
        callbacks=[SIGNATURE],
        errbacks=[SIGNATURE],
        chain=[SIGNATURE],
        chord=SIGNATURE,
        reply_to="queue",
        correlation_id=ID,
        priority=0,
        ignore_result=True,
        origin=headers["origin"],
        shadow="s",
        argsrepr="(1, 2)",
        kwargsrepr=headers["kwargsrepr"],
        replaced_task_nesting=1,
        stamped_headers=["who"],
        stamps={"who": "me"},
        headers={"trace": "t1"},
        serializer=serializer,
    )
    assert list(message.args) == [1, 2]
    again = decode(encode(message), accept=ANY)
    assert msgspec.structs.replace(again, args=message.args) == message


def test_a_plain_v2_message_of_celery_has_only_defaults(app: Any) -> None:
    envelope = published(app, app.amqp.as_task_v2(ID, "shop.add"))

    message = decode(envelope)

    assert message == Message(
        id=ID,
        task="shop.add",
        args=[],
        kwargs={},
        root_id=ID,
        correlation_id=ID,
        priority=0,
        ignore_result=False,
        origin=message.origin,
        argsrepr="()",
        kwargsrepr="{}",
    )


@pytest.mark.parametrize("serializer", ["json", "pickle", "msgpack"])
def test_a_v1_message_of_celery(app: Any, serializer: str) -> None:
    made = app.amqp.as_task_v1(
        ID,
        "shop.add",
        args=[1],
        kwargs={"x": 2},
        countdown=5,
        expires=60,
        retries=2,
        group_id="g",
        group_index=1,
        reply_to="queue",
        callbacks=[SIGNATURE],
        chord=SIGNATURE,
        time_limit=3,
    )
    made.headers["trace"] = 1

    message = decode(published(app, made, serializer), accept=ANY)

    assert message == Message(
        id=ID,
        task="shop.add",
        args=[1],
        kwargs={"x": 2},
        retries=2,
        eta=message.eta,
        expires=message.expires,
        time_limit=3.0,
        root_id=ID,
        group="g",
        group_index=1,
        callbacks=[SIGNATURE],
        chord=SIGNATURE,
        reply_to="queue",
        correlation_id=ID,
        priority=0,
        headers={"trace": 1},
        serializer=serializer,
    )
    assert moment(message.expires or "") - moment(message.eta or "") == pytest.approx(55, abs=1)


def test_v1_of_other_languages() -> None:
    body = (
        b'{"id":"%s","task":"shop.add","args":null,"kwargs":null,"retries":0,"eta":null}'
        % ID.encode()
    )

    assert received(body, None) == Message(
        id=ID, task="shop.add", args=[], kwargs={}, root_id=ID, correlation_id=ID
    )


def test_v2_of_other_languages() -> None:
    message = received(b"[[1],{},{}]", {"lang": "js", "task": "t", "id": ID}, reply_to="")

    assert message == Message(id=ID, task="t", args=[1], kwargs={}, root_id=ID, correlation_id=ID)


@pytest.mark.parametrize("embed", [b"{}", b"null"])
def test_the_embed_may_be_empty_or_null(embed: bytes) -> None:
    assert received(b"[[1],{}," + embed + b"]", V2).args == [1]


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_a_hybrid_takes_from_its_body_what_its_headers_lack(form: str) -> None:
    fields = {
        "id": "other",
        "task": "shop.add",
        "args": [1],
        "kwargs": {"a": 2},
        "retries": 3,
        "taskset": "g",
        "eta": "2030-01-01T00:00:00",
    }
    properties = Properties(
        content_type=serialization.serializer(form).content_type,
        headers={"task": "shop.add", "id": ID, "retries": 1, "mine": True},
    )
    envelope = Envelope(serialization.dumps(fields, form), properties)

    message = decode(envelope)

    assert (message.id, message.args, message.kwargs) == (ID, [1], {"a": 2})
    assert (message.retries, message.group, message.eta) == (1, "g", "2030-01-01T00:00:00+00:00")
    assert message.headers == {"mine": True}


def test_a_hybrid_with_an_id_only_in_its_body() -> None:
    body = b'{"id":"%s","task":"t","args":[],"kwargs":{}}' % ID.encode()

    assert received(body, {"task": "t"}).id == ID


def test_a_hybrid_whose_body_is_broken_still_has_its_header() -> None:
    head = read_header(json_properties(V2), b'{"args": ')

    assert head.task == "shop.add"
    with pytest.raises(DecodeError, match="not JSON"):
        read_body(head, json_properties(V2), b'{"args": ')


@pytest.mark.parametrize(
    ("sent", "limits"),
    [
        ([None, None], (None, None)),
        ([10, 5], (10.0, 5.0)),
        ([0.5, None], (0.5, None)),
        ((None, 2.25), (None, 2.25)),
        ([0, 0], (None, None)),
        ([], (None, None)),
        (None, (None, None)),
        ([Decimal("1.5"), 1], (1.5, 1.0)),
    ],
)
def test_time_limits_are_hard_then_soft(
    sent: object, limits: tuple[float | None, float | None]
) -> None:
    message = received(b"[[],{},{}]", V2 | {"timelimit": sent})

    assert (message.time_limit, message.soft_time_limit) == limits


def test_broker_headers_are_not_the_users() -> None:
    headers: dict[str, object] = V2 | {
        "x-death": [],
        "x-first-death-queue": "q",
        "x-first-death-exchange": "",
        "x-first-death-reason": "rejected",
        "x-last-death-queue": "q",
        "x-delivery-count": 3,
        "x-acquired-count": 4,
        "x-stream-offset": 9,
        "x-delay": -5000,
        "x-request-id": "mine",
        "trace": None,
    }

    assert received(b"[[],{},{}]", headers).headers == {"x-request-id": "mine", "trace": None}


def test_times_come_in_several_forms() -> None:
    headers = V2 | {"eta": datetime(2030, 1, 1, tzinfo=UTC), "expires": "2030-01-01T00:00:00Z"}
    head = read_header(json_properties(headers))

    assert head.eta == "2030-01-01T00:00:00+00:00"
    assert head.eta_at() == head.expires_at() == 1893456000.0
    assert read_header(json_properties(V2)).expires_at() is None


# ---------------------------------------------------------------- what is no task message


def test_the_header_is_read_without_the_body() -> None:
    head = read_header(json_properties(V2 | {"retries": 2}), b"\xff not json")

    assert (head.task, head.id, head.retries) == ("shop.add", ID, 2)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[[],{},{}]\x00", "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b"[[],{}]", r"must be \[args, kwargs, embed\], not 2 elements"),
        (b"[[],{},{},{}]", "not 4 elements"),
        (b"[]", "not 0 elements"),
        (b"5", "not a value of type int"),
        (b'"text"', "not a value of type str"),
        (b"null", "not a value of type NoneType"),
        (b"[{},[],{}]", "args must be a list, not a value of type dict"),
        (b'["ab",{},{}]', "args must be a list"),
        (b"[null,{},{}]", "args must be a list"),
        (b"[[],[],{}]", "kwargs must be a mapping"),
        (b"[[],null,{}]", "kwargs must be a mapping"),
        (b"[[],{},[]]", "embed must be a mapping or null"),
        (b"[[],{},5]", "embed must be a mapping or null"),
        (b'[[],{},{"chain":5}]', "'chain' must be a list or null"),
        (b'[[],{},{"callbacks":{}}]', "'callbacks' must be a list or null"),
        (b'[[],{},{"chord":[]}]', "'chord' must be a mapping or null"),
        (b'{"kwargs": 5}', "kwargs must be a mapping"),
        (b'[[{"__type__":"x","__value__":1}],{},{}]', "unknown __type__"),
    ],
)
def test_a_body_that_is_none(body: bytes, text: str) -> None:
    with pytest.raises(DecodeError, match=text) as caught:
        received(body, V2)

    assert "\n" not in str(caught.value)


def test_a_deep_value_in_the_wrong_place_is_one_sentence_too() -> None:
    for depth in range(1, 1000, 7):
        body = b'{"id":"i","task":"t","retries":' + b"[" * depth + b"]" * depth + b"}"
        with pytest.raises(DecodeError):
            received(body, None)


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_an_unprintable_value_in_the_wrong_place_is_one_sentence_too() -> None:
    body = serialization.dumps([[], {}, {"chain": Unprintable()}], "pickle")

    with pytest.raises(DecodeError, match=r"'chain' must be a list or null, not .*Unprintable"):
        received(body, V2, content_type=serialization.PICKLE)


def test_names_in_kwargs_must_be_strings() -> None:
    body = serialization.dumps([[], {1: 2}, {}], "msgpack")

    with pytest.raises(DecodeError, match="names in kwargs must be strings, not 1"):
        received(body, V2, content_type="application/x-msgpack")


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({"id": ID}, "no 'task' header"),
        ({"task": "t"}, "no 'id' header"),
        (None, "no 'task' header"),
        ({"task": None, "id": ID}, "names no 'task'"),
        ({"task": "", "id": ID}, "names no 'task'"),
        ({"task": 5, "id": ID}, "'task' must be a string, not 5"),
        ({"task": "t", "id": None}, "names no 'id'"),
        ({"task": "t", "id": 7}, "'id' must be a string, not 7"),
        ({"task": "t", "id": b"x"}, "'id' must be a string"),
        ({"task": "t", "id": "i" * 256}, "longer than 255 bytes"),
        ({"task": "t", "id": "\ud800"}, "not valid Unicode"),
        ({"task": "\ud800", "id": ID}, "valid Unicode"),
        (V2 | {"retries": "2"}, "'retries' must be a whole number"),
        (V2 | {"retries": -1}, "'retries' must be a whole number"),
        (V2 | {"retries": True}, "'retries' must be a whole number"),
        (V2 | {"retries": 1.0}, "'retries' must be a whole number"),
        (V2 | {"eta": "tomorrow"}, "'eta' must be an ISO 8601 time"),
        (V2 | {"eta": 5}, "'eta' must be an ISO 8601 time"),
        (V2 | {"expires": [1]}, "'expires' must be an ISO 8601 time"),
        (V2 | {"timelimit": 5}, r"'timelimit' must be \[hard, soft\]"),
        (V2 | {"timelimit": [1]}, r"'timelimit' must be \[hard, soft\]"),
        (V2 | {"timelimit": ["1", 2]}, "'timelimit' must be two numbers"),
        (V2 | {"timelimit": [True, 2]}, "'timelimit' must be two numbers"),
        (V2 | {"timelimit": [-1, None]}, "'timelimit' must be two numbers"),
        (V2 | {"timelimit": [float("nan"), None]}, "'timelimit' must be two numbers"),
        (V2 | {"timelimit": [float("inf"), None]}, "'timelimit' must be two numbers"),
        (V2 | {"root_id": 5}, "'root_id' must be a string"),
        (V2 | {"group": []}, "'group' must be a string"),
        (V2 | {"group_index": "1"}, "'group_index' must be a whole number"),
        (V2 | {"ignore_result": "yes"}, "'ignore_result' must be true, false or null"),
        (V2 | {"stamps": [1]}, "'stamps' must be a table"),
        (V2 | {"stamped_headers": "a"}, "'stamped_headers' must be a list of strings"),
        (V2 | {"argsrepr": 5}, "'argsrepr' must be a string"),
    ],
)
def test_headers_that_are_wrong(headers: Mapping[str, object] | None, text: str) -> None:
    with pytest.raises(DecodeError, match=text) as caught:
        received(b"[[],{},{}]", headers)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"task":"t"}',
        b'{"id":"x"}',
        b'{"task":5,"id":"x"}',
        b'{"task":"t","id":"\\ud800"}',
        b'{"task":"t","id":"x","root_id":"\\ud800"}',
        b'{"task":"t","id":"x","args":5}',
    ],
)
def test_a_v1_body_that_is_none(body: bytes) -> None:
    with pytest.raises(DecodeError):
        received(body, None)


def test_refused_content_is_never_decoded(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Canary:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (canary,)

    for headers in (V2, None, {"task": "t"}):
        properties = Properties(
            content_type=serialization.PICKLE, content_encoding="binary", headers=headers
        )
        with pytest.raises(ContentRefused, match="accept_content"):
            decode(Envelope(pickle.dumps(Canary()), properties))
    assert not canary.exists()


def test_unknown_compression_is_refused() -> None:
    with pytest.raises(ContentRefused, match="brotli"):
        received(b"[[],{},{}]", V2 | {"compression": "application/x-brotli"})
    with pytest.raises(ContentRefused):
        received(b"[[],{},{}]", V2 | {"compression": 5})


def test_compressed_bodies_are_bounded() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    properties = json_properties(V2 | {"compression": "gzip"})

    with pytest.raises(DecodeError, match="decompressed_max_bytes"):
        decode(Envelope(bomb, properties), limits=Limits(decompressed_max_bytes=100_000))
    with pytest.raises(DecodeError, match="damaged"):
        decode(Envelope(b"[[],{},{}]", properties))


def test_a_received_body_above_the_limit() -> None:
    body = b'[["' + b"x" * (20 * 1024 * 1024) + b'"],{},{}]'

    with pytest.raises(DecodeError, match=r"above message_max_bytes \(16777216\)"):
        received(body, V2)


def test_a_cloudpickled_message_can_be_sent_again() -> None:
    factor = 3
    message = Message(id=ID, task="t", args=[lambda x: x * factor], serializer="cloudpickle")
    once = decode(encode(message), accept=ANY)
    twice = decode(encode(once), accept=ANY)

    function: Any = twice.args[0]
    assert function(14) == 42


amqp_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(alphabet=st.characters(categories=["Cs", "Lu"]))
    | st.binary()
    | st.datetimes(timezones=st.just(UTC))
    | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
any_headers = st.none() | st.builds(
    lambda known, more, names: names | more | known,
    st.dictionaries(st.sampled_from(sorted(codec.PROTOCOL_HEADERS)), amqp_values, max_size=4),
    st.dictionaries(st.text(), amqp_values, max_size=2),
    st.sampled_from([{}, V2]),
)
json_bodies = (
    amqp_values
    | st.lists(amqp_values, min_size=3, max_size=3)
    | st.tuples(
        st.lists(plain),
        st.dictionaries(st.text(), plain),
        st.dictionaries(st.sampled_from(["chain", "chord", "callbacks", "x"]), plain),
    )
    | st.dictionaries(
        st.sampled_from(
            [*sorted(codec.PROTOCOL_HEADERS), "args", "kwargs", "taskset", "chord", "callbacks"]
        ),
        amqp_values,
    )
)


def encoded(value: object, form: str) -> bytes:
    try:
        return serialization.dumps(value, form)
    except EncodeError:
        return b""


any_bodies = st.binary() | st.builds(encoded, json_bodies, st.sampled_from(["json", "msgpack"]))
any_properties = st.builds(
    Properties,
    content_type=st.sampled_from([None, "application/json", "application/x-msgpack", "text/plain"]),
    content_encoding=st.sampled_from([None, "utf-8", "binary", "gzip"]),
    headers=any_headers,
    correlation_id=st.none() | st.text(),
    reply_to=st.none() | st.text(),
    priority=st.none() | st.integers(0, 255),
)


@given(any_properties, any_bodies)
def test_whatever_arrives_is_a_message_or_a_message_error(
    properties: Properties, body: bytes
) -> None:
    identity = identify(properties)
    assert identity.id is None or identity.id
    with contextlib.suppress(DecodeError, ContentRefused):
        read_header(properties, body)
    try:
        message = decode(Envelope(body, properties))
    except (DecodeError, ContentRefused) as error:
        sentence = str(error)
    else:
        sentence = ""
        assert message.id
        assert message.task
        with contextlib.suppress(MessageError):
            encode(message, now=0.0)
    assert "\n" not in sentence
    assert len(sentence) < 500


def test_identify_finds_where_to_report() -> None:
    identity = identify(json_properties({"task": "t", "id": 5}, correlation_id="c", reply_to="q"))

    assert (identity.id, identity.task, identity.correlation_id, identity.reply_to) == (
        "c",
        "t",
        "c",
        "q",
    )
    assert identify(Properties()).id is None


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2024-02-29T00:00:00"]
)
def test_moments_at_the_ends_of_time(text: str) -> None:
    assert isinstance(moment(text), float)
