"""Where a broker comes from: the order as a table, and what really happens on this machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from amqtask.amqp.probe import probe
from amqtask.broker import choice
from amqtask.broker.choice import Findings, Source, choose, look, open_broker
from amqtask.broker.docker import engine_answers
from amqtask.errors import BrokerError, ConfigurationError, ConnectFailed
from tests.brokers import Broker, OwnBroker


@pytest.mark.parametrize(
    ("url", "docker", "server", "can_install"),
    list(itertools.product(["amqp://h/", None], [True, False], [True, False], [True, False])),
)
def test_the_order(url: str | None, docker: bool, server: bool, can_install: bool) -> None:
    found = Findings(url=url, docker=docker, server=server, can_install=can_install)
    in_order = [
        (bool(url), Source.URL),
        (docker, Source.DOCKER),
        (server, Source.NODE),
        (can_install, Source.INSTALLED_NODE),
    ]
    expected = next((source for there, source in in_order if there), None)
    if expected is None:
        with pytest.raises(ConfigurationError, match="apt-get install rabbitmq-server"):
            choose(found)
    else:
        assert choose(found) is expected


def test_an_empty_url_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "engine_answers", lambda: True)
    assert choose(look({"AMQTASK_BROKER_URL": ""})) is Source.DOCKER


@pytest.mark.parametrize(
    ("script", "answers"),
    [
        ("exit 1", False),
        ("echo Cannot connect to the Docker daemon >&2; exit 1", False),
        ("exit 0", False),  # some clients end with 0 and no server version
        ("exec sleep 60", False),
        ("echo 27.3.1", True),
    ],
)
def test_only_an_engine_that_answers_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, answers: bool
) -> None:
    client = tmp_path / "docker"
    client.write_text(f"#!/bin/sh\n{script}\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert engine_answers(timeout=1.0) is answers


def test_no_docker_client_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert engine_answers() is False


def test_the_given_broker_is_used_and_left_running(broker: Broker) -> None:
    said: list[str] = []
    with open_broker({"AMQTASK_BROKER_URL": broker.url}, note=said.append) as chosen:
        assert chosen.source is Source.URL
        assert chosen.url == broker.url
        assert chosen.version == broker.version
    assert len(said) == 1
    assert probe(broker.url).release == broker.version


def test_a_given_broker_that_does_not_answer_is_one_sentence_without_the_password() -> None:
    environ = {"AMQTASK_BROKER_URL": "amqp://guest:s3cret@127.0.0.1:1/"}
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1") as caught, open_broker(environ):
        pass
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_given_broker_with_a_wrong_url_is_an_error() -> None:
    with pytest.raises(ConfigurationError), open_broker({"AMQTASK_BROKER_URL": "http://h/"}):
        pass


def test_an_engine_without_an_image_gives_way_to_the_next_in_the_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_image() -> AbstractContextManager[tuple[str, str | None]]:
        raise BrokerError("docker compose up failed: no such image.")

    found = Findings(docker=True)
    monkeypatch.setattr(choice, "look", lambda _environ: found)
    said: list[str] = []
    with (
        pytest.raises(ConfigurationError, match="no broker to use"),
        open_broker({}, docker=no_image, note=said.append),
    ):
        pass
    assert any("no such image" in line for line in said)


def test_a_docker_broker_is_used_where_an_engine_answers(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []

    @contextmanager
    def container() -> Iterator[tuple[str, str | None]]:
        yield broker.url, None
        ended.append(True)

    monkeypatch.setattr(choice, "look", lambda _environ: Findings(docker=True, server=True))
    with open_broker({}, docker=container) as chosen:
        assert chosen.source is Source.DOCKER
        assert ended == []
    assert ended == [True]


@pytest.mark.broker
def test_a_server_on_the_machine_becomes_a_private_node_that_ends_with_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choice.ensure_server()
    monkeypatch.setattr(choice, "engine_answers", lambda: False)
    with open_broker({}) as chosen:
        assert chosen.source is Source.NODE
        assert chosen.node is not None
        home = chosen.node.home
        assert probe(chosen.url).product == "RabbitMQ"
    assert not home.exists()
    with pytest.raises(ConnectFailed):
        probe(chosen.url)


def test_a_broker_of_the_tests_own_keeps_its_address_and_its_queues(
    fresh_broker: OwnBroker,
) -> None:
    with fresh_broker.channel() as channel:
        channel.queue_declare("kept", durable=True)
    # A clean stop: a killed 3.10 forgets what was declared in its last moments.
    fresh_broker.restart()
    with fresh_broker.channel() as channel:
        channel.queue_declare("kept", passive=True)
    fresh_broker.kill()
    with pytest.raises(ConnectFailed):
        probe(fresh_broker.url)
    fresh_broker.start()
    assert probe(fresh_broker.url).release == fresh_broker.version
