"""One drain of a chord's barrier: everything in its queue is taken, and the chord concluded or everything given back.

A barrier's queue has one active consumer. Who drains it has all that is in it or waits for its turn, and what it does is one
transaction: what follows is published, and the barrier told so, or nothing has happened. Then the queue is deleted with all that
is in it. So a process that is killed here leaves the chord as it was, or concluded. Nothing is acked before that: a broker that is
killed may keep acks and lose what the same transaction has published, but it forgets that the barrier was told, too.

Everything runs on the I/O thread, but for reading results and making the body of them, which may take long and runs users'
code: a thread of its own does that.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import pika.exceptions

from amqtask.amqp import failures, frames
from amqtask.amqp.threaded.connection import Connection
from amqtask.amqp.threaded.consumer import from_pika
from amqtask.amqp.threaded.loop import IoThread
from amqtask.core.barrier import Ending, Kind, Late, State, Tally, Unable, done_message, queue_name
from amqtask.core.codec import Limits
from amqtask.core.message import Properties, Publication
from amqtask.core.outcome import Send, Sequel
from amqtask.core.workflow import Part
from amqtask.errors import (
    AmqtaskError,
    ConfigurationError,
    DecodeError,
    MessageError,
    OperationRefused,
    Unroutable,
)
from amqtask.log import get_logger

log = get_logger("amqtask.amqp")

QUIET = 0.05  # seconds without a message after which the broker is asked whether there are more
ASK_AGAIN = (
    0.5  # seconds before a drain that has got nothing asks whether its turn has come; doubles
)
ASK_AGAIN_CAP = 8.0
ANSWER_WITHIN = 20.0  # seconds the broker gets for each answer but a commit
COMMIT_WITHIN = 60.0
ROUNDS = 3  # transactions, for what could not be routed and for what could not even be told

# What the broker says when a queue has refused part of a transaction (it is full, or its node is down) or went in that moment.
PARTIAL = "partial tx completion"
IN_USE = "in exclusive use"
OVERDUE = "delivery acknowledgement"  # how it begins to say that a message was held for too long


PROBE = "amqtask-probe"
PROBE_TTL = "60000"  # ms


class Concluder(Protocol):
    """What says what follows from the end of a chord. Called in any thread; must neither block nor raise for long."""

    def conclude(self, ending: Ending) -> Sequel:
        """What follows; an error means that the body cannot be started, and asks again with ``Unable``."""
        ...

    def refused(self, started: object, error: Exception) -> Sequel:
        """What follows instead of a send that could not be published."""
        ...


class Context(Protocol):
    """What drains of one child share."""

    io: IoThread
    connection: Connection
    concluder: Concluder
    accept: frozenset[str]
    limits: Limits
    ghost_within: float
    classic: bool

    @property
    def blocked(self) -> bool:
        """Whether the broker holds publishers back: then it reads, and answers, nothing on our connection."""
        ...

    def pave(self, queue: str, on_end: Callable[[AmqtaskError | None], None]) -> None:
        """Make sure that a queue can be reached through the delay ladder."""
        ...

    def plan(self, send: Send, on_settled: Callable[[Exception | None], None]) -> None:
        """Publish a plan of another barrier by the publisher, once."""
        ...

    def outside(self, drain: Drain, parts: Sequence[Part], then: Callable[[], None]) -> None:
        """Have the barriers of outer chords looked at; the drain that asks does not count among those that go on."""
        ...

    def started(self, number: int, drain: Drain) -> None:
        """Deliveries on this channel are the drain's."""
        ...


class Result:
    """How a drain has ended."""


class Concluded(Result):
    """The chord has ended, by us or by somebody else, and its queue is gone."""


class GivenBack(Result):
    """It is not complete, or only the plan was looked for: so many messages are ready after we gave them back.

    Another drain makes sense when ``needed`` are.
    """

    def __init__(self, ready: int, needed: int, *, peeked: bool) -> None:
        self.ready = ready
        self.needed = needed
        self.peeked = peeked


class Interrupted(Result):
    """Nothing has been done, or nobody knows whether it has: begin anew."""

    def __init__(self, why: str = "") -> None:
        self.why = why


