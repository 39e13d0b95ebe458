from __future__ import annotations

import uuid

from amqtask.amqp.session import Session
from amqtask.topology.plan import DeclareExchange, DeclareQueue
from benchmarks.place import Place
from tests.brokers import Broker


def test_what_was_there_stays_and_what_appeared_goes(broker: Broker) -> None:
    old, new, never = (f"bench-test-{uuid.uuid4().hex}" for _ in range(3))
    with Place(broker.url) as place, Session([place.address]) as session:
        session.apply([DeclareQueue(old), DeclareExchange(old, "direct")])
        place.expect([old, new, never], [old, new, never])
        session.apply([DeclareQueue(new), DeclareExchange(new, "direct")])
        place.clean()
        try:
            assert session.queue(old) is not None
            assert session.exchange_exists(old)
            assert session.queue(new) is None
            assert not session.exchange_exists(new)
        finally:
            session.delete_queue(old)
            session.delete_exchange(old)


def test_a_place_knows_its_broker(broker: Broker) -> None:
    with Place(broker.url) as place:
        assert tuple(int(part) for part in place.version.split(".")[:3]) == broker.version
        assert place.env["AMQTASK_BROKER_URL"] == broker.url
        assert ("BENCH_BROKER_PID" in place.env) == (place.pid is not None)
