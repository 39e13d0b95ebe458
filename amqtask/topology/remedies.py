"""What an administrator types at the broker: commands for sentences that name what to do. Pure.

They are for a POSIX shell, and for the machine or the container that the broker runs in.
"""

from __future__ import annotations

import shlex
from urllib.parse import quote

# Up to here a queue that RabbitMQ has lost all of but its name can be deleted neither over AMQP nor with the management API nor
# with `rabbitmqctl delete_queue`: all of them ask the queue, which is down (3.10.8). What forgets a queue takes its name up to here.
_FORGETS_BY_NAME = (3, 12)

Release = tuple[int, int, int]


def delete_queue(vhost: str, name: str) -> str:
    """What deletes a queue, with the messages in it."""
    return f"rabbitmqctl delete_queue -p {shlex.quote(vhost)} {shlex.quote(name)}"


def delete_exchange(vhost: str, name: str) -> str:
    """What deletes an exchange, for which ``rabbitmqctl`` has no command; it asks for the user's password."""
    path = f"{quote(vhost, safe='')}/{quote(name, safe='')}"
    return f"curl -u USER -X DELETE http://HOST:15672/api/exchanges/{path}"


def create_vhost(vhost: str) -> str:
    """What creates a virtual host."""
    return f"rabbitmqctl add_vhost {shlex.quote(vhost)}"


def grant(vhost: str, user: str) -> str:
    """What gives a user all permissions in a virtual host."""
    return f"rabbitmqctl set_permissions -p {shlex.quote(vhost)} {shlex.quote(user)} '.*' '.*' '.*'"


def delete_lost_queue(vhost: str, name: str, release: Release) -> str:
    """What deletes a queue of which the broker has lost all but the name.

    Args:
        vhost: its virtual host.
        name: its name.
        release: the broker's version.
    """
    if not (3, 8) <= release[:2] <= _FORGETS_BY_NAME:
        return delete_queue(vhost, name)
    queue = f"rabbit_misc:r({_binary(vhost)}, queue, {_binary(name)})"
    call = f'rabbit_amqqueue:internal_delete({queue}, <<"cli">>).'
    return f"rabbitmqctl eval {shlex.quote(call)}"


def absent_queue(vhost: str, name: str, release: Release, reason: str) -> str:
    """Why a queue that is there cannot be reached, with the remedy: a sentence.

    Args:
        vhost: its virtual host.
        name: its name.
        release: the broker's version.
        reason: what the broker says.
    """
    return (
        f"Queue {name!r} is there and cannot be reached ({reason.strip().rstrip('.')}): start the node that has it; if that runs, "
        f"the broker was killed and has lost the queue, so delete what is left of it (`{delete_lost_queue(vhost, name, release)}`) "
        "and declare it again."
    )


def _binary(text: str) -> str:
    """A text as an Erlang binary."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'<<"{escaped}">>' if text.isascii() else f'<<"{escaped}"/utf8>>'
