"""What can be wrong between an app and its broker, looked up check by check. ``amqtask doctor`` prints it.

Each check returns findings and raises nothing that a broker or a configuration can cause. Nothing is changed on the broker:
what a check makes is exclusive to its connection and gone with it.
"""

from __future__ import annotations

import json
import platform
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from amqtask.amqp import declare, failures
from amqtask.amqp.address import Address
from amqtask.amqp.declaration import declaration_text
from amqtask.amqp.management import Management, NoAnswer
from amqtask.amqp.session import Session
from amqtask.amqp.stream import verdict_stream
from amqtask.amqp.threaded.seams import missing_seams
from amqtask.errors import (
    AmqtaskError,
    BrokerError,
    LoginRefused,
    OperationRefused,
    TopologyConflict,
)
from amqtask.findings import Finding, Status, fail, ok, warn
from amqtask.topology import plan, remedies
from amqtask.topology.dropped import DROPPED
from amqtask.topology.ladder import Ladder
from amqtask.topology.model import Topology
from amqtask.weakness import troubled_nodes, weakened_ladder, weakened_queues

if TYPE_CHECKING:
    from amqtask.app import App
    from amqtask.settings import Settings

OLDEST_TESTED = (3, 10, 0)
CLOCK_TOLERANCE = 3.0  # s between two clocks; broker times have whole seconds
DEAD_LETTER_WAIT = 3.0  # s an expired message has to arrive
PRECONDITION_FAILED = 406
SECONDS = 5.0  # for each answer of the broker or its management API


# ---------------------------------------------------------------- this machine


def check_python() -> Finding:
    """Which Python and which amqtask this is."""
    return ok(
        "python",
        f"amqtask {version('amqtask')} on Python {platform.python_version()} ({sys.platform})",
    )


def check_client(fast: bool = True) -> Finding:
    """Whether the installed pika is one that the frame codec can hook into.

    Args:
        fast: the setting ``broker_fast_frames``.
    """
    pika = version("pika")
    moved = missing_seams()
    if not moved:
        return ok("pika", f"pika {pika}, with the seams of the frame codec in place")
    text = f"pika {pika} has moved {', '.join(moved)}, which the frame codec hooks into"
    remedy = "install pika>=1.4.4,<1.5, or set broker_fast_frames to false"
    return fail("pika", text, remedy) if fast else warn("pika", f"{text}; it is switched off")


# ---------------------------------------------------------------- the broker


def check_addresses(addresses: Sequence[Address]) -> tuple[Session | None, list[Finding]]:
    """Log in to every broker; the session with the first that lets us in stays open, for the other checks."""
    findings: list[Finding] = []
    opened: Session | None = None
    for address in addresses:
        session = Session((address,), name="amqtask doctor", timeout=SECONDS)
        try:
            session.open()
        except LoginRefused as error:
            findings.append(ok("broker", f"a broker answers at {address.endpoint}"))
            findings.append(_told("login", error))
            continue
        except AmqtaskError as error:
            findings.append(_told("broker", error))
            continue
        findings.append(ok("broker", f"a broker answers at {address.endpoint}"))
        findings.append(ok("login", f"user {address.user!r}, virtual host {address.vhost!r}"))
        if opened is None:
            opened = session
        else:
            session.__exit__(None, None, None)
    if opened is not None:
        # one broker of several is enough to work
        findings = [
            warn(f.check, f.text, f.remedy) if f.status is Status.FAIL else f for f in findings
        ]
    return opened, findings


def check_version(session: Session, topology: Topology | None) -> list[Finding]:
    """Which RabbitMQ it is, and what it lacks for the topology."""
    server = session.server
    release = server.release
    name = f"{server.product or 'unknown product'} {server.version}"
    if server.product != "RabbitMQ":
        return [warn("version", f"{name} is not RabbitMQ", "amqtask is tested with RabbitMQ alone")]
    findings = [ok("version", name)]
    if release < OLDEST_TESTED:
        findings = [
            warn(
                "version", f"{name} is older than what amqtask is tested with", "use 3.10 or later"
            )
        ]
    if topology is not None:
        lacks = plan.unsupported(topology, release)
        findings += [_sentence("version", Status.FAIL, text) for text in lacks.errors]
        findings += [_sentence("version", Status.WARN, text) for text in lacks.warnings]
    return findings


