"""Carries declarations out over an aiormq channel, each with a deadline."""

from __future__ import annotations

from aiormq.abc import AbstractChannel

from amqtask.amqp.aio.connection import Link
from amqtask.amqp.declaration import call_of
from amqtask.amqp.ways import Paving, Refusal
from amqtask.errors import AmqtaskError, BrokerError, OperationRefused
from amqtask.topology.plan import Declaration


async def declare(
    link: Link, channel: AbstractChannel, declaration: Declaration, within: float, aside: int = 0
) -> None:
    """Ask the broker for one declaration and wait for its answer, at most ``within`` seconds.

    Args:
        link: the connection.
        channel: a channel of it.
        declaration: what to declare.
        within: seconds.
        aside: the channel's number, when it is not the main one.

    Raises:
        OperationRefused: the broker refused it and closed the channel.
        ConnectionLost: no answer.
    """
    method, arguments = call_of(declaration)
    await link.call(getattr(channel, method)(**arguments), within, aside)


async def pave(link: Link, paving: Paving, within: float) -> dict[str, AmqtaskError]:
    """Carry out what a way needs; the queues that cannot be reached all the same, with why.

    Args:
        link: an open connection; each round of declarations gets a channel of its own.
        paving: says what to declare.
        within: seconds for each answer.

    Raises:
        AmqtaskError: as ``Ways.pave``.
        ConnectionLost: no answer.
    """
    answer: Refusal | None = None
    while True:
        try:
            declarations = paving.send(answer)
        except StopIteration as end:
            refused: dict[str, AmqtaskError] = end.value
            return refused
        answer = await _round(link, declarations, within)


async def _round(
    link: Link, declarations: tuple[Declaration, ...], within: float
) -> Refusal | None:
    channel = await link.call(link.client.channel(publisher_confirms=False), within)
    aside = link.wire.aside
    aside[channel.number] = None
    try:
        for declaration in declarations:
            try:
                await declare(link, channel, declaration, within, channel.number)
            except OperationRefused as error:
                return error, declaration
        try:
            await link.call(channel.close(None), within, channel.number)
        except BrokerError:
            pass  # what it was opened for is done
        return None
    finally:
        del aside[channel.number]
