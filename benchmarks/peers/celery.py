"""Celery on py-amqp: late acks and no results, as amqtask runs tasks, and its own defaults for the rest."""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery, chord, group

from benchmarks.peers import side

NAME = f"{side.PREFIX}.celery"
QUEUE = NAME + side.SUFFIX
ROUND = 1000  # tasks of one group

app = Celery(
    "bench",
    broker=side.URL.replace("amqp://", "pyamqp://", 1),
    backend=os.environ.get("BENCH_STORE")
    or ("rpc://" if os.environ.get("BENCH_RESULTS") else None),
)
app.conf.update(
    task_acks_late=True,
    task_default_queue=QUEUE,
    task_default_queue_type="quorum" if side.QUORUM else "classic",
    broker_connection_retry_on_startup=True,
)
if os.environ.get("BENCH_PREFETCH"):
    app.conf.worker_prefetch_multiplier = int(os.environ["BENCH_PREFETCH"])
if os.environ.get("BENCH_NO_HEARTBEAT"):
    app.conf.broker_heartbeat = 0


@app.task(name="noop", ignore_result=True)
def noop() -> None:
    side.hit()


@app.task(name="add")
def add(number: int) -> int:
    return number + 1


@app.task(name="total")
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="nap", ignore_result=True)
def nap() -> None:
    side.begin()
    time.sleep(side.NAP)
    side.hit()


def describe() -> dict[str, Any]:
    celery = str(Path(sys.executable).with_name("celery"))

    def worker(
        label: str, pool: str, children: int, *, processes: int = 1, **env: str
    ) -> dict[str, Any]:
        command = [celery, "-A", "benchmarks.peers.celery", "worker", "-l", "WARNING"]
        command += ["-P", pool, "-c", str(children), "-n", "bench{number}@%h"]
        return {"label": label, "command": command, "env": env, "processes": processes}

    steps = [f"celery_delayed_{step}" for step in range(28)]
    return {
        "workers": {
            "drain": worker("prefork, 2 children", "prefork", 2),
            "best": worker("2 × solo, prefetch 256", "solo", 1, processes=2, BENCH_PREFETCH="256"),
            "quorum": worker("prefork, 2 children", "prefork", 2, BENCH_QUORUM="1"),
            "results": worker("prefork, 2 children", "prefork", 2, BENCH_RESULTS="1"),
            "chords": worker("prefork, 2 children, parts in Redis", "prefork", 2),
            # With heartbeats, its loop on gevent waits 0.1 s for each message.
            "sleeping": worker("gevent, 1,000 slots", "gevent", 1000, BENCH_NO_HEARTBEAT="1"),
            "sleeping-threads": worker("threads, 200 slots", "threads", 200),
            "eight": worker("prefork, 8 children", "prefork", 8),
        },
        "publish": {
            "one": "`delay()`, each confirmed",
            "many": "`group`, unconfirmed",
        },
        # With quorum queues its workers declare a ladder for delayed tasks.
        "queues": [NAME, f"{NAME}.quorum", *steps],
        "exchanges": [
            *steps,
            "celery_delayed_delivery",
            NAME,
            f"{NAME}.quorum",
            "celeryev",
            "celery.pidbox",
            "reply.celery.pidbox",
        ],
        "versions": side.versions("celery", "kombu", "amqp", "billiard"),
        "imports": "import celery; celery.Celery",
        "results": "rpc://",
    }


def setup() -> None:
    with app.connection_for_write() as connection:
        queue = app.amqp.queues[QUEUE].bind(connection.default_channel)
        queue.declare()
        queue.purge()


def publish(way: str, tasks: int) -> dict[str, float]:
    if way == "one":
        app.conf.broker_transport_options = {"confirm_publish": True}
    noop.delay()
    with side.timed(tasks) as answer:
        if way == "many":
            _send(noop, tasks)
        else:
            for _ in range(tasks):
                noop.delay()
    return answer


def fill(tasks: int, task: str) -> None:
    _send(noop if task == "noop" else nap, tasks)
    app.pool.force_close_all()  # a goodbye the broker answers: everything before it has arrived


def _send(task: Any, tasks: int) -> None:
    for size in side.chunks(tasks, ROUND):
        group(task.si() for _ in range(size)).apply_async()


def calls(calls: int) -> dict[str, float]:
    add.delay(0).get(timeout=30)
    taken = []
    for number in range(calls):
        start = time.monotonic()
        if add.delay(number).get(timeout=30) != number + 1:
            raise SystemExit("a wrong result")
        taken.append(time.monotonic() - start)
    return side.latencies(taken)


def flight(tasks: int) -> dict[str, float]:
    add.delay(0).get(timeout=30)
    with side.timed(tasks) as answer:
        results = group(add.s(number) for number in range(tasks)).apply_async()
        total = sum(results.get(timeout=300))
    if total != tasks * (tasks + 1) // 2:
        raise SystemExit("wrong results")
    return answer


def chords(parts: int, rounds: int) -> dict[str, float]:
    taken = []
    for _ in range(rounds):
        start = time.monotonic()
        if (
            chord((add.s(number) for number in range(parts)), total.s())().get(
                timeout=120, interval=0.005
            )
            != parts * (parts + 1) // 2
        ):
            raise SystemExit("a wrong value")
        taken.append(time.monotonic() - start)
    return {"chord_s": statistics.median(taken)}


if __name__ == "__main__":
    side.main(
        describe=describe,
        setup=setup,
        publish=publish,
        fill=fill,
        calls=calls,
        flight=flight,
        chords=chords,
    )
