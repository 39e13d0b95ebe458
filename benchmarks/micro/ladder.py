"""From a delay to the step and the routing key where the message waits, and back to its queue."""

from __future__ import annotations

from collections.abc import Iterator

from amqtask.topology.ladder import Ladder, queue_of
from benchmarks.micro.timing import Case


def cases() -> Iterator[Case]:
    """A second, a day, and a queue whose name must be quoted."""
    ladder = Ladder()
    key = ladder.entry(1.0, "email").routing_key
    yield Case("entry, 1 s", lambda: ladder.entry(1.0, "email"))
    yield Case("entry, 1 day", lambda: ladder.entry(86_400.0, "email"))
    yield Case("entry, a queue with dots", lambda: ladder.entry(1.0, "shop.email.send"))
    yield Case("queue_of", lambda: queue_of(key))
