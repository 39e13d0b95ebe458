"""Dead letters on a broker: which queues hold them, a look that changes nothing, and moves that lose and double nothing.

``look`` reads without settling. ``Mover`` publishes and acks in transactions, a batch at a time, so that a process killed at
any instant has done all or nothing of a batch, and the same call made again goes on with the rest. Where a transaction
cannot promise that (the target queue is full or gone, the broker dies in the middle) the message is put back among the dead
letters, marked when it may be in its target too: twice rather than never. ``docs/decisions/0013`` has the measurements.
"""

from __future__ import annotations

import enum
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from amqtask.amqp.delivery import Delivery
from amqtask.amqp.transfer import Move, Raw, Transfer
from amqtask.core import dead, letters
from amqtask.core.letters import Filter, Letter
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.errors import (
    ConfigurationError,
    ConfirmTimeout,
    ConnectFailed,
    ConnectionLost,
    DecodeError,
    OperationRefused,
)
from amqtask.topology import plan
from amqtask.topology.model import Topology, dead_queue_name

BATCH = 200  # messages a transaction moves at most
BATCH_BYTES = 4 * 1024 * 1024
RECONNECT = 60.0  # seconds a broker that went in the middle of a transaction gets to come back
SETTLED = 3.0  # seconds in which its queue must not change before what is there is compared
PAUSE = 0.5  # seconds between two attempts to reach it

Connect = Callable[[], Transfer]


# ---------------------------------------------------------------- which queues


def queues_of(topology: Topology | None, names: Iterable[str]) -> tuple[str, ...]:
    """The queues of dead letters that names stand for: those of a work queue, or the queue itself.

    Args:
        topology: tells where the dead letters of a queue go; without one it is ``<name>.dead``.
        names: of work queues or of queues of dead letters; none is all of the topology.

    Raises:
        ConfigurationError: no name and no topology, or a queue that has no dead letters.
    """
    wanted = list(names)
    if not wanted:
        if topology is None:
            raise ConfigurationError(
                "Which dead letters? Name a queue, or give a topology with -f, or an app with -A or AMQTASK_APP."
            )
        wanted = list(topology.queues)
        return tuple(dict.fromkeys(q for name in wanted for q in plan.dead_queues(topology, name)))
    found: list[str] = []
    holders = (
        {q for name in topology.queues for q in plan.dead_queues(topology, name)}
        if topology
        else set()
    )
    for name in wanted:
        theirs = plan.dead_queues(topology, name) if topology is not None else ()
        if theirs:
            found += theirs
        elif name in holders or name.endswith(".dead"):
            found.append(name)
        elif topology is not None and name in topology.queues:
            raise ConfigurationError(
                f"Queue {name!r} has no dead letters: {topology.source} gives it dead_letter: false."
            )
        else:
            found.append(dead_queue_name(name))
    return tuple(dict.fromkeys(found))


# ---------------------------------------------------------------- looking


class Found(msgspec.Struct, frozen=True):
    """A dead letter, and the delivery it was read from. ``properties`` is ``None`` where they cannot be read."""

    queue: str
    letter: Letter
    delivery: Delivery
    properties: Properties | None


def look(
    transfer: Transfer,
    queue: str,
    wanted: Filter,
    progress: Callable[[int], None] = lambda seen: None,
) -> Iterator[Found]:
    """Yield the dead letters of a queue that are meant. Nothing is settled: ``give_back`` returns all of them.

    Args:
        transfer: reads them.
        queue: the queue of dead letters.
        wanted: which.
        progress: called now and then with how many have been read.

    Raises:
        ConfigurationError: there is no such queue.
        BrokerError: the broker cannot be read.
    """
    try:
        for seen, delivery in enumerate(transfer.read(queue), 1):
            if seen % 100 == 0:
                progress(seen)
            found = identify(queue, delivery)
            if wanted.matches(found.letter):
                yield found
    except OperationRefused as error:
        raise _missing(queue, error) from None


