"""`amqtask broker start|stop|status|url`, as a user types it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amqtask.amqp.probe import probe
from amqtask.broker.choice import ensure_server
from amqtask.broker.node import PrivateNode
from amqtask.broker.processes import marked

pytestmark = pytest.mark.process

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "a folder" / "broker"
    yield home
    PrivateNode(home).discard()


@pytest.fixture
def amqtask(home: Path) -> Command:
    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name("amqtask")), *arguments],
            env={**os.environ, "AMQTASK_BROKER_HOME": str(home), **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )

    return run


def _facts(text: str) -> dict[str, str]:
    return {
        name: value.strip()
        for name, _, value in (line.partition(":") for line in text.splitlines())
    }


@pytest.mark.broker
def test_the_life_of_a_development_broker(amqtask: Command, home: Path) -> None:
    ensure_server()
    started = amqtask("broker", "start")
    assert started.returncode == 0, started.stderr
    facts = _facts(started.stdout)
    assert facts["state"] == "running"
    assert re.fullmatch(r"RabbitMQ \d+\.\d+\.\d+.*", facts["version"])
    assert int(facts["amqp port"]) > 0

    again = amqtask("broker", "start")
    assert again.stdout == started.stdout
    status = amqtask("broker", "status")
    assert (status.returncode, status.stdout) == (0, started.stdout)

    url = amqtask("broker", "url")
    assert url.returncode == 0
    assert url.stdout.splitlines() == [facts["url"]]
    assert f"RabbitMQ {probe(facts['url']).version}" == facts["version"]

    assert amqtask("broker", "stop").returncode == 0
    assert marked(str(home)) == []
    stopped = amqtask("broker", "status")
    assert stopped.returncode == 3
    assert _facts(stopped.stdout)["state"] == "stopped"


def test_before_the_first_start(amqtask: Command) -> None:
    status = amqtask("broker", "status")
    assert (status.returncode, _facts(status.stdout)["state"]) == (3, "stopped")
    url = amqtask("broker", "url")
    assert (url.returncode, url.stdout) == (1, "")
    assert len(url.stderr.splitlines()) == 1
    assert "amqtask broker start" in url.stderr
    assert amqtask("broker", "stop").returncode == 0


@pytest.mark.broker
def test_a_folder_that_cannot_be_made_is_one_sentence(amqtask: Command) -> None:
    ensure_server()
    done = amqtask("broker", "start", AMQTASK_BROKER_HOME="/proc/no/such")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "AMQTASK_BROKER_HOME" in done.stderr


def test_the_version_is_told(amqtask: Command) -> None:
    done = amqtask("--version")
    assert done.returncode == 0
    assert re.match(r"amqtask \d", done.stdout)
