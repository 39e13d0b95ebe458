"""Memory: a whole node with 8 child processes, idle after its start, and again after it has run its tasks.

PSS, which shares out what processes share, of everything the worker's command started; and USS of one child, which is what
one more child costs.
"""

from __future__ import annotations

import statistics
import time
from functools import partial

from benchmarks import machine
from benchmarks.figures import Size
from benchmarks.frameworks import Framework, Worker
from benchmarks.place import Place
from benchmarks.system.jobs import Job

WORK = "memory"
HOW = "eight"
CHILDREN = 8
STILL = 2.0  # seconds in which nothing may change
LIMIT = 20.0  # seconds to wait for that


def jobs(framework: Framework, place: Place, size: Size) -> list[Job]:
    """One job. Memory differs by little from one start to the next: three repetitions tell all."""
    if HOW not in framework.purposes:
        return []
    label = framework.purposes[HOW]["label"]
    run = partial(_measure, framework, place, size.tasks)
    return [Job(place, WORK, framework.who, HOW, label, run, most=3)]


def _measure(framework: Framework, place: Place, tasks: int) -> dict[str, float]:
    framework.ask(place, "setup")
    with framework.working(place, HOW) as worker:
        idle = _still(worker)
        framework.ask(place, "fill", tasks=tasks, task="noop")
        worker.wait(tasks)
        after = _still(worker)
        child = _child(worker)
    return {"idle_mib": idle, "after_mib": after, "child_mib": child}


def _still(worker: Worker) -> float:
    """PSS when it changes no more."""
    deadline = time.monotonic() + LIMIT
    held, processes = 0.0, 0
    while True:
        time.sleep(STILL)
        pids = worker.tree()
        before, held = held, machine.memory(pids).pss
        there, processes = processes, len(pids)
        quiet = len(pids) > CHILDREN and there == processes and abs(held - before) < 0.01 * held
        if quiet or time.monotonic() > deadline:
            return held


def _child(worker: Worker) -> float:
    """USS of a typical child: the median of the eight largest processes that have no children."""
    held = sorted(
        (machine.memory([pid]).uss for pid in machine.leaves(worker.tree())), reverse=True
    )
    return statistics.median(held[:CHILDREN])
