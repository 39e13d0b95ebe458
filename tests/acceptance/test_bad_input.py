"""Messages no worker should choke on: it goes on, the message is among the dead with the reason, the caller learns of it."""

from __future__ import annotations

import json
import pickle
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika.exceptions
import pytest

from amqtask.amqp import frames
from amqtask.core.message import Properties
from tests.acceptance.nodes import Node, Place
from tests.brokers import Broker
from tests.waiting import eventually

Places = Callable[..., Place]

JSON: dict[str, Any] = {"content_type": "application/json", "content_encoding": "utf-8"}


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class Caller:
    """Publishes raw messages and reads their raw replies, as a foreign client would."""

    def __init__(self, at: Place) -> None:
        self.at = at
        self.replies = f"amqtask.reply.{uuid.uuid4().hex}"
        with at.broker.channel() as channel:
            channel.queue_declare(self.replies, durable=True)

    def close(self) -> None:
        with self.at.broker.channel() as channel:
            channel.queue_delete(self.replies)

    def headers(self, task: str = "work.note", /, **more: object) -> dict[str, object]:
        return {"lang": "py", "task": task, "id": uuid.uuid4().hex, **more}

    def put(self, body: bytes, headers: dict[str, Any] | None, **properties: Any) -> None:
        ours = {"reply_to": self.replies, "correlation_id": "asked", **JSON} | properties
        kept = {name: value for name, value in ours.items() if value is not None}
        self.at.put(body, headers=headers, **kept)

    def failure(self) -> dict[str, Any]:
        """Wait for the reply: a failure."""
        taken = eventually(lambda: self.at.take(self.replies), 10, interval=0.05)
        assert taken is not None
        properties, body = taken
        assert properties.correlation_id == "asked"
        record: dict[str, Any] = json.loads(body)
        assert record["status"] == "FAILURE"
        return record


@pytest.fixture(params=["classic", "quorum"])
def at(place: Places, request: pytest.FixtureRequest) -> Place:
    return place(type=request.param)


@pytest.fixture
def node(at: Place) -> Iterator[Node]:
    """A worker that must be unharmed at the end: the same process, still working, ending well."""
    node = at.node("-c1", "-Q", at.queue)
    before = node.children()
    yield node
    assert at.send("add", 1, 2).get(timeout=20) == 3
    assert node.children() == before
    assert node.stop() == 0
    at.all_settled()
    for event in ("a callback on the I/O thread failed", "the I/O loop failed and goes on"):
        assert not node.records(event), node.output
    assert "Traceback" not in node.output.replace('"traceback": "Traceback', "")


@pytest.fixture
def caller(at: Place, node: Node) -> Iterator[Caller]:
    caller = Caller(at)
    yield caller
    caller.close()


def arguments(*args: object) -> bytes:
    return json.dumps([args, {}, {"callbacks": None, "errbacks": None}]).encode()


