"""What ``amqtask worker`` was asked to do, as one frozen value, and how pools turn concurrency into processes and slots."""

from __future__ import annotations

import os
import re
import socket
from typing import Annotated

import msgspec

from amqtask.core.prefetch import QOS_MAX, most
from amqtask.errors import ConfigurationError
from amqtask.settings import Limit
from amqtask.worker.pools.patching import require

# What a node could keep in memory and watch; more is a slip of the finger.
MOST_CHILDREN = 10_000
MOST_SLOTS = 1_000_000

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class PoolShape(msgspec.Struct, frozen=True):
    """How a pool spreads a concurrency of c over one process group: children and slots per child.

    ``None`` stands for c. ``children`` 0: the tasks run in the worker's own process.
    """

    children: int | None
    slots: int | None


# The pools there are.
POOLS: dict[str, PoolShape] = {
    "prefork": PoolShape(children=None, slots=1),
    "solo": PoolShape(children=0, slots=1),
    "threads": PoolShape(children=1, slots=None),
    "asyncio": PoolShape(children=1, slots=None),
    "gevent": PoolShape(children=1, slots=None),
    "eventlet": PoolShape(children=1, slots=None),
}


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of one worker node. Build it with ``WorkerOptions.parse``; times are seconds."""

    app: str
    broker: str | None = None  # instead of the app's own
    queues: tuple[str, ...] = ()  # empty: the app's default queue
    concurrency: Count = 1
    processes: Count = 1
    autoscale: tuple[Count, Annotated[int, msgspec.Meta(ge=0)]] | None = None  # most, fewest
    autoscale_keepalive: Seconds = 30.0  # a child that was not needed for so long goes
    pool: str = "prefork"
    node: str = ""
    loglevel: str = "info"
    prefetch_multiplier: Count | None = None  # None: the prefetch follows the length of the tasks
    max_tasks_per_child: Count | None = None
    max_memory_per_child: Count | None = None  # KiB of resident memory, as in Celery
    time_limit: Limit | None = None
    soft_time_limit: Limit | None = None
    declare: bool = True
    reload: bool = False
    shutdown_timeout: Seconds | None = None  # TERM waits so long for what runs
    soft_shutdown_timeout: Annotated[float, msgspec.Meta(ge=0)] = (
        0.0  # QUIT, and TERM without its own
    )
    frozen_timeout: Seconds = 3.0  # a child stopped by a signal for so long is replaced
    verdict_max_age: Seconds = 7 * 86400.0  # so long a verdict holds

    @classmethod
    def parse(cls, **values: object) -> WorkerOptions:
        """Check and complete what the command line gave.

        A ``concurrency`` of None becomes the number of CPUs this process may use (one where the pool runs one task at a time,
        whatever is asked), ``node`` is expanded (``node_name``), and a value of None for anything that has a default means that
        default.

        Raises:
            ConfigurationError: one sentence that names the option and the remedy.
        """
        given = {name: value for name, value in values.items() if value is not None}
        given["node"] = node_name(str(given.get("node", "")))
        pool = given.get("pool", "prefork")
        if pool not in POOLS:
            raise ConfigurationError(
                f"There is no pool {pool!r}: choose one of {', '.join(POOLS)}."
            )
        require(str(pool))
        given.setdefault("concurrency", 1 if POOLS[pool].children == 0 else _cpus())
        try:
            options = msgspec.convert(given, cls, strict=True)
        except msgspec.ValidationError as error:
            raise ConfigurationError(_in_words(error)) from None
        soft, hard = options.soft_time_limit, options.time_limit
        if soft is not None and hard is not None and soft >= hard:
            raise ConfigurationError(
                f"The soft time limit ({soft:g} s) must be shorter than the time limit ({hard:g} s)."
            )
        if options.autoscale is not None:
            options.check_autoscale(*options.autoscale)
        if options.slots > QOS_MAX:
            raise ConfigurationError(
                f"A process with {options.slots} slots could never fill them, because AMQP lets one consumer hold at most "
                f"{QOS_MAX} messages: spread them with --processes."
            )
        if (
            options.most_children > MOST_CHILDREN
            or options.most_children * options.slots > MOST_SLOTS
        ):
            raise ConfigurationError(
                f"{options.most_children} processes with {options.slots} {'slot' if options.slots == 1 else 'slots'} each are more "
                f"than a node can have, which is {MOST_CHILDREN} processes and {MOST_SLOTS} slots in all: use more nodes, or fewer."
            )
        if (options.prefetch or 0) > QOS_MAX:
            raise ConfigurationError(
                f"A prefetch multiplier of {options.prefetch_multiplier} with {options.slots} {'slot' if options.slots == 1 else 'slots'} makes a prefetch of "
                f"{options.prefetch}, and AMQP knows none above {QOS_MAX}."
            )
        return options

    def check_autoscale(self, most: int, least: int) -> None:
        """Refuse what cannot be meant.

        Raises:
            ConfigurationError: one sentence.
        """
        if least > most:
            raise ConfigurationError(
                f"--autoscale {most},{least} has its minimum above its maximum: write {least},{most}."
            )
        if self.in_process:
            raise ConfigurationError(
                f"The {self.pool} pool runs tasks in the worker's own process, so --autoscale cannot add any: use another pool."
            )
        if self.processes > 1:
            raise ConfigurationError(
                "--autoscale says how many processes there are, so leave out --processes."
            )

    @property
    def in_process(self) -> bool:
        """Whether tasks run in the worker's own process."""
        return POOLS[self.pool].children == 0

    @property
    def more_than_one(self) -> str | None:
        """The options that ask for more tasks at a time than a pool in the worker's own process runs; None where none does."""
        if not self.in_process:
            return None
        asked = (("--concurrency", self.concurrency), ("--processes", self.processes))
        return " and ".join(f"{name} {count}" for name, count in asked if count > 1) or None

    @property
    def one_slot(self) -> bool:
        """Whether every process of the pool runs one task at a time, and ``concurrency`` is how many processes there are."""
        return POOLS[self.pool].slots == 1

    @property
    def most_children(self) -> int:
        """How many child processes the node keeps at most."""
        return self.children if self.autoscale is None else self.autoscale[0]

    @property
    def children(self) -> int:
        """How many child processes the node keeps, at the start and at least; see ``in_process``."""
        if self.autoscale is not None:
            return self.autoscale[1]
        per_process = POOLS[self.pool].children
        return (self.concurrency if per_process is None else per_process) * self.processes

    @property
    def slots(self) -> int:
        """How many tasks one child runs at a time."""
        per_child = POOLS[self.pool].slots
        return self.concurrency if per_child is None else per_child

    @property
    def warm_timeout(self) -> float | None:
        """After how many seconds a warm stop turns cold; None: it waits for ever."""
        return self.shutdown_timeout or self.soft_shutdown_timeout or None

    @property
    def remembered(self) -> int:
        """How many ended executions the node's journal keeps of each child: twice what a child may hold unacked."""
        return min(65_536, max(1024, 2 * (self.prefetch or most(self.slots))))

    @property
    def prefetch(self) -> int | None:
        """How many messages one child may hold: the multiplier times its slots."""
        return None if self.prefetch_multiplier is None else self.prefetch_multiplier * self.slots


