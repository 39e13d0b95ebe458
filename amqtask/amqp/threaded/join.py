"""Brings chords together: looks whether all parts of one are there, and concludes it when they are.

Whoever has put something into a barrier's queue looks at it afterwards. A look is a question for the number of messages; only
when there are enough of them, or a part has failed, or a part has come for a second time, is the queue drained. What happens
then, and why a process may die at any moment of it, is told in ``drain``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from amqtask.amqp import failures
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.connection import Connection
from amqtask.amqp.threaded.drain import (
    Concluded,
    Concluder,
    Drain,
    GivenBack,
    Gone,
    Interrupted,
    Occupied,
    Planless,
    Refused,
    Result,
    Torn,
    final,
)
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.paver import Paver
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.amqp.ways import Ways
from amqtask.core import codec
from amqtask.core.backoff import exponential
from amqtask.core.barrier import Late, queue_name
from amqtask.core.outcome import Send, Sequel
from amqtask.core.result import SUCCESS
from amqtask.core.workflow import Part
from amqtask.errors import (
    AmqtaskError,
    BrokerError,
    ConnectionLost,
    OperationRefused,
)
from amqtask.log import get_logger
from amqtask.topology.ladder import Ladder

log = get_logger("amqtask.amqp")

# Seconds: a chord that is over closes the channel, which must not hold up the others; what is asked again pauses by itself.
REOPEN_CAP = 0.0
LOOK_WITHIN = 20.0  # seconds the broker gets for a count
PAUSE = 0.1  # seconds before another look when the broker could not or would not answer; doubles
PAUSE_CAP = 5.0
TURN = 0.01  # seconds before another look when somebody else drains the barrier; doubles
TURN_CAP = 0.25
PLANLESS = 0.5  # seconds before another look when the plan is not there
MOST_DRAINS = 8  # at a time, each with the results of a chord in memory; more wait
REFUSALS = 2  # of what follows a chord, before it is dropped

OnDone = Callable[[Exception | None], None]


class _Chord:
    """A chord that somebody waits for here."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.size: int | None = None  # parts, as those say who look
        self.needed = 0  # messages, when a drain has found out
        self.fresh: list[OnDone] = []  # wait for a look that begins from now on
        self.asked: list[OnDone] = []  # wait for the end of what goes on
        self.failed = False  # a part has failed: it is over, whatever else is there
        self.failing = False  # the same of what the drain that goes on was begun for
        self.again = False  # somebody who drained it may have vanished
        self.queued = False
        self.drain: Drain | None = None
        self.ended = False  # what follows has been published: only the queue is left
        self.error: Exception | None = None  # why the body cannot be started
        self.refusals = 0  # of what follows it
        self.troubles = 0  # looks and drains without an end
        self.why = ""  # the last one had none
        self.waits = 0  # for somebody else who drains it
        self.late: Late | None = None  # its time is over, and this is its plan
        self.planless: float | None = None  # since when there has been no plan


