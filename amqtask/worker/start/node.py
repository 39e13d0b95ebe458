"""Preparing a node: import the app, check the broker, settle what the children work on. Runs in the fork server."""

from __future__ import annotations

import importlib
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from amqtask.amqp import declare, failures
from amqtask.amqp.address import Address
from amqtask.amqp.session import ServerInfo, Session
from amqtask.app import App
from amqtask.core.backoff import exponential, full_jitter
from amqtask.core.prefetch import first
from amqtask.errors import (
    BootFailed,
    BrokerError,
    ConfigurationError,
    OperationRefused,
    Unsupported,
)
from amqtask.loading import load_app
from amqtask.log import get_logger
from amqtask.settings import Settings
from amqtask.timeouts import outlasting
from amqtask.topology import plan
from amqtask.topology.dropped import DROPPED
from amqtask.topology.holding import for_consumers, wanted
from amqtask.topology.ladder import Ladder
from amqtask.topology.model import Topology
from amqtask.worker.agent.agent import Agent
from amqtask.worker.child.child import Child
from amqtask.worker.forking.prepared import AgentContext, ChildContext
from amqtask.worker.job import Job
from amqtask.worker.pools import choice, patching
from amqtask.worker.start.options import WorkerOptions

log = get_logger("amqtask.worker")

ACCESS_REFUSED = 403
NOT_FOUND = 404
RETRY_CAP = 5.0  # seconds between two tries to find the broker at start
REMIND = 60.0  # seconds after which it is said again that the broker is waited for

T = TypeVar("T")


class Node:
    """An app that is imported and whose queues are there. Implements ``Prepared``."""

    def __init__(self, job: Job, info: Mapping[str, object]) -> None:
        self.info = info
        self._job = job

    def run(self, context: ChildContext) -> int:
        """Work as one child."""
        return Child(self._job, context).run()

    def attend(self, context: AgentContext) -> int:
        """Be the node's agent."""
        return Agent(self._job, context).run()


