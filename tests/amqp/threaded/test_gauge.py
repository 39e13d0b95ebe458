"""The gauge on a real broker: what waits, again and again, whatever becomes of a queue or of the connection."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator

import pytest

from amqtask.amqp.address import Address
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.gauge import QueueGauge
from amqtask.amqp.threaded.loop import IoThread
from tests.brokers import Broker
from tests.waiting import eventually

NAME = f"gauge-test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def measure(broker: Broker) -> Iterator[Callable[..., list[int | None]]]:
    """Measure queues; what has been told so far."""
    io = IoThread("test-io")
    gauges: list[QueueGauge] = []

    def start(*queues: str) -> list[int | None]:
        told: list[int | None] = []
        gauge = QueueGauge(
            io,
            Reach((Address.parse(broker.url),), 10, 5),
            name=NAME,
            queues=queues,
            on_measured=told.append,
            every=0.02,
        )
        gauges.append(gauge)
        gauge.start()
        return told

    yield start
    for gauge in gauges:
        closed = threading.Event()
        gauge.close(closed.set)
        assert closed.wait(10)
    io.stop()


def test_it_tells_what_is_ready_in_all_queues_and_not_what_a_consumer_has(
    broker: Broker, queue_name: str, measure: Callable[..., list[int | None]]
) -> None:
    with broker.channel() as channel:
        channel.confirm_delivery()
        for queue in (queue_name, f"{queue_name}-2"):
            channel.queue_declare(queue)
            channel.basic_publish("", queue, b"x")
            channel.basic_publish("", queue, b"y")
        told = measure(queue_name, f"{queue_name}-2")
        eventually(lambda: told[-1:] == [4])
        channel.basic_get(queue_name)
        eventually(lambda: told[-1] == 3)
        assert set(told) == {4, 3}
        channel.queue_delete(f"{queue_name}-2")


def test_a_queue_that_is_gone_counts_as_empty_and_as_it_is_when_it_comes_back(
    broker: Broker, queue_name: str, measure: Callable[..., list[int | None]]
) -> None:
    with broker.channel() as channel:
        channel.confirm_delivery()
        channel.queue_declare(queue_name)
        channel.basic_publish("", queue_name, b"x")
        told = measure(f"{queue_name}-absent", queue_name)
        eventually(lambda: told[-1:] == [1])
        channel.queue_delete(queue_name)
        eventually(lambda: told[-1] == 0)
        channel.queue_declare(queue_name)
        channel.basic_publish("", queue_name, b"x")
        eventually(lambda: told[-1] == 1)
        assert None not in told


def test_a_lost_connection_is_told_and_followed_by_another(
    broker: Broker, queue_name: str, measure: Callable[..., list[int | None]]
) -> None:
    with broker.channel() as channel:
        channel.queue_declare(queue_name)
        told = measure(queue_name)
        eventually(lambda: told[-1:] == [0])

        broker.close_connection(NAME)
        eventually(lambda: None in told)
        eventually(lambda: told[-1] == 0)
