"""Dramatiq on its RabbitMQ broker. Always late acks; its results need Redis or Memcached, so there are none here."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from benchmarks.peers import side

QUEUE = f"{side.PREFIX}.dramatiq"
ROUND = 1000  # messages of one group

WAY = next((item for item in sys.argv if item.startswith("way=")), "")
broker = RabbitmqBroker(url=side.URL, confirm_delivery=WAY == "way=one")
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=QUEUE, actor_name="noop")
def noop() -> None:
    side.hit()


@dramatiq.actor(queue_name=QUEUE, actor_name="nap")
def nap() -> None:
    side.begin()
    time.sleep(side.NAP)
    side.hit()


def describe() -> dict[str, Any]:
    program = str(Path(sys.executable).with_name("dramatiq"))

    def worker(label: str, processes: int, threads: int, **env: str) -> dict[str, Any]:
        command = [program, "benchmarks.peers.dramatiq"]
        command += ["-p", str(processes), "-t", str(threads)]
        return {"label": label, "command": command, "env": env}

    best = {"dramatiq_queue_prefetch": "256"}
    return {
        "workers": {
            "drain": worker("2 processes × 8 threads", 2, 8),
            "best": worker("2 × 1 thread, prefetch 256", 2, 1, **best),
            "sleeping": worker("2 × 500 threads", 2, 500),
            "sleeping-threads": worker("1 × 200 threads", 1, 200),
            "eight": worker("8 processes × 1 thread", 8, 1),
        },
        "publish": {
            "one": "`send()`, each confirmed",
            "many": "`group`, unconfirmed",
        },
        "queues": [QUEUE, f"{QUEUE}.DQ", f"{QUEUE}.XQ"],
        "exchanges": [],
        "versions": side.versions("dramatiq", "pika"),
        "imports": "import dramatiq, dramatiq.brokers.rabbitmq",
        "results": None,
    }


def setup() -> None:
    broker.declare_queue(QUEUE, ensure=True)
    broker.flush(QUEUE)


def publish(way: str, tasks: int) -> dict[str, float]:
    noop.send()
    with side.timed(tasks) as answer:
        if way == "many":
            _send(noop, tasks)
        else:
            for _ in range(tasks):
                noop.send()
    return answer


def fill(tasks: int, task: str) -> None:
    _send(noop if task == "noop" else nap, tasks)
    broker.close()  # a goodbye the broker answers: everything before it has arrived


def _send(actor: Any, tasks: int) -> None:
    for size in side.chunks(tasks, ROUND):
        dramatiq.group(actor.message() for _ in range(size)).run()


if __name__ == "__main__":
    side.main(describe=describe, setup=setup, publish=publish, fill=fill)
