"""What follows a task that ran in place: its callbacks or error callbacks, run in place too.

Everything runs in the thread that called ``apply``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amqtask.canvas.signature import maybe_signature
from amqtask.core.workflow import listed
from amqtask.log import get_logger
from amqtask.request import Request
from amqtask.results.base import ResultBase

log = get_logger("amqtask.canvas")


def after_success(callbacks: object, value: object, request: Request, app: Any) -> list[ResultBase]:
    """Run the callbacks with the value; return their results."""
    return [
        maybe_signature(callback, app).apply(
            (value,), parent_id=request.id, root_id=request.root_id
        )
        for callback in listed(callbacks)
    ]


def after_failure(
    errbacks: object, error: BaseException, traceback: str | None, request: Request, app: Any
) -> None:
    """Run the error callbacks: with request, exception and traceback if they take several arguments, else with the task's id.

    What one of the former raises is logged.
    """
    for errback in listed(errbacks):
        sig = maybe_signature(errback, app)
        if not takes_details(sig, app):
            sig.apply((request.id,), parent_id=request.id, root_id=request.root_id)
            continue
        try:
            sig(request, error, traceback)
        except Exception:  # the task has failed, whatever becomes of the errback
            log.exception("An error callback has raised", errback=sig["task"])


def takes_details(sig: Any, app: Any) -> bool:
    """Whether an error callback takes request, exception and traceback, as Celery decides it.

    Args:
        sig: its signature.
        app: the app whose tasks are asked.
    """
    task = app.tasks.get(str(sig.get("task")))
    if task is None or task.bind or sig.get("subtask_type"):
        return False
    immutable = bool(sig.get("immutable"))
    args: Sequence[Any] = () if immutable else sig.get("args") or ()
    kwargs: Any = {} if immutable else sig.get("kwargs") or {}
    return bool(task.parameters_left(args, kwargs) > 1)
