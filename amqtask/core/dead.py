"""A message as a dead letter: itself, with headers that say why it is there."""

from __future__ import annotations

import msgspec

from amqtask.core.codec import is_broker_header
from amqtask.core.message import Envelope, Properties, Publication

PREFIX = "amqtask-dead-"
TRACEBACK_CHARACTERS = 8000  # all headers must fit one frame with room for the broker's own


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """Why a message is dead. Times are ISO 8601; ``attempts`` counts starts, this one included.

    ``first_time`` is when the first attempt began, ``None`` when this was the first.
    """

    reason: str
    exception: str
    message: str
    traceback: str | None
    queue: str
    node: str
    attempts: int
    time: str
    first_time: str | None = None


def letter(
    body: bytes, properties: Properties, death: Death, target: tuple[str, str]
) -> Publication:
    """The publication that puts a message among the dead letters of its queue.

    Kept: body, content type, ids, priority, reply address, the sender's headers and the time of a first death. Left out:
    ``expiration`` (it would expire there too), ``user_id`` (the broker refuses another user's) and the broker's own ``x-``
    headers (they grow with each round).

    Args:
        body: as received.
        properties: as received.
        death: why it is dead.
        target: exchange and routing key of the dead-letter queue.
    """
    headers = {
        name: value
        for name, value in (properties.headers or {}).items()
        if not is_broker_header(name)
    }
    headers.update(
        {
            f"{PREFIX}reason": death.reason,
            f"{PREFIX}exception": death.exception,
            f"{PREFIX}message": death.message[:1000],
            f"{PREFIX}queue": death.queue,
            f"{PREFIX}node": death.node,
            f"{PREFIX}attempts": death.attempts,
            f"{PREFIX}time": death.time,
        }
    )
    headers.setdefault(f"{PREFIX}first-time", death.first_time or death.time)
    if death.traceback:
        headers[f"{PREFIX}traceback"] = death.traceback[-TRACEBACK_CHARACTERS:]
    return Publication(
        target[0],
        target[1],
        Envelope(
            body,
            msgspec.structs.replace(
                properties, headers=headers, expiration=None, user_id=None, delivery_mode=2
            ),
        ),
    )
