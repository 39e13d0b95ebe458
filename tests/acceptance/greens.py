"""The app of the tests of greenlet pools; copied into each test's folder, as ``work`` is. Also run on the asyncio pool."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import select
import socket
import threading
import time
from pathlib import Path

from amqtask import App, SoftTimeLimitExceeded

HERE = Path(__file__).parent
AT_IMPORT = socket.socket
app = App(
    "greens",
    topology=HERE / "topology.yaml",
    settings=json.loads((HERE / "settings.json").read_text()),
)
running: set[int] = set()


def write(event: str, what: object) -> None:
    descriptor = os.open(HERE / "ledger", os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, f"{event} {os.getpid()} {what}\n".encode())
    os.close(descriptor)


@app.task
def library() -> list[object]:
    """What the app finds, and whether a supervisor has any of it."""
    return [AT_IMPORT.__module__, hasattr(select, "epoll"), threading.current_thread().name]


@app.task
def nap(seconds: float) -> int:
    """Sleep, as greenlets do; how many did so then."""
    running.add(me := id(object()) ^ time.monotonic_ns())
    try:
        time.sleep(seconds)
        return len(running)
    finally:
        running.discard(me)


@app.task
def many(count: int, seconds: float) -> float:
    """Send so many tasks, one by one and in a batch, and wait for all; how long the longest switch took meanwhile."""
    ticks: list[float] = []

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.01)

    done = threading.Event()  # the app's: greenlets' ones
    ticker = threading.Thread(target=tick)
    ticker.start()
    sent = [nap.delay(seconds) for _ in range(count // 2)]
    with app.batch():
        sent += [nap.delay(seconds) for _ in range(count // 2)]
    for each in sent:
        each.get(timeout=30)
    done.set()
    ticker.join()
    return max(b - a for a, b in itertools.pairwise(ticks))


def compute(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:  # nothing here lets another go on
        pass


@app.task
def spin(what: str, seconds: float) -> str:
    """Compute; tells when it was interrupted."""
    write("start", what)
    try:
        compute(seconds)
    except SoftTimeLimitExceeded:
        return "interrupted"
    return "not interrupted"


@app.task
async def hog(what: str) -> None:
    """What ``crunch`` does, on an event loop."""
    await asyncio.sleep(0)
    grind(what)


@app.task
def crunch(what: str) -> None:
    """Be in C code for a minute, where nothing can be raised. Other threads go on."""
    grind(what)


def grind(what: str) -> None:
    write("start", what)
    if what == "x":  # once; again would be another process's
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 200_000_000)


@app.task
def wait(what: str, name: str) -> str:
    """Wait for a file."""
    write("start", what)
    while not (HERE / name).exists():
        time.sleep(0.01)
    return what


@app.task
async def await_(what: str, name: str) -> str:
    """Wait for a file."""
    write("start", what)
    while not (HERE / name).exists():  # noqa: ASYNC110  # a test outside sets it
        await asyncio.sleep(0.01)
    return what
