"""How a broker is reached: what all connections of a process have in common."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from amqtask.amqp.address import Address
from amqtask.settings import Settings


class Reach(msgspec.Struct, frozen=True):
    """Where the brokers are, and how a connection to one is kept.

    Attributes:
        addresses: brokers, tried in order, one per attempt; from the first again after a healthy connection.
        heartbeat: seconds.
        connect_timeout: seconds for each attempt, handshake included.
        fast: whether amqtask's frame codec handles deliveries and confirms; asyncio's connections always have it do so.
    """

    addresses: tuple[Address, ...]
    heartbeat: int
    connect_timeout: float
    fast: bool = True


def reach_of(addresses: Sequence[Address], settings: Settings) -> Reach:
    """These brokers, as an app's settings have them reached."""
    return Reach(
        tuple(addresses),
        settings.broker_heartbeat,
        settings.broker_connection_timeout,
        settings.broker_fast_frames,
    )
