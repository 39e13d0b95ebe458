"""Ending revoked tasks where they run: whom the supervisor asks, and whom it kills when that does not help."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from amqtask.core import fleet
from amqtask.core.verdicts import Record
from amqtask.log import Logger
from amqtask.worker.forking.lineage import ASK_SIGNAL
from amqtask.worker.memory.board import Board, Ending, Running, Slot, stored
from amqtask.worker.supervision.signal_names import asked_for
from amqtask.worker.supervision.stopped import caught

ASK_GRACE = 1.0  # s a child has to end a revoked task itself, before it is killed
KILL_GRACE = 0.25  # s: the same, when the order was to kill
ORDER_STANDS = 2.0  # s in which a task that is to be terminated is looked for
ORDER_LOOK = 0.1  # s between two such looks

Run: TypeAlias = tuple[int, int, int, int]
"""One run of a task: the pid of its child, its seat, its slot, and its number there."""


class _Order:
    """Revoked tasks that are to be ended where they run: by id, or, as far as children find them, by their headers."""

    def __init__(
        self, ids: frozenset[str], by_header: bool, number: signal.Signals, until: float
    ) -> None:
        self.ids = ids
        self.by_header = by_header
        self.number = number
        self.until = until
        self.given: set[Run] = set()  # runs that it was given to


class Orders:
    """The orders of a node to end what is revoked. One thread.

    Args:
        board: tells what runs.
        log: of the node.
    """

    def __init__(self, board: Board, log: Logger) -> None:
        self._board = board
        self._log = log
        self._orders: list[_Order] = []
        # runs that were asked to end, and when the child of each is killed
        self._asked: dict[Run, float] = {}

    def add(self, record: Record, now: float) -> None:
        """Order the end of revoked tasks that run here now. That they are revoked is on the board already.

        The order stands for a moment: a task may have been looked up just before the record came, and be about to start.
        """
        self._orders.append(
            _Order(
                frozenset(map(stored, record.ids)),
                bool(record.headers),
                asked_for(record.signal),
                now + ORDER_STANDS,
            )
        )

    def carry_out(self, children: Iterable[fleet.Child], now: float) -> None:
        """Give the orders that stand to what runs."""
        self._orders = [order for order in self._orders if now < order.until]
        if not self._orders:
            return
        for child in children:
            if child.pid == 0:
                continue
            for place, slot in enumerate(self._board.child(child.index).slots):
                task = slot.read()
                if task is None:
                    continue
                run = (child.pid, child.index, place, task.sequence)
                for order in self._orders:
                    if (task.task_id in order.ids or order.by_header) and run not in order.given:
                        order.given.add(run)
                        self._end_run(slot, run, task, order, now)

    def _end_run(self, slot: Slot, run: Run, task: Running, order: _Order, now: float) -> None:
        """End one run: USR1 raises an exception in it; else the child settles it, or is killed, after KILL soon."""
        pid, index, _, sequence = run
        named = task.task_id in order.ids
        if not named and any(
            task.task_id in each.ids for each in self._orders if run in each.given
        ):
            return  # it was asked already, and without a condition
        if named:
            self._log.info(
                "ending a revoked task",
                task_id=task.task_id,
                task_name=task.name,
                index=index,
                pid=pid,
                signal=order.number.name,
            )
        softly = order.number == signal.SIGUSR1
        if named and not softly:
            # asked first even so: what had ended before in this child is settled, and not run once more
            self._asked[run] = now + (KILL_GRACE if order.number == signal.SIGKILL else ASK_GRACE)
        # which headers a task has only its child knows, so that one looks for itself
        slot.ask(sequence, Ending.ASKED if softly else Ending.NOW, by_header=not named)
        # the pid is the child's until we acknowledge its death
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, ASK_SIGNAL)

    def overdue(self, children: Mapping[int, fleet.Child], now: float) -> Iterator[fleet.Event]:
        """Find children that did not end what they were asked to end."""
        for run, due in list(self._asked.items()):
            pid, index, place, sequence = run
            slot = self._board.child(index).slots[place]
            task = slot.read()
            child = children.get(index)
            if child is None or child.pid != pid or task is None or task.sequence != sequence:
                del self._asked[run]  # it has ended: what runs there now is another
            elif slot.declined(sequence):
                # it was sent back from the dead letters since: another life of the task was meant
                del self._asked[run]
            elif now >= due:
                del self._asked[run]
                if caught(pid, slot, sequence):
                    # nothing to record: that it was revoked is known already, and settles its redelivery
                    yield fleet.ChildStuck(index, pid, "its task was revoked")

    def next_look(self, now: float) -> float:
        """When ``carry_out`` and ``overdue`` are due again, on the monotonic clock."""
        return min([*self._asked.values(), now + ORDER_LOOK if self._orders else math.inf])
