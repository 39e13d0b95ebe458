"""taskiq on taskiq-aio-pika, which confirms each message. Its queues are quorum queues by default; classic is asked for here
where the others have classic. Its results need another store than RabbitMQ, so there are none."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aio_pika import ExchangeType
from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue, QueueType

from benchmarks.peers import side

NAME = f"{side.PREFIX}.taskiq"
QUEUE = NAME + side.SUFFIX
ROUND = 500  # sends at a time

_type = QueueType.QUORUM if side.QUORUM else QueueType.CLASSIC
_settings = {"qos": int(os.environ["BENCH_PREFETCH"])} if os.environ.get("BENCH_PREFETCH") else {}
broker = AioPikaBroker(
    side.URL,
    exchange=Exchange(name=QUEUE, type=ExchangeType.DIRECT),
    task_queues=[Queue(name=QUEUE, type=_type)],
    dead_letter_queue=Queue(name=f"{QUEUE}.dlq", type=_type),
    **_settings,
)


@broker.task(task_name="noop")
async def noop() -> None:
    side.hit()


@broker.task(task_name="nap")
async def nap() -> None:
    side.begin()
    await asyncio.sleep(side.NAP)
    side.hit()


@broker.task(task_name="plain-nap")
def plain_nap() -> None:
    side.begin()
    time.sleep(side.NAP)
    side.hit()


def describe() -> dict[str, Any]:
    program = str(Path(sys.executable).with_name("taskiq"))

    def worker(label: str, processes: int, *options: str, **env: str) -> dict[str, Any]:
        command = [program, "worker", "benchmarks.peers.taskiq:broker"]
        command += ["--workers", str(processes), *options]
        return {"label": label, "command": command, "env": env}

    quiet = ("--log-level", "WARNING")
    thousand = (*quiet, "--max-async-tasks", "1000")
    return {
        "workers": {
            "drain": worker("2 workers", 2),
            "best": worker("2 workers, prefetch 256, quiet", 2, *quiet, BENCH_PREFETCH="256"),
            "quorum": worker("2 workers", 2, BENCH_QUORUM="1"),
            "sleeping": worker("1 worker, 1,000 tasks", 1, *thousand, BENCH_PREFETCH="1200"),
            "eight": worker("8 workers", 8),
        },
        "publish": {
            "one": "`kiq()`, each confirmed",
            "many": "`kiq()`, 500 at a time, confirmed",
        },
        "queues": [
            name + suffix for name in (NAME, f"{NAME}.quorum") for suffix in ("", ".dlq", ".delay")
        ],
        "exchanges": [
            name + suffix
            for name in (NAME, f"{NAME}.quorum")
            for suffix in ("", ".dlq", ".delay", ".dlx")
        ],
        "versions": side.versions("taskiq", "taskiq-aio-pika", "aio-pika", "uvloop"),
        "imports": "import taskiq, taskiq_aio_pika",
        "results": None,
    }


def _connected(work: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        await broker.startup()
        try:
            return await work()
        finally:
            await broker.shutdown()

    return asyncio.run(run())


def setup() -> None:
    async def purge() -> None:
        queue = await broker.write_channel.get_queue(QUEUE)
        await queue.purge()

    _connected(purge)


def publish(way: str, tasks: int) -> dict[str, float]:
    async def work() -> dict[str, float]:
        await noop.kiq()
        with side.timed(tasks) as answer:
            if way == "many":
                await _send(noop, tasks)
            else:
                for _ in range(tasks):
                    await noop.kiq()
        return answer

    answer: dict[str, float] = _connected(work)
    return answer


def fill(tasks: int, task: str) -> None:
    tried = {"noop": noop, "nap": nap, "plain-nap": plain_nap}[task]
    _connected(lambda: _send(tried, tasks))


async def _send(task: Any, tasks: int) -> None:
    for size in side.chunks(tasks, ROUND):
        await asyncio.gather(*(task.kiq() for _ in range(size)))


if __name__ == "__main__":
    side.main(describe=describe, setup=setup, publish=publish, fill=fill)
