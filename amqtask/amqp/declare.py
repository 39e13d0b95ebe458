"""Carrying a topology out on a broker: declare what is missing, check what is there, delete nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from amqtask.amqp.declaration import declaration_text
from amqtask.amqp.session import Session
from amqtask.amqp.stream import verdict_stream
from amqtask.errors import OperationRefused, TopologyConflict, Unsupported
from amqtask.settings import Settings
from amqtask.topology import plan
from amqtask.topology.ladder import Ladder
from amqtask.topology.model import Topology
from amqtask.topology.plan import Declaration, DeclareExchange, DeclareQueue


class Carried(msgspec.Struct, frozen=True):
    """One declaration that was carried out; ``created`` is false for what was there already, ``None`` for bindings."""

    declaration: Declaration
    created: bool | None
    text: str


def carry_out(
    session: Session, topology: Topology, warn: Callable[[str], None] = lambda text: None
) -> Iterator[Carried]:
    """Declare a topology, yielding each step when the broker has done it.

    What is there already is compared first, so that a conflict is found before anything new is made.

    Args:
        session: an open session.
        topology: what to declare.
        warn: told what this broker will ignore.

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
            declare(session, declaration)
    for declaration in declarations:
        name = _name(declaration)
        if name not in there:
            declare(session, declaration)
        created = None if name is None else name not in there
        yield Carried(declaration, created, declaration_text(declaration))


def carry_out_delays(session: Session, topology: Topology) -> bool:
    """Declare the topology's delay ladder and bind its queues to it. Returns whether the ladder is new.

    Raises:
        TopologyConflict: part of a ladder is there and differs.
        OperationRefused: the user may not do this.
    """
    ladder = Ladder(topology.delays.prefix)
    new = not exists(session, ("exchange", ladder.delivery))
    for declaration in (*ladder.declarations(), *map(ladder.target, topology.queues)):
        declare(session, declaration)
    return new


def carry_out_verdicts(
    session: Session, settings: Settings, warn: Callable[[str], None] = lambda text: None
) -> bool:
    """Declare the stream of verdicts with the bounds of the settings. Returns whether it is new.

    Args:
        session: an open session.
        settings: how old verdicts get, and how large their stream.
        warn: told of a queue of that name with other bounds; it is left as it is.

    Raises:
        OperationRefused: the user may not do this.
    """
    stream = verdict_stream(settings)
    new = not exists(session, ("queue", stream.name))
    try:
        session.declare(stream)
    except OperationRefused as error:
        if error.code != 406:
            text = refusal_text(session, stream, error)
            raise OperationRefused(error.code, error.text, text) from None
        warn(
            f"Queue {stream.name!r} is there with other properties and stays as it is ({error.text.strip()}): "
            "see amqtask doctor."
        )
    return new


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
    try:
        session.declare(declaration)
    except OperationRefused as error:
        if error.code == 406:
            raise TopologyConflict(plan.explain_conflict(error.text, declaration)) from None
        raise OperationRefused(
            error.code, error.text, refusal_text(session, declaration, error)
        ) from None


def refusal_text(session: Session, declaration: Declaration, error: OperationRefused) -> str:
    """Why the broker refused a declaration, with the remedy."""
    what = declaration_text(declaration)
    if error.code == 403:
        return (
            f"User {session.address.user!r} may not declare {what} in virtual host {session.address.vhost!r}: "
            "grant configure, write and read permissions (rabbitmqctl set_permissions)."
        )
    if error.code == 405:
        return f"The {what} is locked: another connection holds it exclusively."
    return f"The broker refused {what}: {error.code} {error.text.strip().rstrip('.')}."


def exists(session: Session, item: tuple[str, str]) -> bool:
    """Whether a queue or an exchange is there, whatever its arguments."""
    kind, name = item
    try:
        return session.queue(name) is not None if kind == "queue" else session.exchange_exists(name)
    except OperationRefused as error:
        if error.code in (403, 405):
            return True  # there, and not ours to look at: declaring it says why
        raise


def _name(declaration: Declaration) -> tuple[str, str] | None:
    match declaration:
        case DeclareQueue():
            return "queue", declaration.name
        case DeclareExchange():
            return "exchange", declaration.name
        case _:
            return None
