"""The asyncio consumer on a real broker: acks, epochs, and everything rebuilt after each kind of loss."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pika
import pytest

from amqtask.amqp.address import Address
from amqtask.amqp.aio.consumer import AioConsumer
from amqtask.amqp.aio.publisher import AioPublisher
from amqtask.amqp.delivery import Delivery
from amqtask.amqp.reach import Reach
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.core.outcome import Verdict
from amqtask.errors import BrokerError, ConnectFailed, DecodeError, LoginRefused, OperationRefused
from amqtask.topology.plan import BindExchange, BindQueue, DeclareExchange, DeclareQueue
from tests.brokers import Broker, OwnBroker
from tests.waiting import aeventually, eventually


class Reader:
    """A consumer with what it has received, and a way to wait for more."""

    def __init__(self, broker: Broker, queue: str, **more: Any) -> None:
        self.deliveries: list[Delivery] = []
        self.losses: list[BrokerError] = []
        options: dict[str, Any] = {
            "name": f"aio-test-{uuid.uuid4().hex[:8]}",
            "queues": [queue],
            "prefetch": 100,
            "declarations": [DeclareQueue(queue)],
            **more,
        }
        self.name: str = options["name"]
        self.consumer = AioConsumer(
            Reach((Address.parse(broker.url),), 10, 5),
            on_delivery=self.deliveries.append,
            on_lost=self.losses.append,
            **options,
        )

    async def received(self, count: int) -> list[Delivery]:
        """Wait until so many deliveries are here; hand them out and forget them."""
        await aeventually(lambda: len(self.deliveries) >= count, 30)
        found, self.deliveries[:] = list(self.deliveries), []
        return found


def run(reader: Reader, scenario: Callable[[Reader], Awaitable[None]]) -> None:
    """Run the scenario in a loop of its own with the consumer ready, and see that no task is left."""

    async def main() -> None:
        reader.consumer.start()
        try:
            await reader.consumer.ready(30)
            await scenario(reader)
        finally:
            await reader.consumer.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def send(broker: Broker, queue: str, *bodies: bytes, exchange: str = "") -> None:
    with broker.channel() as channel:
        for body in bodies:
            channel.basic_publish(exchange, queue, body)


def ready_messages(broker: Broker, queue: str) -> int:
    with broker.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


def test_deliveries_arrive_in_order_with_all_they_carry(broker: Broker, queue_name: str) -> None:
    headers = {"doubles": [0.1, 1e300], "nested": {"x": [None, True, "é"]}}
    envelope = Envelope(b"body", Properties(headers=headers, correlation_id="c", priority=3))

    async def scenario(reader: Reader) -> None:
        publisher = AioPublisher(Reach((Address.parse(broker.url),), 10, 5), name="aio-test")
        await publisher.publish(Publication("", queue_name, envelope), 30)
        await publisher.close()
        (delivery,) = await reader.received(1)
        assert envelope.properties == delivery.properties
        assert (delivery.body, delivery.exchange) == (b"body", "")
        assert delivery.queue == delivery.routing_key == queue_name
        assert not delivery.redelivered
        await asyncio.to_thread(send, broker, queue_name, *(b"%d" % n for n in range(300)))
        for number in range(300):
            if not reader.deliveries:
                reader.deliveries += await reader.received(1)
            delivery = reader.deliveries.pop(0)
            assert delivery.body == b"%d" % number
            reader.consumer.settle(delivery, Verdict.ACK)

    run(Reader(broker, queue_name), scenario)


def test_verdicts_reach_the_broker(broker: Broker, queue_name: str) -> None:
    dead = f"{queue_name}.dead"
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    declarations = [DeclareQueue(dead), DeclareQueue(queue_name, arguments=arguments)]

    async def scenario(reader: Reader) -> None:
        await asyncio.to_thread(send, broker, queue_name, b"0", b"1", b"2", b"3", b"4")
        deliveries = await reader.received(5)
        order = [Verdict.ACK, Verdict.REJECT, Verdict.REJECT_REQUEUE, Verdict.GIVE_BACK]
        for delivery, verdict in zip(deliveries, order, strict=False):
            reader.consumer.settle(delivery, verdict)
            reader.consumer.settle(delivery, Verdict.ACK)  # decided already: nothing is sent
        again = await reader.received(2)
        assert {b"2", b"3"} == {delivery.body for delivery in again}
        assert all(delivery.redelivered for delivery in again)
        for delivery in again:
            reader.consumer.settle(delivery, Verdict.ACK)

    run(Reader(broker, queue_name, declarations=declarations), scenario)
    assert ready_messages(broker, dead) == 1
    assert ready_messages(broker, queue_name) == 1  # the one without a verdict


def test_a_large_body_arrives_whole(broker: Broker, queue_name: str) -> None:
    body = bytes(range(256)) * 20_000

    async def scenario(reader: Reader) -> None:
        await asyncio.to_thread(send, broker, queue_name, body, b"small")
        large, small = await reader.received(2)
        assert large.body == body
        assert small.body == b"small"
        reader.consumer.settle(large, Verdict.ACK)
        reader.consumer.settle(small, Verdict.ACK)

    run(Reader(broker, queue_name), scenario)
    assert ready_messages(broker, queue_name) == 0


def test_headers_nested_without_end_are_a_decode_error_and_no_more(
    broker: Broker, queue_name: str
) -> None:
    deep: object = None
    for _ in range(80):
        deep = [deep]

    async def scenario(reader: Reader) -> None:
        def publish() -> None:
            with broker.channel() as channel:
                make: Any = pika.BasicProperties  # pika has no annotations here
                properties = make(headers={"deep": deep})
                channel.basic_publish("", queue_name, b"", properties)

        await asyncio.to_thread(publish)
        (delivery,) = await reader.received(1)
        with pytest.raises(DecodeError):
            _ = delivery.properties
        reader.consumer.settle(delivery, Verdict.ACK)

    run(Reader(broker, queue_name), scenario)


def test_all_kinds_of_declarations_are_carried_out(broker: Broker, queue_name: str) -> None:
    one, two = f"{queue_name}.one", f"{queue_name}.two"
    declarations = [
        DeclareExchange(one, "topic", auto_delete=True),
        DeclareExchange(two, "fanout", auto_delete=True),
        DeclareQueue(queue_name, arguments={"x-expires": 60_000}),
        BindExchange(two, one, "email.#"),
        BindQueue(queue_name, two),
    ]

    async def scenario(reader: Reader) -> None:
        await asyncio.to_thread(send, broker, "email.send", b"through", exchange=one)
        (delivery,) = await reader.received(1)
        assert delivery.exchange == one
        reader.consumer.settle(delivery, Verdict.ACK)

    run(Reader(broker, queue_name, declarations=declarations), scenario)
    with broker.channel() as channel:
        channel.exchange_delete(one)
        channel.exchange_delete(two)


def test_a_killed_connection_starts_a_new_epoch(broker: Broker, queue_name: str) -> None:
    async def scenario(reader: Reader) -> None:
        await asyncio.to_thread(send, broker, queue_name, b"x")
        (old,) = await reader.received(1)
        await asyncio.to_thread(broker.close_connection, reader.name)
        (new,) = await reader.received(1)
        assert new.redelivered
        assert new.epoch > old.epoch
        assert "lost" in str(reader.losses[0])
        reader.consumer.settle(old, Verdict.ACK)  # stale: must not reach the new channel
        await reader.consumer.close()
        assert await asyncio.to_thread(ready_messages, broker, queue_name) == 1

    run(Reader(broker, queue_name), scenario)


def test_a_deleted_queue_is_declared_and_consumed_again(broker: Broker, queue_name: str) -> None:
    async def scenario(reader: Reader) -> None:
        await asyncio.to_thread(delete, broker, queue_name)
        await aeventually(lambda: reader.losses, 30)
        await reader.consumer.ready(30)
        await asyncio.to_thread(send, broker, queue_name, b"again")
        (delivery,) = await reader.received(1)
        assert delivery.body == b"again"

    run(Reader(broker, queue_name), scenario)


def test_stop_ends_deliveries_and_keeps_verdicts(broker: Broker, queue_name: str) -> None:
    async def scenario(reader: Reader) -> None:
        await asyncio.to_thread(send, broker, queue_name, b"before")
        (delivery,) = await reader.received(1)
        await reader.consumer.stop()
        await reader.consumer.stop()
        await asyncio.to_thread(send, broker, queue_name, b"after")
        reader.consumer.settle(delivery, Verdict.ACK)
        await reader.consumer.close()
        assert not reader.deliveries
        assert await asyncio.to_thread(ready_messages, broker, queue_name) == 1

    run(Reader(broker, queue_name), scenario)


def test_a_failing_callback_stops_nothing(broker: Broker, queue_name: str) -> None:
    seen: list[bytes] = []

    def callback(delivery: Delivery) -> None:
        seen.append(delivery.body)
        raise ValueError("of the user")

    async def main() -> None:
        consumer = AioConsumer(
            Reach((Address.parse(broker.url),), 10, 5),
            name="aio-test",
            queues=[queue_name],
            prefetch=10,
            declarations=[DeclareQueue(queue_name)],
            on_delivery=callback,
        )
        consumer.start()
        await consumer.ready(30)
        await asyncio.to_thread(send, broker, queue_name, b"1", b"2")
        await aeventually(lambda: len(seen) == 2, 30)
        await consumer.close()

    asyncio.run(main())
    assert eventually(lambda: ready_messages(broker, queue_name) == 2)


def test_a_conflicting_declaration_is_the_reason_given(broker: Broker, queue_name: str) -> None:
    with broker.channel() as channel:
        channel.queue_declare(queue_name, durable=True, arguments={"x-max-length": 5})
    reader = Reader(broker, queue_name)

    async def main() -> None:
        reader.consumer.start()
        with pytest.raises(OperationRefused, match="x-max-length") as caught:
            await reader.consumer.ready(1)
        assert caught.value.code == 406
        await reader.consumer.close()

    asyncio.run(main())


def test_a_refused_login_and_a_silent_host_are_told_apart(broker: Broker) -> None:
    address = Address.parse(broker.url)
    wrong = Address(host=address.host, port=address.port, password="s3cr3t")
    nobody = Address(host="127.0.0.1", port=1, password="s3cr3t")

    async def main() -> None:
        for place, error in ((wrong, LoginRefused), (nobody, ConnectFailed)):
            consumer = AioConsumer(
                Reach((place,), 10, 5), name="aio-test", queues=["q"], prefetch=1, on_delivery=print
            )
            consumer.start()
            with pytest.raises(error) as caught:
                await consumer.ready(1)
            assert type(caught.value) is error
            assert "s3cr3t" not in str(caught.value)
            await consumer.close()

    asyncio.run(main())


def test_a_restarted_broker_is_consumed_again(fresh_broker: OwnBroker) -> None:
    async def scenario(reader: Reader) -> None:
        await asyncio.to_thread(fresh_broker.kill)
        await asyncio.to_thread(fresh_broker.start)
        await reader.consumer.ready(60)
        await asyncio.to_thread(send, fresh_broker, "q", b"after")
        (delivery,) = await reader.received(1)
        assert delivery.body == b"after"

    run(Reader(fresh_broker, "q"), scenario)


def delete(broker: Broker, queue: str) -> None:
    with broker.channel() as channel:
        channel.queue_delete(queue)
