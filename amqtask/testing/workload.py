"""The app that the nodes and publishers of a chaos run work with: tasks of every kind, which write down what they do."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

from amqtask.app import App
from amqtask.canvas.primitives import chord
from amqtask.task import Task
from amqtask.testing.history import Writer
from amqtask.testing.plan import Plan, run_folder

folder = run_folder()
plan = Plan.read(folder)
app = App(
    "chaos",
    topology=plan.topology,
    task_default_queue=plan.queue,
    broker_heartbeat=plan.heartbeat,
)
_writers: dict[int, Writer] = {}  # by process: a fork opens its own


class Planned(Exception):
    """What tasks raise that are meant to fail."""


def writer() -> Writer:
    """This process's own file in the run's folder."""
    pid = os.getpid()
    if pid not in _writers:
        _writers.clear()
        _writers[pid] = Writer(folder / f"{pid}.history")
    return _writers[pid]


@contextlib.contextmanager
def written(task: Task[..., Any], before: int = 0) -> Iterator[None]:
    """Write a line when a task starts and one when it ends; one that is killed leaves only the first.

    Args:
        task: the running one.
        before: messages with its id that came before this one, but for retries.
    """
    request = task.request
    out, task_id, turn = writer(), request.id or "?", request.retries + before
    out.write("started", task_id, turn)
    try:
        yield
    except BaseException:
        out.write("raised", task_id, turn)
        raise
    out.write("finished", task_id, turn)


@app.task(bind=True)
def short(self: Task[..., Any], amount: float) -> float:
    """Do nothing."""
    with written(self):
        return amount


@app.task(bind=True)
def long(self: Task[..., Any], amount: float) -> float:
    """Sleep for 0.2 to 1 seconds."""
    with written(self):
        time.sleep(0.2 + 0.8 * amount)
        return amount


@app.task(bind=True)
def cpu(self: Task[..., Any], amount: float) -> float:
    """Compute for some 10 to 30 milliseconds."""
    with written(self):
        sum(range(200_000 + int(400_000 * amount)))
        return amount


@app.task(bind=True)
def large(self: Task[..., Any], amount: float, body: str) -> float:
    """Take a large argument."""
    with written(self):
        if len(body) != size(amount):
            raise ValueError(f"{len(body)} characters instead of {size(amount)}")
        return amount


@app.task(bind=True)
def failing(self: Task[..., Any], amount: float) -> None:
    """Fail for good."""
    with written(self):
        raise Planned(f"{amount}")


@app.task(bind=True)
def delayed(self: Task[..., Any], amount: float) -> float:
    """Do nothing, later."""
    with written(self):
        return amount


@app.task(
    bind=True,
    autoretry_for=(Planned,),
    max_retries=3,
    default_retry_delay=0.3,
)
def retrying(self: Task[..., Any], amount: float) -> float:
    """Fail up to three times before it succeeds."""
    with written(self):
        if self.request.retries < int(4 * amount):
            raise Planned(f"attempt {self.request.retries}")
        return amount


@app.task(
    bind=True, autoretry_for=(Planned,), max_retries=2, retry_backoff=0.2, retry_backoff_max=2
)
def hopeless(self: Task[..., Any], amount: float) -> None:
    """Fail again and again, until there are no retries left."""
    with written(self):
        raise Planned(f"attempt {self.request.retries}")


@app.task(bind=True)
def workflow(self: Task[..., Any], amount: float) -> Any:
    """Give way to a chord, whose body ends under the same id."""
    with written(self):
        return self.replace(chord((part.s(n) for n in range(parts(amount))), joined.s(amount)))


@app.task
def part(number: int) -> int:
    """One part of a workflow's chord; nothing is written down of it."""
    return number


@app.task(bind=True)
def joined(self: Task[..., Any], numbers: list[int], amount: float) -> float:
    """Check that each part came once, in order."""
    with written(self, before=1):
        if numbers != list(range(parts(amount))):
            raise ValueError(f"{numbers} came of {parts(amount)} parts")
        return amount


@app.task(bind=True)
def revoked(self: Task[..., Any], amount: float) -> float:
    """Do what was not wanted any more, unless the revoke came too late."""
    with written(self):
        return amount


@app.task(bind=True)
def crashing(self: Task[..., Any], amount: float) -> None:
    """Take the process down."""
    with written(self):
        os._exit(3)


def parts(amount: float) -> int:
    """Parts of a workflow's chord: none to twelve."""
    return int(13 * amount)


def size(amount: float) -> int:
    """Characters of a large body: below and above one frame."""
    return int(1000 + 300_000 * amount)
