"""What the broker says of a message that it dropped by itself, and how its task has ended by that. Pure.

RabbitMQ dead-letters a message that was returned too often, that has expired, whose queue was full, or that a consumer rejected.
No worker has settled it, so somebody has to say how its task ended: what is decided here is what a worker would have said of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from amqtask.core.codec import Head
from amqtask.core.message import Headers
from amqtask.core.outcome import Failed, Outcome, Rejected, Revoked
from amqtask.errors import WorkerLostError

# What RabbitMQ calls it, and what we do.
REASONS: Mapping[str, str] = {
    "delivery_limit": "delivery limit",
    "expired": "expired",
    "maxlen": "overflow",
    "rejected": "rejected",
}

TIMELY = 3.0  # seconds after its time at which a message that waits in a queue has been dropped; times of death are whole ones


class BrokerDeath(msgspec.Struct, frozen=True):
    """One entry of ``x-death``: that the broker itself dead-lettered the message from a queue."""

    reason: str
    queue: str
    count: int
    time: datetime | None


def broker_deaths(headers: Headers, queue: str) -> tuple[BrokerDeath, ...]:
    """All that the broker says in a message's ``x-death``, newest first. Never raises.

    Times have whole seconds, and 3.10 keeps no order: of one second, what happened in ``queue`` comes first, because a message
    passes the delay queues before it gets there.
    """
    value = headers.get("x-death")
    found = []
    for entry in value if isinstance(value, list) else ():
        if not isinstance(entry, Mapping):
            continue
        count, time = entry.get("count"), entry.get("time")
        found.append(
            BrokerDeath(
                reason=str(entry.get("reason") or "unknown"),
                queue=str(entry.get("queue") or ""),
                count=count if isinstance(count, int) else 1,
                time=time if isinstance(time, datetime) else None,
            )
        )
    oldest = datetime.min.replace(tzinfo=UTC)
    found.sort(key=lambda d: (d.time or oldest, d.queue == queue), reverse=True)
    return tuple(found)


def death_in(headers: Headers, queue: str) -> BrokerDeath | None:
    """The newest death of a message in a queue; ``None`` when the broker says of none there."""
    return next((each for each in broker_deaths(headers, queue) if each.queue == queue), None)


def outcome_of(death: BrokerDeath, head: Head, limit: int | None) -> Outcome:
    """How a task has ended whose message the broker dropped.

    Args:
        death: what the broker says.
        head: the message's header.
        limit: deliveries that the queue allows, if that is known.
    """
    task = f"Task {head.task}[{head.id}]"
    match death.reason:
        case "expired":
            if head.expires is not None:
                return Revoked(f"expired at {head.expires}", expired=True)
            return Revoked(f"expired in queue {death.queue!r}", expired=True)
        case "rejected":
            return Rejected(f"rejected by a consumer of queue {death.queue!r}", requeue=False)
        case "delivery_limit":
            times = f" {limit + 1} times" if limit is not None else ""
            text = (
                f"{task} was handed out{times} from queue {death.queue!r} and came back each time, which is all its delivery limit "
                "allows: whoever ran it vanished and could not say why."
            )
        case "maxlen":
            text = f"{task} was dropped from queue {death.queue!r}, which was full, before it could run."
        case reason:
            text = f"{task} was dropped by the broker from queue {death.queue!r} ({reason})."
    return Failed(WorkerLostError(text), None, REASONS.get(death.reason, death.reason))


def may_run(death: BrokerDeath, head: Head) -> bool:
    """Whether the task of a dropped message may be running all the same: its message was in somebody's hands when it was dropped.

    A connection that breaks returns the message of a task that goes on. One that has expired meanwhile, or has been returned
    too often, is dropped then. What waits in a queue is dropped when its time comes, not later.
    """
    if death.reason == "delivery_limit":
        return True
    if death.reason != "expired" or head.expires is None or death.time is None:
        return False
    expired = head.expires_at()
    return expired is None or death.time.timestamp() > expired + TIMELY
