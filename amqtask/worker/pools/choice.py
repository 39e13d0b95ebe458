"""Which pool a child runs. Each is imported where it is chosen, because some need packages that the others do without."""

from __future__ import annotations

from amqtask.worker.pools.base import Pool


def make(name: str, slots: int) -> Pool:
    """Make a pool. In the child, on its main thread.

    Args:
        name: one of ``options.POOLS``.
        slots: how many tasks it runs at a time.
    """
    if name == "threads":
        from amqtask.worker.pools.threads import ThreadSlots

        return ThreadSlots(slots)
    if name == "asyncio":
        from amqtask.worker.pools.loop import LoopSlots

        return LoopSlots(slots)
    from amqtask.worker.pools.single import SingleSlot

    return SingleSlot()
