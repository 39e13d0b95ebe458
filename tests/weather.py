"""Bad weather: every connection of the tests goes through a proxy that cuts, freezes and slows at random.

``--weather=random`` turns it on for a run, ``--weather=7`` with the seed of an earlier one: apps, workers and commands then
see the proxy's URL. What the tests themselves ask the broker goes past it.

A run takes the tests that work on the run's broker and break nothing themselves, and leaves out those marked ``exact``, each
with its reason: they assert a time, a connection, a silence, or that nothing was sent or run twice, which a cut may change.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import pika
import pytest

from amqtask.testing import Proxy
from tests.brokers import Broker

RANDOM = "random"
# A test that takes one of these stops, cuts or kills what it works on.
OWN = frozenset({"private_node", "fresh_broker", "own", "outage", "chaos", "cluster", "proxy"})
OF_CONNECTIONS = ("no broker connection ", "connected to the broker again ")
FAIR = (0.8, 4.0)  # seconds between two spells
FREEZE = (0.1, 0.8)  # seconds; longer ones are for the chaos run, which waits for what they cost
SLOW = (0.2, 1.0)

_blowing = threading.Event()
T = TypeVar("T")


def add_option(parser: pytest.Parser) -> None:
    """``--weather=SEED``."""
    parser.addoption(
        "--weather",
        metavar="SEED",
        help="run what works on the run's broker through a network that fails; 'random' draws the seed",
    )


def seed_of(config: pytest.Config) -> str | None:
    """The seed, if this run is to have bad weather; the same whenever it is asked for."""
    if config.option.weather == RANDOM:
        config.option.weather = str(random.randrange(10_000))
    seed: str | None = config.option.weather
    return seed


def suits(item: pytest.Item) -> bool:
    """Whether a test makes sense where the network fails.

    Raises:
        UsageError: it is marked ``exact`` and does not say why.
    """
    exact = item.get_closest_marker("exact")
    if exact is not None and not exact.args:
        raise pytest.UsageError(f"{item.nodeid} is marked exact without a reason")
    fixtures = set(getattr(item, "fixturenames", ()))
    return "broker" in fixtures and not fixtures & OWN and exact is None


def blows() -> bool:
    """Whether the network of this run fails."""
    return _blowing.is_set()


def distinct(found: list[T], identity: Callable[[T], object]) -> list[T]:
    """What arrived, less what came twice because of this weather: published again, since its confirm was cut off."""
    if not blows():
        return found
    return list({identity(each): each for each in reversed(found)}.values())[::-1]


def all_of(found: int, sent: int) -> bool:
    """Whether as many are there as were sent; more, where this weather had some published again."""
    return found >= sent if blows() else found == sent


def told(stderr: str) -> str:
    """What a program wrote, less what it tells of this weather."""
    if not blows():
        return stderr
    lines = stderr.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(OF_CONNECTIONS))


class ProxiedBroker(Broker):
    """A broker whose URL leads through the proxy, while ``connect`` and ``channel`` go straight to it."""

    def __init__(self, broker: Broker, url: str) -> None:
        super().__init__(url, broker.management_url, broker.version)
        self._straight = broker

    def connect(self) -> pika.BlockingConnection:
        return self._straight.connect()


@contextlib.contextmanager
def bad(broker: Broker, seed: str) -> Iterator[Broker]:
    """The broker as seen through a proxy that makes trouble until the end of the block."""
    with Proxy.before(broker.url) as proxy:
        fair = threading.Event()
        spells = threading.Thread(target=_make, args=(proxy, seed, fair), name="weather")
        spells.start()
        _blowing.set()
        try:
            yield ProxiedBroker(broker, proxy.url)
        finally:
            _blowing.clear()
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
