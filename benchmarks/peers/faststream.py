"""FastStream on RabbitMQ: a framework for streams of messages, with no task ids and no result store, so with less to do.

It confirms each message and does not make it persistent unless asked; it is asked here.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from faststream import FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from benchmarks.peers import side

QUEUE = f"{side.PREFIX}.faststream"
ROUND = 500  # sends at a time

_settings: dict[str, Any] = {}
if os.environ.get("BENCH_PREFETCH"):
    prefetch = int(os.environ["BENCH_PREFETCH"])
    _settings = {"default_channel": Channel(prefetch_count=prefetch), "logger": None}
broker = RabbitBroker(side.URL, **_settings)
app = FastStream(broker)
QUEUES = {
    "noop": RabbitQueue(QUEUE, durable=True),
    "add": RabbitQueue(f"{QUEUE}.add", durable=True),
    "nap": RabbitQueue(f"{QUEUE}.nap", durable=True),
}


@broker.subscriber(QUEUES["noop"])
async def noop(number: int) -> None:
    side.hit()


@broker.subscriber(QUEUES["add"])
async def add(number: int) -> int:
    return number + 1


@broker.subscriber(QUEUES["nap"])
async def nap(number: int) -> None:
    side.begin()
    await asyncio.sleep(side.NAP)
    side.hit()


def describe() -> dict[str, Any]:
    program = str(Path(sys.executable).with_name("faststream"))

    def worker(label: str, processes: int, **env: str) -> dict[str, Any]:
        command = [program, "run", "benchmarks.peers.faststream:app"]
        if processes > 1:
            command += ["--workers", str(processes)]
        return {"label": label, "command": command, "env": env}

    return {
        "workers": {
            "drain": worker("2 workers", 2),
            "best": worker("2 workers, prefetch 256, quiet", 2, BENCH_PREFETCH="256"),
            "results": worker("2 workers", 2),
            "sleeping": worker("1 worker, 1,000 tasks", 1, BENCH_PREFETCH="1000"),
            "eight": worker("8 workers", 8),
        },
        "publish": {
            "one": "`publish()`, persistent, each confirmed",
            "many": "`publish()`, 500 at a time, confirmed",
        },
        "queues": [QUEUE, f"{QUEUE}.add", f"{QUEUE}.nap"],
        "exchanges": [],
        "versions": side.versions("faststream", "aio-pika", "uvloop"),
        "imports": "import faststream, faststream.rabbit",
        "results": "direct reply-to",
    }


def _connected(work: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        await broker.connect()
        try:
            return await work()
        finally:
            await broker.stop()

    return asyncio.run(run())


def setup() -> None:
    async def declare() -> None:
        for queue in QUEUES.values():
            declared = await broker.declare_queue(queue)
            await declared.purge()

    _connected(declare)


def publish(way: str, tasks: int) -> dict[str, float]:
    async def work() -> dict[str, float]:
        await broker.publish(1, QUEUE, persist=True)
        with side.timed(tasks) as answer:
            if way == "many":
                await _send(QUEUE, tasks)
            else:
                for _ in range(tasks):
                    await broker.publish(1, QUEUE, persist=True)
        return answer

    answer: dict[str, float] = _connected(work)
    return answer


def fill(tasks: int, task: str) -> None:
    _connected(lambda: _send(QUEUES[task].name, tasks))


async def _send(queue: str, tasks: int) -> None:
    for size in side.chunks(tasks, ROUND):
        await asyncio.gather(*(broker.publish(1, queue, persist=True) for _ in range(size)))


def calls(calls: int) -> dict[str, float]:
    async def work() -> dict[str, float]:
        taken = []
        for number in range(calls):
            start = time.monotonic()
            answer = await broker.request(number, f"{QUEUE}.add", timeout=30)
            if await answer.decode() != number + 1:
                raise SystemExit("a wrong result")
            taken.append(time.monotonic() - start)
        return side.latencies(taken)

    answer: dict[str, float] = _connected(work)
    return answer


def flight(tasks: int) -> dict[str, float]:
    async def work() -> dict[str, float]:
        total = sent = 0
        with side.timed(tasks) as answer:
            for size in side.chunks(tasks, ROUND):
                numbers = range(sent, sent + size)
                waiting = (broker.request(one, f"{QUEUE}.add", timeout=60) for one in numbers)
                for reply in await asyncio.gather(*waiting):
                    total += int(await reply.decode())
                sent += size
        if total != tasks * (tasks + 1) // 2:
            raise SystemExit("wrong results")
        return answer

    answer: dict[str, float] = _connected(work)
    return answer


if __name__ == "__main__":
    side.main(
        describe=describe, setup=setup, publish=publish, fill=fill, calls=calls, flight=flight
    )
