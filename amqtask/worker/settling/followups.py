"""The follow-ups of a settlement on their way to the broker: results, dead letter, next attempt, and what follows in a workflow.

Runs on the child's I/O thread. A settlement's verdict is told when each of them is confirmed, or has its error.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.core.backoff import exponential
from amqtask.core.barrier import Late
from amqtask.core.message import Publication
from amqtask.core.outcome import Onward, PartSent, Send, Sequel, Settlement, Verdict
from amqtask.core.result import SUCCESS
from amqtask.errors import (
    AmqtaskError,
    ConfigurationError,
    ConnectionLost,
    MessageError,
    OperationRefused,
    PublishNacked,
    Unroutable,
)
from amqtask.log import get_logger
from amqtask.worker.settling.reminders import Reminders

log = get_logger("amqtask.worker")

PAUSE = (
    0.5  # seconds before a message or a dead letter that no queue took is published again; doubles
)
PAUSE_CAP = 5.0

# Seconds a reply queue may refuse before its results are given up and their tasks acked: it must not hold them for ever.
REPLY_WITHIN = 60.0
REPLY_WITHIN_STOP = 5.0  # the same while the child ends; less than it waits for its settlements

Key = tuple[str, int]  # task id and journal mark: one execution


class Joins(Protocol):
    """Looks at the barriers of chords. I/O thread."""

    def look(
        self,
        group: str,
        size: int | None,
        failed: bool,
        on_done: Callable[[Exception | None], None],
        again: bool = False,
        late: Late | None = None,
    ) -> None:
        """See whether a chord is complete, and conclude it if it is, before ``on_done``.

        ``again``: an earlier run of the part may have died while it did that. ``late``: its time is over, and this its plan.
        """
        ...


class Workflows(Protocol):
    """Says what follows when something of a workflow could not be started."""

    def refused(self, started: object, error: Exception) -> Sequel:
        """What follows instead; never raises."""
        ...


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
        joins: looks at barriers.
        workflows: says what follows when something could not be started.
    """

    def __init__(
        self,
        settlement: Settlement,
        key: Key | None,
        ended: Callable[[Verdict | None], None],
        publisher: ThreadedPublisher,
        io: IoThread,
        replies: RefusedReplies,
        joins: Joins | None,
        workflows: Workflows | None,
    ) -> None:
        self.wanted: Callable[[], bool] = _yes  # whether a refused publication is worth another try
        self.again = False  # the delivery is one that was delivered before
        # Where a delivery was acked before it ran: what makes up for that it does not come again, and its queue.
        self.reminders: tuple[Reminders, str] | None = None
        self._settlement = settlement
        self._task_id = key[0] if key else None
        self._ended = ended
        self._publisher = publisher
        self._io = io
        self._verdict = settlement.verdict
        self._replies = replies
        self._joins = joins
        self._workflows = workflows
        self._refusals = 0
        self._nacks = 0  # of results
        self._left = (
            len(settlement.results)
            + (settlement.dead_letter is not None)
            + (settlement.onward is not None)
            + (settlement.sequel is not None)
        )
        self._abandoned = False

    @property
    def abandoned(self) -> bool:
        """Whether something has no confirm, and will have none from us."""
        return self._abandoned

    def publish(self) -> None:
        """Hand all of them to the publisher."""
        letter = self._settlement.dead_letter
        if letter is not None:
            self._bury(letter)
        if self._settlement.onward is not None:
            self._send_on(self._settlement.onward)
        for result in self._settlement.results:
            self._send_result(result)
        if self._settlement.sequel is not None:
            self._carry(self._settlement.sequel)

    # ------------------------------------------------------------ what follows in the workflow

    def _carry(self, sequel: Sequel) -> None:
        """Carry out a sequel, which counts as one; its plans first."""
        if not sequel.plans:
            self._go_on(sequel)
            return
        pending, instead, lost = len(sequel.plans), Sequel(), False

        def settled(plan: Send, error: Exception | None) -> None:
            nonlocal pending, instead, lost
            if isinstance(error, ConnectionLost):
                lost = True
            elif _hopeless(error):
                instead += self._refused(plan, error)
            pending -= 1
            if pending:
                return
            if lost:
                self._abandoned = True
                self._one_done()
            else:
                self._go_on(sequel + instead)

        for plan in sequel.plans:
            self._start(plan, partial(settled, plan))

    def _go_on(self, sequel: Sequel) -> None:
        """The plans of a sequel are safe: send the rest of it."""
        self._left += (
            len(sequel.sends) + len(sequel.results) + len(sequel.parts) + len(sequel.looks)
        )
        for result in sequel.results:
            self._send_result(result)
        for send in sequel.sends:
            self._start(send, partial(self._started, send))
        for part in sequel.parts:
            self._end_part(part)
        for look in sequel.looks:
            if self._joins is None:
                self._one_done()
            else:
                # Who ended the last part, and is gone, may have it all in its hands still.
                self._joins.look(look.group, look.size, False, self._looked, True, look.late)
        self._one_done()

    def _end_part(self, sent: PartSent) -> None:
        """Tell a barrier; but first have somebody look at it later if this process is killed before it does."""
        now, group = time.monotonic(), sent.part.group
        if self.reminders is None or self.reminders[0].covers(group, now):
            self._start(Send(sent.publication), partial(self._joined, sent))
            return
        reminders, queue = self.reminders

        def reminded(error: Exception | None) -> None:
            if isinstance(error, ConnectionLost):
                self._abandoned = True
                self._one_done()
                return
            if error is None:
                reminders.sent(group, now)
            else:
                log.warning(
                    "a part of a chord ends without a look at it later: if this process is killed now, the chord may wait",
                    task_id=self._task_id,
                    reason=str(error),
                )
            self._start(Send(sent.publication), partial(self._joined, sent))

        self._start(reminders.look(sent.part, queue), reminded)

    def _start(self, send: Send, on_settled: Callable[[Exception | None], None]) -> None:
        """Publish what starts something, again and again until it is taken, refused for good, or not ours any more."""

        def settled(error: Exception | None) -> None:
            if error is None or isinstance(error, ConnectionLost | Unroutable) or _hopeless(error):
                on_settled(error)
            elif not self.wanted():
                on_settled(ConnectionLost("The delivery is not ours any more."))
            else:
                pause = exponential(self._refusals, PAUSE, PAUSE_CAP)
                self._refusals += 1
                log.error(
                    "what follows a task could not be published; trying again",
                    task_id=self._task_id,
                    exchange=send.publication.exchange,
                    routing_key=send.publication.routing_key,
                    reason=str(error),
                    retry_in=round(pause, 1),
                )
                self._io.call_later(pause, partial(self._start, send, on_settled))

        self._submit(send.publication, settled, send.due_in)

    def _started(self, send: Send, error: Exception | None) -> None:
        if isinstance(error, ConnectionLost):
            self._abandoned = True
        elif error is not None:
            self._carry(self._refused(send, error))
            return
        self._one_done()

    def _refused(self, send: Send, error: Exception | None) -> Sequel:
        """What follows when something cannot be started."""
        log.error(
            "what follows a task cannot be started and fails",
            task_id=self._task_id,
            exchange=send.publication.exchange,
            routing_key=send.publication.routing_key,
            reason=str(error),
        )
        if self._workflows is None or error is None or send.started is None:
            return Sequel()
        return self._workflows.refused(send.started, error)

    def _joined(self, sent: PartSent, error: Exception | None) -> None:
        """The barrier of a chord has a part, or is not there any more: the chord has ended."""
        if isinstance(error, ConnectionLost):
            self._abandoned = True
        elif error is None and self._joins is not None:
            part = sent.part
            failed = part.state != SUCCESS
            self._joins.look(part.group, part.size, failed, self._looked, self.again)
            return
        elif error is not None and not isinstance(error, Unroutable):
            log.error(
                "a part of a chord could not be sent", task_id=self._task_id, reason=str(error)
            )
        self._one_done()

    def _looked(self, error: Exception | None) -> None:
        if error is not None:
            self._abandoned = True
        self._one_done()

    # ------------------------------------------------------------ the message itself, and its results

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
        except AmqtaskError as error:
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


def _hopeless(error: Exception | None) -> bool:
    """Whether what was refused would be refused for ever."""
    return isinstance(error, MessageError | ConfigurationError | OperationRefused)
