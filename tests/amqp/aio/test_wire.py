"""The seam between socket and aiormq, without a broker: what is taken out, what is passed on, how a connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pamqp.body
import pamqp.commands
import pamqp.frame
import pamqp.header
import pytest

from amqtask.amqp import frames
from amqtask.amqp.aio.wire import Wire
from tests.waiting import aeventually

CLOSE_OK = pamqp.frame.marshal(pamqp.commands.Connection.CloseOk(), 0)
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
DECLARED = pamqp.frame.marshal(pamqp.commands.Queue.DeclareOk("q", 1, 2), 1)
DELIVER = pamqp.frame.marshal(pamqp.commands.Basic.Deliver("ctag", 7, False, "e", "k"), 1)
RETURN = pamqp.frame.marshal(pamqp.commands.Basic.Return(312, "NO_ROUTE", "e", "k"), 1)


def content(body: bytes, parts: int = 1) -> bytes:
    step = len(body) // parts
    return pamqp.frame.marshal(pamqp.header.ContentHeader(0, len(body)), 1) + b"".join(
        pamqp.frame.marshal(pamqp.body.ContentBody(body[start : start + step]), 1)
        for start in range(0, len(body), step)
    )


def run(scenario: Callable[[Wire], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario(Wire(asyncio.get_running_loop()))

    asyncio.run(main())


def test_hot_frames_come_to_us_and_the_rest_goes_on() -> None:
    async def scenario(wire: Wire) -> None:
        delivered: list[bytes] = []
        confirms: list[tuple[int, int, bool, bool]] = []
        returned: list[str] = []
        wire.on_deliver = lambda deliver: delivered.append(deliver.body)
        wire.on_confirm = lambda *confirm: confirms.append(confirm)
        wire.on_return = lambda back: returned.append(f"{back.code} {back.routing_key}")
        wire.feed_data(
            DELIVER + content(b"small") + DECLARED + DELIVER + content(b"large!", 3)
            + RETURN + content(b"back") + frames.encode_ack(1, 5, True) + DECLARED
        )  # fmt: skip

        assert await wire.read(1000) == DECLARED * 2
        assert delivered == [b"small", b"large!"]
        assert confirms == [(1, 5, True, True)]
        assert returned == ["312 k"]

    run(scenario)


def test_our_own_frames_count_as_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amqtask.amqp.aio.wire._KEEP_ALIVE", 0.05)

    async def scenario(wire: Wire) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        wire.feed_data(frames.encode_ack(1, 1, False))
        await aeventually(lambda: loop.time() > start + 0.1)
        wire.feed_data(frames.encode_ack(1, 2, False))
        wire.feed_data(frames.encode_ack(1, 3, False))

        assert await wire.read(1000) == HEARTBEAT

    run(scenario)


def test_blocked_and_cancel_are_reported_and_kept_from_aiormq() -> None:
    async def scenario(wire: Wire) -> None:
        seen: list[str | None] = []
        wire.on_blocked = seen.append
        wire.on_cancel = seen.append
        wire.feed_data(pamqp.frame.marshal(pamqp.commands.Connection.Blocked("low on disk"), 0))
        states = [wire.blocked]
        wire.feed_data(pamqp.frame.marshal(pamqp.commands.Connection.Unblocked(), 0))
        states.append(wire.blocked)
        wire.feed_data(pamqp.frame.marshal(pamqp.commands.Basic.Cancel("ctag"), 1) + DECLARED)

        assert seen == ["low on disk", None, "ctag"]
        assert states == ["low on disk", None]
        assert await wire.read(1000) == DECLARED

    run(scenario)


def test_a_channel_close_is_noted_and_passed_on() -> None:
    close = pamqp.frame.marshal(pamqp.commands.Channel.Close(404, "NOT_FOUND", 60, 40), 1)

    async def scenario(wire: Wire) -> None:
        wire.feed_data(close)
        assert wire.refused == (404, "NOT_FOUND")
        assert await wire.read(1000) == close
        wire.expect_channel()
        assert wire.refused is None

    run(scenario)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (
            lambda wire: wire.feed_data(
                pamqp.frame.marshal(pamqp.commands.Connection.Close(320, "FORCED", 0, 0), 0)
            ),
            "320 FORCED",
        ),
        (lambda wire: wire.feed_eof(), "the socket was closed"),
        (lambda wire: wire.set_exception(ConnectionResetError("reset")), "reset"),
        (lambda wire: wire.feed_data(b"nonsense"), "no AMQP frame"),
    ],
)
def test_every_end_is_an_orderly_one_for_aiormq(end: Callable[[Wire], None], why: str) -> None:
    async def scenario(wire: Wire) -> None:
        wire.feed_data(DECLARED)
        end(wire)
        wire.feed_data(DECLARED)  # after the end: ignored

        assert why in wire.why
        assert await wire.readexactly(len(DECLARED + CLOSE_OK)) == DECLARED + CLOSE_OK

    run(scenario)
