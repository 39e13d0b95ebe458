"""How long a broker is left alone between two attempts to connect."""

from __future__ import annotations

import itertools
import random
import uuid

from amqtask.amqp.address import Address
from amqtask.amqp.pause import NEXT_BROKER, REFUSED_EVERY, RETRY_CAP, Turns, pause
from amqtask.errors import ConnectFailed, LoginRefused

RNG = random.Random(7)
DOWN = ConnectFailed("down")


def address(name: str = "a") -> Address:
    return Address(host=f"{name}-{uuid.uuid4().hex[:8]}")


def test_the_wait_grows_to_its_cap_and_no_further() -> None:
    a = address()
    waits = [[pause(DOWN, a, a, attempt, 1, RNG) for _ in range(200)] for attempt in range(10)]

    assert max(waits[0]) <= 0.1
    assert all(max(found) <= RETRY_CAP for found in waits)
    assert max(waits[9]) > RETRY_CAP * 0.9
    assert min(waits[9]) < RETRY_CAP * 0.1  # jitter over the whole range: nobody comes back in step


def test_the_next_of_several_brokers_is_tried_at_once() -> None:
    a, b = address("a"), address("b")

    assert all(pause(DOWN, a, b, attempt, 2, RNG) <= NEXT_BROKER for attempt in (0, 2, 20))
    assert max(pause(DOWN, b, a, 21, 2, RNG) for _ in range(100)) > NEXT_BROKER


def test_a_refused_login_waits_and_another_broker_does_not() -> None:
    a, b = address("a"), address("b")
    refused = LoginRefused("no")

    assert pause(refused, a, b, 0, 2, RNG) <= NEXT_BROKER
    assert pause(DOWN, b, a, 1, 2, RNG) > REFUSED_EVERY - 1
    assert pause(DOWN, b, address("c"), 1, 2, RNG) <= RETRY_CAP


def test_connections_of_a_process_take_turns() -> None:
    turns, a = Turns(), address()
    assert turns.wait(a, 100.0) == 0.0
    turns.refused(a, 100.0)
    turns.refused(a, 100.1)
    moments = sorted(100.1 + turns.wait(a, 100.1) for _ in range(4))
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]

    assert moments[0] >= 100.0 + REFUSED_EVERY
    assert all(gap >= REFUSED_EVERY - 1e-6 for gap in gaps)
    turns.accepted(a)
    assert turns.wait(a, 101.0) == 0.0
