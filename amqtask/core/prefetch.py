"""How many messages a child should hold: about a tenth of a second of work for each slot.

Of longer tasks, what runs and, where many slots work at a time, those that will begin in the next tenth of a second: one ends every moment,
and a slot that has to wait until an ack has brought the next message loses that time with each task. On a busy machine that is
more than a few milliseconds, because broker and child stand in line for a processor. More would let one child hoard what an idle one could run, and would be charged to innocent messages when the child dies;
fewer leaves slots waiting for the broker between short tasks. Pure: no clock, no I/O.
"""

from __future__ import annotations

HOLD = 0.1  # seconds of work
SPARE = 0.1  # seconds of work that wait behind what runs, where many slots work
LEFT = 0.25  # seconds of work for each slot that may wait in a child once its tasks have turned out longer than they were
BEHIND = 0.25  # seconds of work that may wait in a child whose slots hold each other up, at the rate it has shown
MOST = 256  # messages per slot: beyond it nothing gets faster
MOST_IN_ALL = 4096  # messages per child, unless its slots are more: the same
QOS_MAX = 65_535  # AMQP has two bytes for it
FIRST = 4  # per slot, before anything is known


def target(current: int, tasks: int, busy: float, slots: int) -> int:
    """The prefetch to have next.

    Changes by less than a factor of two are not worth a round trip and keep ``current``.

    Args:
        current: the prefetch now.
        tasks: tasks that ended since the last look; with none there is nothing to learn.
        busy: seconds the slots spent on them.
        slots: slots of the child.
    """
    if tasks == 0:
        return current
    each = max(busy / tasks, 1e-6)
    # What waits behind the task of the only slot is not run sooner by another.
    spare = SPARE * (slots - 1) / slots
    for_each = min(MOST, max(HOLD / each, 1 + spare / each))
    wanted = min(int(slots * for_each), most(slots))
    return wanted if wanted >= 2 * current or 2 * wanted <= current else current


def first(slots: int) -> int:
    """The prefetch to begin with, before anything is known."""
    return min(FIRST * slots, QOS_MAX)


def most(slots: int) -> int:
    """The largest prefetch that a child with so many slots ever has."""
    return min(MOST * slots, max(MOST_IN_ALL, 2 * slots), QOS_MAX)


def stay(waiting: int, prefetch: int, tasks: int, busy: float, slots: int) -> int:
    """How many of the messages that wait in a child may stay there, now that it is to hold no more than ``prefetch``.

    The others came when tasks were shorter: left alone, they would wait here while another child has nothing to do. Where they
    are not worth much time, they are not worth the way back either.

    Args:
        waiting: messages that have not started.
        prefetch: what ``target`` has found.
        tasks: tasks that ended since the last look, at least one.
        busy: seconds the slots spent on them.
        slots: slots of the child.
    """
    if waiting * busy <= LEFT * slots * tasks:
        return waiting
    return min(waiting, prefetch)


def bear(tasks: int, seconds: float) -> int:
    """How many of the messages that wait beside free slots may stay there: a task that does not give way holds up the others.

    Args:
        tasks: tasks that ended while something waited.
        seconds: how long that was.
    """
    return int(BEHIND * tasks / seconds)
