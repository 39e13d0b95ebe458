"""The app of the tests of greenlet pools; copied into each test's folder, as ``work`` is. Also run on the asyncio pool."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
import os
import queue
import select
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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


def twice(number: int) -> int:
    time.sleep(0.05)
    return 2 * number


@app.task
def ordinary() -> list[object]:
    """What programs do: processes, threads, pools, names, TLS, queues, a fork."""
    done = subprocess.run(["echo", "hi"], capture_output=True, text=True, check=True)
    found: list[object] = [done.stdout]
    with ThreadPoolExecutor(3) as threads:
        found.append(list(threads.map(twice, range(3))))
    found.append(bool(socket.getaddrinfo("localhost", 80)))
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    found.append(context.minimum_version.name)
    numbers: queue.Queue[int] = queue.Queue()
    threading.Timer(0.02, numbers.put, (5,)).start()
    found.append(numbers.get(timeout=10))
    copy = os.fork()
    if copy == 0:
        os._exit(7)
    found.append(os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]))
    logging.getLogger("greens").info("ordinary")
    return found


@app.task
async def aordinary() -> list[object]:
    """What coroutines do: threads, connections."""
    reader, writer = await asyncio.open_connection("localhost", app.addresses[0].port, limit=2**16)
    writer.write(b"this is not AMQP")
    answer = await reader.read(4)
    writer.close()
    name = await asyncio.to_thread(lambda: "in a thread")
    return [answer.decode(), name]


@app.task
def fork() -> str:
    """Be a process that comes back twice."""
    copy = os.fork()
    if copy:
        os.waitpid(copy, 0)
    return "once"


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
