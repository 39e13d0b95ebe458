"""Messages of Celery and of other languages' clients."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from amqtask.core import serialization
from amqtask.core.codec import decode, encode, moment, read_body, read_header
from amqtask.core.message import Envelope, Message, Properties
from amqtask.errors import DecodeError
from tests.core.codec.values import (
    ANY,
    ID,
    SIGNATURE,
    V2,
    json_properties,
    received,
)

celery: Any = importlib.import_module("celery")
kombu_serialization: Any = importlib.import_module("kombu.serialization")


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
