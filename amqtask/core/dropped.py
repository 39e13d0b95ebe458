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

TIMELY = (
    1.0  # seconds after its time within which a message that waits in a queue is dropped, as a rule
)
FOUND_WITHIN = 5.0  # seconds in which a process that lost its connection is back, and finds what it runs among what was dropped
MANY = 5  # times that a message is handed out before it is thought to harm those who read it


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


def may_run(death: BrokerDeath, head: Head, now: float) -> bool:
    """Whether the task of a dropped message may be running all the same, and whoever runs it may still find that out.

    A connection that breaks returns the message of a task that goes on. One that has expired meanwhile, or has been returned
    too often, is dropped then. What only waits in a queue is dropped when its time comes, not later.

    Args:
        death: what the broker says.
        head: the message's header.
        now: seconds since the epoch.
    """
    if death.time is None or now - death.time.timestamp() >= FOUND_WITHIN:
        return False
    if death.reason == "delivery_limit":
        return True
    expired = head.expires_at()
    return (
        death.reason == "expired"
        and expired is not None
        and death.time.timestamp() > expired + TIMELY
    )


def deadly(death: BrokerDeath, headers: Headers, redelivered: bool) -> bool:
    """Whether to read the body of a dropped message may be what kills those who do it.

    Args:
        death: what the broker says.
        headers: with the broker's counts of how often it was handed out, here or before.
        redelivered: it has been handed out before.
    """
    if death.reason == "delivery_limit":
        return True
    counts = (headers.get(name) for name in ("x-acquired-count", "x-delivery-count"))
    return redelivered and any(isinstance(count, int) and count >= MANY for count in counts)
