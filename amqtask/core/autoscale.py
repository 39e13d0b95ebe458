"""How many children a node should have, from what waits in its queues and what its slots do. Pure.

``decide`` is called at every *look*, about once a second, with the decision before it. Growth is quick: as soon as messages wait
and no slot is idle, the node doubles, up to ``STEP`` children at a time, and again when those work. Shrinking is slow: a child goes
when it was not needed at any look of the last ``keepalive`` seconds, and at most a quarter of the children go at once.

Who does not know keeps what it has: a look without an answer of the broker, or after a gap, counts as one that needed all.
"""

from __future__ import annotations

import msgspec

STEP = 8  # children by which a node grows at once, at most: each is a fork and two logins at the broker
LOOKS = (
    3  # looks in a row with messages waiting beside idle slots, before the slots count as too few
)
GAP = 5.0  # seconds between two looks after which nothing is known of the time between
PART = 4  # at most one in so many children goes at a time …
PAUSES = 6  # … and so often within a keepalive


class Bounds(msgspec.Struct, frozen=True):
    """What does not change.

    Args:
        least: children that are always there; may be 0.
        most: children there may be; at least 1 and not below ``least``.
        slots: tasks that one child runs at a time.
        keepalive: seconds for which a child must not have been needed before it goes.
    """

    least: int
    most: int
    slots: int = 1
    keepalive: float = 30.0


class Look(msgspec.Struct, frozen=True):
    """What is to be seen at one moment.

    Args:
        waiting: messages that are ready in the queues and that no consumer has; None when the broker has not said.
        working: children that are ready.
        busy: slots of theirs that run a task.
        idle: slots of theirs that run none and have run none since the look before.
    """

    waiting: int | None
    working: int
    busy: int
    idle: int


class Scale(msgspec.Struct, frozen=True):
    """A decision, and what the next one has to know. Make the first with ``begin``.

    Args:
        wanted: how many children there should be.
        needs: how many were needed, and when: the highest of the last seconds, each newer one lower. Monotonic seconds.
        unserved: looks in a row with messages waiting beside idle slots.
        shrunk: when children were let go last.
        looked: when the last look was; None before the first.
    """

    wanted: int
    needs: tuple[tuple[float, int], ...] = ()
    unserved: int = 0
    shrunk: float = float("-inf")
    looked: float | None = None


def begin(bounds: Bounds) -> Scale:
    """The decision to begin with: as few as there may be."""
    return Scale(bounds.least)


def decide(bounds: Bounds, scale: Scale, look: Look, now: float) -> Scale:
    """The decision that follows from a look.

    Args:
        bounds: what does not change.
        scale: the decision before.
        look: what is to be seen.
        now: monotonic seconds.
    """
    wanted, waiting = scale.wanted, look.waiting
    gap = scale.looked is not None and now - scale.looked > GAP
    if waiting is None or gap:
        needs = _with(scale.needs, wanted, now, bounds.keepalive)
        return msgspec.structs.replace(scale, needs=needs, unserved=0, looked=now)
    unserved = scale.unserved + 1 if waiting and look.idle else 0
    demand = min(bounds.most, -(-(look.busy + waiting) // bounds.slots))
    needs = _with(scale.needs, max(demand, wanted) if waiting else demand, now, bounds.keepalive)
    following = Scale(wanted, needs, unserved, scale.shrunk, now)
    if waiting and demand > wanted:
        # messages that wait beside idle slots are on their way to them, unless it stays so; and what is still
        # starting has not shown yet what it can do
        if (look.idle == 0 or unserved >= LOOKS) and look.working >= wanted:
            more = min(demand, wanted + max(1, min(wanted, STEP)))
            return msgspec.structs.replace(following, wanted=more)
        return following
    fewer = max(bounds.least, needs[0][1], wanted - max(1, wanted // PART))
    if fewer < wanted and now - scale.shrunk >= bounds.keepalive / PAUSES:
        return msgspec.structs.replace(following, wanted=fewer, shrunk=now)
    return following


def _with(
    needs: tuple[tuple[float, int], ...], need: int, now: float, keepalive: float
) -> tuple[tuple[float, int], ...]:
    """Add a need; leave out those that are too old, and older ones that are not higher."""
    kept = [each for each in needs if now - each[0] < keepalive and each[1] > need]
    return (*kept, (now, need))
