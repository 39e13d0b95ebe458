"""Chords between real processes where connections break and clients die: every body once, and no queue of a chord for ever."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amqtask.canvas import primitives
from amqtask.canvas.signature import Signature
from amqtask.testing import Proxy
from tests.acceptance.nodes import Place
from tests.brokers import Broker
from tests.waiting import eventually

TASKS = Path(__file__).with_name("canvas.py")
chord: Any = primitives.chord


def barriers(broker: Broker) -> dict[str, Any]:
    """The queues of chords that are there, and what they were declared with."""
    return {
        str(each["name"]): each["arguments"]
        for each in broker.queues()
        if str(each["name"]).startswith("amqtask.join.")
    }


@pytest.fixture
def behind(broker: Broker) -> Iterator[tuple[Proxy, Broker]]:
    """The broker behind a proxy; asked for before a place, which it outlives."""
    with Proxy.before(broker.url) as proxy:
        yield proxy, Broker(proxy.url, broker.management_url, broker.version)


@pytest.mark.parametrize(("seed", "kind"), [(5, "classic"), (11, "quorum")])
def test_nested_chords_end_whatever_breaks(
    broker: Broker,
    behind: tuple[Proxy, Broker],
    place: Callable[..., Place],
    seed: int,
    kind: str,
) -> None:
    """A worker's connections are cut, also after so many bytes, while chords of chords of chords end in it."""
    before = set(barriers(broker))
    rng = random.Random(seed)
    proxy, reached = behind
    at = place(on=reached, tasks=TASKS, chord_queue_type=kind)
    at.node("-c2")

    def nested(depth: int) -> Any:
        if not depth:
            return Signature("canvas.same", (1,), app=at.app)
        total = Signature("canvas.total", app=at.app)
        return chord([nested(depth - 1) for _ in range(3)], total)

    sent = [nested(3).delay() for _ in range(4)]
    over = threading.Event()
    for _ in range(4):
        over.wait(rng.uniform(0.05, 0.3))
        proxy.cut()
        if rng.random() < 0.5:
            proxy.cut_after(to_server=rng.randrange(500, 20_000))
    assert [each.get(timeout=60) for each in sent] == [27] * len(sent)
    eventually(lambda: set(barriers(broker)) <= before, timeout=30, interval=0.2)


# A client that is killed at a certain point of sending a chord.
DIES = """
import os, signal, sys
from amqtask import App
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.canvas.primitives import chord
from amqtask.core.barrier import PREFIX

url, queue, point = sys.argv[1:]
app = App("dies", broker_url=url, task_default_queue=queue, result_chord_expires=0.5)

@app.task
def same(*args): ...

def die(*_args, **_named):
    os.kill(os.getpid(), signal.SIGKILL)

if point == "declared":
    paved = ThreadedPublisher._paved
    ThreadedPublisher._paved = lambda self, queue, error: die() if queue.startswith(PREFIX) else paved(self, queue, error)
else:
    publish_many = ThreadedPublisher.publish_many
    seen = []
    def watched(self, publications, timeout, **named):
        if seen:
            die()
        seen.append(1)
        return publish_many(self, publications, timeout, **named)
    ThreadedPublisher.publish_many = watched
chord([same.s(1), same.s(2)], same.s()).delay()
die()
"""


@pytest.mark.parametrize("point", ["declared", "planned"])
def test_what_a_client_that_is_killed_leaves_of_a_chord_goes(
    broker: Broker, queue_name: str, point: str
) -> None:
    before = set(barriers(broker))
    with broker.channel() as channel:
        channel.queue_declare(queue_name, durable=True)
        died = subprocess.run(
            [sys.executable, "-c", DIES, broker.url, queue_name, point],
            timeout=30,
            check=False,
            capture_output=True,
        )
        assert died.returncode == -signal.SIGKILL, died.stderr.decode()
        left = {name: made for name, made in barriers(broker).items() if name not in before}
        assert [made.get("x-expires") for made in left.values()] == [1000]
        eventually(lambda: set(barriers(broker)) <= before, timeout=15, interval=0.2)
        channel.queue_delete(queue_name)
