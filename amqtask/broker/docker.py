"""A broker in Docker, through the compose file of this repository."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from amqtask.errors import BrokerError

COMPOSE_FILE = Path(__file__).parents[2] / "compose" / "broker.yml"

# The engine may have to fetch the image first.
_UP_TIMEOUT = 600.0


def engine_answers(timeout: float = 10.0) -> bool:
    """Tell whether a Docker engine answers; a client without an engine does not count."""
    if shutil.which("docker") is None:
        return False
    try:
        # The exit code alone is not enough: some clients print an error in place of the server's
        # version and still end with 0.
        answer = subprocess.run(
            ["docker", "info", "--format", "{{.ServerVersion}}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and bool(answer.stdout.strip())


@contextlib.contextmanager
def compose_broker() -> Iterator[tuple[str, str]]:
    """Run ``compose/broker.yml`` on ports the engine chooses; yield broker and management URL.

    The containers, their network and their data are removed at the end.

    Raises:
        BrokerError: compose is missing, or could not start the broker.
    """
    project = ["docker", "compose", "-p", f"amqtask-{uuid.uuid4().hex[:8]}", "-f"]
    project.append(str(COMPOSE_FILE))
    # Port 0 on the host side lets the engine choose, so that two runs never meet.
    environment = {**os.environ, "AMQTASK_AMQP_PORT": "0", "AMQTASK_MANAGEMENT_PORT": "0"}

    def compose(*arguments: str, timeout: float) -> str:
        try:
            done = subprocess.run(
                [*project, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise BrokerError(f"docker compose {arguments[0]} failed: {exc}.") from exc
        if done.returncode != 0:
            words = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise BrokerError(f"docker compose {arguments[0]} failed: {words}.")
        return done.stdout.strip()

    try:
        compose("up", "--detach", "--wait", timeout=_UP_TIMEOUT)
        amqp = compose("port", "rabbitmq", "5672", timeout=30.0)
        management = compose("port", "rabbitmq", "15672", timeout=30.0)
        yield f"amqp://guest:guest@{amqp}/%2F", f"http://{management}"
    finally:
        with contextlib.suppress(BrokerError):
            compose("down", "--volumes", "--timeout", "5", timeout=120.0)
