"""The frames that come, as pamqp and pika write them, in arbitrary chunks, and arbitrary bytes."""

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
from amqtask.errors import ConnectionLost, DecodeError


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
