"""Everything that is no task message."""

from __future__ import annotations

import contextlib
import gzip
import pickle
from collections.abc import Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.core import codec, serialization
from amqtask.core.codec import Limits, decode, encode, identify, read_header
from amqtask.core.message import Envelope, Message, Properties
from amqtask.errors import ContentRefused, DecodeError, EncodeError, MessageError
from tests.core.codec.values import (
    ANY,
    ID,
    V2,
    json_properties,
    plain,
    received,
)


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
