"""The journal of executions that ended: two writes for each task, a search for each redelivery."""

from __future__ import annotations

from collections.abc import Iterator

from amqtask.worker.memory.journal import Journal, mark_of
from benchmarks.micro.timing import Case

SEATS = 8
FULL = 1000


def cases() -> Iterator[Case]:
    """Writes in one seat of a node with eight, and a search when all are full."""
    journal = Journal(SEATS)
    seat = journal.seat(0)
    identity = ("8f14e45f-ceea-467f-a8f3-3b1e2f0f6d3a", 0, "email")
    mark = mark_of(identity)

    def ended() -> None:
        place = seat.begin(mark)
        seat.safe(place, mark)
        seat.settled(place, mark, acked=True, lost=False)

    yield Case("mark_of", lambda: mark_of(identity))
    yield Case("begin, safe, settled", ended)
    for index in range(SEATS):
        other = journal.seat(index)
        for number in range(FULL):
            other.begin(mark_of((index, number)))
    unknown = mark_of(("unknown", 0))
    yield Case("find, unknown, 8 full seats", lambda: journal.find(unknown))