def _in_words(error: msgspec.ValidationError) -> str:
    """What is wrong with an option, by its name on the command line; the types here hold for it and for its setting."""
    what, _, where = str(error).partition(" - at `$.")
    option = f"--{where.rstrip('`').replace('_', '-')}"
    found = re.fullmatch(r"Expected `(?:int|float)(?: \| null)?` ([<>]=?) ([\d.]+)", what)
    if found is None:
        return f"Bad worker option: {error}."
    bound = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}[found[1]]
    return f"{option} must be {bound} {float(found[2]):g}."


def _cpus() -> int:
    """Return how many CPUs this process may use; where the system does not tell, how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def node_name(pattern: str = "", hostname: str | None = None) -> str:
    """Expand a node name as Celery's ``-n`` does: ``%h`` host name, ``%n`` its first part, ``%d`` its domain, ``%%`` a percent.

    Without a pattern the name is ``amqtask@<host name>``; a pattern without ``@`` gets ``@<host name>``.

    Raises:
        ConfigurationError: an unknown ``%`` word, a space, an empty part or more than 255 bytes.
    """
    host = hostname or socket.gethostname()
    short, _, domain = host.partition(".")
    words = {"h": host, "n": short, "d": domain, "%": "%"}

    def expand(match: re.Match[str]) -> str:
        try:
            return words[match[1]]
        except KeyError:
            raise ConfigurationError(
                f"The node name {pattern!r} holds {match[0]!r}: use %h (host name), %n (its first part) or %d (domain)."
            ) from None

    name = re.sub("%(.?)", expand, pattern or "amqtask@%h")
    if "@" not in name:
        name = f"{name}@{host}"
    first, _, rest = name.partition("@")
    if not first or not rest or re.search(r"[\s@]", first + rest) or len(name.encode()) > 255:
        raise ConfigurationError(
            f"{name!r} is no node name: write name@host without spaces, at most 255 bytes."
        )
    return name
