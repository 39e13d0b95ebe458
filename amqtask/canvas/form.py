"""The dictionary form of a signature, which is Celery's: six keys, as attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from amqtask.core.workflow import listed

S = TypeVar("S")


class Form(dict[str, Any]):
    """A dictionary with the keys ``task``, ``args``, ``kwargs``, ``options``, ``subtask_type`` and ``immutable``."""

    __slots__ = ()

    def __missing__(self, key: object) -> Any:
        raise KeyError(
            f"A signature has no {key!r}: it is the mapping of {', '.join(map(repr, self))}, and what a workflow is made of is in .tasks."
        )

    @property
    def task(self) -> str:
        """The task's name."""
        return cast(str, self["task"])

    @task.setter
    def task(self, name: str) -> None:
        self["task"] = name

    @property
    def name(self) -> str:
        """The same as ``task``."""
        return cast(str, self["task"])

    @property
    def args(self) -> Sequence[Any]:
        """Positional arguments."""
        return cast("Sequence[Any]", self["args"])

    @args.setter
    def args(self, args: Sequence[Any]) -> None:
        self["args"] = args

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments."""
        return cast("dict[str, Any]", self["kwargs"])

    @kwargs.setter
    def kwargs(self, kwargs: Mapping[str, Any]) -> None:
        self["kwargs"] = kwargs

    @property
    def options(self) -> dict[str, Any]:
        """Options, as ``apply_async`` takes them."""
        return cast("dict[str, Any]", self["options"])

    @options.setter
    def options(self, options: Mapping[str, Any]) -> None:
        self["options"] = options

    @property
    def subtask_type(self) -> str | None:
        """``None`` for a plain signature, else the kind: ``chain``, ``group``, ``chord``, ``xmap``, ``xstarmap``, ``chunks``."""
        return cast("str | None", self["subtask_type"])

    @subtask_type.setter
    def subtask_type(self, kind: str | None) -> None:
        self["subtask_type"] = kind

    @property
    def immutable(self) -> bool:
        """Whether it ignores partial arguments."""
        return cast(bool, self["immutable"])

    @immutable.setter
    def immutable(self, immutable: bool) -> None:
        self["immutable"] = immutable

    @property
    def id(self) -> str | None:
        """The id it was frozen with."""
        return self.options.get("task_id")

    @property
    def root_id(self) -> str | None:
        """The id of the task that began the workflow."""
        return self.options.get("root_id")

    @property
    def parent_id(self) -> str | None:
        """The id of the task it follows from."""
        return self.options.get("parent_id")

    def append_to_list_option(self, name: str, value: S) -> S:
        """Put a value into an option that is a list, unless it is there; return the value."""
        items = self._list_option(name)
        if value not in items:
            items.append(value)
        return value

    def extend_list_option(self, name: str, value: Any) -> None:
        """Put a value, or each of a list of them, into an option that is a list."""
        self._list_option(name).extend(listed(value))

    def _list_option(self, name: str) -> list[Any]:
        items = self.options.setdefault(name, [])
        if not isinstance(items, list):
            items = self.options[name] = listed(items)
        return items
