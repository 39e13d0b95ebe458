"""Carries declarations out over an aiormq channel, each with a deadline."""

from __future__ import annotations

from aiormq.abc import AbstractChannel

from amqtask.amqp.aio.connection import Link
from amqtask.amqp.declaration import call_of
from amqtask.topology.plan import Declaration


async def declare(
    link: Link, channel: AbstractChannel, declaration: Declaration, within: float
) -> None:
    """Ask the broker for one declaration and wait for its answer, at most ``within`` seconds.

    Raises:
        OperationRefused: the broker refused it and closed the channel.
        ConnectionLost: no answer.
    """
    method, arguments = call_of(declaration)
    await link.call(getattr(channel, method)(**arguments), within)
