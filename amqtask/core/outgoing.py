"""Publications on their way: what to send next, and what a confirm, a return, a nack, a loss or the time means for them.

Both publishers, the threaded one and asyncio's, are thin shells around ``Outgoing``: they hold the socket and the clock, tell
it what happened, send what it hands out, and pass on to the callers how each publication ended.

What was sent and not confirmed when a channel went is sent again with the same id on the next one, until its deadline. A
channel that the broker closes over one message (a missing exchange, a refused permission, a body above the broker's limit)
takes its neighbours with it, so those are then sent one at a time, until the one to blame is alone. What the broker refuses
with a nack is sent again on a new channel for a moment: see ``amqtask.core.refusals``.

Pure: no I/O, no clock, no lock. ``now`` is seconds on a clock that does not jump. One thread at a time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, Final, Protocol

import msgspec

from amqtask.core import refusals
from amqtask.core.confirms import STALLED, STALLED_CAP, InFlight
from amqtask.core.message import Properties, Publication
from amqtask.core.refusals import Refusals, Target, target_of
from amqtask.errors import AmqtaskError, BrokerError, LoginRefused, OperationRefused

# Messages per write. Each write lets the interpreter go, and a busy thread gives it back 5 ms later: so few writes, but no so
# many messages that the loop is deaf meanwhile (about 2 ms).
SEND_BATCH = 1000
NEVER: Final = math.inf
_NOT_FOUND = 404  # the reply code for an exchange that is not there


class Ending(Enum):
    """Why a publication ended, where that needs no more words."""

    NACKED = "nacked"
    LATE = "late"  # its deadline passed


class Refused(msgspec.Struct, frozen=True):
    """The broker closed the channel over this one publication."""

    error: OperationRefused


Why = Ending | Refused | AmqtaskError | str | None
"""How a publication ended: ``None`` is confirmed, a text is the reason for which the broker returned it."""


class Ways(Protocol):
    """What a publisher knows of the ways through the delay ladder."""

    def open(self, queue: str, now: float) -> bool:
        """Whether a message for the queue may be published into the ladder now."""
        ...

    def expect(self, queue: str, publication: Publication) -> None:
        """The way to a queue will be asked for, for this."""
        ...

    def in_time(
        self, publication: Publication, since: float, now: float
    ) -> tuple[Publication, float]:
        """The publication as it is to be sent now, and the time its delay counts from then."""
        ...

    def forget(self) -> None:
        """Somebody deleted the ladder, or part of it."""
        ...


class Entry:
    """One publication on its way.

    Attributes:
        publication: what to send; of one for the delay ladder, as it was to be sent last.
        header: its encoded properties.
        on_settled: what its publisher tells how it ended.
        since: when the delay in its routing key began.
        deadline: when it is given up; ``NEVER`` when not.
        due_in: the queue it is due in, of one for the delay ladder.
        gone: it has ended, or its caller waits no more.
    """

    __slots__ = (
        "again",
        "deadline",
        "due_in",
        "gone",
        "header",
        "number",
        "on_settled",
        "publication",
        "since",
    )

    def __init__(
        self,
        publication: Publication,
        header: bytes,
        on_settled: Callable[[Any], None],
        since: float,
        deadline: float,
        due_in: str | None,
    ) -> None:
        self.publication = publication
        self.header = header
        self.on_settled = on_settled
        self.since = since
        self.deadline = deadline
        self.due_in = due_in
        self.gone = False
        self.again = False  # it came back from a ladder that was not whole, and has a second try
        self.number = 0  # its last sequence number

    @property
    def target(self) -> Target:
        """What a nack of it is about."""
        return target_of(self.publication, self.due_in)


Ended = tuple[Entry, Why]


class Outgoing:
    """All publications of one publisher that were handed over and have not ended.

    After anything it is told, the shell looks at ``wanted``, ``renewal`` and ``take``, and at ``due``: when to call ``tick``.

    Args:
        window: most publications without a confirm.
        ways: what is known of the delay ladder.

    Attributes:
        in_flight: what is sent and not confirmed.
        ready: there is a channel in confirm mode.
        blocked: why the broker holds publishers back at present.
        renewing: nothing is sent on this channel until all is answered.
        wanted: queues whose way through the ladder is to be opened; the shell takes them out.
        due: when ``tick`` is to be called; ``NEVER`` while it is not.
        stalled: for so many seconds no confirm came, which ``tick`` has just noticed.
    """

    def __init__(self, window: int, ways: Ways) -> None:
        self.in_flight: InFlight[Entry] = InFlight()
        self.ready = False
        self.blocked: str | None = None
        self.renewing = False
        self.wanted: list[str] = []
        self.due = NEVER
        self.stalled: float | None = None
        self._window = window
        self._ways = ways
        self._waiting: deque[Entry] = deque()  # not sent yet, in order
        self._gone = 0  # so many entries that wait, anywhere, are gone: they are dropped in passing
        self._suspects = 0  # so many entries at the head of _waiting are sent one at a time
        self._parked: dict[str, list[Entry]] = {}  # what waits for its way, by target queue
        self._parked_count = 0
        self._refusals = Refusals()
        self._refused: list[Entry] = []  # nacked, to be sent again on the next channel
        self._silent = 0  # the channel was kept since one below this number had no answer
        self._confirms = 0
        self._seen = 0  # confirms when the stall watch began
        self._stall_after = STALLED
        self._stall_at = NEVER
        self._sweep_at = NEVER  # the first deadline
        self._renew_at = NEVER

    @property
    def backlog(self) -> int:
        """How many wait to be sent."""
        return len(self._waiting) + self._parked_count + len(self._refused) - self._gone

    @property
    def more(self) -> bool:
        """Whether ``wanted``, ``renewal`` or ``take`` may have something to say."""
        return bool(self._waiting or self.renewing or self.wanted)

    @property
    def refused(self) -> Sequence[Entry]:
        """What was nacked and is to be sent again."""
        return self._refused

    @property
    def parked(self) -> Iterable[str]:
        """The queues whose way is waited for."""
        return self._parked

    # ------------------------------------------------------------ on their way

    def add(self, entry: Entry, now: float) -> None:
        """Take a publication over."""
        if entry.deadline < self._sweep_at:
            self._sweep_at = entry.deadline
            self._aim()
        queue = entry.due_in
        if queue is None or self._ways.open(queue, now):
            self._waiting.append(entry)
        else:
            self._park(entry, queue)

    def take(self, now: float) -> list[Entry]:
        """What to send now, in this order; empty when nothing may be sent. Call it until it is."""
        waiting = self._waiting
        taken: list[Entry] = []
        if not waiting or not self.ready or self.blocked is not None or self.renewing:
            return taken
        window = 1 if self._suspects else self._window
        room = min(window - len(self.in_flight), SEND_BATCH)
        while waiting and room > 0:
            entry = waiting.popleft()
            if entry.gone:
                self._gone -= 1
                if self._suspects:
                    self._suspects -= 1
                continue
            if entry.due_in is not None:
                entry.publication, entry.since = self._ways.in_time(
                    entry.publication, entry.since, now
                )
            taken.append(entry)
            room -= 1
        return taken

    def sent(self, entries: Sequence[Entry], now: float) -> None:
        """These were put on the wire, in this order."""
        number = self.in_flight.sent_all(entries)
        for entry in entries:
            entry.number = number
            number += 1
        if self._stall_at == NEVER and entries:
            self._watch(now)

    def give_up(self, entries: Iterable[Entry]) -> int:
        """Nobody waits for these any more: not sent if they were not yet, and a late confirm is ignored. How many there were."""
        count = 0
        for entry in entries:
            if entry.gone:
                continue
            entry.gone = True
            count += 1
            if not self.in_flight.drop(entry.number, entry):
                self._gone += 1
        return count

    def give_up_all(self) -> list[Entry]:
        """Forget everything; what there was."""
        entries = [
            *self.in_flight.lost(),
            *self._waiting,
            *self._all_parked(),
            *self._refused,
        ]
        self._waiting.clear()
        self._parked.clear()
        self._refused.clear()
        self._parked_count = self._gone = self._suspects = 0
        self._sweep_at = self._stall_at = self._renew_at = self.due = NEVER
        return [entry for entry in entries if not entry.gone]

    # ------------------------------------------------------------ what the broker says

    def opened(self) -> None:
        """A channel is in confirm mode; its sequence numbers start at 1."""
        self.ready = True
        self._silent = 0
        self._renew_at = NEVER
        self._take_up_refused()
        self._aim()

    def lost(self, error: BrokerError, *, ever_open: bool) -> list[Ended]:
        """The channel is gone, or an attempt to get one failed.

        Args:
            error: why; ``OperationRefused`` when the broker closed the channel over one message.
            ever_open: whether the broker has ever let us in.
        """
        self.ready = False
        self.stalled = None
        unconfirmed = self.in_flight.lost()
        if isinstance(error, OperationRefused):
            if error.code == _NOT_FOUND:
                unconfirmed = self._park_delayed(unconfirmed)
            if len(unconfirmed) == 1:
                self._suspects = max(0, self._suspects - 1)
                return [(unconfirmed[0], Refused(error))]
            self._suspects = max(self._suspects, len(unconfirmed))
        self._waiting.extendleft(reversed(unconfirmed))
        if isinstance(error, LoginRefused) and not ever_open:
            # A wrong password does not become right within a publish timeout: tell the callers now.
            return [(entry, error) for entry in self._cut(lambda entry: entry.deadline < NEVER)]
        return []

    def confirmed(self, tag: int, multiple: bool, ok: bool, now: float) -> Sequence[Ended]:
        """An ack or a nack: what has ended by it."""
        self._confirms += 1
        self._stall_after = STALLED
        flight = self.in_flight
        plain = ok and not flight.any_returned and not self._refusals
        settled = flight.confirmed(tag, multiple)
        if self._suspects:
            self._suspects = max(0, self._suspects - len(settled))
        if plain:
            return settled
        ended: list[Ended] = []
        for entry, returned in settled:
            if not ok:
                self._nacked(entry, now, ended)
            elif returned is None:
                self._refusals.accepted(entry.target)
                ended.append((entry, None))
            elif entry.due_in is not None and not entry.again:
                self._try_again(entry, entry.due_in)
            else:
                ended.append((entry, returned))
        return ended

    def returned(
        self, exchange: str, routing_key: str, properties: Properties, reason: str
    ) -> None:
        """A mandatory message came back; its ack follows.

        Args:
            exchange: where it was published to.
            routing_key: with this key.
            properties: of the message.
            reason: the broker's code and text.
        """
        ids = properties.correlation_id, properties.message_id

        def matches(entry: Entry) -> bool:
            publication = entry.publication
            sent = publication.envelope.properties
            return (
                publication.routing_key == routing_key
                and publication.exchange == exchange
                and (sent.correlation_id, sent.message_id) == ids
            )

        self.in_flight.returned(matches, reason)

    def paved(self, queue: str, error: AmqtaskError | None) -> list[Ended]:
        """The way to a queue is open, or cannot be opened."""
        entries = self._parked.pop(queue, [])
        self._parked_count -= len(entries)
        if error is None:
            self._waiting.extend(entries)
            return []
        return [(entry, error) for entry in self._present(entries)]

    def renewal(self) -> bool:
        """Whether the channel is to be closed and another opened, now; nothing is sent any more when that was said.

        Not before the broker has answered for all on this one, unless it has stalled: that would make repeats.
        """
        if self.stalled is None and not (self.renewing and not len(self.in_flight)):
            return False
        self.stalled = None
        due, self.ready = (
            self.ready,
            False,
        )  # what is sent behind a channel's close ends the connection
        return due

    # ------------------------------------------------------------ what the time says

    def tick(self, now: float, *, congested: bool = False) -> list[Ended]:
        """What has ended because its time is over. Call it at ``due``; earlier does no harm.

        Args:
            now: the time.
            congested: the broker has not been sent all of it yet, so it can owe no confirm.
        """
        ended: list[Ended] = []
        if now >= self._sweep_at:
            ended = self._sweep(now)
        if now >= self._stall_at:
            self._look(now, congested)
        if now >= self._renew_at:
            self._renew(now)
        self._aim()
        return ended

    def _aim(self) -> None:
        self.due = min(self._sweep_at, self._stall_at, self._renew_at)

    def _sweep(self, now: float) -> list[Ended]:
        def overdue(entry: Entry) -> bool:
            return entry.deadline <= now

        refused = [entry for entry in self._refused if overdue(entry) and not entry.gone]
        expired = self.in_flight.give_up(overdue) + self._cut(overdue)
        left = (*self.in_flight.entries(), *self._waiting, *self._all_parked(), *self._refused)
        self._sweep_at = min((entry.deadline for entry in left), default=NEVER)
        ended: list[Ended] = [(entry, Ending.NACKED) for entry in refused]
        nacked = set(map(id, refused))
        ended += [(entry, Ending.LATE) for entry in expired if id(entry) not in nacked]
        return ended

    def _watch(self, now: float) -> None:
        """Look again later whether confirms still come."""
        self._seen = self._confirms
        self._stall_at = now + self._stall_after
        self._aim()

    def _look(self, now: float, congested: bool) -> None:
        self._stall_at = NEVER
        if not self.ready or not len(self.in_flight):
            return
        if self._confirms != self._seen or self.blocked is not None or congested:
            self._watch(now)
            return
        self.stalled = self._stall_after
        self._stall_after = min(self._stall_after * 2, STALLED_CAP)

    def _renew(self, now: float) -> None:
        """What was nacked has waited: send it again on a new channel, once the broker has answered for all on this one."""
        self._renew_at = NEVER
        if self.renewing:
            # It leaves something unanswered: the others go on, and what was refused is tried on this channel.
            if self.ready:
                self._silent = self.in_flight.next
                self._take_up_refused()
        elif self._refused:
            if self.ready and self.in_flight.oldest < self._silent:
                self._take_up_refused()
            else:
                self.renewing = True
                self._renew_at = now + refusals.DRAIN

    # ------------------------------------------------------------ inside

    def _nacked(self, entry: Entry, now: float, ended: list[Ended]) -> None:
        """Send it again on a new channel in a moment, unless what it leads to has refused for long."""
        wait = self._refusals.refused(entry.target, now)
        if wait is None:
            ended.append((entry, Ending.NACKED))
            return
        self._refused.append(entry)
        if self._renew_at == NEVER:
            self._renew_at = now + wait
            self._aim()

    def _take_up_refused(self) -> None:
        """Put what was held back in front of all that waits."""
        self.renewing = False
        if self._suspects:  # these are still the same ones, further behind
            self._suspects += len(self._refused)
        self._waiting.extendleft(reversed(self._refused))
        self._refused.clear()

    def _park_delayed(self, entries: list[Entry]) -> list[Entry]:
        """An exchange is missing: what was on its way into the ladder gets a second try once that is whole; the others."""
        others = []
        for entry in entries:
            if entry.due_in is None or entry.again:
                others.append(entry)
            else:
                self._try_again(entry, entry.due_in)
        return others

    def _try_again(self, entry: Entry, queue: str) -> None:
        entry.again = True
        self._ways.forget()
        self._park(entry, queue)

    def _park(self, entry: Entry, queue: str) -> None:
        parked = self._parked.setdefault(queue, [])
        parked.append(entry)
        self._parked_count += 1
        self._ways.expect(queue, entry.publication)
        if len(parked) == 1:
            self.wanted.append(queue)

    def _all_parked(self) -> list[Entry]:
        return [entry for parked in self._parked.values() for entry in parked]

    def _present(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those of them that are not gone; the others leave with them."""
        present = []
        for entry in entries:
            if entry.gone:
                self._gone -= 1
            else:
                present.append(entry)
        return present

    def _cut(self, chosen: Callable[[Entry], bool]) -> list[Entry]:
        """Take out of what waits, anywhere, those that are chosen."""
        taken = [
            entry
            for entry in (*self._waiting, *self._all_parked(), *self._refused)
            if chosen(entry)
        ]
        if not taken:
            return taken
        self._waiting = deque(entry for entry in self._waiting if not chosen(entry))
        for parked in self._parked.values():
            parked[:] = [entry for entry in parked if not chosen(entry)]
        self._parked_count = sum(map(len, self._parked.values()))
        self._refused = [entry for entry in self._refused if not chosen(entry)]
        return self._present(taken)
