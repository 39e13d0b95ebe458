"""The no-op task for amqtask."""

from __future__ import annotations

from amqtask import App
from amqtask.topology.parse import parse
from benchmarks.system.counter import hit

QUEUE = "amqtask-bench"

TOPOLOGY = f"""
version: 1
defaults: {{type: classic, dead_letter: false}}
queues: {{{QUEUE}: {{}}}}
routes: [{{task: "*", queue: {QUEUE}}}]
"""

app = App("bench", topology=parse(TOPOLOGY, "benchmark"), task_ignore_result=True)


@app.task
def noop() -> None:
    """Counted, nothing else."""
    hit()