@pytest.mark.usefixtures("node")
@pytest.mark.exact("takes answers and dead letters in turn, and one may come twice")
def test_bodies(at: Place, caller: Caller, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    good = caller.headers()
    pickled = {"content_type": "application/x-python-serialize", "content_encoding": "binary"}
    deep = b"[" * 100_000 + b"]" * 100_000
    cases: list[tuple[str, bytes, dict[str, Any], dict[str, Any], str]] = [
        ("no JSON", b"\xff\x00{not json", good, {}, "undecodable"),
        ("empty", b"", good, {}, "undecodable"),
        (
            "a content type nobody knows",
            b"x",
            good,
            {"content_type": "text/x-odd"},
            "refused content",
        ),
        ("pickle", pickle.dumps([[Touch(canary)], {}, {}]), good, pickled, "refused content"),
        ("no gzip", b"x", good | {"compression": "application/x-gzip"}, {}, "undecodable"),
        (
            "an encoding nobody knows",
            arguments("x"),
            good,
            {"content_encoding": "klingon"},
            "refused content",
        ),
        ("two elements", b'[["x"], {}]', good, {}, "undecodable"),
        ("four elements", b'[["x"], {}, {}, 1]', good, {}, "undecodable"),
        ("a mapping, as protocol 1 has it", b'{"a": 1}', good, {}, "wrong arguments"),
        ("a number", b"5", good, {}, "undecodable"),
        ("wrong kinds", b'[5, [], "x"]', good, {}, "undecodable"),
        ("deep", deep, good, {}, "undecodable"),
        ("deep arguments", b"[[" + deep + b"], {}, {}]", good, {}, "undecodable"),
        ("not UTF-8", b'[["\xc3\x28"], {}, {}]', good, {}, "undecodable"),
        ("a lone surrogate", b'[["\\ud800"], {}, {}]', good, {}, ""),
        ("unknown task", arguments("x"), caller.headers("work.nothing"), {}, "unknown task"),
        ("too few arguments", arguments(), good, {}, "wrong arguments"),
        ("too many arguments", arguments(1, 2, 3, 4), good, {}, "wrong arguments"),
        ("an unknown name", b'[["x"], {"nope": 1}, {}]', good, {}, "wrong arguments"),
    ]
    for name, body, headers, properties, reason in cases:
        caller.put(body, headers, **properties)
        record = caller.failure()
        dead, kept = at.dead_letter()
        assert kept == body, name
        if reason:
            assert dead.headers["amqtask-dead-reason"] == reason, (name, record)
        assert dead.headers["amqtask-dead-queue"] == at.queue
        assert dead.headers["amqtask-dead-exception"], name
        assert record["task_id"] in (headers["id"], "asked"), name
        assert record["result"]["exc_type"], name
    assert not canary.exists()
    assert at.take() is None


@pytest.mark.usefixtures("node")
def test_a_body_with_nul_bytes_is_no_problem(at: Place, caller: Caller) -> None:
    result = at.send("note", "a\x00b")
    assert result.get(timeout=10) == "a\x00b"
    caller.put(arguments("a\x00b"), caller.headers(), reply_to=None)
    eventually(lambda: at.count("end")["a\x00b"] >= 2, 10)


@pytest.mark.usefixtures("node")
def test_headers(at: Place, caller: Caller) -> None:
    good = caller.headers()
    body = arguments("x")
    cases: list[tuple[str, dict[str, Any] | None, dict[str, Any]]] = [
        ("no headers", None, {}),
        ("empty headers", {}, {}),
        ("no id", {"lang": "py", "task": "work.note"}, {}),
        ("a task that is a number", good | {"task": 5}, {}),
        ("an id that is a table", good | {"id": {"a": 1}}, {}),
        ("retries that are text", good | {"retries": "many"}, {}),
        ("a time limit that is text", good | {"timelimit": "soon"}, {}),
        ("a time limit of three", good | {"timelimit": [1, 2, 3]}, {}),
        ("eta that is no time", good | {"eta": "tomorrow"}, {}),
        ("expires that is a list", good | {"expires": [1]}, {}),
        ("argsrepr that is no text", good | {"argsrepr": 5}, {}),
        ("no text in the id", good | {"id": b"\xff\xfe"}, {}),
    ]
    for name, headers, properties in cases:
        caller.put(body, headers, **properties)
        try:
            record = caller.failure()
        except AssertionError as error:
            raise AssertionError(f"{name}: no reply") from error
        dead, kept = at.dead_letter()
        assert kept == body, name
        assert dead.headers["amqtask-dead-reason"] == "undecodable", (name, record)
    assert at.count("start") == {}


@pytest.mark.usefixtures("node")
def test_odd_but_harmless_headers(at: Place, caller: Caller) -> None:
    odd = {
        "nul": "a\x00b",
        "bytes": b"\xff\xfe\x00",
        "deep": {"a": {"b": [1, {"c": None}]}},
        "origin": None,
        "x-death": "not a list",
    }
    caller.put(arguments("x"), caller.headers(**odd), reply_to=None)
    at.saw("end", "x")
    caller.put(arguments("y"), caller.headers() | {"id": "n\x00ul\U0001f600"}, reply_to=None)
    at.saw("end", "y")
    assert at.take() is None


@pytest.mark.usefixtures("node")
def test_a_huge_header_table(at: Place, caller: Caller) -> None:
    huge = {f"h{number}": "x" * 1000 for number in range(100)}
    # a task does not mind
    caller.put(arguments("x"), caller.headers(**huge), reply_to=None)
    at.saw("end", "x")
    # nor do the dead letters
    caller.put(b"rubbish", caller.headers(**huge))
    assert caller.failure()
    dead, _ = at.dead_letter()
    assert dead.headers["h99"] == "x" * 1000
    assert dead.headers["amqtask-dead-reason"] == "undecodable"
    # and when the reason has no room left in the frame, the broker carries the message there without it
    full = huge | {"rest": "x" * 29_300}
    caller.put(b"rubbish", caller.headers(**full))
    assert caller.failure()
    dead, _ = at.dead_letter()
    assert dead.headers["h99"] == "x" * 1000


@pytest.mark.usefixtures("node")
def test_properties_that_are_not_utf_8(at: Place, caller: Caller) -> None:
    raw = b"\xff\xfe\x80"
    body = arguments("x")
    for name in ("correlation_id", "message_id", "type", "app_id", "reply_to", "content_type"):
        put_raw(at, body, name, raw, caller.headers())
    put_raw_header(at, body, raw)
    seen = 0
    deadline = time.monotonic() + 15
    while seen + sum(at.count("end").values()) < 7 and time.monotonic() < deadline:
        taken = at.take()
        seen += taken is not None
    # each of them ran (what is odd does not matter to a task) or is dead; none is lost and none goes round
    assert seen + sum(at.count("end").values()) == 7


def put_raw(at: Place, body: bytes, name: str, value: bytes, headers: dict[str, object]) -> None:
    """Publish a message with bytes in a property that should hold text."""
    mark = "MARKMARK"
    given: dict[str, Any] = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        name: mark,
    }
    properties = frames.encode_properties(Properties(headers=headers, **given))
    coded = mark.encode()
    assert properties.count(coded) == 1
    raw = properties.replace(bytes([len(coded)]) + coded, bytes([len(value)]) + value)
    send_raw(at, raw, body)