def check_permissions(session: Session) -> list[Finding]:
    """Whether the user may configure, write and read a queue named like those that results come back on."""
    name = _scratch("permissions")
    tried = [
        ("configure", "declare reply queues", lambda: session.declare(_exclusive(name))),
        ("write", "publish", lambda: session.publish("", name, b"amqtask doctor")),
        ("read", "consume", lambda: session.take(name)),
    ]
    findings: list[Finding] = []
    for right, purpose, attempt in tried:
        refused = _refused(attempt)
        if refused is None:
            continue
        user, vhost = session.address.user, session.address.vhost
        findings.append(
            fail(
                "permissions",
                f"user {user!r} may not {purpose}: no {right} permission ({refused})",
                f"grant {right} on amqtask\\..* and the queues of the topology, or on all as in `{remedies.grant(vhost, user)}`",
            )
        )
        if right == "configure":
            break  # without a queue there is nothing to write to or to read
    return findings or [ok("permissions", "configure, write and read, tried on a queue of its own")]


def check_topology(session: Session, topology: Topology) -> list[Finding]:
    """Whether each exchange and queue of the topology is there, and as declared. Bindings cannot be seen over AMQP."""
    findings: list[Finding] = []
    count = 0
    for declaration in plan.declarations(topology):
        match declaration:
            case plan.DeclareExchange(name=name):
                kind = "exchange"
            case plan.DeclareQueue(name=name):
                kind = "queue"
            case _:
                continue
        count += 1
        try:
            if not declare.exists(session, (kind, name)):
                findings.append(
                    fail(
                        "topology",
                        f"{kind} {name!r} is not on the broker",
                        "declare it with amqtask topology apply, or start a worker, which does",
                    )
                )
            else:
                declare.declare(session, declaration)  # there already: this only compares
        except (TopologyConflict, BrokerError) as error:
            findings.append(_told("topology", error))
    return findings or [
        ok("topology", f"{count} exchanges and queues are there as {topology.source} declares")
    ]


def check_dead_letters(session: Session, topology: Topology) -> list[Finding]:
    """Which queues of dead letters are not empty. Nothing is wrong with that, and somebody should know."""
    queues = dict.fromkeys(q for name in topology.queues for q in plan.dead_queues(topology, name))
    findings: list[Finding] = []
    for name in queues:
        try:
            state = session.queue(name)
        except OperationRefused as error:
            findings.append(_told("dead letters", error))
            continue
        if state is not None and state.messages:
            some = "1 dead letter" if state.messages == 1 else f"{state.messages} dead letters"
            findings.append(
                warn("dead letters", f"{name!r} holds {some}", f"see amqtask dead list {name}")
            )
    findings += _untold(session)
    if findings or not queues:
        return findings
    return [ok("dead letters", "none")]


def _untold(session: Session) -> list[Finding]:
    """Whether tasks that the broker dropped wait for somebody to tell of them."""
    try:
        state = session.queue(DROPPED)
    except OperationRefused:
        return []  # whether it is there is another check's
    if state is None or not state.messages or state.consumers:
        return []
    some = "1 dropped task" if state.messages == 1 else f"{state.messages} dropped tasks"
    return [
        warn(
            "dead letters",
            f"{some} in {DROPPED!r}, and no worker tells whoever waits for them",
            "start a worker, of any app in this virtual host, that may read this queue",
        )
    ]


def check_delays(session: Session, topology: Topology) -> list[Finding]:
    """Whether the delay ladder is there, whole, and has nothing in it that found no queue."""
    ladder = Ladder(topology.delays.prefix)
    try:
        if not session.exchange_exists(ladder.delivery):
            text = f"no {ladder} yet: the first task sent for later declares it, or amqtask topology apply"
            return [ok("delays", text)]
        findings = []
        for declaration in ladder.declarations():
            match declaration:
                case plan.DeclareExchange(name=name):
                    there = session.exchange_exists(name)
                case plan.DeclareQueue(name=name):
                    there = session.queue(name) is not None
                case _:
                    continue
            if not there:
                findings.append(
                    fail(
                        "delays",
                        f"part of the {ladder} is missing, {name!r}: what should pass it waits",
                        "declare it with amqtask topology apply",
                    )
                )
        lost = session.queue(ladder.unroutable)
        if lost is not None and lost.messages:
            findings.append(
                warn(
                    "delays",
                    f"{lost.messages} messages in {ladder.unroutable!r} found no queue when they were due",
                    "their queues were deleted, or declared anew without a binding to the ladder: declare these with amqtask "
                    f"topology apply, then amqtask dead retry {ladder.unroutable}, or discard",
                )
            )
    except BrokerError as error:
        return [_told("delays", error)]
    return findings or [ok("delays", f"{ladder} is whole")]


