"""Asks a broker who it is: one login, its name and version, and goodbye."""

from __future__ import annotations

import re

import msgspec
from pika.adapters.select_connection import SelectConnection

from amqtask.amqp.address import Address, parse_addresses
from amqtask.amqp.threaded.connection import connect_error, connection_parameters
from amqtask.errors import ConnectFailed


class ServerInfo(msgspec.Struct, frozen=True):
    """What a broker says of itself when a client logs in."""

    product: str
    version: str

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers that compare: ``(3, 10, 8)``."""
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])


def probe(url: str, timeout: float = 10.0) -> ServerInfo:
    """Log in to the broker at ``url``, read its name and version, and log out.

    Blocks at most about ``timeout`` seconds per address; any thread may call it. Where ``url`` is
    a list separated by ``;`` the first broker that answers is asked.

    Raises:
        ConfigurationError: ``url`` is no AMQP address.
        LoginRefused: the broker answered and refused user, password or virtual host.
        ConnectFailed: no broker answered.
    """
    failure: ConnectFailed | None = None
    for address in parse_addresses(url):
        try:
            return _ask(address, timeout)
        except ConnectFailed as exc:
            failure = failure or exc
    assert failure is not None  # parse_addresses returns at least one
    raise failure


def _ask(address: Address, timeout: float) -> ServerInfo:
    found: list[ServerInfo] = []
    errors: list[BaseException | str] = []

    def opened(connection: SelectConnection) -> None:
        properties = connection.server_properties or {}
        found.append(
            ServerInfo(str(properties.get("product", "")), str(properties.get("version", "")))
        )
        connection.close()

    def failed(connection: SelectConnection, error: BaseException | str) -> None:
        errors.append(error)
        connection.ioloop.stop()

    connection = SelectConnection(
        connection_parameters(address, "amqtask probe", heartbeat=0, connect_timeout=timeout),
        on_open_callback=opened,
        on_open_error_callback=failed,
        on_close_callback=lambda connection, _reason: connection.ioloop.stop(),
    )
    try:
        connection.ioloop.start()
    finally:
        connection.ioloop.close()
    if found:
        return found[0]
    raise connect_error(address, errors[0] if errors else "the connection closed at once")
