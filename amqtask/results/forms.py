"""Handles from Celery's tuple form: ``((id, parent's form or None), None or [members' forms])``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from amqtask.results.base import Handles, Leaf, ResultBase, Several

L = TypeVar("L", bound=Leaf)
G = TypeVar("G", bound=Several)

Group = Callable[[str, list[ResultBase], ResultBase | None], G]
"""Makes the handle of a group of its id, its members and what came before it."""


def handles(form: Any, app: Handles[L], group: Group[G]) -> L | G:
    """Handles from a tuple form, which may have been through JSON; a handle is returned as it is.

    Args:
        form: ``((id, parent), members)``; lists do as well as tuples, and an id alone as well as a pair.
        app: makes the handles of tasks.
        group: makes those of groups.

    Raises:
        ValueError: this is no such form.
        TypeError: this is no app.
    """
    if not callable(getattr(app, "AsyncResult", None)):
        raise TypeError(
            f"Handles belong to an app: write result_from_tuple(form, app) with the App that sent the tasks, not {app!r}."
        )
    try:
        return _handles(form, app, group)
    except RecursionError:
        raise _wrong(form) from None


def _handles(form: Any, app: Handles[L], group: Group[G]) -> L | G:
    if isinstance(form, Leaf | Several):
        return cast("L | G", form)
    # from the first of the chain on, without recursion: it may be long
    lineage: list[tuple[str, list[Any] | tuple[Any, ...] | None]] = []
    parent: ResultBase | None = None
    while form is not None or not lineage:
        if isinstance(form, Leaf | Several):
            parent = form
            break
        task_id, form, members = _parts(form)
        lineage.append((task_id, members))
    made: L | G | None = None
    for task_id, members in reversed(lineage):
        if members is None:
            made = app.AsyncResult(task_id, parent=parent)
        else:
            made = group(task_id, [_handles(each, app, group) for each in members], parent)
        parent = made
    assert made is not None
    return made


def _parts(form: Any) -> tuple[str, Any, list[Any] | tuple[Any, ...] | None]:
    """The id, the parent's form and the members' forms."""
    if isinstance(form, list | tuple) and len(form) == 2:
        own, members = form
        pair = own if isinstance(own, list | tuple) else (own, None)
        if (
            len(pair) == 2
            and isinstance(pair[0], str)
            and pair[0]
            and (members is None or isinstance(members, list | tuple))
        ):
            return pair[0], pair[1], members
    raise _wrong(form)


def _wrong(form: Any) -> ValueError:
    try:
        shown = str(form)[:80]
    except RecursionError:
        shown = "what is nested without end"
    return ValueError(
        "A result as a tuple is ((id, parent or None), None or [members]), as as_tuple() gives it, "
        f"not {shown!r}."
    )
