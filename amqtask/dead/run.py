"""One run over a queue of dead letters: batch by batch, each written into the journal before it is moved."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Self

import msgspec

from amqtask.amqp import frames
from amqtask.amqp.delivery import Delivery
from amqtask.amqp.transfer import Raw, Transfer, in_use
from amqtask.core import dead, moves
from amqtask.core.letters import Filter
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.core.moves import Entry, Fate, Journal, Step
from amqtask.dead.actions import Action, Discard
from amqtask.dead.look import NOT_FOUND, Found, identify, refusal
from amqtask.dead.tally import Stopped, Tally
from amqtask.errors import ConfigurationError, DecodeError, OperationRefused
from amqtask.topology.model import Topology
from amqtask.topology.plan import DeclareQueue

BATCH = 200  # messages a transaction moves at most
BATCH_BYTES = 4 * 1024 * 1024
TURN = 600.0  # seconds after which what was read is given back and read anew: a broker takes back what is held for 30 minutes
PRECONDITION_FAILED = 406  # how a transaction ends of which a queue refused a part


class Room(msgspec.Struct, frozen=True):
    """What is known of how much the target queues take.

    Attributes:
        bounds: the most messages of those that refuse more.
        endless: those that refuse none: what a killed run had sent to them has arrived.
    """

    bounds: Mapping[str, int]
    endless: frozenset[str]

    @classmethod
    def of(cls, topology: Topology | None) -> Self:
        """What a topology tells; nothing where there is none."""
        bounds: dict[str, int] = {}
        endless: set[str] = set()
        for queue in topology.queues.values() if topology is not None else ():
            if queue.overflow == "drop-head" or (
                queue.max_length is None and queue.max_length_bytes is None
            ):
                endless.add(queue.name)
            elif queue.max_length is not None:
                bounds[queue.name] = queue.max_length
        return cls(bounds, frozenset(endless))


class _Step(msgspec.Struct, frozen=True):
    """A letter on its way: what is sent for it, if anything, and what the journal calls it."""

    found: Found
    mark: bytes
    copy: Publication | Raw | None
    doubt: bool = False


class Run:
    """One call of ``Mover.run``: what it has been told, and what it knows from one connection to the next.

    Args:
        queue: the queue of dead letters.
        wanted: which.
        action: what.
        tally: counted up.
        limit: messages at most, those of ``tally.done`` counted.
        rate: messages a second at most.
        stop: asked between batches.
        progress: called after each batch.
        room: what the targets take.
    """

    def __init__(
        self,
        queue: str,
        wanted: Filter,
        action: Action,
        tally: Tally,
        limit: int | None,
        rate: float | None,
        stop: Callable[[], bool],
        progress: Callable[[Tally], None],
        room: Room,
    ) -> None:
        self._queue = queue
        self._wanted = wanted
        self._action = action
        self._tally = tally
        self._limit = limit
        self._rate = rate
        self._asked = stop
        self._progress = progress
        self._room = room
        self._journal = moves.journal_of(queue)
        self._most = BATCH if rate is None else max(1, min(BATCH, int(rate / 5)))
        self._size = 1  # the first one alone: a queue that refuses it refuses that one and no other
        self._known: dict[str, frozenset[bytes]] = {}
        self._refusals: list[Entry] = []  # of this run: the journal may not have them
        self._own: dict[str, str | None] = {}  # batches of this run, and where each went
        self._since = datetime.now(UTC)
        self._began = time.monotonic()
        self._before = tally.done
        self._skipped = tally.skipped
        self._batch: list[_Step] = []
        self._weight = 0  # bytes of their bodies
        # to be taken away, for the copies are where they should be: by which batch, with which mark
        self._moved: list[tuple[Delivery, str, bytes]] = []
        self._doubted: set[tuple[str, bytes]] = set()  # of which batch copies went in doubt
        self._unsure: dict[
            str, list[_Step]
        ] = {}  # batches of which it was not heard that they were taken away
        self._counted: set[str] = set()  # batches in the tally

    def stop(self, why: Stopped, problem: str) -> bool:
        """End the run early; False."""
        self._tally.stopped, self._tally.problem = why, problem
        return False

    def turn(self, transfer: Transfer) -> bool:
        """Go through the queue once. False when there is more to do, on a channel of its own."""
        tally = self._tally
        self._batch.clear()
        self._weight = 0
        self._moved.clear()
        tally.skipped = self._skipped
        try:
            journal = self._begin(transfer)
            until, done = time.monotonic() + TURN, tally.done
            for delivery in transfer.read(self._queue, begun=True):
                if self._asked():
                    self.stop(Stopped.INTERRUPTED, "")
                    break
                tally.seen += 1
                step = self._step(journal, delivery)
                if step is None:
                    continue
                self._batch.append(step)
                full = self._limit is not None and self._underway() >= self._limit
                self._weight += len(delivery.body)
                if len(self._batch) >= self._size or self._weight >= BATCH_BYTES or full:
                    if not self._flush(transfer) or full:
                        return True
                    if time.monotonic() > until and tally.done > done:
                        return False
            self._flush(transfer)
        except OperationRefused as error:
            raise refusal(transfer, self._queue, error) from None
        return True

    def _begin(self, transfer: Transfer) -> Journal:
        """Take hold of the queue and read what earlier runs were about."""
        if transfer.queue(self._queue) is None:
            raise OperationRefused(NOT_FOUND, f"no queue '{self._queue}'")
        arguments = {
            "x-queue-type": "classic",
            "x-message-ttl": moves.KEEP,
            "x-expires": moves.KEEP + 86_400_000,
        }
        try:
            found = transfer.begin(
                self._queue,
                DeclareQueue(self._journal, arguments=arguments),
                self._entry(Entry(Step.MARK, uuid.uuid4().hex)),
            )
        except OperationRefused as error:
            if in_use(error):
                raise ConfigurationError(
                    f"Another command moves the letters of {self._queue!r} right now; wait until it has ended."
                ) from None
            raise
        entries = []
        for body in found:
            with contextlib.suppress(DecodeError):  # somebody else's; it moves nothing
                entries.append(moves.decode(body))
        unsure, self._unsure = self._unsure, {}
        for entry in entries:
            if entry.step is Step.MOVED and entry.batch in unsure:
                self._count(unsure[entry.batch], entry.batch)
        journal = Journal([*entries, *self._refusals], self._known)
        journal.distrust(
            [
                target
                for target in journal.unverified()
                if target not in self._room.endless or transfer.queue(target) is None
            ]
        )
        return journal

    def _step(self, journal: Journal, delivery: Delivery) -> _Step | None:
        """What is to be done about a letter that was read."""
        found = identify(self._queue, delivery)
        letter, properties = found.letter, found.properties
        mark = moves.mark(properties, delivery.body, letter)
        fate, batch = journal.fate(mark, lambda: moves.alone(letter, properties))
        if fate is Fate.MOVED:
            self._moved.append((delivery, batch, mark))
            return None
        if not self._wanted.matches(letter):
            return None
        sent_back = dead.sent_back(properties.headers or {}) if properties is not None else None
        if sent_back is not None and sent_back >= self._since:
            return None  # died again meanwhile
        copy = self._action(found)
        if copy is None and not isinstance(self._action, Discard):
            self._tally.skipped += 1
            return None
        doubt = copy is not None and fate is Fate.DOUBT
        if doubt and isinstance(copy, Publication):
            copy = _doubted(copy)
        return _Step(found, mark, copy, doubt)

    def _underway(self) -> int:
        """How many are done when all that has been gathered is."""
        ours = sum(batch in self._own and batch not in self._counted for _, batch, _ in self._moved)
        return self._tally.done + len(self._batch) + ours

    def _count(self, steps: Sequence[_Step], batch: str = "") -> None:
        """Count letters that have been taken away. Only then: what a lost connection interrupts is gathered once more."""
        self._counted.add(batch)
        self._tally.done += len(steps)
        self._tally.doubtful += sum(step.doubt for step in steps)
        self._tally.targets.update(s.copy.routing_key for s in steps if s.copy is not None)

    def _flush(self, transfer: Transfer) -> bool:
        """Carry out what has been gathered. False when the run must end; the tally tells why."""
        batch, self._batch, self._weight = self._batch, [], 0
        self._size = min(self._size * 2, self._most)
        if self._moved:
            transfer.settle([delivery for delivery, _, _ in self._moved])
            for _, name, which in self._moved:
                if name not in self._own:
                    self._tally.finished += 1
                elif name not in self._counted:  # or a broker that restarted has forgotten the acks
                    self._tally.done += 1
                    self._tally.doubtful += (name, which) in self._doubted
                    if (to := self._own[name]) is not None:
                        self._tally.targets[to] += 1
            self._moved.clear()
        if not batch:
            return True
        if isinstance(self._action, Discard):
            if self._action.before is not None:
                self._action.before([step.found for step in batch])
            transfer.settle([step.found.delivery for step in batch])
            self._count(batch)
            good = True
        else:
            good = self._send(transfer, batch)
        self._progress(self._tally)
        self._keep_pace(transfer)
        return good

    def _keep_pace(self, transfer: Transfer) -> None:
        if self._rate is None:
            return
        while not self._asked():
            taken = time.monotonic() - self._began
            ahead = (self._tally.done - self._before) / self._rate - taken
            if ahead <= 0:
                return
            transfer.wait(min(ahead, 0.2))

    def _send(self, transfer: Transfer, batch: list[_Step]) -> bool:
        """Publish the copies, see them safe, take the letters away."""
        copies = [step.copy for step in batch if step.copy is not None]
        targets = Counter(copy.routing_key for copy in copies)
        if not self._has_room(transfer, targets):
            return False
        name = uuid.uuid4().hex
        self._own[name] = next(iter(targets)) if len(targets) == 1 else None
        self._doubted.update((name, step.mark) for step in batch if step.doubt)
        marks = tuple(step.mark for step in batch)
        transfer.publish_all(
            [
                # in this order: of an intent that is there, the broker has or had this one too
                self._entry(Entry(Step.ALIVE, name), lasting=False),
                self._entry(Entry(Step.INTENT, name, marks, tuple(targets))),
            ]
        )
        try:
            missing = transfer.send(copies, self._entry(Entry(Step.SENT, name), lasting=False))
        except OperationRefused as error:
            if error.code != PRECONDITION_FAILED:
                raise
            self._refused(transfer, name, batch, targets)
            return False
        good = [step for place, step in enumerate(batch) if place not in missing]
        self._known[name] = frozenset(step.mark for step in good)
        if good:
            moved = () if len(good) == len(batch) else tuple(step.mark for step in good)
            note = self._entry(Entry(Step.MOVED, name, moved))
            self._unsure[name] = good
            transfer.settle([step.found.delivery for step in good], note)
            del self._unsure[name]
            self._count(good, name)
        if not missing:
            return True
        if not good:
            transfer.publish_all([self._entry(Entry(Step.FAILED, name))])
        self._tally.kept += len(missing)
        gone = next(copies[place].routing_key for place in missing)
        return self.stop(Stopped.GONE, f"Queue {gone!r} was deleted meanwhile; its messages are among the dead letters as before.")  # fmt: skip

    def _has_room(self, transfer: Transfer, targets: Counter[str]) -> bool:
        """Whether all targets are there and have room, as far as that is known."""
        for target, count in targets.items():
            state = transfer.queue(target)
            if state is None:
                return self.stop(Stopped.GONE, f"There is no queue {target!r} on the broker; declare it with `amqtask topology apply`, or name another with --queue.")  # fmt: skip
            bound = self._room.bounds.get(target)
            if bound is not None and state.messages + count > bound:
                return self.stop(Stopped.FULL, f"Queue {target!r} holds {state.messages} of at most {bound} messages; run the command again when there is room.")  # fmt: skip
        return True

    def _refused(
        self, transfer: Transfer, name: str, batch: list[_Step], targets: Counter[str]
    ) -> None:
        """A target refused some of a batch; none has been taken away."""
        marks = tuple(step.mark for step in batch) if len(batch) > 1 else ()
        self._refusals.append(Entry(Step.FAILED, name, marks))
        transfer.publish_all([self._entry(self._refusals[-1])])
        self._tally.kept += len(batch)
        self._tally.doubtful += len(marks)
        names = ", ".join(map(repr, targets))
        self.stop(Stopped.FULL, f"Queue {names} refuses messages: it is full. Run the command again when there is room.")  # fmt: skip

    def _entry(self, entry: Entry, *, lasting: bool = True) -> Raw:
        header = frames.encode_properties(Properties(delivery_mode=2 if lasting else 1))
        return Raw("", self._journal, header, moves.encode(entry))


def _doubted(copy: Publication) -> Publication:
    properties = dead.doubtful(
        copy.envelope.properties, "it was sent before, and whether that arrived is not known"
    )
    return Publication(copy.exchange, copy.routing_key, Envelope(copy.envelope.body, properties))