def identify(queue: str, delivery: Delivery) -> Found:
    """Read why a delivery is dead."""
    try:
        properties: Properties | None = delivery.properties
    except DecodeError:
        properties = None
    return Found(queue, letters.read(properties, delivery.body, queue), delivery, properties)


def _missing(queue: str, error: OperationRefused) -> Exception:
    return (
        ConfigurationError(f"There is no queue {queue!r} on the broker.")
        if error.code == 404
        else error
    )


# ---------------------------------------------------------------- moving


class Retry(msgspec.Struct, frozen=True):
    """Send letters back to work: to the queue each died in, or all to ``queue``."""

    queue: str | None = None
    keep_expires: bool = False

    def __call__(self, found: Found) -> Publication | Raw | None:
        """The publication that does it; ``None`` when it is not told where the letter came from."""
        target = self.queue or found.letter.source
        if not target:
            return None
        if found.properties is None:
            return Raw("", target, found.delivery.header, found.delivery.body)
        properties = dead.revive(
            found.properties, datetime.now(UTC), keep_expires=self.keep_expires
        )
        return Publication("", target, Envelope(found.delivery.body, properties))


class Discard(msgspec.Struct, frozen=True):
    """Delete letters for good. ``before`` is called with each batch before it is deleted: an export, made safe."""

    before: Callable[[Sequence[Found]], None] | None = None

    def __call__(self, found: Found) -> None:
        """There is no publication."""


class Replace(msgspec.Struct, frozen=True):
    """Send one changed letter back to work, if it is still the one that was changed."""

    original: str
    publication: Publication

    def __call__(self, found: Found) -> Publication | None:
        """The changed message."""
        same = found.properties is not None and (
            letters.fingerprint(found.properties, found.delivery.body) == self.original
        )
        return self.publication if same else None


class Stopped(enum.Enum):
    """Why a run ended before everything that was meant was done."""

    FULL = "full"
    GONE = "gone"
    LOST = "lost"
    INTERRUPTED = "interrupted"


class Tally(msgspec.Struct):
    """What a run has done so far.

    Attributes:
        seen: letters read.
        matched: of them, those that were meant.
        done: moved or discarded, for certain.
        skipped: meant, but without a way back.
        put_back: taken and put back, because their target was gone or full.
        doubtful: put back although they may have reached their target.
        ready: letters that were in the queue at the start.
        stopped: why the run ended early.
        problem: the same as a sentence.
        targets: how many went where.
    """

    seen: int = 0
    matched: int = 0
    done: int = 0
    skipped: int = 0
    put_back: int = 0
    doubtful: int = 0
    ready: int = 0
    stopped: Stopped | None = None
    problem: str = ""
    targets: Counter[str] = msgspec.field(default_factory=Counter)


