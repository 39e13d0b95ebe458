"""A place whose node runs the tasks of ``canvas.py``, and signatures of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from amqtask.canvas.signature import Signature
from tests.acceptance.nodes import Place

TASKS = Path(__file__).with_name("canvas.py")
SOON = 20.0  # seconds within which a result comes on a busy machine


class Canvas:
    """A place whose node runs the tasks of ``canvas.py`` from two queues."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.app = place.app
        self.other = place.queues[1]

    def s(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A signature of one of the tasks."""
        return Signature(f"canvas.{name}", args, kwargs, app=self.app)

    def si(self, name: str, *args: Any) -> Any:
        """One that takes no more arguments."""
        return Signature(f"canvas.{name}", args, {}, immutable=True, app=self.app)

    def said(self, what: str) -> None:
        """Wait until a task has written this."""
        self.place.saw("end", what)

    def barriers(self) -> set[str]:
        """The queues of chords that are there."""
        names = {str(each["name"]) for each in self.place.broker.queues()}
        return {name for name in names if name.startswith("amqtask.join.")}
