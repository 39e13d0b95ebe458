"""The shop's app and its tasks. Workers run them, ``examples.shop.publish`` sends them.

The tasks have names of their own, so that the routes in ``routing/shop.yaml`` do not depend on where this package lies.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any, TypedDict

from amqtask import App, Task

ROOT = Path(__file__).resolve().parents[2]
TEXTS = frozenset({".md", ".py", ".toml", ".yaml", ".yml"})

app = App("shop", topology="routing/shop.yaml")


class Done(TypedDict):
    """What every task of the shop returns: its result, and who made it when."""

    result: str
    queue: str
    node: str
    pid: int
    ran: float  # seconds
    finished: float  # seconds since 1970


def is_text(file: Path) -> bool:
    """Whether a path is a file the shop takes: a text that is not hidden."""
    return file.suffix in TEXTS and not file.name.startswith(".") and file.is_file()


@app.task(name="shop.text.count_words", bind=True)
def count_words(self: Task[..., Any], path: str) -> Done:
    """Count the words of a text file. The topic route takes it to the queue ``shop.words``."""
    start = time.perf_counter()
    words = len((ROOT / path).read_text(encoding="utf-8").split())
    return _done(self, f"{words:,} words", start)


@app.task(name="shop.files.checksum", bind=True)
def checksum(self: Task[..., Any], path: str) -> Done:
    """The SHA-256 of a file. Its route names the queue ``shop.files``."""
    start = time.perf_counter()
    with (ROOT / path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return _done(self, digest.hexdigest(), start)


@app.task(name="shop.reports.summarize", bind=True)
def summarize(self: Task[..., Any], folder: str) -> Done:
    """Count the lines of the texts in a folder. Its queue has priorities."""
    start = time.perf_counter()
    texts = filter(is_text, (ROOT / folder).iterdir())
    lines = sum(file.read_text(encoding="utf-8").count("\n") for file in texts)
    return _done(self, f"{lines:,} lines", start)


def _done(task: Task[..., Any], result: str, start: float) -> Done:
    return {
        "result": result,
        "queue": task.request.delivery_info.queue or "",
        "node": (task.request.hostname or "").partition("@")[0],
        "pid": os.getpid(),
        "ran": time.perf_counter() - start,
        "finished": time.time(),
    }
