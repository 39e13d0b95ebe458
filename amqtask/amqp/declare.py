"""Carrying a topology out on a broker: declare what is missing, check what is there, delete nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from amqtask.amqp import failures
from amqtask.amqp.declaration import declaration_text
from amqtask.amqp.session import Session
from amqtask.amqp.stream import verdict_stream
from amqtask.errors import OperationRefused, TopologyConflict, Unsupported
from amqtask.settings import Settings
from amqtask.topology import plan, remedies
from amqtask.topology.ladder import Ladder
from amqtask.topology.model import Topology
from amqtask.topology.plan import BindQueue, Declaration, DeclareExchange, DeclareQueue

T = TypeVar("T")

OPENING = 5.0  # seconds in which a broker that has just started opens its queues; those of one that was killed take longest
AGAIN = 0.2  # seconds between two tries meanwhile

WITHOUT_VERDICTS = (
    "Until then each node counts crashes for itself, and a revoke reaches no node that is away."
)


class Absentees:
    """Queues that are there and cannot be reached, which a topology is carried out without.

    A broker that has just started opens its queues one after the other, so they are given a moment, all together.

    Attributes:
        told: for each of them a sentence that says why, with the remedy.
    """

    def __init__(self) -> None:
        self.told: dict[str, str] = {}
        self._until: float | None = None

    def wait(self) -> bool:
        """Wait before another try; false when there was time enough."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + OPENING
        if now >= self._until:
            return False
        time.sleep(AGAIN)
        return True


class Carried(msgspec.Struct, frozen=True):
    """One declaration that was carried out; ``created`` is false for what was there already, ``None`` for bindings."""

    declaration: Declaration
    created: bool | None
    text: str


def carry_out(
    session: Session,
    topology: Topology,
    warn: Callable[[str], None] = lambda text: None,
    absentees: Absentees | None = None,
) -> Iterator[Carried]:
    """Declare a topology, yielding each step when the broker has done it.

    What is there already is compared first, so that a conflict is found before anything new is made.

    Args:
        session: an open session.
        topology: what to declare.
        warn: told what this broker will ignore.
        absentees: gets the queues that are there and cannot be reached, and the rest is declared without them; the first is an
            error when left out.

    Raises:
        Unsupported: this broker lacks something the topology needs.
        TopologyConflict: a queue or an exchange is there and differs; names the argument and both values.
        OperationRefused: the user may not do this.
    """
    check_support(session.server.release, topology, warn)
    declarations = plan.declarations(topology)
    there = {
        item for item in map(_name, declarations) if item is not None and exists(session, item)
    }
    for declaration in declarations:
        if _name(declaration) in there:
            _declare_or_leave(session, declaration, absentees)
    for declaration in declarations:
        name = _name(declaration)
        if _left(declaration, absentees):
            continue
        if name not in there:
            _declare_or_leave(session, declaration, absentees)
        created = None if name is None else name not in there
        yield Carried(declaration, created, declaration_text(declaration))


def carry_out_delays(
    session: Session, topology: Topology, absentees: Absentees | None = None
) -> bool:
    """Declare the topology's delay ladder and bind its queues to it. Returns whether the ladder is new.

    Args:
        session: an open session.
        topology: whose ladder it is.
        absentees: as for ``carry_out``.

    Raises:
        TopologyConflict: part of a ladder is there and differs.
        OperationRefused: the user may not do this.
    """
    ladder = Ladder(topology.delays.prefix)
    new = not exists(session, ("exchange", ladder.delivery))
    for declaration in (*ladder.declarations(), *map(ladder.target, topology.queues)):
        if not _left(declaration, absentees):
            _declare_or_leave(session, declaration, absentees)
    return new


def carry_out_verdicts(
    session: Session,
    settings: Settings,
    warn: Callable[[str], None] = lambda text: None,
    absentees: Absentees | None = None,
) -> bool | None:
    """Declare the stream of verdicts with the bounds of the settings. Returns whether it is new; ``None`` where it is unusable.

    That is no error: nodes run without it.

    Args:
        session: an open session.
        settings: how old verdicts get, and how large their stream.
        warn: told of a queue of that name with other bounds, which is left as it is, and of a stream that cannot be used.
        absentees: knows how long queues were waited for before this.

    Raises:
        OperationRefused: the user may not do this.
    """
    stream = verdict_stream(settings)
    new = not exists(session, ("queue", stream.name))
    opening = absentees or Absentees()
    try:
        _when_open(lambda: session.declare(stream), opening)
    except OperationRefused as error:
        if failures.absent(error):
            warn(f"{refusal_text(session, stream, error)} {WITHOUT_VERDICTS}")
            return None
        if error.code != 406:
            text = refusal_text(session, stream, error)
            raise OperationRefused(error.code, error.text, text) from None
        warn(
            f"Queue {stream.name!r} is there with other properties and stays as it is ({error.text.strip()}): "
            "see amqtask doctor."
        )
    else:
        if not new and not stream_is_read(session, stream.name, opening):
            warn(f"{lost_stream_text(session, stream.name)} {WITHOUT_VERDICTS}")
            return None
    return new


