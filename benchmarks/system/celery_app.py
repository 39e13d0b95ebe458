"""The no-op task for Celery: acknowledged late, without results, as amqtask runs it."""

from __future__ import annotations

import os

from celery import Celery

from benchmarks.system.counter import hit

QUEUE = "celery-bench"

app = Celery("bench", broker=os.environ["AMQTASK_BROKER_URL"].replace("amqp://", "pyamqp://", 1))
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_default_queue=QUEUE,
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")  # type: ignore[untyped-decorator]  # celery ships no types
def noop() -> None:
    """Counted, nothing else."""
    hit()
