"""Where the broker puts what it drops by itself: names and keys. Pure.

A message that RabbitMQ gives up (its delivery limit, its expiry, a full queue, a consumer's reject) passes no worker that could
tell whoever waits. So the dead letters that the broker makes go through an exchange of ours, to ``<queue>.dead`` and to a second
queue, from which workers take them to tell what has become of them. Both have one name, the same in the whole virtual host: it is
in the arguments of queues, which programs of different names may declare.
"""

from __future__ import annotations

from typing import NamedTuple

from amqtask.topology.model import Queue

DROPPED = "amqtask.dropped"  # the exchange, and the queue of what is to be told
LATE = "amqtask.plan"  # the key of a chord's plan that the broker dropped: the chord did not end in time
# Together these must be as long as `.dead`, which a queue's name has room for.
_TOLD = ".dead"
_REFUSED = ".full"


class Origin(NamedTuple):
    """What the routing key of a dropped message tells: the queue it was dropped from.

    ``refuses``: whether that queue, when it is full, refuses what it drops: its publisher knows, and may send it again.
    """

    queue: str
    refuses: bool


def key_of(queue: Queue) -> str:
    """The key with which the broker publishes the dead letters of a queue to the exchange."""
    return queue.name + (_REFUSED if queue.overflow == "reject-publish-dlx" else _TOLD)


def origin_of(key: str) -> Origin | None:
    """The queue that a key of ``key_of`` was made for; ``None`` for any other text."""
    name, ending = key[: -len(_TOLD)], key[-len(_TOLD) :]
    if not name or ending not in (_TOLD, _REFUSED):
        return None
    return Origin(name, ending == _REFUSED)
