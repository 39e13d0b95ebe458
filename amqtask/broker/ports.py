"""The loopback ports of private nodes."""

from __future__ import annotations

import random
import socket

import msgspec

# Below the range from which Linux takes the ports of outgoing connections (32768 and up), so that
# no client's socket sits on a port of ours between two starts.
_PORTS = range(20_000, 32_000)


class Ports(msgspec.Struct, frozen=True):
    """The four loopback ports of a node."""

    amqp: int
    management: int
    distribution: int
    epmd: int

    def free(self, shared: int | None = None) -> bool:
        """Tell whether all can be listened on at this moment, but for the one that is shared."""
        return all(is_free(port) for port in msgspec.structs.astuple(self) if port != shared)


def free_port() -> int:
    """Choose a port of ours on loopback that can be listened on at this moment."""
    return free_ports().epmd


def free_ports() -> Ports:
    """Choose four ports of ours."""
    # Not reproducible on purpose: two nodes that start at once must not look in the same order.
    chooser = random.SystemRandom()
    chosen: set[int] = set()
    while len(chosen) < 4:
        port = chooser.choice(_PORTS)
        if is_free(port):
            chosen.add(port)
    return Ports(*chosen)


def is_free(port: int) -> bool:
    """Tell whether a server could take a port at this moment."""
    with socket.socket() as sock:
        # As Erlang does: connections of a server just killed still linger on its port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def is_listening(port: int) -> bool:
    """Tell whether somebody listens on a port."""
    with socket.socket() as sock:
        sock.settimeout(1.0)
        return sock.connect_ex(("127.0.0.1", port)) == 0