class Gone(Result):
    """There is no such queue: the chord has ended, or never began."""


class Planless(Result):
    """There is no plan. Its chord may be over, or the plan in the hands of a process that has vanished; all was given back."""


class Occupied(Result):
    """Somebody else drains it."""


class Refused(Result):
    """The broker took what follows for an error, and nothing has been done."""

    def __init__(self, error: OperationRefused) -> None:
        self.error = error


class Torn(Result):
    """Only part of what follows has been published, or all of it, and the queue is there still.

    ``sequel`` is to be published outside of a transaction: what a queue did not take of one, and nobody knows which, or what had
    to follow another that did take place. ``outer`` are the parts among what has been published.
    """

    def __init__(self, sequel: Sequel, outer: Sequence[Part] = ()) -> None:
        self.sequel = sequel
        self.outer = tuple(outer)


class _Phase(enum.Enum):
    """How far a drain is. What its channel's end means depends on that."""

    FILLING = "filling"  # it takes what is there
    LEAVING = "leaving"  # and gives it back
    MAKING = (
        "making"  # what follows is made, and the plans of it confirmed: nothing has been published
    )
    PUBLISHING = "publishing"  # nothing is committed, so a refusal now is of what was published
    COMMITTING = "committing"  # nobody knows
    ENDING = "ending"  # only the queue is left


