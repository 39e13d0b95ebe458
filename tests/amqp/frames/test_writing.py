"""The frames that we send, read by pamqp."""

from __future__ import annotations

import pamqp.body
import pamqp.commands
import pamqp.decode
import pamqp.encode
import pamqp.frame
import pamqp.header
import pamqp.heartbeat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.amqp import frames
from amqtask.amqp.frames import writing
from amqtask.core.message import Properties
from amqtask.errors import EncodeError, PayloadTooLarge
from tests.amqp.frames.values import (
    SCALARS,
    SHORT,
    properties,
    tables,
)


def unmarshal_all(data: bytes) -> list[tuple[int, object]]:
    found: list[tuple[int, object]] = []
    while data:
        size, channel, frame = pamqp.frame.unmarshal(data)
        found.append((channel, frame))
        data = data[size:]
    return found


@given(
    channel=st.integers(1, 65535),
    exchange=st.from_regex(r"[a-zA-Z0-9-_.:]{0,40}", fullmatch=True),
    routing_key=SHORT,
    value=properties(tables(SCALARS)),
    body=st.binary(max_size=3000),
    frame_max=st.sampled_from([0, 4096, 131_072]),
    mandatory=st.booleans(),
)
def test_pamqp_reads_our_publish(
    channel: int,
    exchange: str,
    routing_key: str,
    value: Properties,
    body: bytes,
    frame_max: int,
    mandatory: bool,
) -> None:
    encoded = frames.encode_properties(value)
    if frame_max == 4096 and len(encoded) > 4000:
        return
    data = frames.encode_publish(
        channel, exchange, routing_key, encoded, body, frame_max, mandatory
    )

    (_, method), (_, header), *bodies = parts = unmarshal_all(data)
    assert {channel} == {number for number, _ in parts}
    assert isinstance(method, pamqp.commands.Basic.Publish)
    assert (exchange, routing_key) == (method.exchange, method.routing_key)
    assert (mandatory, False) == (method.mandatory, method.immediate)
    assert isinstance(header, pamqp.header.ContentHeader)
    assert len(body) == header.body_size
    assert value.headers == header.properties.headers
    assert [body] * bool(body) == [
        part.value for _, part in bodies if isinstance(part, pamqp.body.ContentBody)
    ]


@pytest.mark.parametrize("size", [0, 1, 4087, 4088, 4089, 8176, 8177, 16 * 1024 * 1024])
def test_a_body_is_split_where_it_must_be(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    data = frames.encode_publish(
        1, "", "q", frames.encode_properties(Properties()), body, 4096, True
    )

    parts = [part for _, part in unmarshal_all(data)[2:]]
    assert -(-size // 4088) == len(parts)
    assert body == b"".join(
        part.value for part in parts if isinstance(part, pamqp.body.ContentBody)
    )


def test_headers_larger_than_a_frame_are_refused() -> None:
    fits = frames.encode_properties(Properties(headers={"x": "a" * (4096 - 20 - 2 - 4 - 7)}))
    above = frames.encode_properties(Properties(headers={"x": "a" * (4096 - 20 - 2 - 4 - 6)}))

    assert frames.encode_publish(1, "", "q", fits, b"", 4096, True)
    with pytest.raises(PayloadTooLarge, match="4076"):
        frames.encode_publish(1, "", "q", above, b"", 4096, True)
    assert frames.encode_publish(1, "", "q", above, b"", 0, True)


def test_names_over_255_bytes_are_refused() -> None:
    nothing = frames.encode_properties(Properties())

    with pytest.raises(EncodeError, match="exchange"):
        frames.encode_publish(1, "x" * 256, "", nothing, b"", 0, True)
    with pytest.raises(EncodeError, match="routing key"):
        frames.encode_publish(1, "", "x" * 256, nothing, b"", 0, True)


def test_many_routing_keys_do_not_fill_the_cache() -> None:
    nothing = frames.encode_properties(Properties())
    for number in range(5000):
        frames.encode_publish(1, "", f"key-{number}", nothing, b"", 0, True)

    assert len(writing._METHODS) <= writing._METHODS_LIMIT


@given(st.integers(1, 65535), st.integers(0, 2**63 - 1), st.booleans(), st.booleans())
def test_pamqp_reads_our_settlements(channel: int, tag: int, one: bool, two: bool) -> None:
    ack, reject, nack = (
        unmarshal_all(frames.encode_ack(channel, tag, one))[0],
        unmarshal_all(frames.encode_reject(channel, tag, one))[0],
        unmarshal_all(frames.encode_nack(channel, tag, one, two))[0],
    )

    assert {channel} == {ack[0], reject[0], nack[0]}
    assert isinstance(ack[1], pamqp.commands.Basic.Ack)
    assert (tag, one) == (ack[1].delivery_tag, ack[1].multiple)
    assert isinstance(reject[1], pamqp.commands.Basic.Reject)
    assert (tag, one) == (reject[1].delivery_tag, reject[1].requeue)
    assert isinstance(nack[1], pamqp.commands.Basic.Nack)
    assert (tag, one, two) == (nack[1].delivery_tag, nack[1].multiple, nack[1].requeue)
