"""amqtask, measured like the others. Everything at its defaults but the size of the pool, and results where none are asked for."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import Any

from amqtask import App, chord
from amqtask.amqp.session import Session
from amqtask.core.verdicts import STREAM
from amqtask.topology import plan
from amqtask.topology.parse import parse
from benchmarks.peers import side

NAME = f"{side.PREFIX}.amqtask"
QUEUE = NAME + side.SUFFIX

app = App(
    "bench",
    broker_url=side.URL,
    topology=parse(
        f"""
version: 1
defaults: {{type: {"quorum" if side.QUORUM else "classic"}, dead_letter: false}}
queues: {{{QUEUE}: {{}}}}
routes: [{{task: "*", queue: {QUEUE}}}]
""",
        "benchmark",
    ),
)


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
async def nap() -> None:
    side.begin()
    await asyncio.sleep(side.NAP)
    side.hit()


@app.task(name="plain-nap", ignore_result=True)
def plain_nap() -> None:
    side.begin()
    time.sleep(side.NAP)
    side.hit()


def describe() -> dict[str, Any]:
    declared = plan.declarations(app.topology)

    def worker(label: str, *options: str, env: dict[str, str] | None = None) -> dict[str, Any]:
        command = [sys.executable, "-m", "amqtask", "-A", "benchmarks.peers.amqtask", "worker"]
        return {"label": label, "command": [*command, "-l", "warning", *options], "env": env or {}}

    return {
        "workers": {
            "drain": worker("prefork, 2 children", "-c", "2"),
            "quorum": worker("prefork, 2 children", "-c", "2", env={"BENCH_QUORUM": "1"}),
            "results": worker("prefork, 2 children", "-c", "2"),
            "chords": worker("prefork, 2 children, parts in RabbitMQ", "-c", "2"),
            "sleeping": worker("asyncio, 1,000 slots", "-P", "asyncio", "-c", "1000"),
            "sleeping-threads": worker("threads, 200 slots", "-P", "threads", "-c", "200"),
            "sleeping-gevent": worker("gevent, 1,000 slots", "-P", "gevent", "-c", "1000"),
            "sleeping-eventlet": worker("eventlet, 1,000 slots", "-P", "eventlet", "-c", "1000"),
            "eight": worker("prefork, 8 children", "-c", "8"),
        },
        "publish": {
            "one": "`delay()`, each confirmed",
            "many": "`app.batch()`, all confirmed",
        },
        "queues": [
            NAME,
            f"{NAME}.quorum",
            STREAM,
            *(one.name for one in declared if isinstance(one, plan.DeclareQueue)),
        ],
        "exchanges": [one.name for one in declared if isinstance(one, plan.DeclareExchange)],
        "versions": side.versions("amqtask", "pika", "aiormq"),
        "imports": "import amqtask",
        "results": "reply queue",
    }


def setup() -> None:
    with Session(app.addresses) as session:
        session.apply(plan.declarations(app.topology))
        session.purge(QUEUE)


def publish(way: str, tasks: int) -> dict[str, float]:
    noop.delay()  # connections and the route
    with side.timed(tasks) as answer:
        if way == "many":
            with app.batch():
                for _ in range(tasks):
                    noop.delay()
        else:
            for _ in range(tasks):
                noop.delay()
    app.close()
    return answer


def fill(tasks: int, task: str) -> None:
    tried = {"noop": noop, "nap": nap, "plain-nap": plain_nap}[task]
    tried.delay_many(() for _ in range(tasks))
    app.close()


def calls(calls: int) -> dict[str, float]:
    add.delay(0).get(timeout=30)
    taken = []
    for number in range(calls):
        start = time.monotonic()
        if add.delay(number).get(timeout=30) != number + 1:
            raise SystemExit("a wrong result")
        taken.append(time.monotonic() - start)
    app.close()
    return side.latencies(taken)


def flight(tasks: int) -> dict[str, float]:
    add.delay(0).get(timeout=30)
    with side.timed(tasks) as answer:
        results = add.delay_many((number,) for number in range(tasks))
        total = sum(result.get(timeout=120) for result in results)
    if total != tasks * (tasks + 1) // 2:
        raise SystemExit("wrong results")
    app.close()
    return answer


def chords(parts: int, rounds: int) -> dict[str, float]:
    taken = []
    for _ in range(rounds):
        start = time.monotonic()
        result = chord((add.s(number) for number in range(parts)), total.s()).delay()
        if result.get(timeout=120) != parts * (parts + 1) // 2:
            raise SystemExit("a wrong value")
        taken.append(time.monotonic() - start)
    app.close()
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