def prepare(options: WorkerOptions) -> Node:
    """Patch the standard library where the pool wants it, import the app, connect, declare or check its queues. Holds no thread and no connection when it returns.

    A broker that does not answer, or that is busy with itself, is waited for; everything else that is wrong ends the start.

    Raises:
        AppNotFound, ConfigurationError: the app or its topology.
        LoginRefused: user, password or virtual host.
        BootFailed: a queue is missing and may not be declared, or differs from the topology.
    """
    patching.patch(options.pool)
    app = load_app(options.app)
    patching.check(options.pool)
    if options.broker is not None:
        app.broker_url = options.broker
    settings = _settings(app.settings, options)
    topology = app.topology
    queues = _queues(topology, options, settings)
    addresses = app.addresses
    declarations = plan.declarations(topology) if options.declare else ()
    _check_pool(app, options)

    def look(session: Session) -> tuple[ServerInfo, str]:
        lacking = plan.unsupported(topology, session.server.release)
        if lacking.errors:
            raise BootFailed(" ".join(lacking.errors))
        if options.declare:
            _declare(session, declarations)
        _check_queues(session, queues)
        _bind_to_ladder(session, app.ladder, queues)
        return session.server, str(session.address)

    server, broker = _at_the_broker(look, addresses, settings, options.node)
    declared_at = time.monotonic()
    for sentence in plan.unsupported(topology, server.release).warnings:
        log.warning(sentence)
    _check_patience(app, settings, queues, server.release)
    single_active = _single_active(topology, queues)
    prefetch = _prefetch(single_active, options)
    app.freeze()
    _load_for_children(options.pool)
    job = Job(
        app=app,
        node=options.node,
        addresses=addresses,
        queues=queues,
        prefetch=prefetch,
        declares=options.declare,
        declarations=declarations,
        dead_letters={
            queue: target
            for queue in queues
            if (target := plan.dead_letter_of(topology, queue)) is not None
        },
        max_crashes={name: queue.max_crashes for name, queue in topology.queues.items()},
        # The other half is for stops, lost connections and crashes, which ask nobody.
        max_returns={queue: plan.delivery_limit_of(topology, queue) // 2 for queue in queues},
        consumer_timeouts=_consumer_timeouts(app, topology, settings, queues, prefetch, options),
        settings=settings,
        max_tasks=options.max_tasks_per_child,
        max_memory=options.max_memory_per_child,
        single_active=single_active,
        declared_at=declared_at,
        measured=_measured(topology, queues, options),
        pool=options.pool,
        delivery_limits={
            name: plan.delivery_limit_of(topology, name)
            for name, queue in topology.queues.items()
            if queue.type == "quorum"
        },
    )
    info: dict[str, object] = {
        "node": options.node,
        "app": app.name,
        "broker": broker,
        "version": server.version,
        "queues": list(queues),
        "pool": options.pool,
        "children": options.children,
        "slots": options.slots,
        "most_children": options.most_children,
        "prefetch": prefetch,
        "tasks": sorted(app.tasks),
    }
    return Node(job, info)


def _load_for_children(pool: str) -> None:
    """Import what each child would import for itself, and have for itself."""
    choice.load(pool)
    importlib.import_module("amqtask.client")  # what tasks send with


def _settings(settings: Settings, options: WorkerOptions) -> Settings:
    changes: dict[str, object] = {}
    if options.time_limit is not None:
        changes["task_time_limit"] = options.time_limit
    if options.shutdown_timeout is not None:
        changes["worker_shutdown_timeout"] = options.shutdown_timeout
    if options.soft_time_limit is not None:
        changes["task_soft_time_limit"] = options.soft_time_limit
    return settings.replace(**changes) if changes else settings


def _queues(topology: Topology, options: WorkerOptions, settings: Settings) -> tuple[str, ...]:
    if DROPPED in options.queues:
        raise ConfigurationError(
            f"Queue {DROPPED!r} holds tasks that the broker dropped: every worker tells of them, and none runs them, so leave it out of -Q."
        )
    if options.queues:
        return tuple(dict.fromkeys(options.queues))
    if settings.task_default_queue in topology.queues:
        return (settings.task_default_queue,)
    if topology.queues:
        return tuple(topology.queues)
    raise ConfigurationError(
        "The topology declares no queue, so there is nothing to work on: name one with -Q, or declare one."
    )


def _single_active(topology: Topology, queues: tuple[str, ...]) -> bool:
    return any(
        name in topology.queues and topology.queues[name].single_active_consumer for name in queues
    )


def _measured(
    topology: Topology, queues: tuple[str, ...], options: WorkerOptions
) -> tuple[str, ...]:
    """The queues whose length tells how many children there should be: those that several can work on.

    Raises:
        ConfigurationError: there is none.
    """
    if options.autoscale is None:
        return ()
    shared = tuple(queue for queue in queues if not _single_active(topology, (queue,)))
    if not shared:
        raise ConfigurationError(
            "Only one process at a time can work on a queue with a single active consumer, so --autoscale would add idle ones: "
            "leave it out."
        )
    return shared


def _prefetch(single_active: bool, options: WorkerOptions) -> int | None:
    """The fixed prefetch, or ``None`` when it follows the length of the tasks.

    To change it, consumers are replaced. On a queue with a single active consumer that would hand the active role to
    another node in the middle of a task, so there it is fixed.
    """
    if options.prefetch is None and single_active:
        return first(options.slots)
    return options.prefetch


def _check_pool(app: App, options: WorkerOptions) -> None:
    """Refuse, or warn of, what the pool cannot do: limits it cannot keep, and tasks side by side in one that has one slot."""
    if options.more_than_one is not None:
        log.warning(
            "the solo pool runs one task at a time, whatever is asked; use --pool prefork or threads",
            asked=options.more_than_one,
        )
    soft = app.settings.task_soft_time_limit or options.soft_time_limit
    if options.pool == "solo":
        if options.time_limit is not None:
            raise Unsupported(
                "The solo pool cannot end a task at a hard time limit, because it has no child to end: use --pool prefork."
            )
        default = app.settings.task_time_limit
        limited = [name for name, task in app.tasks.items() if task.options.time_limit or default]
        if limited:
            log.warning(
                "the solo pool does not enforce hard time limits; use --pool prefork",
                tasks=sorted(limited),
            )
    elif options.pool in ("threads", "asyncio"):
        # These run in threads: plain functions in both pools. A coroutine gets it at its `await`.
        late = [
            name
            for name, task in app.tasks.items()
            if (task.options.soft_time_limit or soft) and not task.is_coroutine
        ]
        if late:
            log.warning(
                "a soft time limit does not interrupt a system call in a thread; use --pool prefork where it must",
                tasks=sorted(late),
            )


def _at_the_broker(
    work: Callable[[Session], T], addresses: tuple[Address, ...], settings: Settings, node: str
) -> T:
    """Do something at the broker as soon as there is one that can: what is its own trouble passes.

    Raises:
        BrokerError: what will not pass by itself; anything with ``broker_connection_retry_on_startup`` off.
    """
    rng = random.Random()
    attempt = 0
    told, told_at = "", 0.0
    while True:
        try:
            with Session(
                addresses, name=f"{node} start", timeout=settings.broker_connection_timeout
            ) as session:
                return work(session)
        except BrokerError as error:
            if not settings.broker_connection_retry_on_startup or not failures.temporary(error):
                raise
            reason = str(error)
        now = time.monotonic()
        if reason != told or now - told_at >= REMIND:
            log.warning("waiting for the broker", reason=reason)
            told, told_at = reason, now
        time.sleep(max(0.1, full_jitter(exponential(attempt, 0.5, RETRY_CAP), rng)))
        attempt += 1


def _check_patience(
    app: App, settings: Settings, queues: tuple[str, ...], release: tuple[int, int, int]
) -> None:
    """Warn of tasks that the broker may give to another worker while they run."""
    for each in outlasting(app, release, settings, queues):
        sentence = f"{each.text[0].upper()}{each.text[1:]}: {each.remedy}."
        log.warning(sentence)


def _consumer_timeouts(
    app: App,
    topology: Topology,
    settings: Settings,
    queues: tuple[str, ...],
    prefetch: int | None,
    options: WorkerOptions,
) -> dict[str, float]:
    """How long the consumers of each queue ask to hold a message, so that no task is given to another worker while it runs.

    A message waits behind those that were prefetched with it. (The autopilot gives back what waits behind a long task; before
    RabbitMQ 4.3, which has no such timeouts, not what was given back very often.)
    """
    limits = [
        None
        if options.pool == "solo"  # which cannot end a task at its limit
        else task.options.time_limit or settings.task_time_limit
        for task in app.tasks.values()
    ]
    ahead = 1 if prefetch is None else max(1, prefetch // options.slots)
    return for_consumers(topology, queues, wanted(limits, ahead))


def _declare(session: Session, declarations: tuple[plan.Declaration, ...]) -> None:
    """Declare what the node needs.

    What only serves to tell of dropped messages may be forbidden, if the exchange is there that the arguments of queues name
    (without it the broker would lose their dead letters), or no queue's do.
    """
    told = False
    for declaration in declarations:
        try:
            session.declare(declaration)
        except OperationRefused as error:
            if failures.temporary(error):
                sentence = declare.refusal_text(session, declaration, error)
                raise OperationRefused(error.code, error.text, sentence) from None
            if (
                # what was refused is not there for what comes after it
                (error.code == ACCESS_REFUSED or (told and error.code == NOT_FOUND))
                and plan.only_tells(declaration)
                and (not plan.needs_dropped(declarations) or session.exchange_exists(DROPPED))
            ):
                if not told:
                    log.warning(
                        "what the broker drops may not be declared; it is told as far as others have declared it",
                        reason=error.text,
                    )
                told = True
                continue
            raise BootFailed(plan.explain_conflict(error.text, declaration)) from None


def _check_queues(session: Session, queues: tuple[str, ...]) -> None:
    missing = [name for name in queues if session.queue(name) is None]
    if missing:
        names = ", ".join(repr(name) for name in missing)
        raise BootFailed(
            f"There is no queue {names} on the broker: declare it in the topology and run `amqtask topology apply`, or check -Q."
        )


def _bind_to_ladder(session: Session, ladder: Ladder, queues: tuple[str, ...]) -> None:
    """Have delayed tasks reach the queues, where the delay ladder is there already.

    Whoever sends the first task for later makes ladder and bindings; but a queue that was deleted meanwhile, and that this
    node has declared anew, has lost its binding.
    """
    try:
        if session.exchange_exists(ladder.delivery):
            session.apply(map(ladder.target, queues))
    except OperationRefused as error:
        log.info("may not bind the queues for delayed tasks", reason=error.text)
