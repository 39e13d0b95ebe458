"""Carries settlements out: follow-ups published and confirmed, then the verdict. Runs on the child's I/O thread.

The slot hands a settlement over and goes on with the next task at once; the delivery stays unacked, and so counted against
the prefetch, until what follows from it is safe. A slot posts settlements without waking the I/O thread for each: see
``Settler.post``.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from amqtask.amqp.ports import Delivery
from amqtask.amqp.threaded.consumer import ThreadedConsumer
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.core.message import Publication
from amqtask.core.outcome import Settlement, Verdict
from amqtask.core.settlement import DONE
from amqtask.worker.memory.journal import SeatJournal
from amqtask.worker.settling.followups import (
    REPLY_WITHIN_STOP,
    FollowUps,
    Joins,
    Key,
    RefusedReplies,
    Workflows,
)
from amqtask.worker.settling.reminders import Reminders

LINGER = 0.005  # seconds a finished task's ack may wait in the slot's outbox

REMEMBERED_BYTES = 65_536  # a larger result is not kept: its task would run again after a lost ack

Posted = tuple[Delivery, Settlement, Key | None, int]


class Settler:
    """The way from a slot's settlement to the broker.

    ``post`` and ``flush`` are called by the slot's thread, ``remembered`` too; everything else runs on the I/O thread.

    Args:
        io: the child's I/O thread.
        consumer: takes the verdicts.
        publisher: takes the follow-ups.
        remember: how many results of finished executions are kept, whose ack may have been lost.
        journal: this child's ring of ended executions.

    Attributes:
        joins: looks at the barriers of chords; set before anything is posted, likewise ``workflows``.
        workflows: says what follows when something of a workflow could not be started.
        reminders: what makes up for parts of chords that are acked before they run.
    """

    def __init__(
        self,
        io: IoThread,
        consumer: ThreadedConsumer,
        publisher: ThreadedPublisher,
        remember: int,
        journal: SeatJournal,
    ) -> None:
        self.joins: Joins | None = None
        self.workflows: Workflows | None = None
        self.reminders: Reminders | None = None
        self._io = io
        self._consumer = consumer
        self._publisher = publisher
        self._remember = remember
        self._journal = journal
        self._enough = (
            1  # settled tasks that are worth a wake-up; written by the I/O thread, read by the slot
        )
        self._outbox: deque[Posted] = deque()  # slot → I/O thread
        self._woken = 0.0  # slot's thread: when it last woke the I/O thread
        self._polling = False  # I/O thread: a look at the outbox is due
        self._woken_since = False  # I/O thread: the slot has woken us since that look was ordered
        self._open = 0  # I/O thread: settlements whose follow-ups are not confirmed yet
        self._on_idle: list[Callable[[], None]] = []
        self._replies = RefusedReplies()  # I/O thread
        # what is kept of settlements until they are carried out; slots put in, the I/O thread takes out
        self._held: dict[int, Callable[[], None]] = {}
        # written by the I/O thread, read by the slot; single dict operations are atomic under the GIL
        self._finished: OrderedDict[Key, tuple[Publication, ...]] = OrderedDict()

    # ------------------------------------------------------------ the slot's thread

    def post(
        self, delivery: Delivery, settlement: Settlement, key: Key | None, place: int = 0
    ) -> None:
        """Hand a settlement over. ``key`` identifies the execution, if one took place, and ``place`` is its in the journal.

        The I/O thread is woken when the last wake is older than a few milliseconds; it looks again by itself that long
        after each wake, and on while it finds something. So a stream of short tasks costs one wake-up per batch, and no
        ack waits longer than that, however long the next task runs.
        """
        outbox = self._outbox
        outbox.append((delivery, settlement, key, place))
        # Read after the append: a look that missed it was ordered by an older wake.
        now = time.monotonic()
        if now - self._woken >= LINGER or len(outbox) >= self._enough:
            self._woken = now
            self._io.post(self._on_wake)

    def hold(self, settlement: Settlement, release: Callable[[], None]) -> None:
        """Have ``release`` called when a settlement that is about to be posted has been carried out."""
        if follows(settlement):
            self._held[id(settlement)] = release
        else:
            release()

    def flush(self) -> None:
        """Have everything posted so far settled now; called when the slot runs out of work."""
        if self._outbox:
            self._woken = time.monotonic()
            self._io.post(self._on_wake)

    def remembered(self, key: Key) -> tuple[Publication, ...]:
        """The results of an execution that finished in this child, if there were any and they are not forgotten."""
        return self._finished.get(key, ())

    # ------------------------------------------------------------ the I/O thread

    def set_window(self, prefetch: int) -> None:
        """Tell how many messages the child may hold.

        Half of them settled is worth a wake-up, so that the broker sends more while the slot works on the rest.
        """
        self._enough = max(1, prefetch // 2)

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` once everything posted has its verdict. I/O thread."""
        self._on_idle.append(callback)
        self._replies.within = REPLY_WITHIN_STOP
        self._drain()

    def settle_now(self, delivery: Delivery, settlement: Settlement, key: Key) -> None:
        """Settle from the I/O thread itself: a task ended at its hard limit."""
        self._begin(delivery, settlement, key, self._journal.begin(key[1]))

    def _on_wake(self) -> None:
        self._drain()
        if self._polling:
            # The look that is due comes too early for what follows this wake.
            self._woken_since = True
        else:
            self._poll()

    def _drain(self) -> None:
        outbox = self._outbox
        self._journal.turn(time.monotonic())
        done: list[Posted] = []
        for _ in range(len(outbox)):
            posted = outbox.popleft()
            if posted[1] is DONE and posted[2] is not None:
                done.append(posted)
            else:
                self._begin(*posted)
        if done:
            self._finish_done(done)
        self._check_idle()

    def _poll(self) -> None:
        self._polling = True
        self._woken_since = False
        self._io.call_later(LINGER, self._look_again)

    def _look_again(self) -> None:
        self._polling = False
        if self._outbox or self._woken_since:
            self._drain()
            self._poll()

    def _check_idle(self) -> None:
        if self._on_idle and not self._open and not self._outbox:
            callbacks, self._on_idle = self._on_idle, []
            for callback in callbacks:
                callback()

    def _begin(
        self, delivery: Delivery, settlement: Settlement, key: Key | None, place: int
    ) -> None:
        if not follows(settlement):
            self._finish(delivery, settlement, settlement.verdict, key, place)
            return
        self._open += 1
        release = self._held.pop(id(settlement), None) if self._held else None

        def ended(verdict: Verdict | None) -> None:
            self._open -= 1
            if release is not None and not follow_ups.abandoned:
                release()
            if verdict is not None:
                self._finish(delivery, settlement, verdict, key, place)
            elif key is not None:
                # Nobody will settle this run any more: what waits for its end must not wait for ever.
                self._journal.withdraw(place, key[1])
            self._check_idle()

        follow_ups = FollowUps(
            settlement,
            key,
            ended,
            self._publisher,
            self._io,
            self._replies,
            self.joins,
            self.workflows,
        )
        if (
            settlement.onward is not None
            or settlement.dead_letter is not None
            or settlement.sequel is not None
        ):
            follow_ups.again = settlement.sequel is not None and delivery.redelivered
            # While it cannot be published the delivery stays ours, unless the broker has it again. One that was acked
            # before it ran is nobody else's, whatever became of its channel.
            acked = settlement.verdict is None
            if acked and self.reminders is not None:
                follow_ups.reminders = self.reminders, delivery.queue
            follow_ups.wanted = lambda: (
                not self._on_idle and (acked or not self._consumer.stale(delivery))
            )
        follow_ups.publish()

    def _finish_done(self, done: Sequence[Posted]) -> None:
        """``_finish`` for all from which nothing follows but an ack, which is what happens most."""
        consumer, settled = self._consumer, self._journal.settled
        for delivery, _, key, place in done:
            assert key is not None
            # Noted before the acks leave: what the broker knows, the journal knows.
            settled(place, key[1], acked=True, lost=not consumer.note_ack(delivery))
        consumer.send_acks()

    def _finish(
        self,
        delivery: Delivery,
        settlement: Settlement,
        verdict: Verdict | None,
        key: Key | None,
        place: int,
    ) -> None:
        if key is not None:
            if verdict is Verdict.ACK or verdict is Verdict.REJECT:
                # Before the verdict leaves: what the broker knows, the journal knows.
                self._journal.settled(
                    place,
                    key[1],
                    acked=verdict is Verdict.ACK,
                    lost=self._consumer.stale(delivery),
                )
                results = settlement.results
                if results and sum(len(each.envelope.body) for each in results) <= REMEMBERED_BYTES:
                    finished = self._finished
                    finished[key] = results
                    if len(finished) > self._remember:
                        finished.popitem(last=False)
            else:
                self._journal.withdraw(place, key[1])
        if verdict is not None:
            self._consumer.settle(delivery, verdict)


def follows(settlement: Settlement) -> bool:
    """Whether anything is published before the verdict."""
    return (
        bool(settlement.results)
        or settlement.dead_letter is not None
        or settlement.onward is not None
        or settlement.sequel is not None
    )
