"""The queue of a chord's barrier, as it is declared."""

from __future__ import annotations

from amqtask.topology.plan import NO_DELIVERY_LIMIT, DeclareQueue


def barrier_queue(name: str, expires: float, kind: str = "classic") -> DeclareQueue:
    """The declaration of a barrier's queue of this type, which goes when no part has ended for so long.

    One consumer is active at a time: whoever drains it has all that is in it, or nothing. What is given back is never
    counted: at a limit a quorum queue would drop it.

    Args:
        name: ``amqtask.join.`` and the group's id.
        expires: seconds. Every part's end begins them anew, by the question how many there are.
        kind: ``classic`` or ``quorum``.
    """
    arguments: dict[str, object] = {
        "x-queue-type": kind,
        "x-single-active-consumer": True,
        "x-expires": int(expires * 1000),
    }
    if kind == "quorum":
        arguments["x-delivery-limit"] = NO_DELIVERY_LIMIT
    return DeclareQueue(name, arguments=arguments)