def check_verdicts(session: Session, settings: Settings) -> list[Finding]:
    """Whether nodes can tell each other which tasks were revoked or killed their process: the stream, and its bounds."""
    wanted = verdict_stream(settings)
    name = wanted.name
    try:
        if not declare.exists(session, ("queue", name)):
            text = (
                f"no stream {name!r} yet: the first worker declares it, or amqtask topology apply"
            )
            return [ok("verdicts", text)]
        refused = _refused_declaration(session, wanted)  # there already: this only compares
        if refused is None and not declare.stream_is_read(session, name):
            return [_without_verdicts(declare.lost_stream_text(session, name))]
        if refused is None:
            age, size = wanted.arguments["x-max-age"], wanted.arguments["x-max-length-bytes"]
            return [
                ok("verdicts", f"stream {name!r} is there, with x-max-age {age} and {size} bytes")
            ]
        if failures.absent(refused):
            return [_without_verdicts(declare.refusal_text(session, wanted, refused))]
        if refused.code != PRECONDITION_FAILED:
            return [
                ok(
                    "verdicts",
                    f"queue {name!r} is there, and user {session.address.user!r} may not declare it, so how long it keeps verdicts "
                    "goes unchecked",
                )
            ]
        kind = _refused_declaration(
            session, plan.DeclareQueue(name, arguments={"x-queue-type": "stream"})
        )
    except BrokerError as error:
        return [_told("verdicts", error)]
    delete = remedies.delete_queue(session.address.vhost, name)
    if kind is not None and "'x-queue-type'" in kind.text:
        return [
            fail(
                "verdicts",
                f"queue {name!r} is no stream: crashes count for each node alone, and a revoke reaches no node that is away",
                f"delete the queue (`{delete}`); the next worker to start declares the stream",
            )
        ]
    return [
        warn(
            "verdicts",
            f"stream {name!r} is there with other bounds, and is used as it is ({refused.text.strip()})",
            f"set verdict_max_age and verdict_max_bytes to what it has, or delete the stream (`{delete}`), which forgets all verdicts, "
            "and let the next worker that starts declare it",
        )
    ]


def _without_verdicts(sentence: str) -> Finding:
    return _sentence("verdicts", Status.FAIL, f"{sentence} {declare.WITHOUT_VERDICTS}")


def _refused_declaration(
    session: Session, declaration: plan.DeclareQueue
) -> OperationRefused | None:
    try:
        session.declare(declaration)
    except OperationRefused as error:
        return error
    return None


def check_clock(session: Session) -> Finding:
    """Whether this machine and the broker agree on the time, which ``expires`` and ``eta`` rely on."""
    before = datetime.now(UTC)
    try:
        told = broker_time(session)
    except BrokerError as error:
        return warn("clock", f"the broker's time cannot be had: {_bare(error)}")
    if told is None:
        return warn("clock", "the broker's time cannot be had: no dead letter came back")
    return judge_clock(told, before, datetime.now(UTC))


def judge_clock(told: datetime, before: datetime, after: datetime) -> Finding:
    """Compare the broker's time, in whole seconds, with ours before and after asking."""
    off = max((before - told).total_seconds() - 1, (told - after).total_seconds(), 0.0)
    if off <= CLOCK_TOLERANCE:
        return ok("clock", "the broker's clock agrees with this machine's, as far as seconds tell")
    side = "behind" if told < before else "ahead of"
    return warn(
        "clock",
        f"the broker's clock is {off:.0f} s {side} this machine's",
        "synchronise both with NTP: expires and eta compare times of different machines",
    )


