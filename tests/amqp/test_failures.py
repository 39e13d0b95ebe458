"""What the broker's refusals mean."""

from __future__ import annotations

import uuid

import pytest

from amqtask.amqp import failures
from amqtask.amqp.address import Address
from amqtask.amqp.session import Session
from amqtask.errors import OperationRefused
from tests.brokers import Broker

WHERE = "queue 'email' in vhost '/'"


@pytest.mark.parametrize(
    "text",
    [
        f"home node 'rabbit@a' of durable {WHERE} is down or inaccessible",
        f"{WHERE} process is stopped by supervisor",
        f"{WHERE} has crashed and failed to restart",
        f"failed to perform operation on {WHERE} due to timeout",
        f"home node 'rabbit@a' of durable queue '{'x' * 200}",  # cut off: reply texts hold 255 bytes
    ],
)
def test_a_queue_that_cannot_be_reached_is_there(text: str) -> None:
    refused = OperationRefused(404, f"NOT_FOUND - {text}")

    assert failures.absent(refused)
    assert failures.temporary(refused)


@pytest.mark.parametrize(
    "text",
    [
        "no queue 'email-timeouts' in vhost '/'",
        "no queue 'email' in vhost 'down or inaccessible'",
        "no queue 'it's due to timeout' in vhost '/'",
        "no exchange 'timeout' in vhost '/'",
    ],
)
def test_words_in_a_name_tell_nothing(text: str) -> None:
    refused = OperationRefused(404, f"NOT_FOUND - {text}")

    assert not failures.absent(refused)
    assert not failures.temporary(refused)


def test_a_missing_queue_is_missing_whatever_its_name(broker: Broker) -> None:
    with Session((Address.parse(broker.url),), name="test") as session:
        assert session.queue(f"email-timeouts-{uuid.uuid4().hex}") is None
