"""A job: something one framework does once on one broker, and the figures that gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.frameworks import Framework
from benchmarks.place import Place


class Size(NamedTuple):
    """How much work there is; the bars are for these numbers."""

    tasks: int = 20_000  # of a drain, a batch, and between the two figures of memory
    calls: int = 2_000  # one after another: sequential sends and round trips
    flight: int = 5_000  # results awaited together
    group: int = 1_000  # of a fan-out
    naps: int = 40_000  # on 1,000 slots; a fifth of it on 200
    short: int = 5_000  # backlogs that are compared
    long: int = 200_000


class Job(NamedTuple):
    """One job; ``most`` is how many repetitions of it are worth their time."""

    place: Place
    work: str
    who: str
    how: str
    label: str
    run: Callable[[], dict[str, float]]
    most: int = 1_000


Jobs = Callable[[Framework, Place, Size], "list[Job]"]


def drain(
    framework: Framework, place: Place, purpose: str, tasks: int, task: str = "noop"
) -> dict[str, float]:
    """Fill a queue, start a worker, and follow it until the queue is empty."""
    env = framework.purposes[purpose]["env"]
    framework.ask(place, "setup", env)
    framework.ask(place, "fill", env, tasks=tasks, task=task)
    place.settle()
    with framework.working(place, purpose) as worker:
        figures = worker.split(tasks, place)
        counted = worker.counted()
    return {"rate": counted.rate, "first_s": counted.first - worker.started, **figures}
