"""Handles from Celery's tuple form: ``((id, parent's form or None), None or [members' forms])``."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from amqtask.results.base import Handles, Leaf, ResultBase
from amqtask.results.group import GroupResult

L = TypeVar("L", bound=Leaf)


def result_from_tuple(form: Any, app: Handles[L]) -> L | GroupResult:
    """Handles from what ``as_tuple`` gave, which may have been through JSON; a handle is returned as it is.

    Args:
        form: ``((id, parent), members)``; lists do as well as tuples, and an id alone as well as a pair.
        app: the app that the tasks were sent with; elsewhere the handles stay ``PENDING``.

    Raises:
        ValueError: this is no such form.
    """
    if isinstance(form, Leaf | GroupResult):
        return cast("L | GroupResult", form)
    # from the first of the chain on, without recursion: it may be long
    lineage: list[tuple[str, list[Any] | tuple[Any, ...] | None]] = []
    parent: ResultBase | None = None
    while form is not None or not lineage:
        if isinstance(form, Leaf | GroupResult):
            parent = form
            break
        task_id, form, members = _parts(form)
        lineage.append((task_id, members))
    made: L | GroupResult | None = None
    for task_id, members in reversed(lineage):
        if members is None:
            made = app.AsyncResult(task_id, parent=parent)
        else:
            made = GroupResult(
                task_id, [result_from_tuple(member, app) for member in members], parent
            )
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
    raise ValueError(
        "A result as a tuple is ((id, parent or None), None or [members]), as as_tuple() gives it, "
        f"not {str(form)[:80]!r}."
    )
