"""The seam between a child's I/O thread and the slots that run tasks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Protocol

from amqtask.amqp.ports import Delivery
from amqtask.amqp.threaded.loop import IoThread
from amqtask.worker.slots.execution import CoroutineLoop, Runner
from amqtask.worker.slots.limits import Limits

SIGNALS_LOOK = (
    0.1  # seconds between two looks at the signal handlers, which a task may have replaced
)


class Host(Protocol):
    """What a pool needs of its child."""

    @property
    def runners(self) -> Sequence[Runner]:
        """The slots."""

    def after(self) -> None:
        """A run has ended and the executor is exhausted: the child stops the pool. On the slot's thread."""

    def idle(self) -> None:
        """A slot has run out of work. On its thread."""

    def context(self) -> Context:
        """A context for a run, with nothing in it of other runs."""

    def take_signals(self) -> None:
        """Have the worker's signals arrive. Main thread; for a pool whose own event loop may have taken them."""

    def look_at_signals(self) -> None:
        """Put back what a task did to the worker's signals. Main thread; now and then."""

    async def leave_loop(self) -> None:
        """Close what the app holds on the running event loop, which is about to end."""


class Pool(Protocol):
    """Runs deliveries in slots."""

    def limits(self, io: IoThread, on_hard: Callable[[int], None]) -> Limits:
        """Make the limits of one slot. Called for each before ``run``; any thread.

        Args:
            io: owns the timers.
            on_hard: as in ``Limits``.
        """
        ...

    def loop(self, leave: Callable[[], Awaitable[None]]) -> CoroutineLoop | None:
        """Make what runs the coroutine tasks of one slot; ``None`` when the pool does it itself.

        Args:
            leave: closes what the app holds on the running loop.
        """
        ...

    def hand_over(self, batch: Sequence[Delivery]) -> None:
        """Take deliveries to run, in order. I/O thread; never blocks."""
        ...

    def take_back(self) -> list[Delivery]:
        """Give up what has not started. I/O thread."""
        ...

    def waiting(self) -> int:
        """How many deliveries have not started. I/O thread."""
        ...

    def heard(self) -> bool:
        """Whether the slots have come to what was handed over last, were it nothing: a task may hold up them all. I/O thread."""
        ...

    def stop(self) -> None:
        """Let what runs finish, start nothing more, and let ``run`` return. Any thread, idempotent."""
        ...

    def abandon(self, runner: Runner) -> None:
        """Do not wait for a slot any more: the code that was evicted from it does not end. I/O thread."""
        ...

    def hung(self) -> bool:
        """Whether an abandoned slot holds up all others, which will not end either. I/O thread, a moment after ``abandon``."""
        ...

    def run(self, host: Host) -> None:
        """Run tasks until stopped. The child's main thread."""
        ...
