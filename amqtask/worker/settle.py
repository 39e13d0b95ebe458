"""Carries settlements out: follow-ups published and confirmed, then the verdict. Runs on the child's I/O thread.

The slot hands a settlement over and goes on with the next task at once; the delivery stays unacked, and so counted against
the prefetch, until what follows from it is safe. A slot posts settlements without waking the I/O thread for each: see
``Settler.post``.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial

from amqtask.amqp.ports import Delivery
from amqtask.amqp.threaded.consumer import ThreadedConsumer
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.core.backoff import exponential
from amqtask.core.message import Publication
from amqtask.core.outcome import Onward, Settlement, Verdict
from amqtask.errors import (
    BrokerError,
    ConnectionLost,
    MessageError,
    PublishNacked,
    Unroutable,
)
from amqtask.log import get_logger
from amqtask.worker.journal import SeatJournal

log = get_logger("amqtask.worker")

LINGER = 0.005  # seconds a finished task's ack may wait in the slot's outbox

PAUSE = (
    0.5  # seconds before a message or a dead letter that no queue took is published again; doubles
)
PAUSE_CAP = 5.0

# Seconds a reply queue may refuse before its results are given up and their tasks acked: it must not hold them for ever.
REPLY_WITHIN = 60.0
REPLY_WITHIN_STOP = 5.0  # the same while the child ends; less than it waits for its settlements

REMEMBERED_BYTES = 65_536  # a larger result is not kept: its task would run again after a lost ack

Key = tuple[str, int]  # task id and journal mark: one execution
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
    """

    def __init__(
        self,
        io: IoThread,
        consumer: ThreadedConsumer,
        publisher: ThreadedPublisher,
        remember: int,
        journal: SeatJournal,
    ) -> None:
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
        for _ in range(len(outbox)):
            self._begin(*outbox.popleft())
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
        if not settlement.results and settlement.dead_letter is None and settlement.onward is None:
            self._finish(delivery, settlement, settlement.verdict, key, place)
            return
        self._open += 1

        def ended(verdict: Verdict | None) -> None:
            self._open -= 1
            if verdict is not None:
                self._finish(delivery, settlement, verdict, key, place)
            elif key is not None:
                # Nobody will settle this run any more: what waits for its end must not wait for ever.
                self._journal.withdraw(place, key[1])
            self._check_idle()

        follow_ups = FollowUps(settlement, key, ended, self._publisher, self._io, self._replies)
        if settlement.onward is not None or settlement.dead_letter is not None:
            # While it cannot be published the delivery stays ours, unless the broker has it again.
            follow_ups.wanted = lambda: not self._on_idle and not self._consumer.stale(delivery)
        follow_ups.publish()

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


class RefusedReplies:
    """The reply queues that refuse results at present. I/O thread.

    Each is waited for once, not once for every result: what is held meanwhile counts against the prefetch.

    Attributes:
        within: seconds from a queue's first refusal in which it is asked again.
    """

    def __init__(self) -> None:
        self.within = REPLY_WITHIN
        self._since: dict[str, tuple[float, float]] = {}  # its first and its latest refusal

    def __bool__(self) -> bool:
        return bool(self._since)

    def refused(self, queue: str, now: float) -> bool:
        """Note a refusal; whether the result is worth another try."""
        if queue not in self._since:
            self._since = {
                name: times for name, times in self._since.items() if now - times[1] < REPLY_WITHIN
            }
        first, latest = self._since.get(queue, (now, now))
        if now - latest >= REPLY_WITHIN:
            first = now  # that was another time
        self._since[queue] = (first, now)
        return now - first < self.within

    def answered(self, queue: str) -> None:
        """Note that it takes results, or that it is gone."""
        self._since.pop(queue, None)


