"""Making sure that a queue can be reached before something is published into it: through the delay ladder, or a chord's barrier.

Both publishers do it the same way, so the decisions stand here, as a conversation: ``pave`` yields what to ask the broker for
and is told how that went. A publisher remembers in ``Ways`` what is paved, so that only the first message pays.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable

import msgspec

from amqtask.amqp import failures
from amqtask.amqp.declaration import declaration_text
from amqtask.core.barrier import PREFIX, delay_of
from amqtask.core.message import Publication
from amqtask.errors import AmqtaskError, OperationRefused, TopologyConflict, Unroutable
from amqtask.log import get_logger
from amqtask.topology import plan
from amqtask.topology.barrier import Barriers, barrier_queue
from amqtask.topology.ladder import TICK, Ladder
from amqtask.topology.plan import Declaration, DeclareExchange, DeclareQueue

log = get_logger("amqtask.amqp")

# Seconds for which a target queue counts as bound. Somebody may delete the queue and a worker declare it anew, without the
# binding, and no error tells the publisher; binding again costs one request.
BOUND_FOR = 60.0
PAVE_TIMEOUT = 20.0  # seconds the broker gets for all of it; the ladder takes it 0.3 s

NO_ACCESS = 403
CONFLICT = 406
CHORD_EXPIRES = 7 * 86_400.0  # seconds
BARRIERS_AT_ONCE = 50  # declared one after the other on one channel

Refusal = tuple[OperationRefused, Declaration]
Paving = Generator[tuple[Declaration, ...], Refusal | None, dict[str, AmqtaskError]]
"""Yields what to declare, is told how that went, and returns the queues that cannot be reached, with why."""


class Ways:
    """What one publisher knows to be in place on its broker. Belongs to the publisher's thread or loop.

    A queue whose name begins as those of barriers do is one, and no target of the ladder: it is declared each time something
    is due in it, and not remembered, since it goes with its chord.

    Args:
        ladder: the delay ladder.
        barriers: how a barrier's queue is declared.
    """

    def __init__(self, ladder: Ladder, barriers: Barriers | None = None) -> None:
        self.ladder = ladder
        self._barriers = barriers or _barrier
        self._declared = False
        self._delays: dict[str, float] = {}  # barriers to be, whose parts are put off
        self._bound: dict[str, float] = {}  # target queue → when its binding is made again

    def open(self, queue: str, now: float) -> bool:
        """Whether a message for the queue may be published into the ladder now."""
        return self._declared and self._bound.get(queue, now) > now

    def expect(self, queue: str, publication: Publication) -> None:
        """Note what a barrier's plan says of how long its queue is to last."""
        if queue.startswith(PREFIX) and (delay := delay_of(publication)):
            self._delays[queue] = delay

    def in_time(
        self, publication: Publication, since: float, now: float
    ) -> tuple[Publication, float]:
        """A publication as it is to be sent now, and the time its delay counts from then.

        What waited for its way to be made, or for the broker to come back, enters the ladder so much lower.

        Args:
            publication: as it was made.
            since: monotonic time when that was.
            now: monotonic time.
        """
        ticks = int((now - since) / TICK)
        if not ticks or not publication.exchange:  # it goes to its barrier, without delay
            return publication, since
        exchange, key = self.ladder.sooner(publication.routing_key, ticks)
        moved = msgspec.structs.replace(publication, exchange=exchange, routing_key=key)
        return moved, since + ticks * TICK

    def forget(self) -> None:
        """Somebody deleted the ladder, or part of it."""
        self._declared = False
        self._bound.clear()

    def begin(self, wanted: Iterable[str], now: float) -> tuple[list[str], Paving]:
        """What to make next: the first that is wanted, together with others when it is a barrier. And how to make it.

        Args:
            wanted: queues, at least one.
            now: monotonic time.
        """
        wanted = list(wanted)
        if wanted[0].startswith(PREFIX):
            barriers = [queue for queue in wanted if queue.startswith(PREFIX)][:BARRIERS_AT_ONCE]
            return barriers, self._declare_barriers(barriers)
        return wanted[:1], self.pave(wanted[0], now)

    def _declare_barriers(self, queues: list[str]) -> Paving:
        refused: dict[str, AmqtaskError] = {}
        left = [self._barriers(queue, self._delays.get(queue, 0.0)) for queue in queues]
        while left:
            refusal = yield tuple(left)
            if refusal is None:
                break
            error, declaration = refusal
            assert isinstance(declaration, DeclareQueue)
            if not _lasts_otherwise(error):
                refused[declaration.name] = _barrier_refused(error, declaration)
            del left[: left.index(declaration) + 1]
        for queue in queues:
            self._delays.pop(queue, None)
        return refused

    def pave(self, queue: str, now: float) -> Paving:
        """Declare the ladder and bind the queue, as far as that is needed.

        Yields declarations, to be carried out in order on a channel of their own; is sent ``None`` when all went well, or
        the refusal and what was refused.

        Args:
            queue: the target queue.
            now: monotonic time.

        Raises:
            Unroutable: there is no such queue.
            TopologyConflict: part of the ladder is there and differs.
            OperationRefused: the user may not declare the ladder, and nobody else has.
        """
        if not self._declared:
            refusal = yield self.ladder.declarations()
            if refusal is not None:
                yield from self._without(refusal)
            self._declared = True
        target = self.ladder.target(queue)
        refusal = yield (DeclareQueue(queue, passive=True), target)
        if refusal is not None:
            error, refused = refusal
            if isinstance(refused, DeclareQueue) or error.code not in (
                NO_ACCESS,
                failures.NOT_FOUND,
            ):
                raise self._unbound(queue, error)
            if error.code == failures.NOT_FOUND:  # the queue is there, so it is the exchange
                refusal = yield (*self.ladder.declarations(), target)
                if refusal is not None:
                    raise _refused(*refusal)
            else:
                log.warning(
                    "may not bind the queue for delayed messages; they arrive if `amqtask topology apply` did it",
                    queue=queue,
                    reason=error.text,
                )
        self._bound[queue] = now + BOUND_FOR
        return {}

    def _without(
        self, refusal: Refusal
    ) -> Generator[tuple[Declaration, ...], Refusal | None, None]:
        """The ladder could not be declared: go on when somebody else has."""
        error, declaration = refusal
        if error.code != NO_ACCESS:
            raise _refused(error, declaration)
        missing = yield (DeclareExchange(self.ladder.delivery, "topic", passive=True),)
        if missing is not None:
            raise OperationRefused(
                error.code,
                error.text,
                "Sending a task for later needs the delay ladder, which is not on the broker, and this user may not declare "
                "it: run `amqtask topology apply` as one who may, or grant configure permission "
                f"for {self.ladder.step(0)[:-2]}*.",
            )

    def _unbound(self, queue: str, error: OperationRefused) -> Exception:
        if error.code == failures.NOT_FOUND:
            return Unroutable(
                f"There is no queue {queue!r} to deliver a delayed task to; declare the queue or run `amqtask topology apply`."
            )
        return OperationRefused(
            error.code,
            error.text,
            f"Queue {queue!r} could not be bound for delayed tasks: {error.code} {error.text.strip().rstrip('.')}.",
        )


