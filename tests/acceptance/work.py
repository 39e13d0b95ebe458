"""The app that the nodes of these tests run; copied into each test's folder.

Every task writes what it does to ``ledger`` in that folder, one line a write, so that a killed process leaves whole lines:
``start <pid> <what>`` and ``end <pid> <what>``. Tasks that must be seen running wait for a file instead of a time.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

from amqtask import (
    App,
    Ignore,
    Reject,
    Retry,
    RetryPolicy,
    SoftTimeLimitExceeded,
    Task,
    get_task_logger,
)

HERE = Path(__file__).parent
app = App(
    "work",
    topology=HERE / "topology.yaml",
    settings=json.loads((HERE / "settings.json").read_text()),
)
logger = get_task_logger(__name__)


class Broken(Exception):
    """An exception of the app's own, with arguments of its own."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what, code)
        self.code = code


def log(event: str, what: object) -> None:
    line = f"{event} {os.getpid()} {what}\n"
    descriptor = os.open(HERE / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def wait_for(name: str) -> None:
    while not (HERE / name).exists():
        time.sleep(0.01)


@app.task
def note(what: str, seconds: float = 0.0) -> str:
    log("start", what)
    if seconds:
        time.sleep(seconds)
    log("end", what)
    return what


@app.task
def hold(what: str, until: str) -> str:
    """Run until a file is there."""
    log("start", what)
    wait_for(until)
    log("end", what)
    return what


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def starts() -> Any:
    """Return the handle of what it sends, as tasks of Celery may."""
    return add.delay(1, 2)


@app.task
def version() -> str:
    return "one"


@app.task
def fail(what: str) -> None:
    log("start", what)
    raise Broken(what, 42)


@app.task
def leave(how: str) -> None:
    """Raise what is no Exception."""
    raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "base": BaseException("odd")}[
        how
    ]


@app.task
def steer(how: str) -> None:
    raise {"ignore": Ignore(), "reject": Reject("not now")}[how]


