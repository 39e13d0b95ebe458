"""A queue beside those of a consumer: not paused with them, missed by nobody, and found when it is there again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from amqtask.amqp.delivery import Delivery
from amqtask.amqp.threaded.aside import Aside
from amqtask.core.outcome import Verdict
from amqtask.errors import BrokerError
from amqtask.topology.plan import DeclareQueue
from tests.amqp.threaded.test_consumer import both_codecs, reading, send
from tests.brokers import Broker
from tests.waiting import eventually


class Beside:
    """What came from the queue, and why it could not be had."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.deliveries: list[Delivery] = []
        self.refusals: list[BrokerError] = []
        self.aside = Aside(queue, 2, self.deliveries.append, self.refusals.append)

    def bodies(self, count: int) -> list[bytes]:
        """Wait for so many."""
        eventually(lambda: len(self.deliveries) >= count, 20)
        return [each.body for each in self.deliveries]


@pytest.fixture
def beside(broker: Broker, queue_name: str) -> Iterator[Beside]:
    found = Beside(f"{queue_name}-beside")
    yield found
    with broker.channel() as channel:
        channel.queue_delete(found.queue)


def options(queue: str, beside: Beside, **more: Any) -> dict[str, Any]:
    declarations = [DeclareQueue(queue), DeclareQueue(beside.queue)]
    return {"aside": beside.aside, "declarations": declarations, **more}


@both_codecs
def test_it_has_its_own_prefetch_and_goes_on_in_a_pause(
    broker: Broker, queue_name: str, beside: Beside, fast: bool
) -> None:
    with reading(broker, queue_name, **options(queue_name, beside, fast=fast)) as reader:
        reader.on_io(reader.consumer.pause)
        send(broker, beside.queue, b"1", b"2", b"3")
        send(broker, queue_name, b"work")

        assert beside.bodies(2) == [b"1", b"2"]
        assert {each.queue for each in beside.deliveries} == {beside.queue}
        assert not any(map(reader.consumer.stale, beside.deliveries))
        assert reader.consumer.unsettled == 0  # of its own
        reader.consumer.settle(beside.deliveries[0], Verdict.ACK)
        assert beside.bodies(3) == [b"1", b"2", b"3"]
        reader.acknowledge(beside.deliveries[1:])
        assert not reader.batches
        reader.on_io(reader.consumer.resume)
        reader.acknowledge(reader.received(1))
        reader.stop()
    with broker.channel() as channel:
        assert channel.queue_declare(beside.queue, passive=True).method.message_count == 0


def test_one_that_is_deleted_is_declared_and_consumed_again(
    broker: Broker, queue_name: str, beside: Beside
) -> None:
    with reading(broker, queue_name, **options(queue_name, beside)) as reader:
        send(broker, beside.queue, b"before")
        beside.bodies(1)
        with broker.channel() as channel:
            channel.queue_delete(beside.queue)
        eventually(lambda: reader.consumer.stale(beside.deliveries[0]))

        def there() -> bool:
            return beside.queue in {each["name"] for each in broker.queues()}

        eventually(there, 20, interval=0.1)
        send(broker, beside.queue, b"after")
        assert beside.bodies(2) == [b"before", b"after"]
        reader.acknowledge(beside.deliveries)
        assert not reader.losses  # its own queues have lost nothing


def test_one_that_is_not_there_is_said_once_and_found_later(
    broker: Broker, queue_name: str, beside: Beside
) -> None:
    more = {"declarations": [DeclareQueue(queue_name)]}
    with reading(broker, queue_name, **options(queue_name, beside, **more)) as reader:
        eventually(lambda: beside.refusals, 10)
        send(broker, queue_name, b"work")
        reader.acknowledge(reader.received(1))
        with broker.channel() as channel:
            channel.queue_declare(beside.queue, durable=True)
        send(broker, beside.queue, b"x")

        assert beside.bodies(1) == [b"x"]
        assert len(beside.refusals) == 1
        reader.acknowledge(beside.deliveries)