def put_raw_header(at: Place, body: bytes, value: bytes) -> None:
    """Publish a message with a header whose name and text are no UTF-8."""
    headers = {"lang": "py", "task": "work.note", "id": "raw", "MARK": "MARKMARK"}
    properties = frames.encode_properties(Properties(headers=headers, **JSON))
    raw = properties.replace(b"\x04MARK", b"\x04\xff\xfe\x80\x81", 1)
    raw = raw.replace(b"MARKMARK", (value * 3)[:8])
    send_raw(at, raw, body)


def send_raw(at: Place, properties: bytes, body: bytes) -> None:
    """Publish with a property block as it is."""
    with at.broker.channel() as channel:
        channel.confirm_delivery()
        connection: Any = channel.connection._impl
        data = frames.encode_publish(
            channel.channel_number, "", at.queue, properties, body, 131072, False
        )
        connection._output_marshaled_frames([data])
        channel.queue_declare(at.queue, passive=True)  # a round trip: it has arrived


@pytest.mark.usefixtures("node")
def test_a_body_of_twenty_mebibytes(at: Place, caller: Caller, broker: Broker) -> None:
    body = json.dumps([["x" * (20 << 20)], {}, {}]).encode()
    if broker.version >= (4,):
        # there it ends before the queue: the broker refuses what is above 16 MiB
        with pytest.raises(pika.exceptions.AMQPError):
            caller.put(body, caller.headers())
        return
    caller.put(body, caller.headers())
    assert "message_max_bytes" in str(caller.failure()["result"])
    dead, kept = at.dead_letter()
    assert len(kept) == len(body)
    assert dead.headers["amqtask-dead-reason"]


@pytest.mark.exact("no connection may be lost over them")
@pytest.mark.usefixtures("node")
def test_hostile_reply_addresses(at: Place, node: Node, caller: Caller) -> None:
    addresses = (
        "amq.rabbitmq.reply-to.garbage",
        "amq.gen-nobody",
        f"nowhere-{uuid.uuid4().hex}",
        "x" * 255,
        "with\x00nul",
    )
    for number, address in enumerate(addresses):
        caller.put(arguments(f"n{number}"), caller.headers(), reply_to=address)
        at.saw("end", f"n{number}")
        caller.put(b"rubbish", caller.headers(), reply_to=address)
        dead, _ = at.dead_letter()
        assert dead.headers["amqtask-dead-reason"] == "undecodable"
    assert not node.records("no broker connection")
    assert at.count("start") == {f"n{number}": 1 for number in range(len(addresses))}


@pytest.mark.usefixtures("node")
def test_a_reply_address_that_is_the_work_queue(at: Place, caller: Caller) -> None:
    caller.put(arguments("x"), caller.headers(), reply_to=at.queue)
    dead, _ = at.dead_letter()  # the result is no task message, and answers nobody
    assert dead.headers["amqtask-dead-reason"] == "undecodable"
    assert at.count("end") == {"x": 1}


@pytest.mark.usefixtures("node")
def test_an_expired_message(at: Place, caller: Caller) -> None:
    caller.put(arguments("x"), caller.headers(expires="2020-01-01T00:00:00+00:00"))
    taken = eventually(lambda: at.take(caller.replies), 10, interval=0.05)
    assert taken is not None
    assert json.loads(taken[1])["status"] == "REVOKED"
    dead, _ = at.dead_letter()
    assert dead.headers["amqtask-dead-reason"] == "expired"
    assert at.count("start") == {}


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_queue_without_dead_letters(place: Places, kind: str) -> None:
    at = place(type=kind, queue={"dead_letter": False})
    node = at.node("-c1", "-Q", at.queue)
    before = node.children()
    caller = Caller(at)
    caller.put(b"rubbish", caller.headers())
    assert caller.failure()
    caller.put(b"rubbish", None)
    assert caller.failure()
    at.put(b"rubbish")
    node.says("not a task message", times=2)
    assert at.send("add", 1, 2).get(timeout=10) == 3
    assert node.children() == before
    assert node.stop() == 0
    at.all_settled()
    caller.close()