class Joiner:
    """Looks at barriers for one child. ``close`` from any thread, everything else on the I/O thread.

    It connects when it is first asked to look, on a connection of its own: what it publishes is part of transactions. A lost
    connection interrupts what goes on, which begins anew on the next one.

    Args:
        io: the I/O thread to live on.
        reach: the brokers, and how a connection is kept.
        name: the connection's name in the broker's management.
        publisher: publishes the plans of barriers that begin with a body.
        concluder: says what follows from a chord's end.
        ladder: the delay ladder, for bodies that are due later.
        accept: names or mime types of the serializers that results may have.
        limits: sizes that a message may have.
        ghost_within: seconds after which the broker has noticed that a process vanished; four heartbeats by default.
        classic: whether barriers are classic queues: those are drained by exclusive consumers, and told that they are over. A
            quorum queue is not: it would keep that when the broker is killed, and the body in the same transaction might be lost.
    """

    def __init__(
        self,
        io: IoThread,
        reach: Reach,
        *,
        name: str,
        publisher: ThreadedPublisher,
        concluder: Concluder,
        ladder: Ladder | None = None,
        accept: frozenset[str] = codec.ACCEPT,
        limits: codec.Limits = codec.LIMITS,
        ghost_within: float | None = None,
        classic: bool = True,
    ) -> None:
        self.io = io
        self.concluder = concluder
        self.accept = accept
        self.limits = limits
        self.ghost_within = 4.0 * (reach.heartbeat or 15) if ghost_within is None else ghost_within
        self.classic = classic
        self._publisher = publisher
        self._fast = reach.fast
        # I/O thread, all of these
        self._chords: dict[str, _Chord] = {}
        self._looks: deque[_Chord] = deque()
        self._asking: _Chord | None = None
        self._timer: Any = None  # of the question
        self._draining = 0
        self._full: deque[Callable[[], None]] = (
            deque()
        )  # drains that wait for one of the others to end
        self._by_channel: dict[int, Drain] = {}
        self._paving: dict[str, list[Callable[[AmqtaskError | None], None]]] = {}
        self._opened = False
        self._closing = False
        self._hurried = False
        self.blocked = False
        self.connection = Connection(
            io,
            reach,
            name=name,
            on_open=self._open,
            on_lost=self._lost,
            on_blocked=self._hold,
            reopen_cap=REOPEN_CAP,
        )
        self._paver = Paver(io, self.connection, Ways(ladder or Ladder()), self._paved)

    # ------------------------------------------------------------ for the settlement of a part

    def look(
        self,
        group: str,
        size: int | None,
        failed: bool,
        on_done: OnDone,
        again: bool = False,
        late: Late | None = None,
    ) -> None:
        """See whether a chord is complete now that a part of it is confirmed, and conclude it if it is.

        Looks at one chord coalesce: those that come while one is under way share the next.

        Args:
            group: the chord.
            size: how many parts it has, if that is known.
            failed: whether the part has failed.
            on_done: told ``None`` when the part's task may be acked, ``ConnectionLost`` when we closed before.
            again: whether the task may have run before: a process may have died, or may be frozen, with the parts in its hands.
            late: the plan, where the time of the chord is over: then it is ended by what is there, also if nothing is.
        """
        if self._closing:
            on_done(ConnectionLost("Closed before a chord was looked at."))
            return
        chord = self._chords.get(group)
        if chord is None:
            if len(queue_name(group).encode()) > 255:
                on_done(None)  # no queue can have this name
                return
            chord = self._chords[group] = _Chord(group)
        if size is not None:
            chord.size = max(size, chord.size or 0)
        chord.failed |= failed
        chord.again |= again
        chord.late = late or chord.late
        chord.fresh.append(on_done)
        self._queue(chord)
        if not self._opened:
            self._opened = True
            self.connection.open()

    def hurry(self) -> None:
        """Wait no longer for what may take longer than the end of a process. I/O thread."""
        self._hurried = True

    def close(self, on_closed: Callable[[], None]) -> None:
        """Give up what goes on and close the connection; ``on_closed`` runs on the I/O thread."""
        self.io.post(self._stop)
        self.connection.close(on_closed)

    def _stop(self) -> None:
        self._closing = True
        self._forget_question()
        self._looks.clear()
        self._full.clear()
        chords, self._chords = self._chords, {}
        for chord in chords.values():
            if chord.drain is not None:
                chord.drain.drop()
            waiting = [*chord.asked, *chord.fresh]
            chord.asked, chord.fresh = [], []
            for on_done in waiting:
                on_done(ConnectionLost("Closed before a chord was looked at."))

    # ------------------------------------------------------------ looking

    def _queue(self, chord: _Chord) -> None:
        """Have a chord looked at, if nothing goes on with it; what goes on looks again at its end."""
        if not chord.queued and not chord.asked and not self._closing:
            chord.queued = True
            self._looks.append(chord)
            self._ask_next()

    def _ask_next(self) -> None:
        """Ask about one chord at a time, so that a refusal tells which it is about."""
        channel = self.connection.channel
        if self._asking is not None or not self._looks or channel is None or not channel.is_open:
            return
        if not self.connection.connected:
            return  # pika tells one channel after the other that the connection has gone: this one it has not told yet
        chord = self._asking = self._looks.popleft()
        chord.queued = False
        chord.asked, chord.fresh = chord.fresh, []
        self._timer = self.io.call_later(LOOK_WITHIN, self._overdue)
        channel.queue_declare(
            queue_name(chord.group), passive=True, callback=partial(self._counted, chord)
        )

    def _overdue(self) -> None:
        if self.blocked:  # by what a drain publishes on the same connection
            self._timer = self.io.call_later(LOOK_WITHIN, self._overdue)
        else:
            self.connection.drop()

    def _counted(self, chord: _Chord, frame: Any) -> None:
        if self._asking is not chord:
            return
        self._forget_question()
        self._found(chord, int(frame.method.message_count))
        self._ask_next()

    def _found(self, chord: _Chord, ready: int) -> None:
        """So many messages wait in the barrier."""
        needed = chord.needed or (1 if chord.size is None else chord.size + 1)
        again, chord.again = chord.again, False
        if not ready and not self.classic:
            # Somebody has taken the part that we come from. Or the broker cannot ask the leader of a quorum queue, and says 0.
            again = True
        if chord.ended or chord.failed or chord.late or ready >= needed:
            self._drain(chord, ready, peek=False)
        elif again:
            self._drain(chord, ready, peek=True)
        else:
            self._end_look(chord)

    def _end_look(self, chord: _Chord, error: Exception | None = None) -> None:
        """Those who asked may go; who came meanwhile has the next look."""
        asked, chord.asked = chord.asked, []
        if chord.fresh:
            self._queue(chord)
        else:
            self._chords.pop(chord.group, None)
        for on_done in asked:
            on_done(error)

    def _forget_question(self) -> None:
        self._asking = None
        if self._timer is not None:
            self.io.cancel(self._timer)
            self._timer = None

    def _once_more(self, chord: _Chord, pause: float) -> None:
        """Look again for those who asked."""
        chord.fresh[:0] = chord.asked
        chord.asked = []
        if not pause:
            self._queue(chord)
            return
        chord.queued = True

        def queue() -> None:
            chord.queued = False
            if self._chords.get(chord.group) is chord:
                self._queue(chord)

        self.io.call_later(pause, queue)

    def _gone(self, chord: _Chord) -> None:
        """There is no queue: the chord is over, if nobody here has its plan."""
        late, chord.late = chord.late, None
        ending = None if late is None else late.ending
        if ending is None:
            self._over(chord)
        else:
            self._mend(chord, Torn(self.concluder.conclude(ending)))

    def _over(self, chord: _Chord, error: ConnectionLost | None = None) -> None:
        """The chord has been concluded, or given up: whoever waits may go."""
        self._chords.pop(chord.group, None)
        waiting = [*chord.asked, *chord.fresh]
        chord.asked, chord.fresh = [], []
        for on_done in waiting:
            on_done(error)

    # ------------------------------------------------------------ draining

    def _drain(self, chord: _Chord, ready: int, *, peek: bool) -> None:
        drain = Drain(
            self,
            chord.group,
            ready,
            peek=peek,
            unable=chord.error,
            drop=chord.refusals > REFUSALS,
            ended=chord.ended,
            late=chord.late,
            lone=chord.planless is not None
            and time.monotonic() - chord.planless >= self.ghost_within,
            on_end=lambda result: self._drained(chord, result),
        )
        chord.drain = drain
        chord.failing, chord.failed = chord.failed, False

        def begin() -> None:
            if chord.drain is drain:
                self._draining += 1
                drain.counts = True
                drain.begin()

        if self._draining < MOST_DRAINS:
            begin()
        else:
            self._full.append(begin)

    def _drained(self, chord: _Chord, result: Result) -> None:
        self._by_channel = {
            number: drain for number, drain in self._by_channel.items() if drain is not chord.drain
        }
        if chord.drain is not None:
            self._make_room(chord.drain)
        chord.drain = None
        match result:
            case Concluded():
                self._over(chord)
            case Gone():
                self._gone(chord)
            case Planless():
                self._miss_plan(chord)
            case GivenBack():
                self._gave_back(chord, result)
            case Torn():
                self._mend(chord, result)
            case Occupied():
                self._wait_for_other(chord)
            case _:
                self._interrupted(chord, result)
        self._fill()

    def _make_room(self, drain: Drain) -> None:
        self._draining -= drain.counts
        drain.counts = False

    def _fill(self) -> None:
        while self._full and self._draining < MOST_DRAINS and self.connection.connected:
            self._full.popleft()()

    def _gave_back(self, chord: _Chord, result: GivenBack) -> None:
        """It is not complete, or was not, or only the plan was looked for."""
        chord.needed, chord.planless = result.needed, None
        if result.peeked:
            chord.failed |= chord.failing
        if chord.failed or result.ready >= result.needed:
            self._drain(chord, result.ready, peek=False)
        else:
            self._end_look(chord)

    def _wait_for_other(self, chord: _Chord) -> None:
        """Somebody else has the parts: look again soon, until the chord is concluded or they are given back."""
        chord.again = True
        chord.failed |= chord.failing
        pause = exponential(chord.waits, TURN, TURN_CAP)
        chord.waits += 1
        self._once_more(chord, pause)

    def _miss_plan(self, chord: _Chord) -> None:
        """Look again, until it is there, or so long that nobody has it. Others can have the parts in between."""
        if self._hurried:
            # That may take longer than we have: those who asked come again, elsewhere.
            self._over(chord, ConnectionLost("The plan of a chord was missing when we closed."))
            return
        if chord.planless is None:
            chord.planless = time.monotonic()
        chord.again = True
        chord.failed |= chord.failing
        self._once_more(chord, min(PLANLESS, self.ghost_within / 4))

    def _interrupted(self, chord: _Chord, result: Result) -> None:
        """Nothing has been done, or nobody knows."""
        chord.again = True
        chord.failed |= chord.failing
        pause = exponential(chord.troubles, PAUSE, PAUSE_CAP) if chord.troubles else 0.0
        chord.troubles += 1
        if isinstance(result, Interrupted) and result.why != chord.why:
            chord.why = result.why  # told once, however often it is so
            if result.why:
                log.warning(
                    "a chord could not be concluded; it is tried until it can",
                    group=chord.group,
                    reason=result.why,
                )
        if isinstance(result, Refused):
            chord.refusals += 1
            chord.error = result.error
            log.error(
                "the broker refuses what follows a chord",
                group=chord.group,
                reason=result.error.text.strip(),
            )
        self._once_more(chord, pause)

    def _mend(self, chord: _Chord, torn: Torn) -> None:
        """Publish what is left by the publisher, all of it: what was taken before is there twice, with the same ids."""
        if torn.sequel:
            log.warning(
                "what follows a chord has been published in part; the rest is sent until it is taken",
                group=chord.group,
            )
        left, outer = 1, list(torn.outer)

        def end() -> None:
            chord.ended = True
            self._once_more(chord, 0)

        def one() -> None:
            nonlocal left
            left -= 1
            if not left and not self._closing:
                self._look_outside(outer, end)

        def settled(send: Send, then: Callable[[], None], error: Exception | None) -> None:
            if isinstance(error, ConnectionLost):
                return  # we are closing
            if error is not None and send.started is not None:
                carry(self.concluder.refused(send.started, error))
            then()

        def carry(what: Sequel) -> None:
            nonlocal left
            left += 1
            plans = len(what.plans) + 1

            def go_on() -> None:
                nonlocal left, plans
                plans -= 1
                if plans:
                    return
                outer.extend(each.part for each in what.parts)
                rest = (*what.results, *(each.publication for each in what.parts))
                sends = (*what.sends, *map(Send, rest))
                left += len(sends)
                for send in sends:
                    self._send(send, partial(settled, send, one))
                one()

            for plan in what.plans:
                self._send(plan, partial(settled, plan, go_on))
            go_on()

        carry(torn.sequel)
        one()

    # ------------------------------------------------------------ what drains need

    def outside(self, drain: Drain, parts: Sequence[Part], then: Callable[[], None]) -> None:
        """Have the barriers of outer chords looked at. Those may have to be drained, too: the drain that asks makes room."""
        self._make_room(drain)

        def go_on() -> None:
            if not drain.over:
                self._draining += 1
                drain.counts = True
                then()

        self._look_outside(parts, go_on)
        self._fill()

    def _look_outside(self, parts: Sequence[Part], then: Callable[[], None]) -> None:
        left = len(parts) + 1

        def one(error: Exception | None) -> None:
            nonlocal left
            left -= error is None  # else we are closing
            if not left:
                then()

        for part in parts:
            self.look(part.group, part.size, part.state != SUCCESS, one, again=True)
        one(None)

    def started(self, number: int, drain: Drain) -> None:
        """Deliveries on this channel are the drain's."""
        self._by_channel[number] = drain

    def _delivered(self, deliver: Any) -> None:
        drain = self._by_channel.get(deliver.channel)
        if drain is not None:
            drain.delivered(deliver)

    def plan(self, send: Send, on_settled: OnDone) -> None:
        """Publish by the publisher, once."""
        try:
            self._publisher.submit(send.publication, on_settled, due_in=send.due_in)
        except AmqtaskError as error:
            on_settled(error)

    def _send(self, send: Send, on_settled: OnDone, tries: int = 0) -> None:
        """Publish by the publisher until it is confirmed or refused for good."""

        def settled(error: Exception | None) -> None:
            if error is None or isinstance(error, ConnectionLost) or final(error):
                on_settled(error)
            elif self._closing:
                on_settled(ConnectionLost("Nobody waits any more for what follows a chord."))
            else:
                pause = exponential(tries, PAUSE, PAUSE_CAP)
                self.io.call_later(pause, partial(self._send, send, on_settled, tries + 1))

        self.plan(send, settled)

    def pave(self, queue: str, on_end: Callable[[AmqtaskError | None], None]) -> None:
        """Make sure that a queue can be reached through the delay ladder."""
        self._paving.setdefault(queue, []).append(on_end)
        self._paver.want(queue)

    def _paved(self, queue: str, error: AmqtaskError | None) -> None:
        for on_end in self._paving.pop(queue, ()):
            on_end(error)

    # ------------------------------------------------------------ the connection

    def _open(self, _channel: Any) -> None:
        if self._fast:
            raw: Any = self.connection.raw
            raw.on_deliver = self._delivered
        self._paver.resume()
        self._ask_next()

    def _hold(self, reason: str | None) -> None:
        self.blocked = reason is not None

    def _lost(self, error: BrokerError) -> None:
        if self._closing:
            return
        chord = self._asking
        self._forget_question()
        if self.connection.connected:  # a channel was closed: that of the question
            if chord is None:
                return
            if isinstance(error, OperationRefused) and error.code == failures.NOT_FOUND:
                if not failures.absent(error):
                    self._gone(chord)
                    return
            else:
                log.warning("a barrier cannot be looked at", group=chord.group, reason=str(error))
            pause = exponential(chord.troubles, PAUSE, PAUSE_CAP)
            chord.troubles += 1
            self._once_more(chord, pause)
            return
        self._by_channel.clear()
        self._full.clear()
        self._draining = 0
        if chord is not None:
            self._once_more(chord, 0)
        for other in list(self._chords.values()):
            if other.drain is not None:
                other.drain.drop()
                torn, other.drain = other.drain.torn, None
                other.again = True
                other.failed |= other.failing
                if torn is None:
                    self._once_more(other, 0)
                else:
                    self._mend(other, torn)
