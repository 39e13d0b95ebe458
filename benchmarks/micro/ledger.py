"""The ledger of deliveries in flight: accepted, settled, and acked together when the lowest are done."""

from __future__ import annotations

from collections.abc import Iterator

from amqtask.core.ledger import Ledger
from amqtask.core.outcome import Verdict
from benchmarks.micro.timing import Case

BATCH = 100


def cases() -> Iterator[Case]:
    """A hundred deliveries at a time, as they come from one read of the socket."""
    yield Case("accept, settle, flush: in order", lambda: _turn(range(1, BATCH + 1)), BATCH)
    yield Case("accept, settle, flush: in reverse", lambda: _turn(range(BATCH, 0, -1)), BATCH)
    yield Case("the same with one that stays open", lambda: _turn(range(2, BATCH + 1)), BATCH)


def _turn(settled: range) -> None:
    ledger = Ledger()
    epoch = ledger.open_epoch()
    for tag in range(1, BATCH + 1):
        ledger.accept(tag)
    for tag in settled:
        ledger.settle(epoch, tag, Verdict.ACK)
    ledger.flush()
