"""What workflows are made of: signatures in lists, which may come from a generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from amqtask.canvas.checks import no_signature
from amqtask.canvas.lazy import Lazy
from amqtask.canvas.signature import Launcher, Signature
from amqtask.results.base import ResultBase

Members = list[Signature[Any]]


def first_of(result: ResultBase) -> Any:
    """The first of those that a result follows from; itself when it follows from none."""
    first = result
    for first in result.ancestors():  # noqa: B007  # the last one counts
        pass
    return first


def signed(task: Any) -> Signature[Any]:
    """A signature of what may be its dictionary form.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(task, Signature):
        return task
    if isinstance(task, Mapping):
        return Signature.from_dict(task)
    raise no_signature(task)


def given_app(sig: Signature[Any], app: Launcher | None) -> Signature[Any]:
    """The signature, which belongs to this app if it had none."""
    if app is not None and sig.own_app is None and sig.own_type is None:
        sig.own_app = app
    return sig


def each_of(tasks: Iterable[Any], change: Callable[[Any], Signature[Any]]) -> Members:
    """What a function makes of each: as a list, or as they come."""
    if isinstance(tasks, Lazy):
        return tasks.mapped(change)
    return [change(task) for task in tasks]


def app_of(tasks: Iterable[Any]) -> Launcher | None:
    """The app of the first that has one; a generator is asked for one item at most."""
    for task in tasks:
        if isinstance(task, Signature):
            app = task.known_app()
            if app is not None:
                return app
        if isinstance(tasks, Lazy):
            break
    return None
