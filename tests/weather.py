"""Bad weather: every connection of the tests' brokers goes through a proxy that cuts, freezes and slows at random.

``AMQTASK_TEST_CHAOS_PROXY=SEED`` turns it on for a run: apps, workers and commands then see the proxy's URL. What the tests
themselves ask the broker goes past it. Tests marked ``exact`` are left out: what they assert is a time, a connection, or
that nothing ran twice.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Iterator

import pika

from amqtask.testing import Proxy
from tests.brokers import Broker

VARIABLE = "AMQTASK_TEST_CHAOS_PROXY"
FAIR = (0.8, 4.0)  # seconds between two spells
FREEZE = (0.1, 0.8)  # seconds; longer ones are for the chaos run, which waits for what they cost
SLOW = (0.2, 1.0)


def asked_for() -> str | None:
    """The seed, if this run is to have bad weather."""
    return os.environ.get(VARIABLE) or None


class ProxiedBroker(Broker):
    """A broker whose URL leads through the proxy, while ``connect`` and ``channel`` go straight to it."""

    def __init__(self, broker: Broker, url: str) -> None:
        super().__init__(url, broker.management_url, broker.version)
        self._straight = broker

    def connect(self) -> pika.BlockingConnection:
        return self._straight.connect()


@contextlib.contextmanager
def bad_weather(broker: Broker, seed: str) -> Iterator[Broker]:
    """The broker as seen through a proxy that makes trouble until the end of the block."""
    with Proxy.before(broker.url) as proxy:
        fair = threading.Event()
        spells = threading.Thread(target=_make, args=(proxy, seed, fair), name="weather")
        spells.start()
        try:
            yield ProxiedBroker(broker, proxy.url)
        finally:
            fair.set()
            spells.join()


def _make(proxy: Proxy, seed: str, fair: threading.Event) -> None:
    rng = random.Random(f"weather {seed}")
    while not fair.wait(rng.uniform(*FAIR)):
        links = proxy.links
        match rng.choice(("one", "one", "all", "freeze", "slow")):
            case "one" if links:
                proxy.cut(rng.choice(links).number)
            case "all":
                proxy.cut()
            case "freeze":
                proxy.freeze()
                fair.wait(rng.uniform(*FREEZE))
                proxy.thaw()
            case _:
                proxy.slow(rate=100_000, latency=rng.uniform(0.0, 0.05))
                fair.wait(rng.uniform(*SLOW))
                proxy.slow()
