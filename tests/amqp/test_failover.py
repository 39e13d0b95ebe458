"""Several broker URLs: a dead one costs a moment, and one that dies is left for the next."""

from __future__ import annotations

import asyncio

import pytest

from amqtask.amqp.address import Address, in_order, parse_addresses
from amqtask.amqp.aio.publisher import AioPublisher
from amqtask.amqp.reach import Reach
from amqtask.amqp.session import Session
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.testing.proxy import Proxy
from tests.brokers import Broker

DEAD = "amqp://guest:guest@127.0.0.1:1//"


def to(queue: str) -> Publication:
    return Publication("", queue, Envelope(b"{}", Properties(delivery_mode=2)))


def declare(broker: Broker, queue: str) -> None:
    with broker.channel() as channel:
        channel.queue_declare(queue, durable=True)


def depth(broker: Broker, queue: str) -> int:
    with broker.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


def test_a_session_takes_the_first_that_answers(broker: Broker) -> None:
    with Session(parse_addresses(f"{DEAD};{broker.url}"), name="test") as session:
        assert session.address == Address.parse(broker.url)


def test_a_publisher_passes_over_the_dead_and_leaves_the_dying(
    broker: Broker, queue_name: str
) -> None:
    declare(broker, queue_name)
    io = IoThread("test-io")
    with Proxy.before(broker.url) as one, Proxy.before(broker.url) as two:
        publisher = ThreadedPublisher(
            io,
            Reach(parse_addresses(f"{DEAD};{one.url};{two.url}"), 10, 4),
            name="test",
            window=10,
            buffer=10,
        )
        try:
            publisher.publish(to(queue_name), 5)
            assert (len(one.links), len(two.links)) == (1, 0)
            one.refuse()
            one.cut()
            publisher.publish(to(queue_name), 5)
            assert (len(one.links), len(two.links)) == (0, 1)
            one.accept()
            two.refuse()
            two.cut()
            publisher.publish(to(queue_name), 5)
            assert len(one.links) == 1
        finally:
            publisher.close()
            io.stop()
    assert depth(broker, queue_name) == 3


def test_an_asyncio_publisher_does_so_too(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)

    async def scenario(one: Proxy, two: Proxy) -> None:
        publisher = AioPublisher(
            Reach(parse_addresses(f"{DEAD};{one.url};{two.url}"), 10, 4), name="test"
        )
        try:
            await publisher.publish(to(queue_name), 5)
            assert (len(one.links), len(two.links)) == (1, 0)
            one.refuse()
            one.cut()
            await publisher.publish(to(queue_name), 5)
            assert (len(one.links), len(two.links)) == (0, 1)
        finally:
            await publisher.close()

    with Proxy.before(broker.url) as one, Proxy.before(broker.url) as two:
        asyncio.run(scenario(one, two))
    assert depth(broker, queue_name) == 2


@pytest.mark.parametrize(("strategy", "orders"), [("round-robin", 1), ("shuffle", 6)])
def test_orders(strategy: str, orders: int) -> None:
    given = parse_addresses("amqp://a;amqp://b;amqp://c")

    found = {in_order(given, strategy) for _ in range(200)}

    assert len(found) == orders
    assert all(set(each) == set(given) for each in found)
