"""``result_from_tuple``: handles from Celery's tuple form."""

from __future__ import annotations

from typing import Any, TypeVar

from amqtask.results.base import Handles, Leaf
from amqtask.results.forms import handles
from amqtask.results.group import GroupResult

L = TypeVar("L", bound=Leaf)


def result_from_tuple(form: Any, app: Handles[L]) -> L | GroupResult:
    """Handles from what ``as_tuple`` gave, which may have been through JSON; a handle is returned as it is.

    Args:
        form: ``((id, parent), members)``; lists do as well as tuples, and an id alone as well as a pair.
        app: the app that the tasks were sent with; elsewhere the handles stay ``PENDING``.

    Raises:
        ValueError: this is no such form.
        TypeError: this is no app.
    """
    return handles(form, app, GroupResult)
