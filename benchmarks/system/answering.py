"""Results: one call after another, a thousand at once as a group is, and five thousand in flight.

Only where results go through RabbitMQ: a result store of its own would be another system under test.
"""

from __future__ import annotations

from functools import partial

from benchmarks.figures import Size
from benchmarks.frameworks import Framework
from benchmarks.place import Place
from benchmarks.system.jobs import Job

WORK = "results"
WARM = 200  # calls before anything is measured: processes, connections and prefetch are there


def jobs(framework: Framework, place: Place, size: Size) -> list[Job]:
    """One job, for a framework that has results on RabbitMQ."""
    if WORK not in framework.purposes:
        return []
    about = framework.purposes[WORK]
    label = f"{about['label']}, {framework.about['results']}"
    return [Job(place, WORK, framework.who, WORK, label, partial(_measure, framework, place, size))]


def _measure(framework: Framework, place: Place, size: Size) -> dict[str, float]:
    env = framework.purposes[WORK]["env"]
    framework.ask(place, "setup", env)
    with framework.working(place, WORK):
        framework.ask(place, "calls", env, calls=min(WARM, size.calls))
        figures: dict[str, float] = framework.ask(place, "calls", env, calls=size.calls)
        group = framework.ask(place, "flight", env, tasks=size.group)
        flight = framework.ask(place, "flight", env, tasks=size.flight)
    return {
        **figures,
        "group_s": size.group / group["rate"],
        "flight_rate": flight["rate"],
    }