class FollowUps:
    """The follow-ups of one settlement on their way. I/O thread.

    ``ended`` runs once, when each has its confirm or its error: with the verdict that is now safe to send, or ``None`` when
    the delivery must stay unsettled because we are closing and the broker will give it to somebody else.

    Args:
        settlement: what follows.
        key: the execution, if one took place.
        ended: told the verdict.
        publisher: sends.
        io: the I/O thread, for pauses.
        replies: the reply queues that refuse.
    """

    def __init__(
        self,
        settlement: Settlement,
        key: Key | None,
        ended: Callable[[Verdict | None], None],
        publisher: ThreadedPublisher,
        io: IoThread,
        replies: RefusedReplies,
    ) -> None:
        self.wanted: Callable[[], bool] = (
            _yes  # whether a refused onward publication is worth another try
        )
        self._settlement = settlement
        self._task_id = key[0] if key else None
        self._ended = ended
        self._publisher = publisher
        self._io = io
        self._verdict = settlement.verdict
        self._replies = replies
        self._refusals = 0
        self._nacks = 0  # of results
        self._left = (
            len(settlement.results)
            + (settlement.dead_letter is not None)
            + (settlement.onward is not None)
        )
        self._abandoned = False

    def publish(self) -> None:
        """Hand all of them to the publisher."""
        letter = self._settlement.dead_letter
        if letter is not None:
            self._bury(letter)
        if self._settlement.onward is not None:
            self._send_on(self._settlement.onward)
        for result in self._settlement.results:
            self._send_result(result)

    def _send_on(self, onward: Onward) -> None:
        self._submit(onward.publication, lambda error: self._sent_on(onward, error), onward.queue)

    def _submit(
        self,
        publication: Publication,
        on_settled: Callable[[Exception | None], None],
        due_in: str | None = None,
    ) -> None:
        try:
            self._publisher.submit(publication, on_settled, due_in=due_in)
        except (BrokerError, MessageError) as error:
            on_settled(error)

    def _send_result(self, result: Publication) -> None:
        self._submit(result, partial(self._result_sent, result))

    def _result_sent(self, result: Publication, error: Exception | None) -> None:
        if isinstance(error, PublishNacked):
            # Its caller may live, and its queue be back in a moment: the node that has it is down, perhaps.
            if self._replies.refused(result.routing_key, time.monotonic()):
                if not self._nacks:
                    log.warning(
                        "a reply queue refuses a result; it is sent again for a while",
                        task_id=self._task_id,
                        reason=str(error),
                    )
                pause = exponential(self._nacks, PAUSE, PAUSE_CAP)
                self._nacks += 1
                self._io.call_later(pause, partial(self._send_result, result))
                return
        elif self._replies and not isinstance(error, ConnectionLost):
            self._replies.answered(result.routing_key)
        if isinstance(error, ConnectionLost):
            self._abandoned = True
        elif isinstance(error, Unroutable):
            log.info("nobody waits for the result any more", task_id=self._task_id)
        elif error is not None:
            log.warning("a result could not be sent", task_id=self._task_id, reason=str(error))
        self._one_done()

    def _bury(self, letter: Publication) -> None:
        self._submit(letter, lambda error: self._dead_lettered(letter, error))

    def _dead_lettered(self, letter: Publication, error: Exception | None) -> None:
        if isinstance(
            error, MessageError
        ):  # the reason has no room in it: the broker can still carry it there without
            log.warning(
                "the message is dead-lettered by the broker, without its reason",
                task_id=self._task_id,
                reason=str(error),
            )
            self._verdict = None if self._verdict is None else Verdict.REJECT
        elif isinstance(error, ConnectionLost) or (error is not None and not self.wanted()):
            self._abandoned = True
        elif error is not None:
            # Rejected, it would go the same way by the broker's hand, which loses what that way does not take.
            if not self._refusals:
                log.error(
                    "no queue takes a dead letter; its message is kept and the letter sent again until one does",
                    task_id=self._task_id,
                    exchange=letter.exchange,
                    routing_key=letter.routing_key,
                    reason=str(error),
                )
            self._once_more(lambda: self._bury(letter))
            return
        self._one_done()

    def _sent_on(self, onward: Onward, error: Exception | None) -> None:
        if error is None:
            self._one_done()
            return
        if isinstance(error, MessageError):  # what is too large now is too large for ever
            log.error(
                "a message cannot be published for later and is rejected",
                task_id=self._task_id,
                reason=str(error),
            )
            self._verdict = None if self._verdict is None else Verdict.REJECT
            self._one_done()
            return
        if isinstance(error, ConnectionLost) or not self.wanted():
            self._abandoned = True
            self._one_done()
            return
        # Given back, it would come again at once, and run again if this is a retry: the next try is made from here. The
        # delivery counts against the prefetch meanwhile, so a ladder that nobody mends holds the node up, not the broker.
        pause = self._once_more(lambda: self._send_on(onward))
        log.error(
            "a message could not be published for later; trying again",
            task_id=self._task_id,
            queue=onward.queue,
            reason=str(error),
            retry_in=round(pause, 1),
        )

    def _once_more(self, publish: Callable[[], None]) -> float:
        """Have something published again after a pause, if it is still wanted then; seconds until that."""
        pause = exponential(self._refusals, PAUSE, PAUSE_CAP)
        self._refusals += 1
        self._io.call_later(pause, lambda: self._again(publish))
        return pause

    def _again(self, publish: Callable[[], None]) -> None:
        if self.wanted():
            publish()
        else:
            self._abandoned = True
            self._one_done()

    def _one_done(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._ended(None if self._abandoned else self._verdict)


def _yes() -> bool:
    return True
