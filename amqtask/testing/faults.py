"""The faults that can be injected, as values, and the order in which a seed has them happen. Pure.

A fault is aimed at something (a child of a worker node, a supervisor, a publisher, the broker, the network) and either happens
at one moment or holds for a time. Who it hits is drawn when it happens, from ``pick``: the processes there are then.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

import msgspec

from amqtask.errors import ConfigurationError
from amqtask.names import suggestion

Target = Literal["worker", "publisher", "broker", "network"]


class Kind(msgspec.Struct, frozen=True):
    """One kind of fault.

    Attributes:
        name: what ``--kinds`` calls it.
        target: what it hits.
        text: what happens, for people.
        weight: how often it comes, against the others.
        hold: seconds it lasts, shortest and longest; zeros for one that happens at a moment.
        node: it needs a broker that this run may stop; else it works before anybody's broker.
    """

    name: str
    target: Target
    text: str
    weight: int
    hold: tuple[float, float] = (0.0, 0.0)
    node: bool = False


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("kill-child", "worker", "SIGKILL to a child of a node", 8),
        Kind("kill-supervisor", "worker", "SIGKILL to a node's supervisor; another starts", 4),
        Kind("kill-publisher", "publisher", "SIGKILL to a publisher; another goes on", 3),
        Kind("stop-child", "worker", "SIGSTOP to a child, later SIGCONT", 2, (1.0, 12.0)),
        Kind("stop-supervisor", "worker", "SIGSTOP to a supervisor, later SIGCONT", 1, (1.0, 6.0)),
        Kind("restart-node", "worker", "SIGTERM to a node; another starts", 2),
        Kind("cut", "network", "every connection is reset", 3),
        Kind("cut-one", "network", "one connection is reset", 3),
        Kind("freeze", "network", "nothing passes and nothing is refused", 3, (0.5, 14.0)),
        Kind("slow", "network", "50 kB/s and 50 ms late", 1, (2.0, 5.0)),
        Kind(
            "broker-stop", "broker", "the broker stops and is away for a time", 2, (0.5, 3.0), True
        ),
        Kind("broker-kill", "broker", "SIGKILL to the broker, then a start", 3, (0.0, 1.0), True),
        Kind("broker-restart", "broker", "the broker stops and starts", 1, (0.0, 0.0), True),
        Kind(
            "broker-freeze", "broker", "SIGSTOP to the broker, later SIGCONT", 2, (0.5, 12.0), True
        ),
        Kind("alarm", "broker", "a memory alarm: publishers are blocked", 2, (1.0, 6.0), True),
    )
}

CALM = 0.7  # the share of faults after which the next waits until work goes on
NESTED = 0.2  # the share of faults that hold during which a process is killed as well
NEST = ("kill-child", "kill-supervisor", "kill-publisher")
FIRST = (  # where there are not enough faults for every kind, these come before the others
    "kill-child",
    "kill-supervisor",
    "kill-publisher",
    "broker-kill",
    "cut",
    "freeze",
    "broker-restart",
    "alarm",
    "stop-child",
    "broker-stop",
)


class Fault(msgspec.Struct, frozen=True):
    """One fault of a schedule.

    Attributes:
        kind: its name in ``KINDS``.
        at: seconds after the start of the run.
        hold: seconds it lasts.
        pick: 0 up to 1: which of the candidates is hit.
        calm: the next one waits until work goes on; else it may hit a system that is still recovering.
        inside: a second one that happens while this one holds.
    """

    kind: str
    at: float
    hold: float
    pick: float
    calm: bool = True
    inside: Fault | None = None


def choose_kinds(names: Sequence[str], *, node: bool) -> tuple[Kind, ...]:
    """The kinds of these names, or all; without a broker of our own those that can be done to anybody's.

    Raises:
        ConfigurationError: an unknown name, with the nearest known one, or one that needs a broker of our own.
    """
    for name in names:
        if name not in KINDS:
            hint = suggestion(name, KINDS) or f" There are: {', '.join(KINDS)}."
            raise ConfigurationError(f"There is no fault {name!r}.{hint}")
        if KINDS[name].node and not node:
            raise ConfigurationError(
                f"The fault {name!r} stops the broker, which is only done to one that the run starts itself: leave out "
                "-b, or the fault."
            )
    wanted = names or [name for name, kind in KINDS.items() if node or not kind.node]
    return tuple(KINDS[name] for name in dict.fromkeys(wanted))


def schedule(seed: int, count: int, duration: float, kinds: Sequence[Kind]) -> tuple[Fault, ...]:
    """``count`` faults spread over ``duration`` seconds; the same for the same arguments.

    Every kind comes once before any is drawn by weight, as far as there are enough faults for that; ``FIRST`` has the order.
    """
    rng = random.Random(f"faults {seed}")
    chosen = list(kinds)
    rng.shuffle(chosen)
    chosen.sort(key=lambda kind: FIRST.index(kind.name) if kind.name in FIRST else len(FIRST))
    chosen = chosen[:count]
    weights = [kind.weight for kind in kinds]
    chosen += rng.choices(kinds, weights, k=count - len(chosen))
    rng.shuffle(chosen)
    slot = duration / max(1, count)
    names = {kind.name for kind in kinds}
    nests = [name for name in NEST if name in names]
    found = []
    for number, kind in enumerate(chosen):
        at = (number + rng.uniform(0.1, 0.9)) * slot
        hold = rng.uniform(*kind.hold)
        pick = rng.random()
        inside = None
        nested, name, second = rng.random(), rng.choice(nests or NEST), rng.random()
        if nests and kind.hold[1] and nested < NESTED:
            inside = Fault(name, at + hold / 2, 0.0, second, calm=False)
        found.append(Fault(kind.name, at, hold, pick, rng.random() < CALM, inside))
    return tuple(found)
