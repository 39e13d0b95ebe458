"""Looking at dead letters without changing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from amqtask.amqp.delivery import Delivery
from amqtask.amqp.transfer import Transfer
from amqtask.core import letters
from amqtask.core.letters import Filter, Letter
from amqtask.core.message import Properties
from amqtask.errors import BrokerError, ConfigurationError, DecodeError, OperationRefused
from amqtask.topology import ladder

NOT_FOUND = 404


class Found(msgspec.Struct, frozen=True):
    """A dead letter, and the delivery it was read from. ``properties`` is ``None`` where they cannot be read."""

    queue: str
    letter: Letter
    delivery: Delivery
    properties: Properties | None


def look(
    transfer: Transfer,
    queue: str,
    wanted: Filter,
    progress: Callable[[int], None] = lambda seen: None,
) -> Iterator[Found]:
    """Yield the dead letters of a queue that are meant. Nothing is settled: ``give_back`` returns all of them.

    Args:
        transfer: reads them.
        queue: the queue of dead letters.
        wanted: which.
        progress: called now and then with how many have been read.

    Raises:
        ConfigurationError: there is no such queue.
        BrokerError: the broker cannot be read.
    """
    try:
        for seen, delivery in enumerate(transfer.read(queue), 1):
            if seen % 100 == 0:
                progress(seen)
            found = identify(queue, delivery)
            if wanted.matches(found.letter):
                yield found
    except OperationRefused as error:
        raise refusal(transfer, queue, error) from None


def identify(queue: str, delivery: Delivery) -> Found:
    """Read why a delivery is dead."""
    try:
        properties: Properties | None = delivery.properties
    except DecodeError:
        properties = None
    letter = letters.read(properties, delivery.body, queue)
    if ladder.holds_unroutable(queue):  # whose last death is that of a step of the ladder
        target = ladder.queue_of(delivery.routing_key)
        letter = msgspec.structs.replace(letter, reason="no queue when due", source=target)
    return Found(queue, letter, delivery, properties)


def refusal(transfer: Transfer, queue: str, error: OperationRefused) -> Exception:
    """What a refusal means: 404 is also how the broker tells of a queue whose node is down, and of its journal."""
    if error.code != NOT_FOUND:
        return error
    try:
        there = transfer.queue(queue) is not None
    except BrokerError:
        there = True
    return error if there else ConfigurationError(f"There is no queue {queue!r} on the broker.")
