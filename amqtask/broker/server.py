"""The ``rabbitmq-server`` that private nodes run: where it is on this machine, and what its processes find there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MISSING = (
    "No rabbitmq-server is on this machine: install it (on Debian or Ubuntu: apt-get install"
    " rabbitmq-server) or set AMQTASK_BROKER_URL to a broker that runs."
)


def find_server(root: Path | None = None) -> Path | None:
    """Return the server's start script on this machine, or in the file tree at ``root``.

    Debian's ``/usr/sbin/rabbitmq-server`` insists on root and changes the user; the script it
    calls does neither and is what a private node needs, so that one is looked for first.
    """
    base = root or Path("/")
    script = base / "usr/lib/rabbitmq/bin/rabbitmq-server"
    if script.exists():
        return script
    if root is not None:
        return None
    places = os.pathsep.join(
        [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/opt/rabbitmq/sbin"]
    )
    found = shutil.which("rabbitmq-server", path=places)
    return Path(found) if found else None


def missing_in(root: Path) -> str:
    """What is said where the file tree at ``root`` has no server."""
    return f"No rabbitmq-server is in {root}: unpack one there with .ci/rabbitmq-chroot."


def node_environment() -> dict[str, str]:
    """What every process of a node finds in its environment.

    Built from nothing: a RABBITMQ_ or ERL_ variable of the caller would steer the node.
    """
    path = os.environ.get("PATH", os.defpath)
    return {
        "PATH": os.pathsep.join([path, "/usr/sbin", "/usr/bin", "/sbin", "/bin"]),
        "LANG": "C.UTF-8",
    }
