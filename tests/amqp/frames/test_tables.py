"""Header tables against pamqp and pika, on arbitrary values and arbitrary bytes."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

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
from amqtask.amqp.frames import tables as header_tables
from amqtask.errors import DecodeError, EncodeError
from tests.amqp.frames.values import (
    NAIVE,
    OURS,
    PAMQP_WRITES,
    PIKA_READS,
    SCALARS,
    tables,
)


@given(tables(OURS))
def test_a_table_survives_the_round_trip(table: dict[str, object]) -> None:
    encoded = frames.encode_table(table)

    assert table == frames.decode_table(encoded)
    assert table == frames.decode_table(b"ab" + encoded + b"cd", 2, 2 + len(encoded))


@given(tables(SCALARS | st.floats(allow_nan=False)))
def test_pamqp_reads_our_tables(table: dict[str, object]) -> None:
    encoded = frames.encode_table(table)

    assert (len(encoded), table) == pamqp.decode.field_table(encoded)


@given(tables(PIKA_READS))
def test_pika_reads_our_tables(table: dict[str, object]) -> None:
    encoded = frames.encode_table(table)

    assert (table, len(encoded)) == pika.data.decode_table(encoded, 0)


@given(tables(PAMQP_WRITES))
def test_we_read_the_tables_of_pamqp(table: dict[str, object]) -> None:
    assert table == frames.decode_table(pamqp.encode.field_table(table))  # type: ignore[arg-type]  # its alias


@given(tables(PIKA_READS))
def test_we_read_the_tables_of_pika(table: dict[str, object]) -> None:
    pieces: list[bytes] = []
    pika.data.encode_table(pieces, table)

    assert table == frames.decode_table(b"".join(pieces))


@given(st.floats())
def test_doubles_are_exact(value: float) -> None:
    decoded = frames.decode_table(frames.encode_table({"x": value}))["x"]

    assert isinstance(decoded, float)
    assert struct.pack(">d", value) == struct.pack(">d", decoded)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 255))
def test_decimals_are_exact(unscaled: int, scale: int) -> None:
    value = Decimal(f"{unscaled}E-{scale}")

    assert value == frames.decode_table(frames.encode_table({"x": value}))["x"]


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        ((1, (2, "x")), [1, [2, "x"]]),
        (bytearray(b"\xff"), b"\xff"),
        (Decimal("12E3"), Decimal(12000)),
        (Decimal("0E99"), Decimal(0)),
        (NAIVE, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (
            datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))),
            datetime(2026, 1, 2, 1, tzinfo=UTC),
        ),
        (datetime(9999, 12, 31, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)),
        ({}, {}),
        ([], []),
    ],
)
def test_values_that_change_their_form(value: object, arrives: object) -> None:
    assert {"x": arrives} == frames.decode_table(frames.encode_table({"x": value}))


@pytest.mark.parametrize(
    ("wire", "value"),
    [
        (b"t\x01", True),
        (b"b\xff", -1),
        (b"B\xff", 255),
        (b"s\xff\xff", -1),
        (b"u\xff\xff", 65535),
        (b"I\xff\xff\xff\xff", -1),
        (b"i\xff\xff\xff\xff", 2**32 - 1),
        (b"l" + b"\xff" * 8, -1),
        (b"L" + b"\xff" * 8, -1),
        (b"f" + struct.pack(">f", 0.5), 0.5),
        (b"d" + struct.pack(">d", 0.1), 0.1),
        (b"D\x02\x00\x00\x00\x7b", Decimal("1.23")),
        (b"S\x00\x00\x00\x01a", "a"),
        (b"S\x00\x00\x00\x01\xff", b"\xff"),
        (b"x\x00\x00\x00\x01a", b"a"),
        (b"A\x00\x00\x00\x02VV", [None, None]),
        (b"F\x00\x00\x00\x03\x01kV", {"k": None}),
        (b"T" + bytes(8), datetime(1970, 1, 1, tzinfo=UTC)),
        (b"T" + b"\xff" * 8, 2**64 - 1),
        (b"V", None),
    ],
)
def test_every_type_rabbitmq_sends(wire: bytes, value: object) -> None:
    table = b"\x01k" + wire

    assert {"k": value} == frames.decode_table(len(table).to_bytes(4) + table)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"x": 2**63}, "64 bits"),
        ({"x": -(2**63) - 1}, "64 bits"),
        ({"x": object()}, "type object"),
        ({"x": {1, 2}}, "type set"),
        ({1: 2}, "header name must be a string"),
        ({"é" * 128: 1}, "256 bytes"),
        ({"x": "\ud800"}, "not valid Unicode"),
        ({"x": datetime(1969, 12, 31, tzinfo=UTC)}, "before 1970"),
        ({"x": Decimal("NaN")}, "decimal"),
        ({"x": Decimal("Infinity")}, "decimal"),
        ({"x": Decimal("1E99999999")}, "decimal"),
        ({"x": Decimal(2147483648)}, "decimal"),
        ({"x": Decimal("1E-256")}, "decimal"),
    ],
)
def test_what_has_no_amqp_form_is_refused(table: dict[str, object], says: str) -> None:
    with pytest.raises(EncodeError, match=says):
        frames.encode_table(table)


def test_endless_nesting_is_refused_both_ways() -> None:
    loop: list[object] = []
    loop.append(loop)
    deep = b"V"
    for _ in range(5000):
        deep = b"A" + len(deep).to_bytes(4) + deep
    table = b"\x01k" + deep

    with pytest.raises(EncodeError, match="nested"):
        frames.encode_table({"x": loop})
    with pytest.raises(DecodeError, match="nested"):
        frames.decode_table(len(table).to_bytes(4) + table)


def test_the_deepest_table_we_write_can_be_read() -> None:
    table: dict[str, object] = {}
    for _ in range(frames.MAX_DEPTH):
        table = {"k": table}

    assert table == frames.decode_table(frames.encode_table(table))


def test_header_names_made_from_data_do_not_fill_the_cache() -> None:
    for number in range(2000):
        frames.encode_table({f"name-{number}": 1})

    assert len(header_tables._KEYS) <= header_tables._KEYS_LIMIT


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_bytes_are_a_table_or_a_decode_error(data: bytes, framed: bool) -> None:
    try:
        frames.decode_table(len(data).to_bytes(4) + data if framed else data)
    except DecodeError:
        pass


@given(tables(OURS), st.data())
def test_a_damaged_table_is_a_table_or_a_decode_error(
    table: dict[str, object], data: st.DataObject
) -> None:
    encoded = bytearray(frames.encode_table(table))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(encoded)))
    for damaged in (bytes(encoded), bytes(encoded[:cut])):
        try:
            frames.decode_table(damaged)
        except DecodeError:
            pass


def test_nan_travels() -> None:
    value = frames.decode_table(frames.encode_table({"x": math.nan}))["x"]

    assert isinstance(value, float)
    assert math.isnan(value)
