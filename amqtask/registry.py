"""The tasks of an app: a function becomes a task under a name, and is found by it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from amqtask.builtin import Owner, builtins
from amqtask.core import compression, serialization
from amqtask.core.result import attach_remote_traceback, exception_from_wire
from amqtask.errors import AlreadyRegistered, ConfigurationError, NotRegistered
from amqtask.names import did_you_mean
from amqtask.options import Options
from amqtask.settings import Settings
from amqtask.task import CoroutineTask, Task


class Registry:
    """The tasks of an app by name. Any thread.

    Attributes:
        by_name: the tasks.
        modules: packages of the tasks: where exceptions may be imported from.

    Args:
        name: the app's; also the module part of the names of tasks defined in ``__main__``.
        settings: the app's.
        owner: the app, through which the tasks are sent.
    """

    def __init__(self, name: str, settings: Settings, owner: Owner) -> None:
        self._name = name
        self._settings = settings
        self._owner = owner
        self.by_name: dict[str, Task[..., Any]] = {}
        self.modules: set[str] = set()
        self.view: Mapping[str, Task[..., Any]] = MappingProxyType(self.by_name)

    def find(self, name: str) -> Task[..., Any]:
        """The task of this name, one of ``builtins`` among others.

        Raises:
            NotRegistered: there is none; the message names the nearest.
        """
        task = self.by_name.get(name) or self.builtins.get(name)
        if task is None:
            near = did_you_mean(name, self.by_name) or "; import the module that defines it."
            raise NotRegistered(f"App {self._name!r} has no task {name!r}{near}")
        return task

    @functools.cached_property
    def builtins(self) -> Mapping[str, Task[..., Any]]:
        """The tasks that every app has, by name."""
        return builtins(self._owner)

    def call_defaults(self, name: str) -> Mapping[str, Any]:
        """The options of a task by its name: its own where it is registered here."""
        task = self.by_name.get(name)
        if task is not None:
            return task.call_defaults
        return {"ignore_result": True} if self._settings.task_ignore_result else {}

    def rebuilt(self, wire: object, traceback: object) -> Exception:
        """An exception of its wire form, of its own class where the tasks' packages have it. Never raises."""
        error = exception_from_wire(wire, import_from=self.modules)
        return attach_remote_traceback(error, traceback if isinstance(traceback, str) else None)

    def register(self, function: Callable[..., Any], values: Mapping[str, Any]) -> Task[..., Any]:
        """Make a task of a function.

        Args:
            function: what was decorated.
            values: what the decorator was given.

        Raises:
            ConfigurationError: it is no function, or an option is unknown or cannot work.
            AlreadyRegistered: another function has this name.
        """
        if isinstance(function, Task):
            raise ConfigurationError(
                f"{function.name} is a task already; decorate a function once."
            )
        if not callable(function):
            raise ConfigurationError(f"@app.task decorates a function, not {function!r}.")
        shown = f"{getattr(function, '__name__', function)!s}"
        if values.get("base") is not None and values["base"] not in (Task, CoroutineTask):
            raise ConfigurationError(
                f"Task {shown}: base takes Task or AbortableTask, which every task is; there are no task classes of one's own."
            )
        options = Options.parse(values, shown)
        name = options.name or _task_name(self._name, function)
        check_name(name)
        for kind, check in (
            ("serializer", serialization.serializer),
            ("compression", compression.mime_type),
        ):
            value = getattr(options, kind)
            if value is not None:
                check(value)
        known = self.by_name.get(name)
        if known is not None and not _same_function(known.function, function):
            raise AlreadyRegistered(
                f"Task name {name!r} is taken by {_place(known.function)}; give {_place(function)} "
                "another with name=…."
            )
        made: type[Task[..., Any]] = CoroutineTask if _is_coroutine(function) else Task
        task = made(
            function, name=name, options=options, settings=self._settings, sender=self._owner
        )
        self.by_name[name] = task
        module = str(getattr(function, "__module__", "")).partition(".")[0]
        if module and module != "__main__":
            self.modules.add(module)
        return task


def check_name(name: object) -> None:
    """Do nothing when this can be the name of a task.

    Raises:
        ConfigurationError: it cannot.
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"A task's name is a text that is not empty, not {name!r}.")


def _task_name(app_name: str, function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", None) or "__main__"
    name = getattr(function, "__name__", None)
    if name is None:
        raise ConfigurationError(
            f"{function!r} has no name of its own; give the task one with name=…."
        )
    return f"{app_name if module == '__main__' else module}.{name}"


def _is_coroutine(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function)


def _same_function(known: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """Whether the second is the first, defined again by a reload or typed again at a prompt."""
    if known is new:
        return True
    if _identity(known) != _identity(new):
        return False
    codes = [getattr(function, "__code__", None) for function in (known, new)]
    if codes[0] is None or codes[1] is None:
        return False
    interactive = str(codes[1].co_filename).startswith("<")
    return interactive or bool(codes[0].co_firstlineno == codes[1].co_firstlineno)


def _identity(function: Callable[..., Any]) -> tuple[object, ...]:
    code = getattr(function, "__code__", None)
    return (
        getattr(function, "__module__", None),
        getattr(function, "__qualname__", None),
        getattr(code, "co_filename", None),
    )


def _place(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code is not None else name
