"""Folders to run commands in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Broker
from tests.cli.running import Folder, Shop

NOWHERE = "amqp://guest:secret-word@127.0.0.1:1//"  # nobody listens at port 1


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty folder, and no broker."""
    return Folder(tmp_path, NOWHERE)


@pytest.fixture
def offline(tmp_path: Path) -> Shop:
    """The shop's app and topology, and no broker."""
    return Shop(tmp_path, NOWHERE)


@pytest.fixture
def shop(tmp_path: Path, broker: Broker) -> Iterator[Shop]:
    """The shop's app and topology on the run's broker; what it declares there is deleted afterwards."""
    shop = Shop(tmp_path, broker.url)
    yield shop
    shop.forget(broker)
