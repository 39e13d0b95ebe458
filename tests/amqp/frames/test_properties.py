"""Properties against pamqp and pika, on arbitrary values and arbitrary bytes."""

from __future__ import annotations

import struct
from typing import Any

import pamqp.body
import pamqp.commands
import pamqp.decode
import pamqp.encode
import pamqp.frame
import pamqp.header
import pamqp.heartbeat
import pika.data
import pika.frame
import pika.spec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.amqp import frames
from amqtask.core.message import Properties
from amqtask.errors import DecodeError, EncodeError
from tests.amqp.frames.values import (
    OURS,
    PIKA_READS,
    SCALARS,
    properties,
    tables,
)


@given(properties(tables(OURS)))
def test_properties_survive_the_round_trip(value: Properties) -> None:
    assert value == frames.decode_properties(frames.encode_properties(value))


@given(properties(tables(SCALARS | st.floats(allow_nan=False))))
def test_pamqp_reads_our_properties(value: Properties) -> None:
    payload = struct.pack(">HHQ", 60, 0, 5) + frames.encode_properties(value)
    header = pamqp.header.ContentHeader()
    header.unmarshal(payload)

    theirs = header.properties
    assert value.headers == theirs.headers
    assert value.type == theirs.message_type
    assert value.correlation_id == theirs.correlation_id
    assert value.message_id == theirs.message_id
    assert value.priority == theirs.priority
    assert value.expiration == theirs.expiration
    assert (value.timestamp is None) == (theirs.timestamp is None)


@given(properties(tables(PIKA_READS)))
def test_pika_and_we_agree_on_properties(value: Properties) -> None:
    names = Properties.__struct_fields__
    make: Any = pika.spec.BasicProperties  # pika has no annotations here
    encoded = b"".join(make(**{name: getattr(value, name) for name in names}).encode())

    ours = frames.decode_properties(encoded)
    back = make()
    back.decode(frames.encode_properties(value))

    for name in names:
        assert getattr(value, name) == getattr(ours, name) == getattr(back, name)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Properties(correlation_id="x" * 256), "correlation_id is 256 bytes"),
        (Properties(reply_to="é" * 128), "reply_to is 256 bytes"),
        (Properties(priority=256), "priority must be from 0 to 255"),
        (Properties(delivery_mode=-1), "delivery_mode must be"),
        (Properties(timestamp=-1), "timestamp must be"),
        (Properties(headers={"x": object()}), "no AMQP form"),
    ],
)
def test_properties_out_of_range_are_refused(value: Properties, says: str) -> None:
    with pytest.raises(EncodeError, match=says):
        frames.encode_properties(value)


@pytest.mark.parametrize(
    "wire",
    [b"", b"\x80", b"\x80\x00", b"\x80\x00\x05ab", b"\x00\x01", b"\x00\x02", b"\x00\x00x",
     b"\x80\x00\x01\xff", b"\x10\x00", b"\x00\x40\x00", b"\x20\x00\x00", b"\x20\x00\x00\x00\x00\x09"],
)  # fmt: skip
def test_malformed_properties_are_a_decode_error(wire: bytes) -> None:
    with pytest.raises(DecodeError):
        frames.decode_properties(wire)


@given(st.binary(max_size=100))
def test_arbitrary_property_bytes_raise_nothing_else(data: bytes) -> None:
    try:
        frames.decode_properties(data)
    except DecodeError:
        pass
