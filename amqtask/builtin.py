"""The tasks that every app has, under Celery's names: what ``map``, ``starmap`` and replaced groups are made of.

They are not among ``app.tasks``, which are the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from amqtask.options import Options
from amqtask.settings import Settings
from amqtask.task import Sender, Task


class Registry(Sender, Protocol):
    """What the built-in tasks need of their app."""

    settings: Settings

    def registered(self, name: str) -> Task[..., Any]:
        """The task of this name."""
        ...


def builtins(app: Registry) -> Mapping[str, Task[..., Any]]:
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

    made: dict[str, Task[..., Any]] = {}
    functions: dict[str, Callable[..., Any]] = {
        "celery.map": mapped,
        "celery.starmap": starmapped,
        "celery.accumulate": accumulate,
    }
    for kind in ("group", "chain", "chord", "chunks"):
        functions[f"celery.{kind}"] = _standing_for(kind)
    for name, function in functions.items():
        bind = name not in ("celery.map", "celery.starmap", "celery.accumulate")
        options = Options.parse({"name": name, "bind": bind}, name)
        made[name] = Task(function, name=name, options=options, settings=app.settings, sender=app)
    return made


def _caller(app: Registry, sig: Any) -> Callable[..., Any]:
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
