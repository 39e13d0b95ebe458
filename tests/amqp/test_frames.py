"""The frame codec against pamqp and pika, on arbitrary values, arbitrary chunks and arbitrary bytes."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
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
from amqtask.errors import ConnectionLost, DecodeError, EncodeError, PayloadTooLarge

# ---------------------------------------------------------------- values

TEXT = st.text(st.characters(codec="utf-8"))
SHORT = st.text(st.characters(codec="utf-8"), max_size=30)
# pamqp reads seconds beyond the year 2106 as milliseconds.
MOMENTS = st.integers(0, 2**32 - 1).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
NAIVE = datetime(2026, 1, 2, 3, 4, 5, 999, tzinfo=UTC).replace(tzinfo=None)
INT64 = st.integers(-(2**63), 2**63 - 1)
SCALARS = st.none() | st.booleans() | INT64 | TEXT | MOMENTS
OURS = SCALARS | st.floats(allow_nan=False) | st.binary(max_size=40).filter(lambda b: not _utf8(b))
PIKA_READS = SCALARS | st.binary(max_size=40)
PAMQP_WRITES = SCALARS | st.binary(max_size=40).map(bytearray)


def _utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def tables(leaves: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    values = st.recursive(
        leaves, lambda inner: st.lists(inner) | st.dictionaries(SHORT, inner), max_leaves=6
    )
    return st.dictionaries(SHORT, values, max_size=4)


def properties(headers: st.SearchStrategy[dict[str, object]]) -> st.SearchStrategy[Properties]:
    optional = st.none() | SHORT
    return st.builds(
        Properties,
        content_type=optional,
        content_encoding=optional,
        headers=st.none() | headers,
        delivery_mode=st.none() | st.integers(0, 255),
        priority=st.none() | st.integers(0, 255),
        correlation_id=optional,
        reply_to=optional,
        expiration=optional,
        message_id=optional,
        timestamp=st.none() | st.integers(0, 2**32),
        type=optional,
        user_id=optional,
        app_id=optional,
        cluster_id=optional,
    )


# ---------------------------------------------------------------- tables


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

    assert len(frames._KEYS) <= frames._KEYS_LIMIT


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


# ---------------------------------------------------------------- properties


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


# ---------------------------------------------------------------- frames out


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

    assert len(frames._METHODS) <= frames._METHODS_LIMIT


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


# ---------------------------------------------------------------- frames in


class Events:
    """Everything a parser reports, as comparable values."""

    def __init__(self, frame_max: int = 0) -> None:
        self.seen: list[tuple[object, ...]] = []
        self.parser = frames.Parser(self._deliver, self._confirm, self._other, frame_max)

    def _deliver(self, deliver: frames.Deliver) -> None:
        self.seen.append(
            (
                "deliver",
                deliver.channel,
                deliver.consumer_tag.decode(),
                deliver.tag,
                deliver.redelivered,
                deliver.exchange,
                deliver.routing_key,
                frames.decode_properties(deliver.header).message_id,
                deliver.body,
            )
        )

    def _confirm(self, channel: int, tag: int, multiple: bool, ok: bool) -> None:
        self.seen.append(("confirm", channel, tag, multiple, ok))

    def _other(self, frame: bytes) -> None:
        self.seen.append(("other", frame))


def delivery_frames(
    channel: int, tag: int, body: bytes, parts: int = 1, message_id: str = "id"
) -> list[bytes]:
    """A delivery as pamqp writes it, its body cut into ``parts`` frames."""
    step = -(-len(body) // parts) or 1
    pieces: list[object] = [
        pamqp.commands.Basic.Deliver("ctag", tag, bool(tag % 2), "exchange", "routing.key"),
        pamqp.header.ContentHeader(
            0, len(body), pamqp.commands.Basic.Properties(message_id=message_id)
        ),
        *[
            pamqp.body.ContentBody(body[start : start + step])
            for start in range(0, len(body), step)
        ],
    ]
    return [pamqp.frame.marshal(piece, channel) for piece in pieces]  # type: ignore[arg-type]


def expected_delivery(channel: int, tag: int, body: bytes) -> tuple[object, ...]:
    return ("deliver", channel, "ctag", tag, bool(tag % 2), "exchange", "routing.key", "id", body)


HEARTBEAT = pamqp.frame.marshal(pamqp.heartbeat.Heartbeat(), 0)

# One entry: the frames of a unit and what must be reported for it.
UNITS = st.one_of(
    st.builds(
        lambda channel, tag, body: (
            delivery_frames(channel, tag, body),
            [expected_delivery(channel, tag, body)],
        ),
        st.integers(1, 3),
        st.integers(1, 2**63 - 1),
        st.binary(max_size=300),
    ),
    st.builds(
        lambda channel, tag, body, parts: (
            units := delivery_frames(channel, tag, body, parts),
            [("other", unit) for unit in units],
        ),
        st.integers(1, 3),
        st.integers(1, 9),
        st.binary(min_size=4, max_size=300),
        st.integers(2, 4),
    ),
    st.builds(
        lambda channel, tag, multiple, ok: (
            [
                frames.encode_ack(channel, tag, multiple)
                if ok
                else frames.encode_nack(channel, tag, multiple, False)
            ],
            [("confirm", channel, tag, multiple, ok)],
        ),
        st.integers(1, 3),
        st.integers(1, 2**63 - 1),
        st.booleans(),
        st.booleans(),
    ),
    st.sampled_from(
        [
            HEARTBEAT,
            pamqp.frame.marshal(pamqp.commands.Queue.DeclareOk("q", 1, 2), 1),
            pamqp.frame.marshal(pamqp.commands.Channel.CloseOk(), 2),
            pamqp.frame.marshal(pamqp.commands.Basic.Cancel("ctag", True), 1),
        ]
    ).map(lambda unit: ([unit], [("other", unit)])),
)


@given(st.lists(UNITS, max_size=8), st.data())
def test_any_cut_of_a_stream_gives_the_same_events(
    units: list[tuple[list[bytes], list[tuple[object, ...]]]], data: st.DataObject
) -> None:
    stream = b"".join(frame for unit, _ in units for frame in unit)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    events = Events()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events.parser.feed(stream[start:end])

    assert [event for _, expected in units for event in expected] == events.seen


@given(st.integers(1, 3), st.integers(1, 2))
def test_single_bytes_are_enough(parts: int, channel: int) -> None:
    stream = b"".join(delivery_frames(channel, 5, b"some body", parts)) + HEARTBEAT
    whole, single = Events(), Events()
    whole.parser.feed(stream)
    for position in range(len(stream)):
        single.parser.feed(stream[position : position + 1])

    assert whole.seen == single.seen


def test_frames_between_those_of_a_delivery_send_it_the_general_way() -> None:
    method, header, body = delivery_frames(1, 7, b"one")
    two = delivery_frames(2, 8, b"two")
    other_two = [("other", frame) for frame in two]
    for stream, expected in (
        (
            [method, HEARTBEAT, header, body],
            [("other", frame) for frame in (method, HEARTBEAT, header, body)],
        ),
        (
            [method, header, HEARTBEAT, body],
            [("other", frame) for frame in (method, header, HEARTBEAT, body)],
        ),
        (
            [method, *two, header, body],
            [("other", method), expected_delivery(2, 8, b"two"), ("other", header), ("other", body)],
        ),
        (
            [method, header, *two, body],
            [("other", method), ("other", header), expected_delivery(2, 8, b"two"), ("other", body)],
        ),
        (
            [method, two[0], header, two[1], body, two[2]],
            [("other", method), other_two[0], ("other", header), other_two[1], ("other", body), other_two[2]],
        ),
    ):  # fmt: skip
        events = Events()
        events.parser.feed(b"".join(stream))
        assert expected == events.seen
        # the same where one like it came before
        events.parser.feed(b"".join([*delivery_frames(1, 6, b"zero"), *stream]))
        assert [*expected, expected_delivery(1, 6, b"zero"), *expected] == events.seen


def test_a_returned_message_goes_the_general_way() -> None:
    returned = [
        pamqp.frame.marshal(pamqp.commands.Basic.Return(312, "NO_ROUTE", "e", "k"), 1),
        *delivery_frames(1, 1, b"body")[1:],
    ]
    events = Events()
    events.parser.feed(b"".join(returned) + frames.encode_ack(1, 1, False))

    assert [*[("other", part) for part in returned], ("confirm", 1, 1, False, True)] == events.seen


def test_a_body_of_16_mib_in_one_frame_is_copied_only_when_complete() -> None:
    body = bytes(16 * 1024 * 1024)
    stream = b"".join(delivery_frames(1, 2, body))
    events = Events()
    for start in range(0, len(stream), 65_536):
        events.parser.feed(stream[start : start + 65_536])
        # Joined early chunks would show as one long chunk: quadratic copying.
        assert max(map(len, events.parser._chunks), default=0) <= 2 * 65_536

    assert [expected_delivery(1, 2, body)] == events.seen


def test_names_that_are_not_utf8_are_shown_escaped() -> None:
    deliver = frames.Deliver(1, b"c", 1, False, b"\x01\xff\x02\xfe.", b"\0\0", b"")

    assert deliver.exchange == "\\xff"
    assert deliver.routing_key == "\\xfe."
    assert "\\xff" in repr(deliver)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_missing_frame_end_is_connection_lost(which: int) -> None:
    units = delivery_frames(1, 1, b"body")
    units[which] = units[which][:-1] + b"\x00"

    with pytest.raises(ConnectionLost, match="no AMQP frame"):
        Events().parser.feed(b"".join(units))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"AMQP\x00\x00\x09\x01", "another version"),
        (b"HTTP/1.1 400 Bad Request\r\n", "no AMQP frame"),
        (b"\x01\x00\x01\x7f\xff\xff\xff", "agreed limit"),
    ],
)
def test_a_stream_that_is_not_amqp_is_connection_lost_at_once(data: bytes, says: str) -> None:
    with pytest.raises(ConnectionLost, match=says):
        Events(frame_max=131_072).parser.feed(data)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_arbitrary_bytes_raise_nothing_else(first: bytes, second: bytes) -> None:
    parser = frames.Parser(lambda _: None, lambda *_: None, lambda _: None)
    try:
        parser.feed(first)
        parser.feed(second)
    except ConnectionLost:
        pass


@given(st.data())
def test_damaged_deliveries_raise_nothing_else(data: st.DataObject) -> None:
    stream = bytearray(b"".join(delivery_frames(1, 1, b"body")) * 2)
    for _ in range(data.draw(st.integers(1, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    seen: list[frames.Deliver] = []
    parser = frames.Parser(seen.append, lambda *_: None, lambda _: None)
    try:
        parser.feed(bytes(stream))
    except ConnectionLost:
        pass
    for deliver in seen:
        repr(deliver)
        try:
            frames.decode_properties(deliver.header)
        except DecodeError:
            pass


# ---------------------------------------------------------------- contents


@given(st.binary(max_size=300), st.integers(1, 4), st.integers(1, 3))
def test_contents_puts_together_what_the_parser_leaves(
    body: bytes, parts: int, channel: int
) -> None:
    delivered: list[frames.Deliver] = []
    returned: list[frames.Returned] = []
    contents = frames.Contents(delivered.append, returned.append)
    bounce = pamqp.commands.Basic.Return(312, "NO_ROUTE", "exchange", "routing.key")
    deliver, *content = delivery_frames(channel, 7, body, parts)
    for frame in (deliver, *content, pamqp.frame.marshal(bounce, channel), *content):
        assert contents.take(frame)

    (one,), (two,) = delivered, returned
    assert (one.consumer_tag, one.tag, one.redelivered) == (b"ctag", 7, True)
    assert (two.code, two.text) == (312, "NO_ROUTE")
    for value in (one, two):
        assert (channel, body) == (value.channel, value.body)
        assert (value.exchange, value.routing_key) == ("exchange", "routing.key")
        assert frames.decode_properties(value.header).message_id == "id"


def test_contents_keeps_channels_apart_and_leaves_the_rest() -> None:
    delivered: list[frames.Deliver] = []
    contents = frames.Contents(delivered.append, lambda _: None)
    one, two = delivery_frames(1, 1, b"one", 2), delivery_frames(2, 2, b"two", 3)
    order = [one[0], two[0], two[1], one[1], one[2], two[2], two[3], one[3], two[4]]

    assert all(contents.take(frame) for frame in order)
    assert not contents.take(HEARTBEAT)
    assert not contents.take(frames.encode_ack(1, 1, False))
    assert not contents.take(one[1])
    assert [deliver.body for deliver in delivered] == [b"one", b"two"]


@given(st.data())
def test_damaged_contents_raise_nothing_else(data: st.DataObject) -> None:
    method = data.draw(
        st.sampled_from(
            [
                delivery_frames(1, 1, b"body")[0],
                pamqp.frame.marshal(pamqp.commands.Basic.Return(312, "NO_ROUTE", "e", "k"), 1),
            ]
        )
    )
    units = [bytearray(unit) for unit in (method, *delivery_frames(1, 1, b"body")[1:])]
    for unit in units:
        unit[data.draw(st.integers(7, len(unit) - 1))] = data.draw(st.integers(0, 255))
    contents = frames.Contents(lambda _: None, lambda _: None)
    try:
        for unit in units:
            contents.take(bytes(unit))
    except ConnectionLost:
        pass


def test_nan_travels() -> None:
    value = frames.decode_table(frames.encode_table({"x": math.nan}))["x"]

    assert isinstance(value, float)
    assert math.isnan(value)
