"""The queue of a chord's barrier, as it is declared, and how long it and the plan in it last.

A chord that does not end in time is told to be over by whoever gets its plan: that message expires, and the broker moves it to
those who tell of what it dropped. The queue itself lasts longer than the plan, and then goes without a word.
"""

from __future__ import annotations

from collections.abc import Callable

from amqtask.settings import Settings
from amqtask.topology.dropped import DROPPED
from amqtask.topology.plan import NO_DELIVERY_LIMIT, DeclareQueue

Barriers = Callable[[str, float], DeclareQueue]
"""Says how the barrier's queue of a name is declared, whose parts are put off for so many seconds."""

LONGEST = 315_360_000.0  # seconds: the broker takes no longer x-expires
AFTER = (
    600.0  # seconds that a queue lasts longer than its plan, or as long again where that is less
)


def barrier_queue(name: str, expires: float, kind: str = "classic") -> DeclareQueue:
    """The declaration of a barrier's queue of this type, which goes by itself some time after its plan has expired.

    Whoever drains it has all that is in it, or nothing: of a classic queue by an exclusive consumer, of a quorum queue, which
    knows none, by its single active consumer. (RabbitMQ 3.10 ends a classic queue's process when a message comes as one
    active consumer takes over from another.) What is given back is never counted: at a limit a quorum queue would drop it.
    What expires keeps its own keys: the plan has one for those who tell of what the broker dropped, and nothing else has.

    Args:
        name: ``amqtask.join.`` and the group's id.
        expires: seconds that the plan lasts.
        kind: ``classic`` or ``quorum``.
    """
    arguments: dict[str, object] = {
        "x-queue-type": kind,
        "x-expires": max(1, int(min(expires + min(expires, AFTER), LONGEST) * 1000)),
        "x-dead-letter-exchange": DROPPED,
    }
    if kind == "quorum":
        arguments["x-single-active-consumer"] = True
        arguments["x-delivery-limit"] = NO_DELIVERY_LIMIT
    return DeclareQueue(name, arguments=arguments)


def barriers_of(settings: Settings) -> Barriers:
    """How the barriers of an app's chords are declared."""
    expires, kind = settings.result_chord_expires, settings.chord_queue_type
    return lambda name, delay: barrier_queue(name, expires + delay, kind)
