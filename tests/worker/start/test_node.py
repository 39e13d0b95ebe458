"""What a node settles before its children start."""

from __future__ import annotations

import pytest

from amqtask.amqp.address import Address
from amqtask.amqp.session import Session
from amqtask.core.prefetch import FIRST
from amqtask.errors import ConnectFailed, LoginRefused, OperationRefused
from amqtask.settings import Settings
from amqtask.testing import Proxy
from amqtask.topology.parse import parse
from amqtask.topology.plan import DeclareExchange
from amqtask.worker.start.node import _at_the_broker, _prefetch, _single_active
from amqtask.worker.start.options import WorkerOptions
from tests.brokers import Broker

TOPOLOGY = parse(
    "version: 1\nqueues: {plain: {}, single: {single_active_consumer: true}}\n", "test.yaml"
)


@pytest.mark.parametrize(
    ("queues", "multiplier", "expected"),
    [
        (("plain",), None, None),
        (("plain", "elsewhere"), None, None),
        (("plain",), 3, 3),
        (("plain", "single"), None, FIRST),
        (("single",), 3, 3),
    ],
)
def test_the_prefetch_stays_where_an_active_consumer_must(
    queues: tuple[str, ...], multiplier: int | None, expected: int | None
) -> None:
    options = WorkerOptions.parse(app="shop", concurrency=2, prefetch_multiplier=multiplier)

    assert _prefetch(_single_active(TOPOLOGY, queues), options) == expected


def test_a_broker_that_goes_away_under_the_checks_is_asked_again(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with Proxy.before(broker.url) as proxy:
        tries = 0

        def look(session: Session) -> int:
            nonlocal tries
            tries += 1
            if tries < 3:
                proxy.cut()
            assert session.queue("no-such-queue") is None
            return tries

        assert _at_the_broker(look, (Address.parse(proxy.url),), Settings(), "test") == 3
    told = [each for each in caplog.messages if "waiting for the broker" in each]
    assert "was lost" in told[0]
    assert len(told) == len(set(told))


def test_what_will_not_pass_ends_the_start(broker: Broker) -> None:
    def declare(session: Session) -> None:
        session.declare(DeclareExchange("amqtask.test", "no-such-type"))

    with pytest.raises(OperationRefused):
        _at_the_broker(declare, (Address.parse(broker.url),), Settings(), "test")
    stranger = Address.parse(broker.url.replace("guest:guest", "guest:wrong"))
    with pytest.raises(LoginRefused):
        _at_the_broker(declare, (stranger,), Settings(), "test")


def test_a_worker_may_be_told_not_to_wait() -> None:
    nobody = Address(host="127.0.0.1", port=1)
    settings = Settings(broker_connection_retry_on_startup=False)
    with pytest.raises(ConnectFailed):
        _at_the_broker(lambda _: None, (nobody,), settings, "test")
