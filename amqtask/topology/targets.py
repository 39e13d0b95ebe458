"""Which queues a message sent for later is due in: those an immediate one would reach."""

from __future__ import annotations

from amqtask.errors import ConfigurationError
from amqtask.topology.model import Topology
from amqtask.topology.simulate import Headers, reach

MAX_REMEMBERED = 10_000  # routing keys


class Targets:
    """Finds the queues. Any thread; what it remembers only ever grows by equal values.

    Args:
        topology: what is declared.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        # without a headers exchange, exchange and key decide
        self._by_headers = any(
            topology.exchange_type(name) == "headers"
            for name in {
                *topology.exchanges,
                *(link.binding.exchange for link in topology.bindings),
            }
        )
        self._known: dict[tuple[str, str], tuple[str, ...]] = {}

    def of(self, exchange: str, routing_key: str, headers: Headers) -> tuple[str, ...]:
        """The queues, each once; none when the message would be unroutable.

        A queue named directly, through the default exchange, need not be in the topology.

        Raises:
            ConfigurationError: the topology does not know the exchange.
        """
        certain = not self._by_headers and "CC" not in headers and "BCC" not in headers
        if certain:
            known = self._known.get((exchange, routing_key))
            if known is not None:
                return known
        try:
            found = sorted(reach(self._topology, exchange, routing_key, headers).queues)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{str(error).rstrip('.')}. A task sent for later is addressed to its queues when it is sent, so its exchange "
                "must be in the topology; or send it to a queue=…."
            ) from None
        if exchange == "" and routing_key not in found:
            found.append(routing_key)
        targets = tuple(found)
        if certain:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[exchange, routing_key] = targets
        return targets
