"""``amqtask revoke``."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from amqtask.cli.revoke import parse_headers
from amqtask.core.verdicts import STREAM
from amqtask.errors import ConfigurationError
from tests.brokers import Broker
from tests.cli.running import AMQTASK, Shop

pytestmark = pytest.mark.process


def test_headers_of_one_name_are_alternatives() -> None:
    assert parse_headers(["a=1", "b=x=y", "a=2", "c="]) == {
        "a": ["1", "2"],
        "b": ["x=y"],
        "c": [""],
    }


@pytest.mark.parametrize("text", ["", "a", "=1"])
def test_a_header_that_is_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--header takes NAME=VALUE"):
        parse_headers([text])


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((), "Which tasks? "),
        (("an-id", "--header", "a=1"), "Which tasks? "),
        (("an-id", "--signal", "SIGTREM"), "There is no signal 'SIGTREM'"),
        (("",), "An id is missing"),
    ],
)
def test_mistakes_are_one_sentence(offline: Shop, flags: tuple[str, ...], sentence: str) -> None:
    found = offline.run("revoke", *flags)

    assert found.returncode == 1
    assert found.stderr.startswith(sentence)
    assert len(found.stderr.splitlines()) == 1


def test_it_is_in_the_stream_when_the_command_returns(shop: Shop, broker: Broker) -> None:
    with broker.channel() as channel:
        channel.queue_delete(STREAM)

    for flags in (("one", "two", "--terminate"), ("--header", "customer=42")):
        found = shop.run("revoke", *flags)

        assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    bodies: list[bytes] = []
    with broker.channel() as channel:
        channel.basic_qos(prefetch_count=2)
        for method, _, body in channel.consume(
            STREAM, arguments={"x-stream-offset": "first"}, inactivity_timeout=10
        ):
            assert method is not None, bodies
            assert body is not None
            bodies.append(body)
            if len(bodies) == 2:
                break
    assert b'"ids":["one","two"]' in bodies[0]
    assert b'"terminate":true' in bodies[0]
    assert b'"headers":{"customer":["42"]}' in bodies[1]


def test_an_interrupted_one_does_not_wait_for_a_broker_that_is_away(offline: Shop) -> None:
    away = "amqp://guest:guest@127.0.0.1:1//"
    with subprocess.Popen(
        [AMQTASK, "-b", away, "revoke", "an-id"],
        cwd=offline.path,
        env=offline.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stderr is not None
        assert "No RabbitMQ answers" in command.stderr.readline()
        command.send_signal(signal.SIGINT)
        interrupted = time.monotonic()
        told = command.stderr.read()

    assert command.returncode == 130
    assert time.monotonic() - interrupted < 8
    assert "Traceback" not in told