def broker_time(session: Session) -> datetime | None:
    """The broker's time, in whole seconds: it stamps what it dead-letters, so a message is made to expire at once.

    Raises:
        BrokerError: the queues for it cannot be made.
    """
    lands, expires = _scratch("clock"), _scratch("clock")
    session.declare(_exclusive(lands))
    session.declare(
        _exclusive(
            expires,
            {"x-message-ttl": 0, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": lands},
        )
    )
    session.publish("", expires, b"")
    deadline = time.monotonic() + DEAD_LETTER_WAIT
    while time.monotonic() < deadline:
        letter = session.take(lands)
        if letter is not None:
            deaths = letter.headers.get("x-death") or [{}]
            stamped = deaths[0].get("time")
            if not isinstance(stamped, datetime):
                return None
            return stamped if stamped.tzinfo is not None else stamped.replace(tzinfo=UTC)
        time.sleep(0.02)
    return None


# ---------------------------------------------------------------- the app


def check_time_limits(app: App, release: tuple[int, int, int]) -> list[Finding]:
    """Tasks that may run longer than the broker lets a consumer hold a message: it would give them to another one."""
    from amqtask.timeouts import outlasting  # imports the app's side, which most checks do without

    findings = [warn("time limits", each.text, each.remedy) for each in outlasting(app, release)]
    return findings or [
        ok("time limits", "no task may run longer than the broker lets its message be held")
    ]


# ---------------------------------------------------------------- the management API, where there is one


def check_management(
    management: Management, session: Session, topology: Topology | None
) -> list[Finding]:
    """What only the management API tells: alarms, missing bindings, policies and lost members that weaken queues. It is optional."""
    try:
        overview = management.get("overview")
        mine = session.server
        theirs = {"version": overview["rabbitmq_version"], "cluster_name": overview["cluster_name"]}
        if any(getattr(mine, name) not in ("", theirs[name]) for name in theirs):
            raise NoAnswer(f"what answers there is another broker, {theirs['cluster_name']}")
        nodes = management.get("nodes")
        vhost = session.address.vhost
        bindings = management.get("bindings", vhost) if topology is not None else []
        queues = management.get("queues", vhost) if topology is not None else []
        features = management.get("feature-flags")
    except (NoAnswer, KeyError, TypeError) as error:
        why = str(error) if isinstance(error, NoAnswer) else "what answers there is something else"
        return [
            ok(
                "management",
                f"none at {management.url} ({why}); it is optional, alarms, bindings and policies go unchecked",
            )
        ]
    findings = troubled_nodes(nodes)
    if topology is not None:
        findings += missing_bindings(topology, bindings)
        findings += weakened_ladder(Ladder(topology.delays.prefix), queues, features)
        findings += weakened_queues(topology, queues, nodes)
    seen = "no alarms" + (", all bindings in place" if topology is not None else "")
    return findings or [ok("management", f"answers at {management.url}: {seen}")]


def missing_bindings(topology: Topology, live: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """The bindings of a topology that are not among the live ones, as the management API lists these."""
    there = {
        _binding_key(
            b["destination_type"], b["destination"], b["source"], b["routing_key"], b["arguments"]
        )
        for b in live
    }
    findings = []
    for declaration in plan.declarations(topology):
        match declaration:
            case plan.BindQueue(queue, exchange, key, arguments):
                wanted = _binding_key("queue", queue, exchange, key, arguments)
            case plan.BindExchange(destination, source, key, arguments):
                wanted = _binding_key("exchange", destination, source, key, arguments)
            case _:
                continue
        if wanted not in there:
            findings.append(
                fail(
                    "topology",
                    f"{declaration_text(declaration)} is not on the broker",
                    "declare it with amqtask topology apply, or start a worker, which does",
                )
            )
    return findings


def _binding_key(
    kind: str, destination: str, source: str, key: str, arguments: Mapping[str, Any]
) -> tuple[str, str, str, str, str]:
    return kind, destination, source, key, json.dumps(arguments, sort_keys=True, default=str)


# ---------------------------------------------------------------- small things


def _exclusive(name: str, arguments: Mapping[str, Any] | None = None) -> plan.DeclareQueue:
    """A queue that nobody else sees and that is gone with the connection."""
    return plan.DeclareQueue(
        name, durable=False, exclusive=True, auto_delete=True, arguments=arguments or {}
    )


def _scratch(purpose: str) -> str:
    # named like a reply queue: the permissions that callers need are the ones that are tried
    return f"amqtask.reply.doctor-{purpose}-{uuid.uuid4().hex}"


def _refused(attempt: Callable[[], object]) -> str | None:
    """Why the broker refused, ``None`` when it did not."""
    try:
        attempt()
    except OperationRefused as error:
        return f"{error.code} {error.text.strip().rstrip('.')}"
    except BrokerError as error:
        return _bare(error)
    return None


def _told(check: str, error: AmqtaskError) -> Finding:
    """An error of ours, which has its remedy behind the colon."""
    return _sentence(check, Status.FAIL, str(error))


def _sentence(check: str, status: Status, sentence: str) -> Finding:
    return Finding(check, status, sentence.strip().rstrip("."))


def _bare(error: Exception) -> str:
    return str(error).strip().rstrip(".")
