"""The hot frames that come: deliveries, confirms and returned messages, cut out of a stream of bytes."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as StructError  # noqa: N812  # a class, named as one
from typing import Any

from amqtask.amqp.frames.layout import (
    BASIC,
    BODY,
    FRAME_END,
    FRAME_OVERHEAD,
    HEADER,
    HEARTBEAT,
    METHOD,
    frame_head,
    header_head,
)
from amqtask.errors import ConnectionLost

# Class and method id of a method frame, read as one number.
_DELIVER = BASIC << 16 | 60
_ACK = BASIC << 16 | 80
_NACK = BASIC << 16 | 120
_RETURN = BASIC << 16 | 50

_u16 = Struct(">H")
_u32 = Struct(">I")
_u64 = Struct(">Q")
# Bound here: to look up a method of something imported costs more.
_header_head = header_head.unpack_from
_header_rest = Struct(">IHHQ")  # a content header from its length on
_tag_and_flag = Struct(">QB")

_names: dict[bytes, tuple[str, str]] = {}  # of routes, which are few
_NAMES_LIMIT = 512  # but keys may be made from data


def _names_of(route: bytes) -> tuple[str, str]:
    # Names are free bytes to the broker. One that is not UTF-8 must not stop a worker, so it is shown escaped.
    end = 1 + route[0]
    names = (
        route[1:end].decode(errors="backslashreplace"),
        route[end + 1 :].decode(errors="backslashreplace"),
    )
    if len(_names) >= _NAMES_LIMIT:
        _names.clear()
    _names[route] = names
    return names


class Deliver:
    """One message as it came off the wire, undecoded where decoding costs.

    Attributes:
        channel: channel number.
        consumer_tag: raw bytes of the consumer tag.
        tag: delivery tag.
        redelivered: the broker has handed it out before.
        header: property bytes for ``decode_properties``.
        body: message body.
        route: exchange and routing key as two short strings.
    """

    __slots__ = ("body", "channel", "consumer_tag", "header", "redelivered", "route", "tag")

    def __init__(
        self,
        channel: int,
        consumer_tag: bytes,
        tag: int,
        redelivered: bool,
        route: bytes,
        header: bytes,
        body: bytes,
    ) -> None:
        self.channel = channel
        self.consumer_tag = consumer_tag
        self.tag = tag
        self.redelivered = redelivered
        self.route = route
        self.header = header
        self.body = body

    @property
    def names(self) -> tuple[str, str]:
        """Exchange and routing key it was published with."""
        return _names.get(self.route) or _names_of(self.route)

    @property
    def exchange(self) -> str:
        """Exchange the message was published to."""
        return self.names[0]

    @property
    def routing_key(self) -> str:
        """Routing key it was published with."""
        return self.names[1]

    def __repr__(self) -> str:
        return (
            f"<Deliver channel={self.channel} tag={self.tag} exchange={self.exchange!r}"
            f" routing_key={self.routing_key!r} body={len(self.body)} bytes>"
        )


class Returned:
    """A mandatory message that the broker gave back because no queue is bound for it.

    Attributes:
        channel: channel number.
        code: reply code, 312 for no route.
        text: reply text.
        exchange: exchange it was published to.
        routing_key: routing key it was published with.
        header: property bytes for ``decode_properties``.
        body: message body.
    """

    __slots__ = ("body", "channel", "code", "exchange", "header", "routing_key", "text")

    def __init__(
        self,
        channel: int,
        code: int,
        text: str,
        exchange: str,
        routing_key: str,
        header: bytes,
        body: bytes,
    ) -> None:
        self.channel = channel
        self.code = code
        self.text = text
        self.exchange = exchange
        self.routing_key = routing_key
        self.header = header
        self.body = body


class Contents:
    """Puts together what ``Parser`` leaves in frames: deliveries of several body frames, and returned messages.

    For a client library that has no use for them itself. Give it each frame of ``on_other``. Without ``on_return`` the
    frames of returned messages are left to the client library. ``make``: as for ``Parser``.
    """

    __slots__ = ("_make", "_on_deliver", "_on_return", "_open")

    def __init__(
        self,
        on_deliver: Callable[[Any], None],
        on_return: Callable[[Returned], None] | None = None,
        make: type[Deliver] = Deliver,
    ) -> None:
        self._make = make
        self._on_deliver = on_deliver
        self._on_return = on_return
        self._open: dict[int, _Content] = {}  # by channel

    def take(self, frame: bytes) -> bool:
        """Take a frame that belongs to a content; False for any other, which then is the caller's.

        Raises:
            ConnectionLost: the frame does not continue the content before it.
        """
        kind = frame[0]
        channel = _u16.unpack_from(frame, 1)[0]
        if kind == METHOD and len(frame) >= 12:
            method = _u32.unpack_from(frame, 7)[0]
            if method != _DELIVER and (method != _RETURN or self._on_return is None):
                return False
            self._open[channel] = _Content(frame[7:-1])
            return True
        content = self._open.get(channel)
        if content is None or kind not in (HEADER, BODY):
            return False
        if kind == HEADER:
            if len(frame) < 22:
                raise ConnectionLost("The broker sent a malformed content header frame.")
            content.left = _u64.unpack_from(frame, 11)[0]
            content.header = frame[19:-1]
        else:
            content.left -= len(frame) - FRAME_OVERHEAD
            content.parts.append(frame[7:-1])
        if content.left < 0:
            raise ConnectionLost("The broker sent a body that is longer than announced.")
        if content.left == 0:
            del self._open[channel]
            self._finish(channel, content)
        return True

    def _finish(self, channel: int, content: _Content) -> None:
        method, header, body = content.method, content.header, b"".join(content.parts)
        returned = deliver = None
        try:
            if _u32.unpack_from(method)[0] == _RETURN:
                text_at = 7 + method[6]
                exchange_at = text_at + 1 + method[text_at]
                returned = Returned(
                    channel,
                    _u16.unpack_from(method, 4)[0],
                    method[7:text_at].decode(errors="backslashreplace"),
                    method[text_at + 1 : exchange_at].decode(errors="backslashreplace"),
                    method[exchange_at + 1 : exchange_at + 1 + method[exchange_at]].decode(
                        errors="backslashreplace"
                    ),
                    header,
                    body,
                )
            else:
                tag_at = 5 + method[4]
                names = method[tag_at + 9 :]
                if len(names) != 2 + names[0] + names[1 + names[0]]:
                    raise IndexError
                deliver = self._make(
                    channel,
                    method[5:tag_at],
                    _u64.unpack_from(method, tag_at)[0],
                    method[tag_at + 8] != 0,
                    names,
                    header,
                    body,
                )
        except (IndexError, StructError):
            raise ConnectionLost("The broker sent a malformed basic method frame.") from None
        if returned is not None and self._on_return is not None:
            self._on_return(returned)
        elif deliver is not None:
            self._on_deliver(deliver)


class _Content:
    """What has arrived of a content; ``left`` counts the body bytes to come, unknown (1) before the header."""

    __slots__ = ("header", "left", "method", "parts")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self.header = b""
        self.left = 1
        self.parts: list[bytes] = []


# Of the method frame of a delivery: its bytes before the tag; those behind the flag, with what the header frame behind it
# begins with; its length; channel, consumer tag and route.
_KnownDeliver = tuple[bytes, bytes, int, int, bytes, bytes]
_NO_DELIVER: _KnownDeliver = (b"\0", b"\0", 0, 0, b"", b"")  # no frame begins with a zero


class Parser:
    """Cuts the byte stream of one connection into events.

    A delivery whose method, header and only body frame follow one another becomes ``on_deliver(Deliver)``. A confirm of the
    broker becomes ``on_confirm(channel, tag, multiple, ok)``. Every other frame goes to ``on_other(frame)`` whole and in
    order: among them all frames of a delivery with several body frames or with foreign frames in between, so that the
    client library can put those together as it always does. Callbacks run inside ``feed`` and must not raise.

    Set ``frame_max`` to the negotiated size to have larger frames refused before they are buffered; 0 allows any. ``make``
    is what deliveries are made as. ``on_deliver`` may be set anew at any time.
    """

    __slots__ = (
        "_chunks",
        "_held",
        "_known",
        "_make",
        "_needed",
        "_on_confirm",
        "_on_other",
        "frame_max",
        "on_deliver",
    )

    def __init__(
        self,
        on_deliver: Callable[[Any], None],
        on_confirm: Callable[[int, int, bool, bool], None],
        on_other: Callable[[bytes], None],
        frame_max: int = 0,
        make: type[Deliver] = Deliver,
    ) -> None:
        self.frame_max = frame_max
        self.on_deliver = on_deliver
        self._make = make
        self._known = _NO_DELIVER  # the last method frame of a delivery
        self._on_confirm = on_confirm
        self._on_other = on_other
        # What has arrived of an incomplete unit. Chunks are joined only when the unit (or its next readable part) is here,
        # so a body of many megabytes is copied once, not once per read.
        self._chunks: list[bytes] = []
        self._held = 0
        self._needed = 0

    def feed(self, data: bytes) -> None:
        """Take the bytes of one read and report what they complete.

        Raises:
            ConnectionLost: the bytes are no AMQP frames; the parser is of no use afterwards.
        """
        if self._chunks:
            self._chunks.append(data)
            self._held += len(data)
            if self._held < self._needed:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
        position = self._walk(data)
        if position < len(data):
            rest = data[position:] if position else data
            self._chunks.append(rest)
            self._held = len(rest)

    def _walk(self, data: bytes) -> int:
        """Report all complete units in ``data``; return where the first incomplete one starts."""
        unpack_head = frame_head.unpack_from
        on_other = self._on_other
        make = self._make
        before, between, size_of_method, known_channel, consumer_tag, route = self._known
        known_tag_at = len(before)
        end = len(data)
        position = 0
        while True:
            # Most often the next delivery comes to the same consumer by the same way: then nothing is new in its method frame
            # but the tag, and all that is looked at below was looked at before.
            after = position + size_of_method
            if (
                data.startswith(before, position)
                and data.startswith(between, position + known_tag_at + 9)
                and end - after >= 19
            ):
                length, _, _, body_size = _header_rest.unpack_from(data, after + 3)
                body_at = after + length + FRAME_OVERHEAD
                done = body_at + body_size + FRAME_OVERHEAD
                if (
                    done <= end
                    and length >= 14
                    and unpack_head(data, body_at) == (BODY, known_channel, body_size)
                    and data[body_at - 1] == FRAME_END
                    and data[done - 1] == FRAME_END
                ):
                    tag, redelivered = _tag_and_flag.unpack_from(data, position + known_tag_at)
                    self.on_deliver(
                        make(
                            known_channel,
                            consumer_tag,
                            tag,
                            redelivered != 0,
                            route,
                            data[after + 19 : body_at - 1],
                            data[body_at + 7 : done - 1],
                        )
                    )
                    position = done
                    continue
            if end - position < 7:
                self._needed = 7
                return position
            kind, channel, size = unpack_head(data, position)
            after = position + size + FRAME_OVERHEAD
            if after > end:
                self._check_head(kind, size, data, position)
                self._needed = after - position
                return position
            if data[after - 1] != FRAME_END:
                raise self._broken(kind, size, data, position)
            if kind != METHOD or size < 13:  # no method reported here is shorter
                self._check_head(kind, size, data, position)
                on_other(data[position:after])
                position = after
                continue
            method = _u32.unpack_from(data, position + 7)[0]
            if method == _DELIVER:
                # A content header must follow, so waiting for its first bytes cannot wait for ever.
                if end - after < 19:
                    self._needed = after - position + 19
                    return position
                kind, owner, length, _, _, body_size = _header_head(data, after)
                body_at = after + length + FRAME_OVERHEAD
                if kind != HEADER or owner != channel or length < 14:
                    on_other(data[position:after])
                    position = after
                    continue
                if body_at > end:
                    self._check_head(kind, length, data, after)
                    self._needed = body_at - position
                    return position
                if data[body_at - 1] != FRAME_END:
                    raise self._broken(kind, length, data, after)
                if body_size:
                    if end - body_at < 7:
                        self._needed = body_at - position + 7
                        return position
                    kind, owner, length = unpack_head(data, body_at)
                    if length != body_size or kind != BODY or owner != channel:
                        # Several body frames, or other channels in between: the general path. The header and the
                        # bodies take the same way when the loop comes to them, because only a method starts a unit.
                        on_other(data[position:after])
                        position = after
                        continue
                    done = body_at + length + FRAME_OVERHEAD
                    if done > end:
                        self._check_head(kind, length, data, body_at)
                        self._needed = done - position
                        return position
                    if data[done - 1] != FRAME_END:
                        raise self._broken(kind, length, data, body_at)
                    body = data[body_at + 7 : done - 1]
                else:
                    done = body_at
                    body = b""
                tag_at = position + 12 + data[position + 11]
                # Tag, flag and the two lengths must lie inside the method frame, and the names fill it exactly.
                names_at = tag_at + 9
                if (
                    names_at + 2 >= after
                    or names_at + 1 + data[names_at] >= after - 1
                    or names_at + 2 + data[names_at] + data[names_at + 1 + data[names_at]]
                    != after - 1
                ):
                    raise ConnectionLost("The broker sent a malformed basic.deliver frame.")
                consumer_tag = data[position + 12 : tag_at]
                route = data[names_at : after - 1]
                self.on_deliver(
                    make(
                        channel,
                        consumer_tag,
                        _u64.unpack_from(data, tag_at)[0],
                        data[tag_at + 8] != 0,
                        route,
                        data[after + 19 : body_at - 1],
                        body,
                    )
                )
                before, between = data[position:tag_at], data[names_at : after + 3]
                known_tag_at = len(before)
                size_of_method = after - position
                known_channel = channel
                self._known = (before, between, size_of_method, channel, consumer_tag, route)
                position = done
            elif size == 13 and method in (_ACK, _NACK):
                self._on_confirm(
                    channel,
                    _u64.unpack_from(data, position + 11)[0],
                    data[position + 19] & 1 != 0,
                    method == _ACK,
                )
                position = after
            else:
                on_other(data[position:after])
                position = after

    def _check_head(self, kind: int, size: int, data: bytes, position: int) -> None:
        """Refuse what cannot start a frame before its length makes us wait for bytes that never come."""
        if kind not in (METHOD, HEADER, BODY, HEARTBEAT):
            raise self._broken(kind, size, data, position)
        if self.frame_max and size + FRAME_OVERHEAD > self.frame_max:
            raise ConnectionLost(
                f"The broker sent a frame of {size} bytes; the agreed limit is {self.frame_max}."
            )

    def _broken(self, kind: int, size: int, data: bytes, position: int) -> ConnectionLost:
        if data[position : position + 4] == b"AMQP":
            return ConnectionLost(
                "The server speaks another version of AMQP than 0-9-1; check host and port."
            )
        return ConnectionLost(
            f"The connection carries bytes that are no AMQP frame (type {kind}, length {size})."
        )
