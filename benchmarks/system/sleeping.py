"""Sleeping tasks: each waits 50 ms, as for a network; 1,000 slots, and 200 threads. Ideal are 20,000 and 4,000 a second.

On 1,000 slots peers get a quarter of the tasks: at a quarter of the ideal rate, which is their best, that lasts as long.
"""

from __future__ import annotations

from functools import partial

from benchmarks.figures import OURS, Size
from benchmarks.frameworks import Framework
from benchmarks.place import Place
from benchmarks.system.jobs import Job, drain

WORK = "sleeping"
FEWER = 5  # 200 threads get a fifth of the tasks of 1,000 slots
PEERS = 4  # and peers a quarter


def jobs(framework: Framework, place: Place, size: Size) -> list[Job]:
    """One job for each kind of slots the framework has."""
    ours = framework.who == OURS
    naps = size.naps if ours else size.naps // PEERS
    plain = "plain-nap" if ours else "nap"  # amqtask's first sleeping task is a coroutine function
    ways = {
        "sleeping": (naps, "nap"),
        "sleeping-gevent": (naps, plain),
        "sleeping-eventlet": (naps, plain),
        "sleeping-threads": (size.naps // FEWER, plain),
    }
    return [
        Job(
            place,
            WORK,
            framework.who,
            how,
            framework.purposes[how]["label"],
            partial(drain, framework, place, how, tasks, task),
        )
        for how, (tasks, task) in ways.items()
        if how in framework.purposes
    ]
