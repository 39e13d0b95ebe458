"""A command run with a broker: its exit code, its signals, and what is stopped afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from amqtask.broker.choice import ensure_server
from tests.brokers import Broker
from tests.waiting import eventually

pytestmark = pytest.mark.process

_RUN = [sys.executable, "-m", "amqtask.broker.run", "--"]


def _run(
    command: Sequence[str], environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_RUN, *command],
        env={**os.environ, **(environ or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_command_sees_the_broker_and_its_exit_code_is_ours(broker: Broker) -> None:
    code = "import os, sys; print(os.environ['AMQTASK_BROKER_URL']); sys.exit(7)"
    done = _run([sys.executable, "-c", code], {"AMQTASK_BROKER_URL": broker.url})
    assert done.returncode == 7
    assert done.stdout.strip() == broker.url


def test_a_command_killed_by_a_signal_ends_as_a_shell_would_say(broker: Broker) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    done = _run([sys.executable, "-c", code], {"AMQTASK_BROKER_URL": broker.url})
    assert done.returncode == 128 + signal.SIGKILL


def test_signals_reach_the_command_which_decides_what_they_mean(broker: Broker) -> None:
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()"
    )
    process = subprocess.Popen(
        [*_RUN, sys.executable, "-c", code],
        env={**os.environ, "AMQTASK_BROKER_URL": broker.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 5
    process.stdout.close()


def test_a_command_that_does_not_exist(broker: Broker) -> None:
    done = _run(["/no/such/command"], {"AMQTASK_BROKER_URL": broker.url})
    assert done.returncode == 127
    assert done.stderr.splitlines()[-1].startswith("/no/such/command cannot be run")


def test_no_command_at_all() -> None:
    assert _run([]).returncode == 2


def test_no_broker_is_one_sentence_without_the_password() -> None:
    done = _run(["true"], {"AMQTASK_BROKER_URL": "amqp://guest:s3cret@127.0.0.1:1/"})
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "s3cret" not in done.stderr


@pytest.fixture
def no_docker(tmp_path: Path) -> dict[str, str]:
    """An environment whose Docker client finds no engine, and with a folder for temporary files."""
    ensure_server()
    programs, temporary = tmp_path / "bin", tmp_path / "tmp"
    programs.mkdir()
    temporary.mkdir()
    client = programs / "docker"
    client.write_text("#!/bin/sh\nexit 1\n")
    client.chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "TMPDIR": str(temporary),
        "AMQTASK_BROKER_URL": "",
        # nothing may lean on a home folder that can be written
        "HOME": "/nonexistent",
    }


@pytest.mark.broker
def test_a_broker_started_for_the_command_ends_with_it(
    no_docker: dict[str, str],
) -> None:
    code = "import os; from amqtask.amqp.probe import probe; print(probe(os.environ['AMQTASK_BROKER_URL']))"
    done = _run([sys.executable, "-c", code], no_docker)
    assert done.returncode == 0, done.stderr
    assert "RabbitMQ" in done.stdout
    assert list(Path(no_docker["TMPDIR"]).iterdir()) == []


@pytest.mark.broker
def test_a_signal_while_the_broker_starts_stops_it(no_docker: dict[str, str]) -> None:
    process = subprocess.Popen(
        [*_RUN, "true"], env={**os.environ, **no_docker}, stderr=subprocess.DEVNULL
    )
    temporary = Path(no_docker["TMPDIR"])
    eventually(lambda: list(temporary.glob("*/process")), timeout=30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    eventually(lambda: not list(temporary.iterdir()))
