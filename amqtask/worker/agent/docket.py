"""The docket: what one node knows of verdicts, and what it still has to tell the others.

It takes in the records of the stream and the node's own, folds them, and shows on the board what has changed. There is one per
node, in the one process that writes the board's standings: the supervisor, or a solo worker itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from amqtask.core.verdicts import Book, Kind, Record, Standing, new_event
from amqtask.worker.memory.board import Board

OUTBOX = 10_000  # records kept until the stream has them; a node without a broker runs nothing, so there are few


class Docket:
    """What a node knows against task ids. One thread.

    Args:
        node: the node's name.
        board: shows what is known to all processes of the node.
        max_age: seconds for which a verdict holds.
    """

    def __init__(self, node: str, board: Board, max_age: float) -> None:
        self._node = node
        self._board = board
        self._book = Book(max_age=max_age)
        self._outbox: dict[str, Record] = {}

    @property
    def unconfirmed(self) -> tuple[Record, ...]:
        """The node's own records that may not be in the stream yet, oldest first."""
        return tuple(self._outbox.values())

    def read(self, offset: int, records: Sequence[Record]) -> None:
        """Take in records of the stream; ``offset`` is that of what comes after them."""
        now = time.time()
        for record in records:
            self._outbox.pop(record.event, None)
            self._take(record, now)
        self._board.offset = offset

    def charge(
        self, kind: Kind, task_id: str, task: str, cause: str | None = None
    ) -> tuple[Record, Standing]:
        """Record what a task has just done; shown on the board at once.

        Returns the record, which stays in ``unconfirmed`` until ``confirmed``, and what holds for the task now.
        """
        now = time.time()
        record = Record(
            kind=kind,
            event=new_event(),
            origin=self._node,
            time=now,
            ids=(task_id,),
            cause=cause,
            task=task,
        )
        self._take(record, now)
        self._outbox[record.event] = record
        if len(self._outbox) > OUTBOX:
            del self._outbox[next(iter(self._outbox))]
        standing = self._book.standing(task_id)
        assert standing is not None
        return record, standing

    def confirmed(self, event: str) -> None:
        """The stream has a record of ours."""
        self._outbox.pop(event, None)

    def _take(self, record: Record, now: float) -> None:
        for which, standing in self._book.add(record, now):
            self._board.put(which, standing)
