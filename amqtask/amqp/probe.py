"""Asks a broker who it is: one login, its name and version, and goodbye."""

from __future__ import annotations

from amqtask.amqp.address import parse_addresses
from amqtask.amqp.session import ServerInfo, Session


def probe(url: str, timeout: float = 10.0) -> ServerInfo:
    """Log in to the broker at ``url``, read its name and version, and log out.

    Blocks at most about ``timeout`` seconds per address; any thread may call it. Where ``url`` is a list separated by ``;``
    the first broker that answers is asked.

    Raises:
        ConfigurationError: ``url`` is no AMQP address.
        LoginRefused: the broker answered and refused user, password or virtual host.
        ConnectFailed: no broker answered.
    """
    with Session(parse_addresses(url), name="amqtask probe", timeout=timeout) as session:
        return session.server
