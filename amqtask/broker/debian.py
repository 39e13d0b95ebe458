"""Installs ``rabbitmq-server`` on Debian and its kin without starting the distribution's service."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from amqtask.errors import BrokerError

# Packages start their services when they are installed, unless policy-rc.d says no (101). One
# that is there belongs to somebody else and stays; ours goes when the script ends, and a left-over
# of a killed script is known by its second line. Where the service starts all the same, or is
# enabled for the next boot, that is undone, unless it was there before.
_SCRIPT = r"""
policy=/usr/sbin/policy-rc.d
mark='# amqtask: no service starts while rabbitmq-server is installed'
if [ ! -e "$policy" ] || grep -qxF "$mark" "$policy"; then
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy" || exit 1
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
fi
export DEBIAN_FRONTEND=noninteractive
units=
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || units=rabbitmq-server.service
[ -x /usr/bin/epmd ] || units="$units epmd.service epmd.socket"
options='-q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3'
apt-get $options update
apt-get $options install --no-install-recommends rabbitmq-server || exit
if [ -n "$units" ] && [ -d /run/systemd/system ]; then
    systemctl disable --now $units >/dev/null 2>&1
fi
exit 0
"""


def privilege() -> list[str] | None:
    """Return the command prefix that makes one root here: ``[]`` for root, ``sudo -n``, or None."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    try:
        allowed = subprocess.run(
            ["sudo", "-n", "true"], capture_output=True, stdin=subprocess.DEVNULL, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ["sudo", "-n"] if allowed.returncode == 0 else None


def can_install() -> bool:
    """Tell whether this is a Debian-like machine on which we may install packages unasked."""
    return (
        Path("/etc/debian_version").exists()
        and shutil.which("apt-get", path=os.environ.get("PATH", os.defpath) + ":/usr/bin")
        is not None
        and privilege() is not None
    )


def install_server() -> None:
    """Install ``rabbitmq-server`` from the distribution; its own service is left off.

    Takes a minute or so; needs root or passwordless sudo.

    Raises:
        BrokerError: apt-get failed; the message has its last words.
    """
    done = subprocess.run(
        [*(privilege() or []), "sh", "-c", _SCRIPT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        said = [line for line in done.stdout.splitlines() if line.startswith("E:")]
        reason = f" ({said[0]})" if said else ""
        raise BrokerError(
            f"apt-get install rabbitmq-server failed{reason}: install it by hand or set"
            " AMQTASK_BROKER_URL to a broker that runs."
        )