def _barrier(name: str, delay: float) -> DeclareQueue:
    return barrier_queue(name, CHORD_EXPIRES + delay)


def _lasts_otherwise(error: OperationRefused) -> bool:
    """Whether the barrier is there from an earlier try of the same: what is due at a time was further away then."""
    return (
        error.code == CONFLICT
        and "inequivalent arg 'x-expires'" in error.text
        and "but current is the value" in error.text
    )


def _barrier_refused(error: OperationRefused, declaration: Declaration) -> AmqtaskError:
    if error.code == CONFLICT:
        return TopologyConflict(plan.explain_conflict(error.text, declaration))
    advice = (
        f"a chord needs a queue of its own: grant configure permission for {PREFIX}*."
        if error.code == NO_ACCESS
        else "the chord was not started."
    )
    return OperationRefused(
        error.code,
        error.text,
        f"The broker refused {declaration_text(declaration)}: {error.code} {error.text.strip().rstrip('.')}; {advice}",
    )


def _refused(error: OperationRefused, declaration: Declaration) -> Exception:
    if error.code == CONFLICT:
        return TopologyConflict(plan.explain_conflict(error.text, declaration))
    return OperationRefused(
        error.code,
        error.text,
        f"The broker refused part of the delay ladder, {declaration_text(declaration)}: "
        f"{error.code} {error.text.strip().rstrip('.')}.",
    )
