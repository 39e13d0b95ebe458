"""Drain: no-op tasks preloaded on a durable classic queue, persistent, acknowledged late, results ignored.

Each repetition runs amqtask and Celery one after the other on the same broker, so that a slow minute of the machine hits
both. Celery runs its prefork pool with its defaults, amqtask its own defaults.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from amqtask.amqp.session import Session
from amqtask.topology import plan
from benchmarks.system import amqtask_app, counter

TIMEOUT = 180.0  # seconds for one drain


def main(tasks: int, repetitions: int, children: int, *, peer: bool = True) -> None:
    """Run the repetitions and print medians and the ratio."""
    with Session(amqtask_app.app.addresses) as session:
        broker = session.server.version
    print(
        f"drain: {tasks} no-op tasks, {children} children, RabbitMQ {broker}, Python {platform.python_version()}, "
        f"amqtask {version('amqtask')}, Celery {version('celery')}, {os.cpu_count()} CPUs"
    )
    rates: dict[str, list[float]] = {"amqtask": [], "celery": []}
    runs: list[tuple[str, Callable[[int, int], float]]] = [("amqtask", drain_amqtask)]
    if peer:
        runs.append(("celery", drain_celery))
    for repetition in range(repetitions):
        for name, run in runs if repetition % 2 == 0 else reversed(runs):
            rate = run(tasks, children)
            rates[name].append(rate)
            print(f"  {name:8} {rate:10,.0f} tasks/s", flush=True)
    for name, _ in runs:
        values = rates[name]
        print(
            f"{name:8} median {statistics.median(values):,.0f} tasks/s (min {min(values):,.0f}, max {max(values):,.0f})"
        )
    if peer:
        ratio = statistics.median(rates["amqtask"]) / statistics.median(rates["celery"])
        print(f"ratio amqtask / Celery prefork: {ratio:.1f}")


def drain_amqtask(tasks: int, children: int) -> float:
    """Tasks per second of an amqtask worker."""
    app, queue = amqtask_app.app, amqtask_app.QUEUE
    with Session(app.addresses) as session:
        session.apply(plan.declarations(app.topology))
        session.purge(queue)
        amqtask_app.noop.delay_many(() for _ in range(tasks))
        try:
            return _measure(
                [
                    *_module("amqtask"),
                    "-A",
                    "benchmarks.system.amqtask_app",
                    "worker",
                    "-c",
                    str(children),
                    "-l",
                    "warning",
                ],
                tasks,
            )
        finally:
            session.delete_queue(queue)
            app.close()


def drain_celery(tasks: int, children: int) -> float:
    """Tasks per second of a Celery worker, prefork, default prefetch."""
    from celery import group

    from benchmarks.system import celery_app

    with Session(amqtask_app.app.addresses) as session:
        with celery_app.app.connection_for_write() as connection:
            celery_app.app.amqp.queues[celery_app.QUEUE].bind(connection.default_channel).declare()
        session.purge(celery_app.QUEUE)
        for start in range(0, tasks, 1000):
            group(celery_app.noop.si() for _ in range(min(1000, tasks - start))).apply_async()
        try:
            return _measure(
                [
                    *_module("celery"),
                    "-A",
                    "benchmarks.system.celery_app",
                    "worker",
                    "-P",
                    "prefork",
                    "-c",
                    str(children),
                    "-l",
                    "WARNING",
                ],
                tasks,
            )
        finally:
            session.delete_queue(celery_app.QUEUE)
            session.delete_exchange(celery_app.QUEUE)
            celery_app.app.close()


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", name]


def _measure(command: list[str], tasks: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "log").open("w+b") as log:
            worker = subprocess.Popen(
                command,
                env={**os.environ, counter.FOLDER: name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                deadline = time.monotonic() + TIMEOUT
                while counter.read(folder)[0] < tasks:
                    if worker.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        raise SystemExit(
                            f"the worker did not finish: {log.read().decode(errors='replace')[-2000:]}"
                        )
                    time.sleep(0.02)
            finally:
                worker.terminate()
                worker.wait()
        count, seconds = counter.read(folder)
        return (count - 1) / seconds
