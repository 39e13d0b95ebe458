"""The message codec, on the messages a queue of small tasks holds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from amqtask.core import codec, result, serialization
from amqtask.core.message import Envelope, Message, Properties
from amqtask.errors import ContentRefused
from benchmarks.micro.timing import Case

ID = "7c5f8e0a-8d0e-4f0c-9c66-3a4f0f0f6e11"

# What Celery's producer sends for shop.add.delay(1, 2).
CELERY = Envelope(
    b'[[1, 2], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]',
    Properties(
        content_type="application/json",
        content_encoding="utf-8",
        headers={
            "lang": "py",
            "task": "shop.add",
            "id": ID,
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": ID,
            "parent_id": None,
            "argsrepr": "(1, 2)",
            "kwargsrepr": "{}",
            "origin": "gen4711@host",
            "ignore_result": False,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        delivery_mode=2,
        priority=0,
        correlation_id=ID,
        reply_to="0d4c7f7e-5f6f-3b9e-a8f1-5a3f9a4f1c55",
    ),
)
MESSAGES = {
    "no arguments": Message(id=ID, task="shop.add"),
    "two numbers": Message(id=ID, task="shop.add", args=(1, 2)),
    "with reply_to and kwargs": Message(
        id=ID,
        task="shop.add",
        args=(1, 2),
        kwargs={"key": "a.jpg"},
        reply_to="amqtask.reply.1",
        ignore_result=False,
    ),
    "a list of 1,000 numbers": Message(id=ID, task="shop.add", args=(list(range(1000)),)),
    "200 small dicts": Message(
        id=ID, task="shop.add", args=([{"id": n, "sku": "abc", "n": 1.5} for n in range(200)],)
    ),
    "msgpack": Message(id=ID, task="shop.add", args=(1, 2), serializer="msgpack"),
    "10 kB of text, zstd": Message(
        id=ID, task="shop.add", args=("a word " * 1500,), compression="zstd"
    ),
}


def cases() -> Iterator[Case]:
    """Encoding and decoding of each, and of results."""
    for name, message in MESSAGES.items():
        yield Case(f"encode: {name}", partial(codec.encode, message))
    envelopes = {name: codec.encode(message) for name, message in MESSAGES.items()}
    envelopes["Celery's two numbers"] = CELERY
    for name, envelope in envelopes.items():
        properties, body = envelope.properties, envelope.body
        head = codec.read_header(properties, body)
        yield Case(f"read_header: {name}", partial(codec.read_header, properties, body))
        yield Case(f"read_body: {name}", partial(codec.read_body, head, properties, body))
    record = result.Record(
        task_id=ID, status=result.SUCCESS, result=3, date_done="2030-01-01T00:00:00+00:00"
    )
    reply = result.encode_result(record)
    yield Case("encode_result", lambda: result.encode_result(record))
    yield Case("decode_result", lambda: result.decode_result(reply.properties, reply.body))
    yield Case("refuse a pickle", _refused)


def _refused() -> None:
    try:
        serialization.choose(serialization.PICKLE, "binary", codec.ACCEPT)
    except ContentRefused:
        return
