"""The follower on a real broker: everything in order, from where it was asked to begin, again after every loss."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest

from amqtask.amqp.address import Address
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.follower import Entry, StreamFollower
from amqtask.amqp.threaded.loop import IoThread
from amqtask.errors import BrokerError, OperationRefused
from amqtask.topology.plan import DeclareQueue
from tests.brokers import Broker, limited_user
from tests.waiting import eventually

both_codecs = pytest.mark.parametrize("fast", [True, False], ids=["frames", "pika"])


class Reader:
    """A follower, and what it has been told."""

    def __init__(self, io: IoThread, broker: Broker, stream: str, **more: Any) -> None:
        self.entries: list[Entry] = []
        self.refused: list[OperationRefused] = []
        self.differs: list[OperationRefused] = []
        self.lost: list[BrokerError] = []
        self.opened = 0
        self.closed = False
        self.name = f"follower-test-{uuid.uuid4().hex[:8]}"
        options: dict[str, Any] = {
            "declaration": DeclareQueue(stream, arguments={"x-queue-type": "stream"}),
            "offset": self.next,
            **more,
        }
        self.follower = StreamFollower(
            io,
            Reach((Address.parse(broker.url),), 10, 5, options.pop("fast", True)),
            name=self.name,
            stream=stream,
            on_batch=self.entries.extend,
            on_open=self._open,
            on_refused=self.refused.append,
            on_differs=self.differs.append,
            on_lost=self.lost.append,
            **options,
        )

    def next(self) -> int:
        return self.entries[-1][0] + 1 if self.entries else 0

    def _open(self) -> None:
        self.opened += 1

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body in self.entries]

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        closed = threading.Event()
        self.follower.close(closed.set)
        assert closed.wait(10)


@pytest.fixture
def follow(broker: Broker, queue_name: str) -> Iterator[Callable[..., Reader]]:
    """Follow the stream ``queue_name``; closed afterwards."""
    io = IoThread("test-io")
    readers: list[Reader] = []

    def start(*, on: Broker = broker, **options: Any) -> Reader:
        readers.append(Reader(io, on, queue_name, **options))
        readers[-1].follower.start()
        return readers[-1]

    yield start
    for reader in readers:
        reader.close()
    io.stop()


def put(broker: Broker, stream: str, bodies: list[bytes], declare: bool = True) -> None:
    with broker.channel() as channel:
        if declare:
            channel.queue_declare(stream, durable=True, arguments={"x-queue-type": "stream"})
        # a header of another kind, as another program may send it
        properties = pika.BasicProperties(headers={"other": [1, "é"]})  # type: ignore[no-untyped-call]  # pika leaves it bare
        for body in bodies[:-1]:
            channel.basic_publish("", stream, body, properties)
        channel.confirm_delivery()  # each waits for its answer, and the last is enough
        channel.basic_publish("", stream, bodies[-1], mandatory=True)


@both_codecs
def test_everything_there_and_what_comes_later(
    broker: Broker, queue_name: str, follow: Callable[..., Reader], fast: bool
) -> None:
    bodies = [f"{number}".encode() for number in range(1200)]  # more than are under way at a time
    put(broker, queue_name, bodies)

    reader = follow(fast=fast)
    eventually(lambda: len(reader.entries) >= len(bodies))
    put(broker, queue_name, [b"later"])
    eventually(lambda: reader.bodies[-1] == b"later")

    assert reader.bodies == [*bodies, b"later"]
    assert [offset for offset, _ in reader.entries] == list(range(1201))
    assert (reader.opened, reader.lost, reader.refused) == (1, [], [])


def test_5000_records_are_read_in_little_time(
    broker: Broker, queue_name: str, follow: Callable[..., Reader]
) -> None:
    put(broker, queue_name, [b"x" * 250] * 5000)

    began = time.monotonic()
    reader = follow()
    eventually(lambda: len(reader.entries) == 5000, 20)
    assert time.monotonic() - began < 5  # 0.2 s on an idle machine


@both_codecs
def test_it_goes_on_where_it_was_after_a_loss(
    broker: Broker, queue_name: str, follow: Callable[..., Reader], fast: bool
) -> None:
    put(broker, queue_name, [b"a", b"b"])
    reader = follow(fast=fast)
    eventually(lambda: len(reader.entries) == 2)

    broker.close_connection(reader.name)
    put(broker, queue_name, [b"c"])
    eventually(lambda: len(reader.entries) == 3)

    assert reader.bodies == [b"a", b"b", b"c"]
    assert len(reader.lost) >= 1


def test_a_stream_that_is_deleted_is_declared_anew(
    broker: Broker, queue_name: str, follow: Callable[..., Reader]
) -> None:
    reader = follow(offset=lambda: 0)
    eventually(lambda: reader.opened)
    put(broker, queue_name, [b"a"])
    eventually(lambda: reader.entries)

    with broker.channel() as channel:
        channel.queue_delete(queue_name)
    eventually(lambda: reader.opened == 2)
    put(broker, queue_name, [b"b"], declare=False)
    eventually(lambda: reader.bodies == [b"a", b"b"])


def test_other_arguments_are_told_and_it_is_followed_as_it_is(
    broker: Broker, queue_name: str, follow: Callable[..., Reader]
) -> None:
    put(broker, queue_name, [b"a"])
    wanted = DeclareQueue(queue_name, arguments={"x-queue-type": "stream", "x-max-age": "1h"})

    reader = follow(declaration=wanted)
    eventually(lambda: reader.bodies == [b"a"])

    (error,) = reader.differs
    assert error.code == 406
    assert "x-max-age" in error.text
    assert reader.refused == []


def test_a_stream_that_may_be_read_and_not_declared(
    broker: Broker, queue_name: str, follow: Callable[..., Reader]
) -> None:
    with limited_user(broker, configure=f"^(?!{queue_name})") as user:
        reader = follow(on=user)
        eventually(lambda: reader.refused)
        assert reader.refused[0].code == 403  # nobody has made it yet

        put(broker, queue_name, [b"a"])
        eventually(lambda: reader.bodies == [b"a"], 20)

        assert [error.code for error in reader.differs] == [403]
        reader.close()


def test_a_missing_stream_that_may_not_be_declared_is_found_when_it_comes(
    broker: Broker, queue_name: str, follow: Callable[..., Reader]
) -> None:
    reader = follow(declaration=None)
    eventually(lambda: reader.refused)
    assert reader.refused[0].code == 404

    put(broker, queue_name, [b"a"])
    eventually(lambda: reader.bodies == [b"a"], 20)


@both_codecs
@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_queue_of_that_name_loses_nothing(
    broker: Broker, queue_name: str, follow: Callable[..., Reader], kind: str, fast: bool
) -> None:
    with broker.channel() as channel:
        channel.queue_declare(queue_name, durable=True, arguments={"x-queue-type": kind})
    put(broker, queue_name, [b"a", b"b", b"c"], declare=False)

    reader = follow(fast=fast)
    eventually(lambda: len(reader.refused) >= 3)

    def all_back() -> bool:
        with broker.channel() as channel:
            return bool(channel.queue_declare(queue_name, passive=True).method.message_count == 3)

    eventually(all_back)
    assert reader.entries == []
    assert "x-stream-offset" in reader.refused[-1].text
