"""What one run measured, as values, and what follows from them: medians, spread, ratios. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

OURS = "amqtask"
FULL = "full"


class Key(NamedTuple):
    """What was measured: a broker's version, a kind of work, a framework, and how it was set up."""

    broker: str
    work: str
    who: str
    how: str


class Sample(msgspec.Struct, frozen=True):
    """One repetition of one job: figures by name."""

    broker: str
    work: str
    who: str
    how: str
    values: dict[str, float]

    @property
    def key(self) -> Key:
        """What was measured."""
        return Key(self.broker, self.work, self.who, self.how)


class LeftOut(msgspec.Struct, frozen=True):
    """What could not be measured, and why, in one sentence."""

    broker: str
    work: str
    who: str
    how: str
    why: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One interleaved run: everything a report needs.

    ``size`` is of the work, and the bars are for ``FULL``. ``labels`` say for people what a framework's ``how`` is.
    """

    started: str
    machine: dict[str, Any]
    versions: dict[str, dict[str, str]]
    brokers: list[str]
    repetitions: int
    size: str
    labels: dict[str, str]
    samples: list[Sample]
    left_out: list[LeftOut]

    def label(self, work: str, who: str, how: str) -> str:
        """How a framework was set up, in words."""
        return self.labels.get(label_key(work, who, how), how)


class Spread(NamedTuple):
    """A figure over its repetitions."""

    median: float
    least: float
    most: float
    times: int


Medians = Mapping[Key, Mapping[str, Spread]]


def label_key(work: str, who: str, how: str) -> str:
    """Under what ``Run.labels`` keeps the words for a set-up."""
    return f"{work}/{who}/{how}"


def spread(values: Iterable[float]) -> Spread:
    """Median, least and most of at least one value."""
    ordered = sorted(values)
    return Spread(statistics.median(ordered), ordered[0], ordered[-1], len(ordered))


def medians(samples: Iterable[Sample]) -> dict[Key, dict[str, Spread]]:
    """Each figure of each job over all its repetitions, in the order in which jobs first came."""
    collected: dict[Key, dict[str, list[float]]] = {}
    for sample in samples:
        figures = collected.setdefault(sample.key, {})
        for name, value in sample.values.items():
            figures.setdefault(name, []).append(value)
    return {
        key: {name: spread(values) for name, values in figures.items()}
        for key, figures in collected.items()
    }


def ratio(of: float, to: float) -> float | None:
    """``of / to``, or ``None`` when there is nothing to compare with."""
    return of / to if to else None
