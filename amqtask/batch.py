"""Publishes that are waited for together: ``with app.batch():`` and ``delay_many``."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Protocol

from amqtask.amqp.ports import Publisher
from amqtask.amqp.waits import Condition
from amqtask.core.message import Publication
from amqtask.errors import AmqtaskError, OperationRefused

# Delayed tasks of a batch that may be on their way to the broker at a time. What waits in the broker's socket is late by as
# long, and more than these would make it no faster.
DELAYED_WINDOW = 250

Explain = Callable[[AmqtaskError, Publication, str | None], AmqtaskError]
"""Makes of a publisher's error, with the publication it was about and the queue that is due in, the one to report."""


class Counts(Protocol):
    """A batch, for one publication of it."""

    def ended(self, error: AmqtaskError | None) -> None:
        """One of them has ended."""
        ...


class Awaits(Protocol):
    """Where a result is expected."""

    def fail(self, error: BaseException) -> None:
        """None will come."""
        ...


class OnItsWay:
    """One publication of a batch; called once, with how it ended.

    An object, where a closure would read better: with its cells that is nine things for the garbage collector to walk
    through, for each of thousands on their way.
    """

    __slots__ = ("awaited", "batch", "due_in", "explain", "publication")

    def __init__(
        self,
        batch: Counts,
        publication: Publication,
        due_in: str | None,
        awaited: Awaits | None,
        explain: Explain,
    ) -> None:
        self.batch = batch
        self.publication = publication
        self.due_in = due_in
        self.awaited = awaited
        self.explain = explain

    def __call__(self, error: AmqtaskError | None) -> None:
        """Tell the batch, and who waits for the result."""
        if error is not None:
            error = self.explain(error, self.publication, self.due_in)
            if self.awaited is not None:
                self.awaited.fail(error)
        self.batch.ended(error)


class Batch:
    """Counts publishes on their way. ``submit`` may be called from several threads, ``wait`` from one.

    Args:
        most: how many may be on their way; ``submit`` waits above that. Each has its own deadline from ``submit`` on, so
            what waits here would only wait longer in the publisher, and run out of its time there on a slow broker.
    """

    def __init__(self, most: int) -> None:
        self.pid = os.getpid()
        self._most = most
        # Waits end when a quarter of them have ended: fewer wake-ups, and still some to send until the caller has woken up.
        self._resume = most * 3 // 4
        self._changed = Condition()
        self._lock = self._changed.lock
        self._total = 0  # guarded by _lock, like the five below
        self._ended = 0
        self._wake_at = -1  # somebody wants to be woken when so many have ended
        self._void = 0  # could not be handed over, which their caller knows
        self._failed = 0
        self._first: AmqtaskError | None = None

    def room(self, most: int) -> None:
        """Wait until fewer than ``most`` are on their way, and no more than ``submit`` lets through without waiting.

        For what must be on its way soon once it is made: a delayed task waits from the moment the broker has it.
        """
        most = min(most, self._most)
        if self._total - self._ended >= most:
            with self._lock:
                self._wait_for(most // 2)

    def _tell(self) -> None:
        self._wake_at = -1  # who waits for more says so again
        self._changed.notify_all()

    def _wait_for(self, left: int) -> None:
        """Wait until no more than ``left`` are on their way."""
        while (enough := self._total - left) > self._ended:
            self._wake_at = enough if self._wake_at < 0 else min(self._wake_at, enough)
            self._changed.wait()

    def submit(
        self,
        publisher: Publisher,
        publication: Publication,
        timeout: float,
        awaited: Awaits | None,
        explain: Explain,
        due_in: str | None = None,
    ) -> None:
        """Hand a publication over. ``awaited`` learns of a failure, so that nobody waits for its result.

        Args:
            publisher: sends it.
            publication: what to send.
            timeout: seconds until it must be confirmed.
            awaited: where its result is expected.
            explain: makes of the publisher's error the one to report.
            due_in: the queue it is due in, when it goes through the delay ladder.

        Raises:
            AmqtaskError: it could not even be handed over.
        """
        with self._lock:
            if self._total - self._ended >= self._most:
                self._wait_for(self._resume)
            self._total += 1
        settled = OnItsWay(self, publication, due_in, awaited, explain)
        try:
            publisher.submit(publication, settled, timeout, due_in=due_in)
        except BaseException:
            with self._lock:
                self._void += 1
            self.ended(None)
            raise

    def hold(self) -> Callable[[], None]:
        """Have the wait go on until what this returns is called, once: something else is on its way. Any thread; never waits."""
        with self._lock:
            self._total += 1
            self._void += 1
        return partial(self.ended, None)

    def ended(self, error: AmqtaskError | None) -> None:
        """One of them has ended."""
        with self._lock:
            self._ended += 1
            if error is not None:
                self._failed += 1
                self._first = self._first or error
            if self._ended == self._wake_at:
                self._tell()

    def wait(self) -> AmqtaskError | None:
        """Return when all have ended: the first error, saying how many failed, or ``None``."""
        with self._changed:
            self._wait_for(0)
            return summary(self._first, self._failed, self._total - self._void)


def summary(first: AmqtaskError | None, failed: int, total: int) -> AmqtaskError | None:
    """The first error, and how many there were; an error of the same class, so that callers can tell them apart."""
    if first is None or total == 1:
        return first
    text = f"{failed} of {total} tasks could not be sent; the first: {first}"
    if isinstance(first, OperationRefused):
        error: AmqtaskError = OperationRefused(first.code, first.text, text)
    else:
        error = type(first)(text)
    error.__cause__ = first
    return error