class Mover:
    """Moves the dead letters of one queue.

    Args:
        connect: opens a connection; called again when the broker went away in the middle of a transaction.
        topology: tells which target queues are bounded, so that none is filled until it refuses.
    """

    def __init__(self, connect: Connect, topology: Topology | None = None) -> None:
        self._connect = connect
        self._bounds: dict[str, int] = {}
        for queue in topology.queues.values() if topology is not None else ():
            if queue.max_length is not None and queue.overflow != "drop-head":
                self._bounds[queue.name] = queue.max_length

    def run(
        self,
        queue: str,
        wanted: Filter,
        action: Retry | Discard | Replace,
        *,
        tally: Tally,
        limit: int | None = None,
        rate: float | None = None,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[Tally], None] = lambda tally: None,
    ) -> None:
        """Carry out ``action`` on what is meant, until all is done, ``limit`` is reached or something stops it.

        Args:
            queue: the queue of dead letters.
            wanted: which.
            action: what.
            tally: counted up; tells at the end why the run ended early, if it did.
            limit: messages at most, those of ``tally.done`` counted.
            rate: messages a second at most.
            stop: asked between batches.
            progress: called after each batch.

        Raises:
            ConfigurationError: there is no such queue.
            BrokerError: the broker cannot be reached, or refuses for good.
        """
        batch: list[tuple[Found, Move]] = []
        size, weight = (
            1,
            0,
        )  # the first one alone: a queue that refuses it refuses that one and no other
        most = BATCH if rate is None else max(1, min(BATCH, int(rate / 5)))
        began, before = time.monotonic(), tally.done
        with self._connect() as transfer:
            state = transfer.queue(queue)
            tally.ready += state.messages if state is not None else 0

            def flush() -> bool:
                nonlocal size, weight
                if isinstance(action, Discard) and action.before is not None:
                    action.before([found for found, _ in batch])
                good = self._carry_out(transfer, queue, batch, tally)
                batch.clear()
                weight = 0
                size = min(size * 2, most)
                progress(tally)
                if good and rate is not None:
                    ahead = (tally.done - before) / rate - (time.monotonic() - began)
                    while ahead > 0 and not stop():
                        try:
                            transfer.wait(min(ahead, 0.2))
                        except ConnectionLost as error:
                            return _stop(tally, Stopped.LOST, _run_again(error))
                        ahead = (tally.done - before) / rate - (time.monotonic() - began)
                return good

            try:
                deliveries = transfer.read(queue, transactional=True)
                while True:
                    try:
                        delivery = next(deliveries, None)
                    except ConnectionLost as error:
                        # nothing is under way: what was read and not moved is where it was
                        _stop(tally, Stopped.LOST, _run_again(error))
                        return
                    if delivery is None:
                        break
                    if stop():
                        tally.stopped = Stopped.INTERRUPTED
                        break
                    tally.seen += 1
                    found = identify(queue, delivery)
                    if not wanted.matches(found.letter):
                        continue
                    tally.matched += 1
                    to = action(found)
                    if to is None and not isinstance(action, Discard):
                        tally.skipped += 1
                        continue
                    batch.append((found, Move(delivery, to)))
                    weight += len(delivery.body)
                    full = limit is not None and tally.done + len(batch) >= limit
                    if (len(batch) >= size or weight >= BATCH_BYTES or full) and not flush():
                        return
                    if full:
                        return
            except OperationRefused as error:
                raise _missing(queue, error) from None
            if batch:
                flush()

    def _carry_out(
        self, transfer: Transfer, queue: str, batch: list[tuple[Found, Move]], tally: Tally
    ) -> bool:
        """Move one batch. False when the run must end; ``tally`` tells why."""
        targets = Counter(move.to.routing_key for _, move in batch if move.to is not None)
        for target, count in targets.items():
            try:
                state = transfer.queue(target)
            except ConnectionLost as error:
                return _stop(tally, Stopped.LOST, _run_again(error))
            if state is None:
                return _stop(tally, Stopped.GONE, f"There is no queue {target!r} on the broker; declare it, or name another with --queue.")  # fmt: skip
            bound = self._bounds.get(target)
            if bound is not None and state.messages + count > bound:
                return _stop(tally, Stopped.FULL, f"Queue {target!r} holds {state.messages} of at most {bound} messages; run the command again when there is room.")  # fmt: skip
        try:
            returned = transfer.move([move for _, move in batch])
        except OperationRefused:
            self._refused(transfer, queue, batch, tally, targets)
            return False
        except ConnectionLost as error:
            self._lost(queue, batch, tally, error)
            return False
        if returned:
            # Gone since we looked. The acks have been carried out, so what came back is nowhere else now.
            self._put_back(transfer, [_as_it_was(queue, move.delivery) for move in returned])
            tally.put_back += len(returned)
        moved = [move for _, move in batch if move not in returned]
        tally.done += len(moved)
        tally.targets.update(move.to.routing_key for move in moved if move.to is not None)
        if returned:
            gone = next(move.to.routing_key for move in returned if move.to is not None)
            return _stop(tally, Stopped.GONE, f"Queue {gone!r} was deleted meanwhile; its messages are among the dead letters as before.")  # fmt: skip
        return True

    def _refused(
        self,
        transfer: Transfer,
        queue: str,
        batch: list[tuple[Found, Move]],
        tally: Tally,
        targets: Counter[str],
    ) -> None:
        """A target refused part of the batch, and all of it is off the dead letters: put it back."""
        names = ", ".join(map(repr, targets))
        if len(batch) == 1:
            self._put_back(transfer, [_as_it_was(queue, batch[0][1].delivery)])
            tally.put_back += 1
        else:
            why = f"queue {names} refused some of the batch it was sent with"
            self._put_back(transfer, [_in_doubt(queue, found, why) for found, _ in batch])
            tally.doubtful += len(batch)
        _stop(tally, Stopped.FULL, f"Queue {names} refuses messages: it is full. Run the command again when there is room.")  # fmt: skip

    def _lost(
        self, queue: str, batch: list[tuple[Found, Move]], tally: Tally, error: ConnectionLost
    ) -> None:
        """The connection went in the middle of a transaction: see what is left, and put back what cannot be told."""
        _stop(tally, Stopped.LOST, _run_again(error))
        while True:
            with self._again(error) as transfer:
                try:
                    there = self._what_is_there(transfer, queue)
                except ConnectionLost as again:
                    error = again
                    continue
                doubtful: list[Publication | Raw] = []
                for found, move in batch:
                    mark = _mark(move.delivery)
                    if there[mark]:
                        there[mark] -= 1  # nothing was done about it
                    elif move.to is None:
                        tally.done += 1
                    else:
                        why = (
                            f"the connection was lost while it was sent to {move.to.routing_key!r}"
                        )
                        doubtful.append(_in_doubt(queue, found, why))
                self._put_back(transfer, doubtful)
                tally.doubtful += len(doubtful)
                return

    @staticmethod
    def _what_is_there(transfer: Transfer, queue: str) -> Counter[str]:
        _settled(transfer, queue)
        there = Counter(_mark(delivery) for delivery in transfer.read(queue))
        transfer.give_back()
        return there

    def _put_back(self, transfer: Transfer, publications: Sequence[Publication | Raw]) -> None:
        """Publish what is nowhere else, again and again while the network cuts it: twice rather than never.

        Raises:
            BrokerError: the broker did not come back, or refuses them for good.
        """
        try:
            transfer.publish_all(publications)
            return
        except (ConnectionLost, ConfirmTimeout) as first:
            error: ConnectionLost | ConfirmTimeout = first
        while True:
            with self._again(error) as another:
                try:
                    another.publish_all(publications)
                    return
                except ConnectionLost as again:
                    error = again

    def _again(self, error: ConnectionLost | ConfirmTimeout) -> Transfer:
        """A new connection to a broker that may have to start first.

        Raises:
            ConnectionLost, ConfirmTimeout: it did not come back; what this was about.
        """
        deadline = time.monotonic() + RECONNECT
        while True:
            try:
                return self._connect().open()
            except ConnectFailed:
                if time.monotonic() > deadline:
                    raise error from None
                time.sleep(PAUSE)


def _settled(transfer: Transfer, queue: str) -> None:
    """Wait until a queue holds the same for a while: one that has just started fills up as it recovers."""
    deadline = time.monotonic() + RECONNECT
    before, since = None, time.monotonic()
    while time.monotonic() < min(deadline, since + SETTLED):
        transfer.wait(PAUSE)
        state = transfer.queue(queue)
        if state != before:
            before, since = state, time.monotonic()


def _stop(tally: Tally, why: Stopped, problem: str) -> bool:
    tally.stopped, tally.problem = why, problem
    return False


def _run_again(error: ConnectionLost) -> str:
    return f"{error} Run the command again to go on with the rest."


def _as_it_was(queue: str, delivery: Delivery) -> Raw:
    return Raw("", queue, delivery.header, delivery.body)


def _in_doubt(queue: str, found: Found, why: str) -> Publication | Raw:
    if found.properties is None:
        return _as_it_was(queue, found.delivery)
    return Publication(
        "", queue, Envelope(found.delivery.body, dead.doubtful(found.properties, why))
    )


def _mark(delivery: Delivery) -> str:
    found = identify("", delivery)
    return letters.fingerprint(found.properties or Properties(), delivery.body)
