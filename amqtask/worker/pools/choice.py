"""Which pool a child runs. Each is imported where it is chosen, because some need packages that the others do without."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from amqtask.worker.pools.base import Pool
from amqtask.worker.pools.patching import GREENLET_POOLS


def load(name: str) -> Callable[[int], Pool]:
    """Import a pool and what it needs; returns what makes one of so many slots.

    Asked for in the fork server, so that its children share what is imported, and begin the sooner.

    Args:
        name: one of ``options.POOLS``.
    """
    if name == "threads":
        from amqtask.worker.pools.threads import ThreadSlots

        return ThreadSlots
    if name == "asyncio":
        from amqtask.worker.pools.loop import LoopSlots

        return LoopSlots
    if name in GREENLET_POOLS:
        from amqtask.worker.pools.greenlets import GreenletSlots

        return partial(GreenletSlots, name)
    from amqtask.worker.pools.single import SingleSlot

    return lambda _slots: SingleSlot()


def make(name: str, slots: int) -> Pool:
    """Make a pool. In the child, on its main thread.

    Args:
        name: one of ``options.POOLS``.
        slots: how many tasks it runs at a time.
    """
    return load(name)(slots)
