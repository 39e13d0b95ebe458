"""What ``Slot.begin``, ``Slot.end`` and ``Board.standing`` cost: they are on the path of every task.

Run: ``python benchmarks/micro/bench_board.py``. Prints nanoseconds per call, the best of seven rounds.
"""

from __future__ import annotations

import timeit

from amqtask.core.verdicts import Standing
from amqtask.worker.board import Board

LOOPS = 200_000


def measure(name: str, statement: str, variables: dict[str, object]) -> None:
    best = min(timeit.repeat(statement, number=LOOPS, repeat=7, globals=variables)) / LOOPS
    print(f"{name:<32} {best * 1e9:7.0f} ns")


def main() -> None:
    board = Board(seats=16, slots=1)
    slot = board.child(0).slot(0)
    variables: dict[str, object] = {
        "slot": slot,
        "board": board,
        "text": "8f14e45f-ceea-467f-a8f3-3b1e2f0f6d3a",
        "raw": b"8f14e45f-ceea-467f-a8f3-3b1e2f0f6d3a",
    }
    measure(
        "begin (id as bytes)", "slot.begin(raw, 'shop.email.send', 12.5, 13.5, 14.5)", variables
    )
    measure("begin (id as str)", "slot.begin(text, 'shop.email.send', 12.5, 13.5, 14.5)", variables)
    measure("end", "slot.end()", variables)
    slot.begin("one", "shop.email.send", 1.0)
    measure("read (the supervisor)", "slot.read()", variables)
    measure("standing, nothing known", "board.standing(text)", variables)
    for number in range(50_000):
        board.put(f"task-{number}".encode(), Standing(revoked=True))
    measure("standing, 50,000 others known", "board.standing(text)", variables)
    measure("standing, known", "board.standing('task-49999')", variables)


if __name__ == "__main__":
    main()
