"""Drain: no-op tasks that wait in a durable queue, persistent, acknowledged late, their results ignored, two processes.

Three ways: as shipped on a classic queue, at the framework's best setting, and as shipped on a quorum queue.
"""

from __future__ import annotations

from functools import partial

from benchmarks.figures import Size
from benchmarks.frameworks import Framework
from benchmarks.place import Place
from benchmarks.system.jobs import Job, drain

WORK = "drain"


def jobs(framework: Framework, place: Place, size: Size) -> list[Job]:
    """One job for each way the framework has."""
    return [
        Job(
            place,
            WORK,
            framework.who,
            how,
            framework.purposes[how]["label"],
            partial(drain, framework, place, how, size.tasks),
        )
        for how in ("drain", "best", "quorum")
        if how in framework.purposes
    ]
