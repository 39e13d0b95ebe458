"""What a broker says of itself, and how a login that fails is told."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

from amqtask.amqp.probe import probe
from amqtask.amqp.session import ServerInfo
from amqtask.errors import ConfigurationError, ConnectFailed, LoginRefused
from tests.brokers import Broker


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("3.10.8", (3, 10, 8)),
        ("4.3.6+1", (4, 3, 6)),
        ("4.2.0-beta.1", (4, 2, 0)),
        ("", (0, 0, 0)),
        ("5", (5, 0, 0)),
    ],
)
def test_versions_compare_as_numbers(version: str, release: tuple[int, ...]) -> None:
    assert ServerInfo("RabbitMQ", version).release == release


def test_a_broker_tells_its_version(broker: Broker) -> None:
    assert probe(broker.url).product == "RabbitMQ"
    assert probe(broker.url).release == broker.version


def test_of_several_brokers_the_first_that_answers_is_asked(broker: Broker) -> None:
    assert probe(f"amqp://127.0.0.1:1/;{broker.url}").release == broker.version


def test_a_wrong_password_is_refused_and_not_told(broker: Broker) -> None:
    address = urlsplit(broker.url)
    with pytest.raises(LoginRefused) as caught:
        probe(f"amqp://guest:s3cret@{address.hostname}:{address.port}/")
    assert "s3cret" not in str(caught.value)


def test_a_virtual_host_that_does_not_exist_is_a_refused_login(broker: Broker) -> None:
    with pytest.raises(LoginRefused, match="no-such-vhost"):
        probe(broker.url.rpartition("/")[0] + "/no-such-vhost")


def test_a_server_that_accepts_and_says_nothing_has_a_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConnectFailed, match=str(port)):
            probe(f"amqp://127.0.0.1:{port}/", timeout=0.3)


def test_nobody_there() -> None:
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1\b"):
        probe("amqp://127.0.0.1:1/")


@pytest.mark.parametrize("url", ["", "http://host/", "amqp://host:99999/"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigurationError):
        probe(url)
