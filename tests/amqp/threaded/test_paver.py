"""Making ways through the delay ladder while the connection breaks."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from amqtask.amqp.address import parse_addresses
from amqtask.amqp.reach import Reach
from amqtask.amqp.session import Session
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.errors import BrokerError
from amqtask.testing import Proxy
from amqtask.topology.ladder import Ladder
from amqtask.topology.model import Queue
from amqtask.topology.plan import declare_queue
from tests.brokers import Broker
from tests.waiting import eventually

LADDER = Ladder("delays")  # the one of the tests of delays
MESSAGE = Envelope(b"{}", Properties(delivery_mode=2))


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    with Proxy.before(broker.url) as made:
        yield made


@pytest.fixture
def io() -> Iterator[IoThread]:
    made = IoThread("test-io")
    yield made
    made.stop()


@pytest.fixture
def publisher(io: IoThread, proxy: Proxy) -> Iterator[ThreadedPublisher]:
    made = ThreadedPublisher(
        io,
        Reach(parse_addresses(proxy.url), 10, 4),
        name="test",
        window=100,
        buffer=100,
        ladder=LADDER,
    )
    yield made
    made.close(5)


@pytest.fixture
def session(broker: Broker) -> Iterator[Session]:
    with Session(parse_addresses(broker.url), name="test") as made:
        yield made


def arrived(session: Session, queue: str) -> int:
    state = session.queue(queue)
    return 0 if state is None else state.messages


@pytest.mark.exact("cuts its connection itself, at one moment")
def test_a_connection_that_dies_before_the_channel_is_open(
    session: Session, proxy: Proxy, io: IoThread, publisher: ThreadedPublisher, queue_name: str
) -> None:
    """As the first delayed task after a quiet minute finds it when the network has dropped the connection."""
    session.declare(declare_queue(Queue(name=queue_name, type="classic")))
    publisher.publish(Publication("", queue_name, MESSAGE), 10)
    proxy.freeze(*(link.number for link in proxy.links))
    begun, ended = threading.Event(), threading.Event()
    errors: list[BrokerError | None] = []

    def settled(error: BrokerError | None) -> None:
        errors.append(error)
        ended.set()

    publisher.submit(
        Publication(*LADDER.entry(0.1, queue_name), MESSAGE), settled, 15, due_in=queue_name
    )
    io.post(begun.set)
    assert begun.wait(10)  # it has asked for a channel, and gets no answer
    proxy.cut()

    assert ended.wait(20)
    assert errors == [None]
    eventually(lambda: arrived(session, queue_name) == 2, 10)