class Grumpy(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __reduce__(self) -> tuple[object, ...]:
        raise RuntimeError("no pickle")


@app.task
def grumble() -> None:
    raise Grumpy


@app.task
def unwritable() -> object:
    return object()


@app.task
def large(size: int) -> str:
    return "x" * size


@app.task
def die(what: str, how: str) -> None:
    log("start", what)
    if how == "exit":
        os._exit(3)
    if how == "kill":  # as the kernel does when memory is short
        os.kill(os.getpid(), signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


@app.task
def vanish(what: str) -> None:
    """Kill the whole node: the supervisor, and with it all others."""
    log("start", what)
    stat = Path(f"/proc/{os.getppid()}/stat").read_text()  # of the fork server
    os.kill(int(stat[stat.rindex(")") + 2 :].split()[1]), signal.SIGKILL)
    time.sleep(60)


@app.task
def spin(what: str) -> int:
    """Hold the GIL for many seconds in one C call."""
    log("start", what)
    return sum(range(4 * 10**8))


@app.task
def linger(what: str, swallow: bool = False) -> str:
    """Run for ever; stop at the soft limit unless that is swallowed."""
    told = False
    while True:
        try:
            if not told:
                log("start", what)
            while True:
                time.sleep(0.02)
        except SoftTimeLimitExceeded:
            told = True
            log("soft", what)
            if not swallow:
                return "cleaned up"


@app.task
async def nap(what: str, seconds: float) -> str:
    """A coroutine that notices its soft limit."""
    log("start", what)
    try:
        await asyncio.sleep(seconds)
    except SoftTimeLimitExceeded:
        log("soft", what)
        raise
    log("end", what)
    return what


@app.task
def grow(mib: int) -> int:
    """Keep memory for good."""
    KEPT.append(b"x" * (mib << 20))
    log("start", mib)
    return os.getpid()


KEPT: list[bytes] = []


def _sleep_for_ever() -> None:
    while True:
        signal.pause()


@app.task
def start_a_process() -> int | None:
    """Fork a process and terminate it, as multiprocessing does; its exit code."""
    process = multiprocessing.get_context("fork").Process(target=_sleep_for_ever)
    process.start()
    process.terminate()
    process.join(5)
    code = process.exitcode
    process.kill()
    process.join()
    return code


@app.task
def leave_a_process(what: str) -> None:
    """Fork a process that outlives the task, then say so and wait to be killed."""
    if os.fork() == 0:
        _sleep_for_ever()
    log("start", what)
    _sleep_for_ever()


@app.task(bind=True)
def who(self: Task[[], dict[str, object]]) -> dict[str, object]:
    logger.info("asked")
    logging.getLogger("elsewhere").warning("asked too")
    request = self.request
    return {"id": request.id, "task": request.task, "host": request.hostname, "pid": os.getpid()}


@app.task(bind=True)
def punctual(self: Task[[float], dict[str, object]], due: float) -> dict[str, object]:
    """How late it is, in seconds, and what the request says of the way here."""
    late = time.time() - due
    log("late", f"{late:.4f}")
    request = self.request
    info = request.delivery_info
    return {
        "late": late,
        "eta": request.eta,
        "exchange": info.exchange,
        "routing_key": info.routing_key,
        "priority": info.priority,
        "queue": info.queue,
        "headers": dict(request.headers),
        "pid": os.getpid(),
    }


# ------------------------------------------------------------ retries


class RateLimited(Exception):
    """The other side asks to wait."""


def attempt(self: Task[..., Any], what: str) -> int:
    """Note an attempt; how many there were before."""
    log("start", f"{what}#{self.request.retries}")
    return self.request.retries


@app.task(bind=True, default_retry_delay=0.2)
def flaky(self: Task[[str, int], str], what: str, times: int) -> str:
    """Ask to be retried so many times, then succeed."""
    if attempt(self, what) < times:
        raise self.retry(exc=Broken("not yet", self.request.retries))
    log("end", what)
    return what


@app.task(bind=True, max_retries=2)
def hopeless(self: Task[[str, bool], str], what: str, named: bool) -> str:
    attempt(self, what)
    if named:
        try:
            raise Broken(what, 7)
        except Broken as error:
            raise self.retry(exc=error, countdown=0.1) from None
    raise self.retry(countdown=0)


@app.task(
    bind=True,
    autoretry_for=(OSError,),
    dont_autoretry_for=(FileNotFoundError,),
    retry_backoff=0.1,
    retry_backoff_max=0.2,
    max_retries=3,
    retry_policies={
        RateLimited: RetryPolicy(delay=0.3, max_retries=1),
        ConnectionResetError: RetryPolicy(max_retries=1),
    },
)
def troubled(self: Task[[str, str, int], str], what: str, how: str, times: int = 99) -> str:
    """Raise one kind of exception so many times."""
    if attempt(self, what) < times:
        raise {
            "timeout": TimeoutError("slow"),
            "missing": FileNotFoundError("gone"),
            "reset": ConnectionResetError("reset"),
            "limited": RateLimited("wait"),
            "key": KeyError("k"),
            "retry": Retry("busy", when=0.1),
        }[how]
    log("end", what)
    return what


@app.task(bind=True, autoretry_for=(OSError,), retry_for=1.0, retry_kwargs={"countdown": 0.3})
def hurried(self: Task[[str], None], what: str) -> None:
    attempt(self, what)
    raise TimeoutError("slow")


@app.task(bind=True)
def change(self: Task[..., object], what: str, tries: int = 0) -> object:
    """Retry once with other arguments and options, and tell what arrived."""
    if attempt(self, what) == 0:
        # an even number of ticks: it leaves the ladder by another exchange than an odd one
        raise self.retry(args=(f"{what}!",), kwargs={"tries": 1}, countdown=0.2, priority=3)
    request = self.request
    return {
        "what": what,
        "tries": tries,
        "priority": request.delivery_info["priority"],
        "routing_key": request.delivery_info["routing_key"],
        "exchange": request.delivery_info["exchange"],
        "headers": dict(request.headers),
        "retries": request.retries,
        "eta": request.eta is not None,
        "expires": request.expires is not None,
        "limits": list(request.timelimit),
    }


@app.task(bind=True)
def goes_on(self: Task[[str, str], str], what: str, how: str) -> str:
    """Ask without throwing, then do something else."""
    if attempt(self, what) == 0:
        self.retry(throw=False, countdown=0.2)
        log("after", what)
        if how == "raise":
            raise KeyError("after")
        if how == "ignore":
            raise Ignore
        if how == "reject":
            raise Reject("after all")
        return "the first"
    return "the second"


@app.task(bind=True, throws=(KeyError,))
async def naps(self: Task[[str, str], str], what: str, how: str) -> str:
    """A coroutine that is retried once."""
    await asyncio.sleep(0)
    if attempt(self, what) == 0:
        self.retry(countdown=0.1)
    if how == "raise":
        raise KeyError("expected")
    return what


@app.task(bind=True, acks_late=False, autoretry_for=(OSError,), default_retry_delay=0.1)
def eager_ack(self: Task[[str], str], what: str) -> str:
    if attempt(self, what) == 0:
        raise TimeoutError("slow")
    return what


@app.task(bind=True)
def dies_before_its_ack(self: Task[[str], str], what: str) -> str:
    """Have the process killed when the next attempt is confirmed and this one is to be acked; the first time only."""
    retries = attempt(self, what)
    if not (HERE / "killed").exists():
        from amqtask.amqp.threaded.consumer import ThreadedConsumer

        def settle(*_: object) -> None:
            (HERE / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(ThreadedConsumer, "settle", settle)  # noqa: B010  # the instant that must be hit
    if retries == 0:
        self.retry(countdown=0.2)
    log("end", what)
    return what


@app.task(bind=True)
def dies_with_its_result_out(self: Task[[str], str], what: str) -> str:
    """Have the process killed when the result is confirmed and the message is to be acked; the first time only."""
    log("start", what)
    if not (HERE / "killed").exists():
        from amqtask.amqp.threaded.consumer import ThreadedConsumer

        def settle(*_: object) -> None:
            (HERE / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(ThreadedConsumer, "settle", settle)  # noqa: B010  # the instant that must be hit
    return what


@app.task(bind=True)
def unsendable(self: Task[[], None]) -> None:
    self.retry(args=(), kwargs={}, headers={"large": "x" * 70_000}, countdown=0.1)


@app.task(bind=True, name="cross.over")
def cross_over(self: Task[[str], object], what: str) -> object:
    """The second of three attempts; the first and the last are Celery's."""
    request = self.request
    log("ours", f"{what} {request.retries} {request.headers.get('mine')}")
    raise self.retry(countdown=1)
