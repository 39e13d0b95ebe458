"""A job: something one framework does once on one broker, and the figures that gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.figures import Size
from benchmarks.frameworks import Framework
from benchmarks.place import Place


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
