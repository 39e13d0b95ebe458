"""Redeliveries whose task runs in this node already: kept unsettled until the running one can answer for them.

After a lost connection, or a consumer timeout, the broker hands a message out again while its task still runs, to this child
or to any other of the node. Starting it a second time would be a repeat that nobody needs. So it waits here, beside the
slots, which go on with other messages, and ends in one of these ways:

- the execution ended, and everything that follows from it is safe: the message is settled as that one was;
- the execution died with its process, or is to come again: the message runs;
- the child stops, or loses its channel: it is given back, or was taken back by the broker.

What knows of the execution is the board (what runs) and the journal (what ended); they are asked now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from amqtask.amqp.ports import Delivery
from amqtask.amqp.threaded.loop import IoThread
from amqtask.core.outcome import Verdict
from amqtask.worker.memory.board import Board
from amqtask.worker.memory.journal import Ended
from amqtask.worker.settling.followups import Key

FIRST_LOOK = 0.05  # seconds; later looks come after a fifth of the time waited so far
LAST_LOOK = 1.0
DOUBT = 1.0  # seconds in which a child must have noticed that its channel is gone; see `_due`
LONGEST = 600.0  # seconds after which a message is given back: below the consumer timeouts that brokers have
ROOM = 64  # held messages that the prefetch is raised for


class Held:
    """The held deliveries of one child. I/O thread only.

    Args:
        io: the child's I/O thread.
        board: knows what runs in the node, and what ended.
        settle: settles a delivery as its execution was settled.
        release: lets deliveries run; ``True`` when what the journal knows does not concern them.
        give_back: returns deliveries to their queue.
        resized: told how many messages are held, so that the child can have that many more delivered.
    """

    def __init__(
        self,
        io: IoThread,
        board: Board,
        *,
        settle: Callable[[Delivery, Key, Verdict], None],
        release: Callable[[Delivery, bool], None],
        give_back: Callable[[Sequence[Delivery]], None],
        resized: Callable[[int], None],
    ) -> None:
        self._io = io
        self._board = board
        self._settle = settle
        self._release = release
        self._give_back = give_back
        self._resized = resized
        self._waiting: list[_Waiting] = []
        self._timer: Any = None

    def add(self, delivery: Delivery, key: Key) -> None:
        """Hold a delivery."""
        self._waiting.append(_Waiting(delivery, key, time.monotonic()))
        self._resized(min(len(self._waiting), ROOM))
        if self._timer is not None:
            self._io.cancel(self._timer)
        self._timer = self._io.call_later(FIRST_LOOK, self._look)

    def forget(self, stale: Callable[[Delivery], bool]) -> None:
        """A channel is gone, and with it what came on it."""
        kept = [each for each in self._waiting if not stale(each.delivery)]
        if len(kept) != len(self._waiting):
            self._waiting = kept
            self._resized(min(len(kept), ROOM))

    def finish(self) -> list[Delivery]:
        """Settle what can be settled now and hold nothing any more; what was left."""
        self._look()
        return self.drop()

    def drop(self) -> list[Delivery]:
        """Hold nothing any more; what was held."""
        dropped = [each.delivery for each in self._waiting]
        self._waiting = []
        if self._timer is not None:
            self._io.cancel(self._timer)
            self._timer = None
        if dropped:
            self._resized(0)
        return dropped

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        before = self._waiting
        self._waiting = [each for each in before if not self._due(each, now)]
        if len(self._waiting) != len(before):
            self._resized(min(len(self._waiting), ROOM))
        if self._waiting:
            youngest = now - self._waiting[-1].since
            self._timer = self._io.call_later(
                min(LAST_LOOK, max(FIRST_LOOK, youngest / 5)), self._look
            )

    def _due(self, waiting: _Waiting, now: float) -> bool:
        """End one wait if it has an end."""
        delivery, key = waiting.delivery, waiting.key
        runs = self._board.runs(*key)  # first: what leaves the board is in the journal already
        ended = self._board.journal.find(key[1])
        if ended is Ended.ACK_LOST:
            self._settle(delivery, key, Verdict.ACK)
        elif ended is Ended.REJECT_LOST:
            self._settle(delivery, key, Verdict.REJECT)
        elif runs or ended is Ended.SETTLING:
            waiting.settled = None
            if now - waiting.since < LONGEST:
                return False
            self._give_back([delivery])
        elif ended is Ended.UNKNOWN:
            self._release(delivery, False)
        else:
            # Acked on a channel that still seems to live. Either its child is about to notice that the channel is gone, or
            # this is another message with the same id, sent on purpose, and is to run.
            if waiting.settled is None:
                waiting.settled = now
            if now - waiting.settled < DOUBT:
                return False
            self._release(delivery, True)
        return True


class _Waiting:
    """One held delivery."""

    __slots__ = ("delivery", "key", "settled", "since")

    def __init__(self, delivery: Delivery, key: Key, since: float) -> None:
        self.delivery = delivery
        self.key = key
        self.since = since
        self.settled: float | None = None  # since when it is known to have ended on a live channel
