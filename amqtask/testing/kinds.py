"""The kinds of tasks of a chaos run, and which of them a number is. Pure."""

from __future__ import annotations

import random
from functools import cache
from typing import Literal

import msgspec

End = Literal["done", "dead", "either"]


class TaskKind(msgspec.Struct, frozen=True):
    """One kind of task.

    Attributes:
        name: the task's short name in ``amqtask.testing.workload``.
        weight: tasks of this kind in a thousand, if all kinds are used.
        end: how such a task ends when all is well.
        asks: the share of them whose publisher waits for the result.
        later: it may start long after it was sent, or run again later: not a measure of recovery.
        chain: the most messages that one send may become in turn.
        crashes: how often it is meant to kill its process.
    """

    name: str
    weight: int
    end: End = "done"
    asks: float = 0.0
    later: bool = False
    chain: int = 1
    crashes: int = 0


KINDS: dict[str, TaskKind] = {
    kind.name: kind
    for kind in (
        TaskKind("short", 600, asks=0.2),
        TaskKind("long", 60, asks=0.2),
        TaskKind("cpu", 150, asks=0.2),
        TaskKind("large", 40, asks=0.5),
        TaskKind("failing", 60, end="dead", asks=0.3),
        TaskKind("delayed", 80, asks=0.2, later=True),
        TaskKind("retrying", 60, asks=0.3, later=True, chain=4),
        TaskKind("hopeless", 15, end="dead", asks=0.3, later=True, chain=3),
        TaskKind("workflow", 40, asks=0.5, later=True, chain=2),
        TaskKind("revoked", 20, end="either", asks=0.3, later=True),
        TaskKind("crashing", 1, end="dead", asks=0.5, later=True, crashes=3),
    )
}


class Chosen(msgspec.Struct, frozen=True):
    """What task a number is.

    Attributes:
        kind: its name.
        asks: its publisher waits for the result.
        amount: 0 up to 1: how long, how large, how often, as the kind has it.
    """

    kind: str
    asks: bool
    amount: float


def countdown(chosen: Chosen) -> float:
    """Seconds after which a task is due: up to five for delayed ones, most of them short; time enough to revoke one."""
    if chosen.kind == "revoked":
        return 5.0
    return 0.1 + 4.9 * chosen.amount**2 if chosen.kind == "delayed" else 0.0


def choose(seed: int, number: int, names: tuple[str, ...] = (), tasks: int = 0) -> Chosen:
    """The task of a number; the same in every process.

    Of the first ``tasks`` numbers each kind has one, however rare it is, where there are that many numbers.
    """
    rng = random.Random(f"task {seed} {number}")
    kinds = [KINDS[name] for name in names or KINDS]
    drawn = rng.choices(kinds, [kind.weight for kind in kinds])[0].name
    kind = _placed(seed, names, tasks).get(number, drawn)
    return Chosen(kind, rng.random() < KINDS[kind].asks, rng.random())


@cache
def _placed(seed: int, names: tuple[str, ...], tasks: int) -> dict[int, str]:
    """Numbers whose kind is not drawn, so that every kind comes."""
    kinds = names or tuple(KINDS)
    if tasks < 2 * len(kinds):
        return {}
    places = random.Random(f"places {seed}").sample(range(tasks), len(kinds))
    return dict(zip(places, kinds, strict=True))
