"""Ids of signatures before they are sent: where a frozen one belongs, and what it will come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from amqtask.call import new_id

Ids = Callable[[], str]
"""Where the ids of frozen signatures come from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a signature that is frozen belongs.

    Attributes:
        ids: where new ids come from.
        id: its own, if it has none.
        group_id: the group it is a member of.
        group_index: its place in the group.
        chord: the body of the chord it is a part of.
        root_id: the task that began the workflow.
        parent_id: the task it follows from.
    """

    ids: Ids = new_id
    id: str | None = None
    group_id: str | None = None
    group_index: int | None = None
    chord: Mapping[str, Any] | None = None
    root_id: str | None = None
    parent_id: str | None = None


class Expected:
    """What a frozen signature will come to: the id of its result, those it follows from, and its members if it is a group.

    Attributes:
        id: the id of the task, or of the group.
        parent: what it follows from, if anything.
        children: the members of a group, ``None`` for a task.
    """

    __slots__ = ("children", "id", "parent")

    def __init__(
        self,
        task_id: str,
        parent: Expected | None = None,
        children: Sequence[Expected] | None = None,
    ) -> None:
        self.id = task_id
        self.parent = parent
        self.children = children

    @property
    def task_id(self) -> str:
        """The same as ``id``."""
        return self.id

    @property
    def first(self) -> Expected:
        """The one without a parent that this one follows from; itself when it has none."""
        node = self
        while node.parent is not None:
            node = node.parent
        return node

    def as_tuple(self) -> tuple[Any, Any]:
        """Celery's form: ``((id, parent or None), None or [children])``, each of the same form."""
        line = [self]  # from here to the first: chains are longer than Python's stack is deep
        while line[-1].parent is not None:
            line.append(line[-1].parent)
        form: tuple[Any, Any] | None = None
        for node in reversed(line):
            members = None if node.children is None else [one.as_tuple() for one in node.children]
            form = ((node.id, form), members)
        return cast("tuple[Any, Any]", form)

    def __repr__(self) -> str:
        return f"<Expected {self.id}>"
