"""Carries declarations out over an aiormq channel, each with a deadline."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from aiormq.abc import AbstractChannel

from amqtask.amqp.aio.connection import Link
from amqtask.topology.plan import (
    BindExchange,
    BindQueue,
    Declaration,
    DeclareExchange,
    DeclareQueue,
)


async def declare(
    link: Link, channel: AbstractChannel, declaration: Declaration, within: float
) -> None:
    """Ask the broker for one declaration and wait for its answer, at most ``within`` seconds.

    Raises:
        OperationRefused: the broker refused it and closed the channel.
        ConnectionLost: no answer.
    """
    await link.call(_request(channel, declaration), within)


def _request(channel: AbstractChannel, declaration: Declaration) -> Awaitable[object]:
    arguments: dict[str, Any] = dict(declaration.arguments)
    match declaration:
        case DeclareExchange():
            return channel.exchange_declare(
                declaration.name,
                exchange_type=declaration.type,
                durable=declaration.durable,
                auto_delete=declaration.auto_delete,
                internal=declaration.internal,
                arguments=arguments,
            )
        case DeclareQueue():
            return channel.queue_declare(
                declaration.name,
                passive=declaration.passive,
                durable=declaration.durable,
                exclusive=declaration.exclusive,
                auto_delete=declaration.auto_delete,
                arguments=arguments,
            )
        case BindQueue():
            return channel.queue_bind(
                declaration.queue,
                declaration.exchange,
                declaration.routing_key,
                arguments=arguments,
            )
        case BindExchange():
            return channel.exchange_bind(
                declaration.destination,
                declaration.source,
                routing_key=declaration.routing_key,
                arguments=arguments,
            )
