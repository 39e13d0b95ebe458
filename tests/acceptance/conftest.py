"""Places to start nodes in, and a broker that these tests may stop and kill."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from amqtask.errors import BrokerError
from tests.acceptance.nodes import Place
from tests.acceptance.workflows import TASKS, Canvas
from tests.brokers import Broker, OwnBroker, own_broker

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.acceptance)
            item.add_marker(pytest.mark.broker)


@pytest.fixture
def place(tmp_path: Path, broker: Broker) -> Iterator[Callable[..., Place]]:
    """Make a place on the run's broker: ``place(type="quorum", …)``. At most one of the same folder name."""
    with ExitStack() as stack:

        def make(*, on: Broker | None = None, **options: Any) -> Place:
            folder = tmp_path / f"place-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return stack.enter_context(Place(folder, on or broker, **options))

        yield make


@pytest.fixture(scope="session")
def own() -> Iterator[OwnBroker]:
    """A broker of these tests' own, to stop, kill and freeze; left running by every test."""
    with own_broker() as broker:
        yield broker


@pytest.fixture
def outage(own: OwnBroker) -> Iterator[OwnBroker]:
    """The broker to be shut down, killed or frozen; running again afterwards."""
    yield own
    with contextlib.suppress(BrokerError):  # it is not running
        own.resume()
    own.start()


@pytest.fixture(scope="module")
def canvas(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> Iterator[Canvas]:
    folder = tmp_path_factory.mktemp("canvas")
    with Place(folder, broker, tasks=TASKS, more=("other",)) as place:
        node = place.node("-c2", "-Q", ",".join(place.queues))
        yield Canvas(place)
        assert node.stop() == 0
        assert not node.records("a callback on the I/O thread failed"), node.output
        assert not node.records("a message could not be settled and is rejected"), node.output
