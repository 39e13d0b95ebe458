"""The app of the tests that every pool must pass; copied into each test's folder, as ``work`` is.

Most tasks are there twice, as a function and, with an ``a`` before the name, as a coroutine function. They wait for each other and
for files instead of a time, and give up after a minute, so that one that fails does not hold up a node that others share.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from amqtask import App, Ignore, Reject, SoftTimeLimitExceeded, Task, is_aborted

HERE = Path(__file__).parent
GIVE_UP = 60.0
app = App(
    "slots",
    topology=HERE / "topology.yaml",
    settings=json.loads((HERE / "settings.json").read_text()),
)
MINE: ContextVar[str] = ContextVar("mine", default="nothing")
KEPT: list[bytes] = []


class Broken(Exception):
    """An exception of the app's own."""


def write(name: str, data: bytes) -> None:
    """Append to a file in one write, so that what a killed process wrote is whole."""
    descriptor = os.open(HERE / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, data)
    os.close(descriptor)


def log(event: str, what: object) -> None:
    write("ledger", f"{event} {os.getpid()} {what}\n".encode())


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GIVE_UP
    while not until():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody came")
        time.sleep(0.01)


async def await_(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GIVE_UP
    while not until():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody came")
        await asyncio.sleep(0.01)


def arrive(party: str, what: str, count: int) -> Callable[[], bool]:
    """Come to a party; whether so many have."""
    folder = HERE / party
    folder.mkdir(exist_ok=True)
    (folder / what).touch()
    return lambda: len(os.listdir(folder)) >= count  # noqa: PTH208  # no path object each hundredth of a second


def there(name: str) -> Callable[[], bool]:
    """Whether a file is there."""
    return (HERE / name).exists


# ------------------------------------------------------------ plain work


@app.task
def note(what: str) -> str:
    log("start", what)
    log("end", what)
    return what


@app.task
async def anote(what: str) -> str:
    log("start", what)
    await asyncio.sleep(0)
    log("end", what)
    return what


@app.task
async def astray() -> None:
    """Start something on the event loop that leaves the program, and wait for it."""

    async def leave() -> None:
        raise SystemExit("stray")

    await asyncio.create_task(leave())


@app.task
async def bully() -> None:
    """Cancel every other asyncio task there is, and stop the event loop."""
    loop = asyncio.get_running_loop()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    loop.stop()
    await asyncio.sleep(0.01)


@app.task
def noop(number: int) -> None:
    write("noops", b"%08d" % number)


@app.task
async def anoop(number: int) -> None:
    write("noops", b"%08d" % number)


@app.task
def hold(what: str, until: str) -> str:
    """Run until a file is there."""
    log("start", what)
    wait(there(until))
    log("end", what)
    return what


@app.task
async def ahold(what: str, until: str) -> str:
    log("start", what)
    await await_(there(until))
    log("end", what)
    return what


@app.task(acks_late=False)
def early(what: str, until: str) -> str:
    """The same, acked before it runs."""
    log("start", what)
    wait(there(until))
    return what


# ------------------------------------------------------------ side by side


@app.task
def meet(what: str, party: str, count: int) -> int:
    """Wait until so many are running; the process."""
    wait(arrive(party, what, count))
    return os.getpid()


@app.task
async def ameet(what: str, party: str, count: int) -> int:
    await await_(arrive(party, what, count))
    return os.getpid()


@app.task
def remember(what: str, party: str, count: int) -> list[str]:
    """Set a context variable beside others that do; what it was before, and what it is when all have."""
    before = MINE.get()
    MINE.set(what)
    wait(arrive(party, what, count))
    return [before, MINE.get()]


@app.task
async def aremember(what: str, party: str, count: int) -> list[str]:
    before = MINE.get()
    MINE.set(what)
    await await_(arrive(party, what, count))
    return [before, MINE.get()]


def told(self: Task[..., Any]) -> dict[str, object]:
    request = self.request
    return {
        "id": request.id,
        "args": list(request.args),
        "hostname": request.hostname,
        "queue": request.delivery_info["queue"],
        "customer": request.headers.get("customer"),
        "aborted": request.is_aborted(),
    }


@app.task(bind=True)
def tell(self: Task[..., Any], what: str, party: str, count: int) -> dict[str, object]:
    """What the request says while so many run."""
    wait(arrive(party, what, count))
    return told(self)


@app.task(bind=True)
async def atell(self: Task[..., Any], what: str, party: str, count: int) -> dict[str, object]:
    await await_(arrive(party, what, count))
    return told(self)


@app.task
def census(what: str, party: str, count: int) -> tuple[int, int, int]:
    """Process, its threads and its open descriptors, while so many run."""
    wait(arrive(party, what, count))
    return os.getpid(), threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # no Path needed


@app.task(bind=True)
def patient(self: Task[[str], str], what: str) -> str:
    """Run until somebody asks to stop."""
    log("start", what)
    wait(self.request.is_aborted)
    log("end", what)
    return "stopped"


@app.task
async def apatient(what: str) -> str:
    log("start", what)
    await await_(is_aborted)
    log("end", what)
    return "stopped"


# ------------------------------------------------------------ other ends


@app.task
def fail(what: str) -> None:
    log("start", what)
    raise Broken(what)


@app.task
async def afail(what: str) -> None:
    log("start", what)
    await asyncio.sleep(0)
    raise Broken(what)


@app.task(bind=True)
def flaky(self: Task[[str, int], int], what: str, times: int) -> int:
    """Ask to be retried so many times."""
    log("start", what)
    if self.request.retries < times:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task(bind=True)
async def aflaky(self: Task[[str, int], int], what: str, times: int) -> int:
    log("start", what)
    await asyncio.sleep(0)
    if self.request.retries < times:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task(bind=True, autoretry_for=(OSError,), retry_kwargs={"countdown": 0})
def troubled(self: Task[[str, int], int], what: str, times: int) -> int:
    log("start", what)
    if self.request.retries < times:
        raise TimeoutError("slow")
    return self.request.retries


@app.task(bind=True, autoretry_for=(OSError,), retry_kwargs={"countdown": 0})
async def atroubled(self: Task[[str, int], int], what: str, times: int) -> int:
    log("start", what)
    await asyncio.sleep(0)
    if self.request.retries < times:
        raise TimeoutError("slow")
    return self.request.retries


@app.task
def ignored(what: str) -> None:
    log("start", what)
    raise Ignore


@app.task
async def aignored(what: str) -> None:
    log("start", what)
    await asyncio.sleep(0)
    raise Ignore


@app.task
def rejected(what: str) -> None:
    log("start", what)
    raise Reject("not now")


@app.task
async def arejected(what: str) -> None:
    log("start", what)
    await asyncio.sleep(0)
    raise Reject("not now")


@app.task
def linger(what: str, how: str) -> str:
    """Run for long, and when told to end, raise, return or go on."""
    deadline = time.monotonic() + GIVE_UP
    told = False
    while time.monotonic() < deadline:
        try:
            if not told:
                log("start", what)
            while time.monotonic() < deadline:
                time.sleep(0.01)
        except SoftTimeLimitExceeded:
            told = True
            log("soft", what)
            if how == "raise":
                raise
            if how == "return":
                return "cleaned up"
    return "never told"


@app.task
async def alinger(what: str, how: str) -> str:
    log("start", what)
    deadline = time.monotonic() + GIVE_UP
    while time.monotonic() < deadline:
        try:
            await asyncio.sleep(GIVE_UP)
        except SoftTimeLimitExceeded:
            log("soft", what)
            if how == "raise":
                raise
            if how == "return":
                return "cleaned up"
    return "never told"


@app.task
async def thready(what: str, until: str) -> None:
    """Wait for a thread that goes on when nobody waits for it any more."""
    log("start", what)
    await asyncio.to_thread(wait, there(until))


@app.task
def die(what: str, when: str) -> None:
    """End the process as soon as a file is there."""
    log("start", what)
    wait(there(when))
    os._exit(3)


@app.task
def grow(mib: int) -> int:
    """Keep memory for good; the process."""
    KEPT.append(b"x" * (mib << 20))
    return os.getpid()


# ------------------------------------------------------------ tasks of tasks


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
async def aadd(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


@app.task
def send(what: str) -> None:
    """Publish another one and not wait for it."""
    note.delay(what)


@app.task
async def asend(what: str) -> None:
    await anote.adelay(what)


@app.task
def ask(x: int, y: int) -> int:
    """Wait for the result of another one."""
    return aadd.delay(x, y).get(timeout=GIVE_UP)


@app.task
async def aask(x: int, y: int) -> int:
    return await (await add.adelay(x, y)).aget(timeout=GIVE_UP)


# ------------------------------------------------------------ known lengths


@app.task
def timed(number: int, seconds: float) -> None:
    """Sleep, and note which thread did and how long it took, by a clock that all processes share."""
    began = time.monotonic()
    time.sleep(seconds)
    ended = time.monotonic()
    write("times", f"{number} {threading.get_native_id()} {began} {ended}\n".encode())


@app.task
def held(number: int, seconds: float) -> None:
    """The same, but hold up all that shares the thread: no library of greenlets patches this wait."""
    began = time.monotonic()
    signal.sigtimedwait([], seconds)
    ended = time.monotonic()
    write("times", f"{number} {threading.get_native_id()} {began} {ended}\n".encode())


@app.task
async def aheld(number: int, seconds: float) -> None:
    began = time.monotonic()
    time.sleep(seconds)  # noqa: ASYNC251  # it is to hold up the loop
    ended = time.monotonic()
    write("times", f"{number} {threading.get_native_id()} {began} {ended}\n".encode())