class Drain:
    """Drains one barrier once. ``begin``, then ``on_end`` is called once, unless ``drop`` comes before.

    Args:
        context: what is shared.
        group: the chord.
        ready: how many messages its queue held when it was looked at.
        peek: only look whether the plan is there, and give it back: then nobody else holds the parts.
        unable: why the body cannot be started, when the broker has said so before.
        drop: nothing that follows can be sent, not even that: only end it.
        ended: what follows has been published: only delete the queue.
        late: the time of the chord is over, and this its plan: whatever is there ends it.
        lone: delete the queue when there is no plan in it.
        on_end: told the end.
    """

    def __init__(
        self,
        context: Context,
        group: str,
        ready: int,
        *,
        peek: bool,
        unable: Exception | None = None,
        drop: bool = False,
        ended: bool = False,
        late: Late | None = None,
        lone: bool = False,
        on_end: Callable[[Result], None],
    ) -> None:
        self.counts = False  # among those that go on, for whoever limits their number
        self._context = context
        self._io = context.io
        self._queue = queue_name(group)
        self._group = group
        self._ready = ready
        self._peek = peek
        self._unable = unable
        self._drop = drop
        self._ended = ended
        self._on_end = on_end
        self._lone = lone
        self._tally = Tally(group, context.limits)
        if late is not None:
            self._tally.expire(late)
        self._expired = late is not None
        self._keep = False  # the queue
        self._missing = False  # the plan
        self._channel: Any = None
        self._tag = ""
        self._timer: Any = None
        self._last = 0  # delivery tag
        self._late: list[int] = []  # delivered after we had asked to get no more
        self._seen = -1  # messages held when we last looked
        self._pause = ASK_AGAIN
        self._counting = False
        self._phase = _Phase.FILLING
        self._over = False
        self._rounds = 0
        self._pending = Sequel()  # to be published, or perhaps it is
        self._published = False  # a transaction has taken place
        self._told = False  # the barrier, that it is over
        self._returned: list[tuple[str, str, str | None, str]] = []
        self._outer: list[Part] = []

    # ------------------------------------------------------------ begin and end

    def begin(self) -> None:
        """Open a channel and consume."""
        if not self._connected:
            return
        channel: Any = self._context.connection.raw.channel(on_open_callback=self._opened)
        self._channel = channel
        channel.add_on_close_callback(self._closed)
        self._wait(ANSWER_WITHIN, self._overdue)

    def drop(self) -> None:
        """Forget about it: its connection has gone, or we are closing. ``on_end`` will not be called."""
        self._over = True
        self._stop_timer()

    @property
    def over(self) -> bool:
        """Whether it has ended or was dropped."""
        return self._over

    @property
    def torn(self) -> Torn | None:
        """What is left to be done if it ends now, when a transaction has taken place."""
        return Torn(self._pending, self._outer) if self._published else None

    def _end(self, result: Result) -> None:
        if self._over:
            return
        self.drop()
        if self._channel is not None and self._channel.is_open and self._connected:
            self._channel.close(0, "done")
        self._on_end(result)

    @property
    def _connected(self) -> bool:
        """Whether anything can be done: a lost connection has ended all drains, and they begin anew on the next one.

        That they are told a moment later, when pika has closed every channel. Nothing may be begun before: it would fail.
        """
        return self._context.connection.connected

    def _closed(self, channel: Any, reason: Exception) -> None:
        if self._over or channel is not self._channel or not self._connected:
            return
        text = ""
        if isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            text = reason.reply_text
        if torn := self.torn:
            self._end(torn)
        elif self._phase is _Phase.FILLING and _gone(reason):
            self._end(Gone())
        elif self._phase is _Phase.FILLING and IN_USE in text:
            self._end(Occupied())
        elif self._phase is _Phase.COMMITTING and PARTIAL in text:
            self._end(Torn(self._pending))
        elif self._phase is _Phase.ENDING and _refused(reason):
            # It may not be deleted, and goes when its time is over.
            log.warning("the queue of a chord stays", queue=self._queue, reason=text.strip())
            self._end(Concluded())
        elif self._phase is _Phase.PUBLISHING and text and OVERDUE not in text:
            assert isinstance(reason, pika.exceptions.ChannelClosedByBroker)
            self._end(Refused(OperationRefused(reason.reply_code, text)))
        else:
            # Of what comes in the middle of a commit nobody knows whether it took place. A barrier that was told does.
            self._end(Interrupted("" if PARTIAL in text else text.strip()))

    def _overdue(self) -> None:
        if self._context.blocked:
            # It would carry out what it has not read yet, though we had gone.
            self._wait(ANSWER_WITHIN, self._overdue)
        else:
            self._context.connection.drop()  # which ends all drains, and begins them anew

    def _wait(self, seconds: float, callback: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self._io.call_later(seconds, callback)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._io.cancel(self._timer)
            self._timer = None

    # ------------------------------------------------------------ filling

    def _opened(self, channel: Any) -> None:
        if self._over:
            channel.close(0, "not needed")
            return
        self._context.started(int(channel.channel_number), self)
        channel.add_on_cancel_callback(self._cancelled)
        channel.add_on_return_callback(self._on_return)
        if self._ended:
            self._delete()
            return
        channel.tx_select()
        if self._peek:
            channel.basic_qos(prefetch_count=1)
        self._tag = channel.basic_consume(
            self._queue,
            self._delivered_by_pika,
            exclusive=self._context.classic,
            callback=self._consumes,
        )

    def _consumes(self, _frame: object) -> None:
        if not self._over and self._phase is _Phase.FILLING:
            self._wait(QUIET, self._quiet)

    def _cancelled(self, _frame: object) -> None:
        """The queue has gone, most often because somebody else has concluded the chord."""
        if self._phase is _Phase.FILLING or self._phase is _Phase.LEAVING:
            self._end(Interrupted())  # the next look tells

    def _delivered_by_pika(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._took(method.delivery_tag, from_pika(properties), body)

    def delivered(self, deliver: frames.Deliver) -> None:
        """A message, by our own codec."""
        try:
            properties = frames.decode_properties(deliver.header)
        except DecodeError:
            properties = Properties()
        self._took(deliver.tag, properties, deliver.body)

    def _took(self, tag: int, properties: Properties, body: bytes) -> None:
        if self._over:
            return
        if self._phase is not _Phase.FILLING:
            if self._phase is _Phase.LEAVING:
                self._late.append(tag)
            return  # else: what comes after the end counts no more, and goes with the queue
        self._last = tag
        note = self._tally.add(tag, properties, body)
        if self._peek:
            if note.kind is Kind.PLAN:
                self._leave()
            else:
                self._widen()
            return
        held = self._tally.held
        if held >= self._ready or held >= self._tally.messages > 0:
            self._judge()

    def _judge(self) -> None:
        """There may be enough. Whether that is all there is, only the queue can tell: it may hold the word that it is over."""
        state = self._tally.state
        if state is State.COMPLETE or (state is State.FAILED and self._tally.held >= self._ready):
            self._seen = self._tally.held
            self._count()

    def _widen(self) -> None:
        """What came first is not the plan: everything must be looked at to know where that is."""
        channel, self._channel = self._channel, None
        self._peek = False
        self._tally, self._last = Tally(self._group, self._context.limits), 0
        self._stop_timer()
        again = self._again
        channel.add_on_close_callback(lambda *_: again())
        channel.close(0, "looking at all of it")

    def _again(self) -> None:
        if not self._over:
            self.begin()

    def _quiet(self) -> None:
        """Nothing has come for a moment: is that all there is?"""
        if not self._connected:
            return
        held = self._tally.held
        if held != self._seen:
            self._seen = held
            self._wait(QUIET, self._quiet)
            return
        if not held:
            # Somebody else has it all, and we wait for our turn; or it is empty. Our own message tells.
            self._probe()
            self._wait(self._pause, self._quiet)
            self._pause = min(2 * self._pause, ASK_AGAIN_CAP)
            return
        self._count()

    def _count(self) -> None:
        if not self._counting:
            self._counting = True
            self._wait(ANSWER_WITHIN, self._overdue)
            self._channel.queue_declare(self._queue, passive=True, callback=self._counted)

    def _probe(self) -> None:
        channel: Any = self._context.connection.channel
        if channel is not None and channel.is_open:
            self._publish_probe(channel)

    def _publish_probe(self, channel: Any) -> None:
        properties = Properties(headers={PROBE: self._group}, expiration=PROBE_TTL)
        header = frames.encode_properties(properties)
        raw = self._context.connection.raw
        raw.send(
            frames.encode_publish(
                int(channel.channel_number),
                "",
                self._queue,
                header,
                b"",
                raw.params.frame_max,
                mandatory=False,
            )
        )

    def _counted(self, frame: Any) -> None:
        self._counting = False
        if self._over or self._phase is not _Phase.FILLING:
            return
        if frame.method.message_count or self._tally.held != self._seen:
            self._wait(QUIET, self._quiet)  # there are more on their way
            return
        match self._tally.state:
            case State.COMPLETE | State.FAILED | State.LATE as state:
                # Who brought the plan may come again with it: then a queue that has been told tells him of the body.
                self._keep = self._expired and state is State.COMPLETE and self._context.classic
                self._conclude()
            case State.INCOMPLETE:
                self._leave()
            case State.DONE:
                self._outer = list(self._tally.outer)
                self._finish()
            case State.NO_PLAN:
                # Its chord has been concluded, by a process that was killed before it could delete the queue. Or the plan is
                # with a process that has vanished, which the broker does not know yet; or its time is over, and whoever was
                # given the plan wants to have the rest.
                if self._lone:
                    self._delete()
                else:
                    self._missing = True
                    self._leave()

    # ------------------------------------------------------------ giving back

    def _leave(self) -> None:
        """Give back what counts, drop what counts for nothing, and tell how many are ready then.

        The cancel goes first: between it and the rest we hold all there is, or nothing.
        """
        self._phase = _Phase.LEAVING
        channel = self._channel
        self._wait(ANSWER_WITHIN, self._overdue)
        channel.basic_cancel(self._tag, callback=self._left)
        spare = set(self._tally.spare)
        for tag in spare:
            channel.basic_ack(tag)
        last = self._last  # of those that are kept: the broker wants no tag twice
        while last in spare:
            last -= 1
        if last:
            channel.basic_nack(last, multiple=True, requeue=True)

    def _left(self, _frame: object) -> None:
        if self._over:
            return
        for tag in self._late:
            self._channel.basic_nack(tag, requeue=True)
        self._channel.tx_commit(callback=self._gave_back)

    def _gave_back(self, _frame: object) -> None:
        """A quorum queue counts what was given back a moment later; a message behind it has its confirm when that is over.

        It must be among those that are counted, so it stays for a while; for whoever drains next it counts for nothing.
        """
        if self._over:
            return
        self._publish_probe(self._channel)
        self._channel.tx_commit()
        self._channel.queue_declare(self._queue, passive=True, callback=self._remain)

    def _remain(self, frame: Any) -> None:
        if self._missing:
            self._end(Planless())
            return
        # one of them is the message behind
        ready, tally = max(0, frame.method.message_count - 1), self._tally
        needed = tally.messages
        if (
            not self._peek
        ):  # parts that nobody expects are given back, too: only what is new is worth another drain
            needed = max(needed, tally.held - len(tally.spare) + 1)
        self._end(GivenBack(ready, needed, peeked=self._peek))

    # ------------------------------------------------------------ concluding

    def _conclude(self) -> None:
        self._phase = _Phase.MAKING
        self._stop_timer()
        threading.Thread(
            target=self._think, name=f"amqtask-join-{self._group[:8]}", daemon=True
        ).start()

    def _think(self) -> None:
        """Read the results and make of them what follows. A thread of its own."""
        sequel: Sequel | None = None
        try:
            ending = self._tally.conclude(self._context.accept)
            if ending is None or self._drop:
                log.error("a chord cannot be concluded and is dropped", group=self._group)
            else:
                if self._unable is not None:
                    ending = Unable(ending.group, ending.plan, self._unable)
                sequel = self._follows(ending)
        except Exception:  # whatever it is, the tasks that wait for this must end
            log.exception("a chord could not be concluded and is dropped", group=self._group)
        follows = Sequel() if sequel is None else sequel
        self._io.post(lambda: self._prepare(follows))

    def _follows(self, ending: Ending) -> Sequel:
        concluder = self._context.concluder
        if isinstance(ending, Unable):
            return concluder.conclude(ending)
        try:
            return concluder.conclude(ending)
        except Exception as error:  # noqa: BLE001  # it fails the body, as it would have failed a task
            return concluder.conclude(Unable(ending.group, ending.plan, error))

    def _prepare(self, sequel: Sequel) -> None:
        """Have the plans of inner barriers confirmed and the ways of delayed sends open, then commit."""
        if self._over:
            return
        self._phase, self._pending = _Phase.MAKING, sequel
        wanted = {send.due_in: None for send in sequel.sends if send.due_in}
        pending = len(sequel.plans) + len(wanted) + 1
        instead, trouble = Sequel(), ""

        def one() -> None:
            nonlocal pending
            pending -= 1
            if pending or self._over:
                return
            if trouble:  # others may have its place meanwhile
                self._end(self.torn or Interrupted(trouble))
            elif instead:
                kept = tuple(send for send in sequel.sends if send.due_in not in broken)
                rest = Sequel((), kept, sequel.results, sequel.parts)
                self._prepare(rest + instead)
            else:
                self._commit(sequel)

        broken: dict[str | None, AmqtaskError] = {}

        def planned(send: Send, error: Exception | None) -> None:
            nonlocal instead, trouble
            if error is not None and final(error):
                instead += self._instead(send, error)
            elif error is not None:
                trouble = str(error)
            one()

        def paved(queue: str, error: AmqtaskError | None) -> None:
            nonlocal instead, trouble
            if error is not None and not final(error):
                trouble = str(error)
            elif error is not None:
                broken[queue] = error
                for send in sequel.sends:
                    if send.due_in == queue:
                        instead += self._instead(send, error)
            one()

        for send in sequel.plans:
            self._context.plan(send, partial(planned, send))
        for queue in wanted:
            assert queue is not None
            self._context.pave(queue, partial(paved, queue))
        one()

    def _instead(self, send: Send, error: Exception) -> Sequel:
        log.error(
            "what follows a chord cannot be started and fails", group=self._group, reason=str(error)
        )
        if send.started is None:
            return Sequel()
        try:
            return self._context.concluder.refused(send.started, error)
        except Exception:
            log.exception("a chord's follower could not be failed", group=self._group)
            return Sequel()

    def _commit(self, sequel: Sequel) -> None:
        """Publish all that follows, and the word that it is, in one transaction."""
        if not self._connected:
            return
        channel, raw = self._channel, self._context.connection.raw
        number, frame_max = int(channel.channel_number), raw.params.frame_max
        chunks: list[bytes] = []
        instead = Sequel()
        sends: list[Send] = []

        def add(publication: Publication) -> None:
            properties = publication.envelope.properties
            chunks.append(
                frames.encode_publish(
                    number,
                    publication.exchange,
                    publication.routing_key,
                    publication.header or frames.encode_properties(properties),
                    publication.envelope.body,
                    frame_max,
                    publication.mandatory,
                )
            )

        for send in sequel.sends:
            try:
                add(send.publication)
            except AmqtaskError as error:
                instead += self._instead(send, error)
            else:
                sends.append(send)
        self._rounds += 1
        if instead and self._rounds <= ROUNDS:
            self._prepare(Sequel((), tuple(sends), sequel.results, sequel.parts) + instead)
            return
        for publication in (*sequel.results, *(part.publication for part in sequel.parts)):
            try:
                add(publication)
            except AmqtaskError as error:
                log.error(
                    "what follows a chord cannot be sent", group=self._group, reason=str(error)
                )
        parts = [part.part for part in sequel.parts]
        if self._context.classic and not self._told:
            self._told = True
            add(done_message(self._group, parts))
        self._wait(COMMIT_WITHIN, self._overdue)
        self._phase = _Phase.PUBLISHING
        self._pending = Sequel((), tuple(sends), sequel.results, sequel.parts)
        self._returned = []
        for data in frames.joined(chunks):
            raw.send(data)

        def read(_frame: object) -> None:
            """The broker has read all of it and takes none of it for an error."""
            if not self._over and self._connected:
                self._phase = _Phase.COMMITTING
                channel.tx_commit(callback=lambda _frame: self._committed(sends, parts))

        channel.basic_qos(prefetch_count=0, callback=read)

    def _on_return(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        self._returned.append(
            (
                method.exchange,
                method.routing_key,
                properties.correlation_id,
                f"{method.reply_code} {method.reply_text}",
            )
        )

    def _committed(self, sends: Sequence[Send], parts: Sequence[Part]) -> None:
        """It is done. What no queue took cannot be taken back any more: what that means is told in another transaction."""
        if self._over:
            return
        self._published, self._pending = True, Sequel()
        self._outer += parts
        returned = {(exchange, key, task): why for exchange, key, task, why in self._returned}
        instead = Sequel()
        for send in sends:
            publication = send.publication
            task_id = publication.envelope.properties.correlation_id
            why = returned.get((publication.exchange, publication.routing_key, task_id))
            if why is not None:
                instead += self._instead(send, failures.unroutable(publication, why))
        if instead and self._rounds <= ROUNDS:
            self._prepare(instead)
        else:
            self._finish()

    def _finish(self) -> None:
        """Look at outer chords while the queue is there still: killed before that, our task would find it gone, and look no more."""
        self._phase = _Phase.ENDING
        self._stop_timer()
        if self._outer:
            self._context.outside(self, self._outer, self._delete)
        else:
            self._delete()

    def _delete(self) -> None:
        if self._over or not self._connected:
            return
        self._phase = _Phase.ENDING
        if self._keep:
            self._end(Concluded())
            return
        self._wait(ANSWER_WITHIN, self._overdue)
        self._channel.queue_delete(self._queue, callback=lambda _frame: self._end(Concluded()))


def _gone(reason: Exception) -> bool:
    """Whether a queue is not there; one that cannot be reached at present has the same code."""
    if not isinstance(reason, pika.exceptions.ChannelClosedByBroker):
        return False
    refused = OperationRefused(reason.reply_code, reason.reply_text)
    return refused.code == failures.NOT_FOUND and not failures.absent(refused)


def _refused(reason: Exception) -> bool:
    """Whether the user lacks a permission."""
    if not isinstance(reason, pika.exceptions.ChannelClosedByBroker):
        return False
    return bool(reason.reply_code == failures.ACCESS_REFUSED)


def final(error: Exception) -> bool:
    """Whether what could not be published will not be taken another time either."""
    if isinstance(error, OperationRefused):
        return not failures.absent(error)
    return isinstance(error, MessageError | ConfigurationError | Unroutable)
