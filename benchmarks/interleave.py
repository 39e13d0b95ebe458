"""One interleaved run: every repetition goes through all jobs in an order of its own.

So a slow minute of the machine hits all of them, and what is compared was measured in the same run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from amqtask.errors import AmqtaskError
from benchmarks.environments import Missing
from benchmarks.figures import LeftOut, Sample
from benchmarks.frameworks import Broken
from benchmarks.system.jobs import Job


def order(jobs: Sequence[Job], repetition: int, rng: random.Random) -> list[Job]:
    """The jobs of one repetition, counted from 0."""
    due = [job for job in jobs if repetition < job.most]
    rng.shuffle(due)
    return due


def run(
    jobs: Sequence[Job],
    repetitions: int,
    rng: random.Random,
    samples: list[Sample],
    left_out: list[LeftOut],
    say: Callable[[str], None],
) -> None:
    """Run all jobs so many times. What they give is appended as it comes, so that it is there when the run is broken off.

    A job that fails is told, and not tried again in this run.
    """
    failed: set[tuple[str, str, str, str]] = set()
    for repetition in range(repetitions):
        due = order(jobs, repetition, rng)
        for number, job in enumerate(due, 1):
            what = (job.place.version, job.work, job.who, job.how)
            if what in failed:
                continue
            began = time.monotonic()
            try:
                values = job.run()
            except (Broken, Missing, AmqtaskError) as error:
                failed.add(what)
                left_out.append(LeftOut(*what, str(error)))
                say(f"{job.who} {job.how} on {job.place.version} is left out: {error}")
                continue
            samples.append(Sample(*what, values))
            told = "  ".join(f"{name} {value:,.5g}" for name, value in values.items())
            say(
                f"{repetition + 1}/{repetitions} {number:2}/{len(due)} {job.place.version:7} {job.work:9} "
                f"{job.who:11} {job.how:17} {told}  ({time.monotonic() - began:.0f} s)"
            )
