"""The app whose workers run random canvases; copied into each test's folder, beside ``drawing.py``."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import drawing  # type: ignore[import-not-found]  # a copy in the same folder

import amqtask
from amqtask import App, Task

HERE = Path(__file__).parent
app = App(
    "canvases",
    topology=HERE / "topology.yaml",
    settings=json.loads((HERE / "settings.json").read_text()),
)


@app.task(name="digest")
def digest(*values: Any) -> str:
    value: str = drawing.digest(*values)
    return value


@app.task(name="fail")
def fail(*_values: Any) -> None:
    raise drawing.Drawn(drawing.FAILS)


@app.task(name="swap", bind=True)
def swap(self: Task[..., Any], *values: Any) -> Any:
    """Give way to the canvas that the last argument draws, called with what the others come to."""
    *args, drawn = values
    first = signature("digest", args, immutable=True)
    return self.replace(amqtask.chain(first, builder.build(drawn)))


def signature(name: str, args: list[Any], *, immutable: bool = False) -> Any:
    """A signature of one of these tasks."""
    made = app.tasks[name].s(*args)
    made.set_immutable(immutable)
    return made


builder = drawing.Builder(signature, amqtask, random.Random(0))
