"""The tasks that every app has, under Celery's names: what ``map``, ``starmap`` and replaced groups are made of.

They are not among ``app.tasks``, which are the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from amqtask.options import Options
from amqtask.settings import Settings
from amqtask.task import Sender, Task

REFUSED: Final = "amqtask.refused"
"""Stands in for a part of a chord that could not be sent, and fails with the reason, so that a worker ends the chord."""


JOIN: Final = "amqtask.join"
"""Looks whether a chord is complete, and concludes it if it is; see ``worker.settling.reminders``."""


class Owner(Sender, Protocol):
    """What the built-in tasks need of their app."""

    settings: Settings

    def registered(self, name: str) -> Task[..., Any]:
        """The task of this name."""
        ...

    def rebuilt(self, wire: object, traceback: object = None) -> Exception:
        """An exception of its wire form."""
        ...


def builtins(app: Owner) -> Mapping[str, Task[..., Any]]:
    """The built-in tasks of an app, by name.

    ``celery.group``, ``celery.chain``, ``celery.chord`` and ``celery.chunks`` are sent by nobody but by name: they put in their
    place what they stand for.

    Args:
        app: whose tasks they run.
    """

    def mapped(task: Any, it: Iterable[Any]) -> list[Any]:
        run = _caller(app, task)
        return [run(item) for item in it]

    def starmapped(task: Any, it: Iterable[Sequence[Any]]) -> list[Any]:
        run = _caller(app, task)
        return [run(*item) for item in it]

    def accumulate(*args: Any, index: int | None = None) -> Any:
        return args if index is None else args[index]

    def refused(error: Any) -> None:
        raise app.rebuilt(error)

    def join() -> None:
        """What it is for follows from its end."""

    made: dict[str, Task[..., Any]] = {}
    functions: dict[str, Callable[..., Any]] = {
        "celery.map": mapped,
        "celery.starmap": starmapped,
        "celery.accumulate": accumulate,
        REFUSED: refused,
        JOIN: join,
    }
    unbound = frozenset(functions)
    for kind in ("group", "chain", "chord", "chunks"):
        functions[f"celery.{kind}"] = _standing_for(kind)
    for name, function in functions.items():
        values: dict[str, Any] = {"name": name, "bind": name not in unbound}
        if name == REFUSED:
            values["throws"] = (Exception,)  # its failure is what it is for
        if name == JOIN:
            values["acks_late"] = True  # or it could be lost as what it stands in for
        options = Options.parse(values, name)
        made[name] = Task(function, name=name, options=options, settings=app.settings, sender=app)
    return made


def _caller(app: Owner, sig: Any) -> Callable[..., Any]:
    """What to call for a signature, one coroutine at a time if it is a coroutine function."""
    task = app.registered(str(sig["task"] if isinstance(sig, Mapping) else sig))
    if not task.is_coroutine:
        return task.run

    def run(*args: Any) -> Any:
        import asyncio  # only coroutine tasks need it

        return asyncio.run(task.run(*args))

    return run


def _standing_for(kind: str) -> Callable[..., Any]:
    def replaced(self: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
        sig = {
            "task": f"celery.{kind}",
            "args": (),
            "kwargs": kwargs,
            "options": {},
            "subtask_type": kind,
            "immutable": False,
        }
        return self.replace(sig)

    return replaced