def stream_is_read(session: Session, name: str, absentees: Absentees | None = None) -> bool:
    """Whether a stream that is there can be read; one that the broker has lost cannot.

    A broker that has just started gets a moment. What else is wrong with the queue is not looked for.
    """
    opening = absentees or Absentees()
    try:
        while not session.reads(name):
            if not opening.wait():
                return False
    except OperationRefused:
        pass
    return True


def lost_stream_text(session: Session, name: str) -> str:
    """What to do about a stream that cannot be read: a sentence."""
    command = remedies.delete_lost_queue(session.address.vhost, name, session.server.release)
    return (
        f"Stream {name!r} cannot be read, and the broker fails whenever it is ({failures.INTERNAL_ERROR}): it was killed and has lost "
        f"the stream, so delete what is left of it (`{command}`) and declare it again."
    )


def check_support(
    release: tuple[int, int, int], topology: Topology, warn: Callable[[str], None]
) -> None:
    """Refuse a topology that a broker of this release cannot carry.

    Raises:
        Unsupported: says what it lacks and which version has it.
    """
    lacks = plan.unsupported(topology, release)
    for sentence in lacks.warnings:
        warn(sentence)
    if lacks.errors:
        raise Unsupported("\n".join(lacks.errors))


def declare(session: Session, declaration: Declaration) -> None:
    """Carry out one declaration.

    Raises:
        TopologyConflict: it is there and differs, or the broker refuses its arguments.
        OperationRefused: anything else the broker has against it, as one sentence.
    """
    _declare(session, declaration, Absentees())


def _declare(session: Session, declaration: Declaration, absentees: Absentees) -> None:
    try:
        _when_open(lambda: session.declare(declaration), absentees)
    except OperationRefused as error:
        if error.code == 406:
            raise TopologyConflict(plan.explain_conflict(error.text, declaration)) from None
        raise OperationRefused(
            error.code, error.text, refusal_text(session, declaration, error)
        ) from None


def _declare_or_leave(
    session: Session, declaration: Declaration, absentees: Absentees | None
) -> None:
    """Declare; a queue that is there and cannot be reached is noted, where somebody wants to know."""
    try:
        _declare(session, declaration, absentees or Absentees())
    except OperationRefused as error:
        if absentees is None or not failures.absent(error):
            raise
        absentees.told[_queue_of(declaration)] = str(error)


def _left(declaration: Declaration, absentees: Absentees | None) -> bool:
    """Whether it is about a queue that was noted."""
    return absentees is not None and _queue_of(declaration) in absentees.told


def _when_open(action: Callable[[], T], absentees: Absentees) -> T:
    """Carry out what asks a queue, once the queue can be reached or its time is over."""
    while True:
        try:
            return action()
        except OperationRefused as error:
            if not failures.absent(error) or not absentees.wait():
                raise


def refusal_text(session: Session, declaration: Declaration, error: OperationRefused) -> str:
    """Why the broker refused a declaration, with the remedy."""
    what = declaration_text(declaration)
    if error.code == 403:
        return (
            f"User {session.address.user!r} may not declare {what} in virtual host {session.address.vhost!r}: "
            f"grant configure, write and read permissions (`{remedies.grant(session.address.vhost, session.address.user)}`)."
        )
    if error.code == 405:
        return f"The {what} is locked: another connection holds it exclusively."
    if failures.absent(error):
        return remedies.absent_queue(
            session.address.vhost,
            _queue_of(declaration),
            session.server.release,
            f"404 {error.text}",
        )
    return f"The broker refused {what}: {error.code} {error.text.strip().rstrip('.')}."


def exists(session: Session, item: tuple[str, str]) -> bool:
    """Whether a queue or an exchange is there, whatever its arguments."""
    kind, name = item
    try:
        return session.queue(name) is not None if kind == "queue" else session.exchange_exists(name)
    except OperationRefused as error:
        if error.code in (403, 405) or failures.absent(error):
            return (
                True  # there, and not ours to look at, or not to be reached: declaring it says why
            )
        raise


def _name(declaration: Declaration) -> tuple[str, str] | None:
    match declaration:
        case DeclareQueue():
            return "queue", declaration.name
        case DeclareExchange():
            return "exchange", declaration.name
        case _:
            return None


def _queue_of(declaration: Declaration) -> str:
    """The queue that a declaration asks; nothing for one that asks none."""
    match declaration:
        case DeclareQueue():
            return declaration.name
        case BindQueue():
            return declaration.queue
        case _:
            return ""
