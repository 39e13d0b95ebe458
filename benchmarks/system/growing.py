"""Growth: whether a worker is slower when more tasks wait. amqtask alone: a peer would need minutes to fill the queue."""

from __future__ import annotations

from functools import partial

from benchmarks.figures import OURS, Size
from benchmarks.frameworks import Framework
from benchmarks.place import Place
from benchmarks.system.jobs import Job, drain

WORK = "growth"
HOW = "drain"


def jobs(framework: Framework, place: Place, size: Size) -> list[Job]:
    """One job, both backlogs in it, so that one minute of the machine is compared with the next."""
    if framework.who != OURS:
        return []
    label = framework.purposes[HOW]["label"]
    run = partial(_measure, framework, place, size)
    return [Job(place, WORK, framework.who, HOW, label, run, most=3)]


def _measure(framework: Framework, place: Place, size: Size) -> dict[str, float]:
    short = drain(framework, place, HOW, size.short)["rate"]
    long = drain(framework, place, HOW, size.long)["rate"]
    return {"short_rate": short, "long_rate": long, "share": long / short}
