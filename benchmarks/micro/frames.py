"""The frame codec, on what a small task looks like."""

from __future__ import annotations

from collections.abc import Iterator

from amqtask.amqp import frames
from amqtask.core.message import Properties
from benchmarks.micro.timing import Case

ID = "7c5f8e0a-8d0e-4f0c-9c66-3a4f0f0f6e11"
HEADERS: dict[str, object] = {"lang": "py", "task": "shop.add", "id": ID, "timelimit": [None, 2.5]}
PROPERTIES = Properties(
    content_type="application/json",
    content_encoding="utf-8",
    headers=HEADERS,
    delivery_mode=2,
    priority=0,
    correlation_id=ID,
    reply_to="amqtask.reply.1",
)
BODY = b'[[1, 2], {}, {"callbacks": null}]'


def wire(count: int) -> bytes:
    """``count`` deliveries of the small task, as the broker sends them."""
    unit = frames.encode_publish(
        1, "", "bench", frames.encode_properties(PROPERTIES), BODY, 0, False
    )
    content = unit[unit.index(b"\xce") + 1 :]
    method = b"\x00\x3c\x00\x3c\x04ctag" + bytes(8) + b"\x00\x00\x05bench"
    head = b"\x01\x00\x01" + len(method).to_bytes(4) + method + b"\xce"
    return (head + content) * count


def cases() -> Iterator[Case]:
    """Both directions; the parser with a thousand in one read."""
    properties = frames.encode_properties(PROPERTIES)
    table = frames.encode_table(HEADERS)
    deliveries = wire(1000)
    confirms = b"".join(frames.encode_ack(1, tag, False) for tag in range(1, 1001))
    parser = frames.Parser(lambda _: None, lambda *_: None, lambda _: None)
    yield Case("encode_table", lambda: frames.encode_table(HEADERS))
    yield Case("decode_table", lambda: frames.decode_table(table))
    yield Case("encode_properties", lambda: frames.encode_properties(PROPERTIES))
    yield Case("decode_properties", lambda: frames.decode_properties(properties))
    yield Case(
        "encode_publish",
        lambda: frames.encode_publish(1, "tasks", "email.send", properties, BODY, 131_072, True),
    )
    yield Case("encode_ack", lambda: frames.encode_ack(1, 42, True))
    yield Case("Parser.feed, a delivery", lambda: parser.feed(deliveries), 1000)
    yield Case("Parser.feed, a confirm", lambda: parser.feed(confirms), 1000)
