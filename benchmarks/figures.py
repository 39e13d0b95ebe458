"""What one run measured, as values, and what follows from them: medians, spread, ratios. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

OURS = "amqtask"
FULL = "full"


class Size(NamedTuple):
    """How much work a run has; the bars are for these numbers."""

    tasks: int = 20_000  # of a drain, a batch, and between the two figures of memory
    calls: int = 2_000  # one after another: sequential sends and round trips
    flight: int = 5_000  # results awaited together
    group: int = 1_000  # of a fan-out
    naps: int = 40_000  # on 1,000 slots; a fifth of it on 200
    short: int = 5_000  # backlogs that are compared
    long: int = 200_000


SIZES = {
    FULL: Size(),
    "tiny": Size(tasks=500, calls=100, flight=200, group=100, naps=2_000, short=500, long=2_000),
}


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

    ``size`` is one of ``SIZES``, and the bars are for ``FULL``. ``labels`` say for people what a framework's ``how`` is.
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

    def sized(self, text: str) -> str:
        """A text with its fields, named like those of ``Size``, filled in with what this run had."""
        amounts = SIZES.get(self.size, SIZES[FULL])._asdict()
        return text.format(**{name: f"{amount:,}" for name, amount in amounts.items()})

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
