"""The seam between a child's I/O thread and the slots that run tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from amqtask.amqp.ports import Delivery


class Pool(Protocol):
    """Runs deliveries in slots."""

    def hand_over(self, batch: Sequence[Delivery]) -> None:
        """Take deliveries to run, in order. I/O thread; never blocks."""
        ...

    def take_back(self) -> list[Delivery]:
        """Give up what has not started. I/O thread."""
        ...

    def stop(self) -> None:
        """Let what runs finish, start nothing more, and let ``run`` return. I/O thread, idempotent."""
        ...

    def run(self) -> None:
        """Run tasks until stopped. The child's main thread."""
        ...
