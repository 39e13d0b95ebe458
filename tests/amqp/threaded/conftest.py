"""Barriers and those who bring chords together, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.amqp.threaded.barriers import Bodies, Site, Stage
from tests.brokers import Broker


@pytest.fixture
def stage(broker: Broker, queue_name: str) -> Iterator[Stage]:
    made = Stage(broker, queue_name)
    yield made
    made.close()


@pytest.fixture
def sites(broker: Broker, queue_name: str) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(bodies: Any = None, *, url: str = broker.url, **more: Any) -> Site:
        made.append(Site(url, bodies or Bodies(queue_name), **more))
        return made[-1]

    yield make
    for site in made:
        site.close()
