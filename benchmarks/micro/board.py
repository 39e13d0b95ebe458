"""What the board costs: a task's beginning and end are written there, and each task is looked up in it."""

from __future__ import annotations

from collections.abc import Iterator

from amqtask.core.verdicts import Standing
from amqtask.worker.memory.board import Board
from benchmarks.micro.timing import Case

ID = "8f14e45f-ceea-467f-a8f3-3b1e2f0f6d3a"
OTHERS = 50_000


def cases() -> Iterator[Case]:
    """What a slot writes, what the supervisor reads, and the look-up that every task pays."""
    board = Board(seats=16, slots=1)
    slot = board.child(0).slot(0)
    raw, name = ID.encode(), "shop.email.send"
    yield Case("begin, id as bytes", lambda: slot.begin(raw, name, 12.5, 13.5, 14.5))
    yield Case("begin, id as str", lambda: slot.begin(ID, name, 12.5, 13.5, 14.5))
    yield Case("end", slot.end)
    slot.begin("one", name, 1.0)
    yield Case("read, by the supervisor", slot.read)
    yield Case("standing, nothing known", lambda: board.standing(ID))
    for number in range(OTHERS):
        board.put(f"task-{number}".encode(), Standing(revoked=True))
    yield Case("standing, 50,000 others known", lambda: board.standing(ID))
    yield Case("standing, known", lambda: board.standing(f"task-{OTHERS - 1}"))
