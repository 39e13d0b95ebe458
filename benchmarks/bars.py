"""The bars: what amqtask must reach, as ratios within one run. Pure.

A bar compares the median of one of amqtask's figures with a number, or with a factor of the best of some peers' figures.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from benchmarks.figures import OURS, Key, Medians

IDEAL_SLEEPING = 1000 / 0.05  # tasks a second: 1,000 slots that sleep 50 ms
IDEAL_THREADS = 200 / 0.05


class Figure(NamedTuple):
    """One figure of one job, on whatever broker."""

    work: str
    who: str
    how: str
    name: str


class Bar(msgspec.Struct, frozen=True):
    """One bar: ``figure`` must be at least (or at most) ``factor`` times ``unit``, or times the best of ``peers``."""

    text: str
    figure: Figure
    factor: float
    peers: tuple[Figure, ...] = ()
    unit: float = 1.0
    at_most: bool = False


class Verdict(msgspec.Struct, frozen=True):
    """What became of a bar in a run; ``measured`` is the ratio, or ``None`` where a figure is missing."""

    bar: Bar
    measured: float | None

    @property
    def reached(self) -> bool | None:
        """Whether the bar is reached, or ``None`` when it was not measured."""
        if self.measured is None:
            return None
        if self.bar.at_most:
            return self.measured <= self.bar.factor
        return self.measured >= self.bar.factor

    @property
    def word(self) -> str:
        """The same for people."""
        return {True: "reached", False: "NOT reached", None: "not measured"}[self.reached]

    @property
    def demand(self) -> str:
        """The factor with its sense."""
        return f"{'≤' if self.bar.at_most else '≥'} {self.bar.factor:g}"


def _ours(work: str, how: str, name: str) -> Figure:
    return Figure(work, OURS, how, name)


def _celery(work: str, how: str, name: str) -> Figure:
    return Figure(work, "celery", how, name)


def bars(release: tuple[int, ...]) -> tuple[Bar, ...]:
    """The bars on a broker of this release: newer ones let a confirmed publisher go faster."""
    drain, many = _ours("drain", "drain", "rate"), _ours("publish", "many", "rate")
    results, memory = ("results", "results"), ("memory", "eight")
    others = tuple(
        Figure("drain", who, how, "rate")
        for who in ("dramatiq", "taskiq", "faststream")
        for how in ("drain", "best")
    )
    return (
        Bar("drain ÷ Celery prefork", drain, 10, (_celery("drain", "drain", "rate"),)),
        Bar("drain ÷ the best other framework at its best setting", drain, 3, others),
        Bar(
            "drain of a quorum queue ÷ Celery prefork",
            _ours("drain", "quorum", "rate"),
            6,
            (_celery("drain", "quorum", "rate"),),
        ),
        Bar(
            "publish in `app.batch()`, confirmed ÷ rabbitmq-c confirmed",
            many,
            0.8,
            (Figure("publish", "rabbitmq-c", "many", "rate"),),
        ),
        Bar(
            "publish in `app.batch()`, confirmed ÷ Celery `group`, unconfirmed",
            many,
            10 if release >= (4,) else 5,
            (_celery("publish", "many", "rate"),),
        ),
        Bar(
            "`delay()` one by one, confirmed ÷ Celery with confirms",
            _ours("publish", "one", "rate"),
            1.5,
            (_celery("publish", "one", "rate"),),
        ),
        Bar(
            "round trip p50 ÷ Celery rpc p50",
            _ours(*results, "p50_ms"),
            0.6,
            (_celery(*results, "p50_ms"),),
            at_most=True,
        ),
        Bar(
            "round trip p99 ÷ Celery rpc p50",
            _ours(*results, "p99_ms"),
            2,
            (_celery(*results, "p50_ms"),),
            at_most=True,
        ),
        Bar(
            "5,000 results in flight ÷ Celery rpc",
            _ours(*results, "flight_rate"),
            8,
            (_celery(*results, "flight_rate"),),
        ),
        Bar(
            "a chord of 1,000 no-op parts ÷ Celery on Redis",
            _ours("chords", "chords", "chord_s"),
            1 / 3,
            (_celery("chords", "chords", "chord_s"),),
            at_most=True,
        ),
        Bar(
            "1,000 sleeping tasks on asyncio ÷ ideal rate",
            _ours("sleeping", "sleeping", "rate"),
            0.85,
            unit=IDEAL_SLEEPING,
        ),
        Bar(
            "200 sleeping tasks on threads ÷ ideal rate",
            _ours("sleeping", "sleeping-threads", "rate"),
            0.85,
            unit=IDEAL_THREADS,
        ),
        Bar(
            "PSS of an idle node, 8 children ÷ Celery",
            _ours(*memory, "idle_mib"),
            0.9,
            (_celery(*memory, "idle_mib"),),
            at_most=True,
        ),
        Bar(
            "PSS of that node after 20,000 tasks ÷ Celery",
            _ours(*memory, "after_mib"),
            0.9,
            (_celery(*memory, "after_mib"),),
            at_most=True,
        ),
        Bar("USS of a child, MiB", _ours(*memory, "child_mib"), 10, at_most=True),
        Bar(
            "`worker` command to first task done, s",
            _ours("start", "drain", "first_s"),
            0.5,
            at_most=True,
        ),
        Bar("`import amqtask`, ms", _ours("start", "drain", "import_ms"), 100, at_most=True),
        Bar(
            "AMQP clients that `import amqtask` loads",
            _ours("start", "drain", "clients"),
            0,
            at_most=True,
        ),
        Bar("drain at 200,000 waiting ÷ at 5,000", _ours("growth", "drain", "share"), 0.9),
    )


def judge(found: Medians, broker: str) -> list[Verdict]:
    """All bars against the medians of a run on one broker."""
    release = tuple(int(part) for part in broker.split(".") if part.isdigit())
    return [Verdict(bar, _measure(bar, found, broker)) for bar in bars(release)]


def _measure(bar: Bar, found: Medians, broker: str) -> float | None:
    mine = _value(bar.figure, found, broker)
    if mine is None:
        return None
    if not bar.peers:
        return mine / bar.unit
    theirs = [value for peer in bar.peers if (value := _value(peer, found, broker))]
    if not theirs:
        return None
    return mine / (min(theirs) if bar.at_most else max(theirs))


def _value(figure: Figure, found: Medians, broker: str) -> float | None:
    figures = found.get(Key(broker, figure.work, figure.who, figure.how), {})
    return figures[figure.name].median if figure.name in figures else None
