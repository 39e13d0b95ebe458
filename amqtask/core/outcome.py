"""What became of one delivery, as a closed set, and the settlement that follows from it.

The slot produces an ``Outcome``; ``decide`` turns it into a ``Settlement``; ``worker/settling/settle.py`` carries that out: every
follow-up published and confirmed, then the verdict (``amqp/ports.Verdict``) sent to the broker.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from amqtask.core.barrier import Late
from amqtask.core.message import Publication
from amqtask.core.retry import Again
from amqtask.core.workflow import Part, Sig
from amqtask.errors import Ignore


class Verdict(enum.Enum):
    """How a delivery ends at the broker.

    ``ACK`` done. ``REJECT``: ``basic.reject`` without requeue, dead-lettered by the broker where the queue says so.
    ``REJECT_REQUEUE``: a counted failure that goes back. ``GIVE_BACK``: ``basic.nack`` with requeue, for work that never
    started; RabbitMQ 4.3 does not count it against the delivery limit.
    """

    ACK = "ack"
    REJECT = "reject"
    REJECT_REQUEUE = "reject-requeue"
    GIVE_BACK = "give-back"


class Succeeded(msgspec.Struct, frozen=True):
    """The task returned ``value`` after ``runtime`` seconds; ``children`` are the results, as tuples, of what it has sent."""

    value: object
    runtime: float
    children: Sequence[object] = ()


class Failed(msgspec.Struct, frozen=True):
    """The task raised, or could not be run. ``traceback`` is formatted text; ``reason`` names why for the dead letter."""

    error: BaseException
    traceback: str | None
    reason: str
    runtime: float = 0.0


class Ignored(msgspec.Struct, frozen=True):
    """The task raised ``Ignore``: no result."""


def ignored(task: str, task_id: str) -> Ignore:
    """What is told to whoever needs the result of a task that has none: the rest of its chain, its chord, its group."""
    return Ignore(f"Task {task}[{task_id}] ended without a result: it raised Ignore.")


class Rejected(msgspec.Struct, frozen=True):
    """The task raised ``Reject``."""

    reason: str
    requeue: bool


class Revoked(msgspec.Struct, frozen=True):
    """The task must not run (on): it was revoked, or had expired, which nobody asked for and so leaves a dead letter."""

    reason: str
    expired: bool = False


class Retried(msgspec.Struct, frozen=True):
    """The task is to run again because of ``error``."""

    error: BaseException
    traceback: str | None
    again: Again
    runtime: float = 0.0


class Replaced(msgspec.Struct, frozen=True):
    """The task has put a signature in its place, which has its id: no result of its own, and what follows it follows that."""

    replacement: Sig
    runtime: float = 0.0


class Deferred(msgspec.Struct, frozen=True):
    """The message came before its time: it is due in ``delay`` seconds and has not run."""

    delay: float


Outcome = Succeeded | Failed | Ignored | Rejected | Revoked | Retried | Replaced | Deferred


class Onward(msgspec.Struct, frozen=True):
    """A publication that carries a message on through the delay ladder, and the queue in which it is due.

    ``queue`` is ``None`` for one that is due now and goes to its queue directly.
    """

    publication: Publication
    queue: str | None


class Send(msgspec.Struct, frozen=True):
    """A publication that starts something, and the queue it is due in when it does not go to its queue directly.

    ``started`` is what it starts, for whoever has to tell that it could not be started.
    """

    publication: Publication
    due_in: str | None = None
    started: object = None


class PartSent(msgspec.Struct, frozen=True):
    """The end of a part of a chord, and the message that tells its barrier."""

    publication: Publication
    part: Part


class Look(msgspec.Struct, frozen=True):
    """A look at a chord of so many parts, of which nobody here has ended one. ``size`` is ``None`` if that is not known.

    ``late`` is its plan if its time is over: then the look ends it.
    """

    group: str
    size: int | None
    late: Late | None = None


class Sequel(msgspec.Struct, frozen=True):
    """What follows from the end of a task for the workflow it is part of, in this order.

    ``plans`` (barriers and what is added to them) are confirmed before anything else is sent; then come ``sends``, the tasks
    that are started, ``results`` of tasks that will not run any more, and ``parts`` of chords, whose barriers are looked at
    when all that is confirmed. ``looks`` are at barriers to which nothing is sent.
    """

    plans: tuple[Send, ...] = ()
    sends: tuple[Send, ...] = ()
    results: tuple[Publication, ...] = ()
    parts: tuple[PartSent, ...] = ()
    looks: tuple[Look, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.plans or self.sends or self.results or self.parts or self.looks)

    def __add__(self, other: Sequel) -> Sequel:
        return Sequel(
            self.plans + other.plans,
            self.sends + other.sends,
            self.results + other.results,
            self.parts + other.parts,
            self.looks + other.looks,
        )


class Settlement(msgspec.Struct, frozen=True):
    """What must be safe at the broker before the verdict is sent, in this order.

    ``verdict`` is ``None`` where the delivery was settled before the task ran (``acks_late=False``).

    ``results`` go to a reply queue whose owner may be gone: a return of one is noted, not a failure. ``dead_letter`` takes
    the message itself; when it cannot be routed the verdict becomes ``REJECT``, so that nothing is lost in between.
    ``onward`` is the message's next attempt; while it has no confirm the delivery is not settled. ``sequel`` is what follows
    for the task's workflow, likewise.
    """

    verdict: Verdict | None
    results: tuple[Publication, ...] = ()
    dead_letter: Publication | None = None
    onward: Onward | None = None
    sequel: Sequel | None = None
