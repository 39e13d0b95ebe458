"""Chords: how long a header of no-op parts and its body take, from the call to the body's value.

amqtask's parts gather in RabbitMQ; Celery's in Redis, its fastest place for them, started for the job and stopped after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from benchmarks.figures import OURS, Size
from benchmarks.frameworks import Framework
from benchmarks.place import Place
from benchmarks.store import redis
from benchmarks.system.jobs import Job

WORK = "chords"
ROUNDS = 5  # chords of one job, one after another


def jobs(framework: Framework, place: Place, size: Size) -> list[Job]:
    """One job, for a framework that has chords."""
    if WORK not in framework.purposes:
        return []
    label = framework.purposes[WORK]["label"]
    return [Job(place, WORK, framework.who, WORK, label, partial(_measure, framework, place, size))]


def _measure(framework: Framework, place: Place, size: Size) -> dict[str, float]:
    with _store(framework.who) as store:
        env = {**framework.purposes[WORK]["env"], **store}
        framework.ask(place, "setup", env)
        with framework.working(place, WORK, store):
            framework.ask(
                place, "chords", env, parts=10, rounds=3
            )  # processes and connections are there
            figures: dict[str, float] = framework.ask(
                place, "chords", env, parts=size.group, rounds=ROUNDS
            )
    return figures


@contextlib.contextmanager
def _store(who: str) -> Iterator[dict[str, str]]:
    """What a framework is told of the store that its parts gather in."""
    if who == OURS:
        yield {}
    else:
        with redis() as url:
            yield {"BENCH_STORE": url}
