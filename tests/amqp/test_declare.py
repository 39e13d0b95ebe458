"""Carrying out a topology on a real broker."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from amqtask.amqp import declare
from amqtask.amqp.address import Address
from amqtask.amqp.session import Session
from amqtask.errors import OperationRefused, TopologyConflict, Unsupported
from amqtask.topology import plan
from amqtask.topology.model import Binding, Exchange, Queue, Topology
from tests.brokers import Broker


@pytest.fixture
def session(broker: Broker) -> Iterator[Session]:
    with Session((Address.parse(broker.url),), name="test") as session:
        yield session


def _topology(queue: str, exchange: str, **options: object) -> Topology:
    return Topology(
        exchanges={exchange: Exchange(name=exchange, type="topic")},
        queues={
            queue: Queue(
                name=queue,
                type="classic",
                dead_letter=True,
                bindings=(Binding(exchange, "a.#"),),
                **options,  # type: ignore[arg-type]  # the test's own words
            )
        },
    )


def test_steps_tell_what_is_new(session: Session, queue_name: str) -> None:
    exchange = f"e-{uuid.uuid4().hex}"
    topology = _topology(queue_name, exchange)
    try:
        first = list(declare.carry_out(session, topology))
        second = list(declare.carry_out(session, topology))
    finally:
        session.delete_exchange(exchange)

    assert [step.text for step in first] == [
        f"exchange {exchange} (topic)",
        "exchange amqtask.dropped (direct)",
        f"queue {queue_name} (classic)",
        f"queue {queue_name}.dead (classic)",
        "queue amqtask.dropped (quorum)",
        "binding amqtask.dropped → queue amqtask.dropped, key amqtask.plan",
        f"binding amqtask.dropped → queue {queue_name}.dead, key {queue_name}.dead",
        f"binding amqtask.dropped → queue amqtask.dropped, key {queue_name}.dead",
        f"binding {exchange} → queue {queue_name}, key a.#",
    ]
    ours = [
        step for step in first if "queue amqtask.dropped" not in step.text
    ]  # which others share
    assert [step.created for step in ours if "dropped (direct)" not in step.text] == [True, True, True, None, None]  # fmt: skip
    assert [step.created for step in second] == [False] * 5 + [None] * 4


def test_a_conflict_is_found_before_anything_is_made(session: Session, queue_name: str) -> None:
    exchange = f"e-{uuid.uuid4().hex}"
    session.declare(plan.declare_queue(Queue(name=queue_name, type="classic", max_length=5)))

    with pytest.raises(TopologyConflict) as caught:
        list(declare.carry_out(session, _topology(queue_name, exchange, max_length=6)))

    assert queue_name in str(caught.value)
    assert not session.exchange_exists(exchange)
    assert session.queue(f"{queue_name}.dead") is None


def test_a_locked_queue_is_named(session: Session, broker: Broker, queue_name: str) -> None:
    with broker.channel() as channel:
        channel.queue_declare(queue_name, exclusive=True)

        with pytest.raises(OperationRefused, match=f"queue {queue_name} .* is locked"):
            list(declare.carry_out(session, Topology(queues={queue_name: Queue(name=queue_name)})))


def test_what_a_broker_lacks() -> None:
    told: list[str] = []
    topology = Topology(queues={"q": Queue(name="q", type="quorum", consumer_timeout=60)})
    with pytest.raises(Unsupported, match=r"since 3\.8"):
        declare.check_support((3, 7, 0), topology, told.append)

    assert any("consumer_timeout" in text for text in told)
