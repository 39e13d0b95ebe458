"""Signatures and a stand-in for ``launch``, for tests of what follows from an end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amqtask.call import Call
from amqtask.canvas.continuation import (
    Continuation,
    Ended,
    Started,
)


def sig(task: str, kind: str | None = None, **options: Any) -> dict[str, Any]:
    kwargs = {name: options.pop(name) for name in ("tasks", "header", "body") if name in options}
    return {
        "task": task,
        "args": [],
        "kwargs": kwargs,
        "options": options,
        "subtask_type": kind,
        "immutable": options.pop("immutable", False),
    }


def stub(barrier: str | None, size: int = 2) -> dict[str, Any]:
    options = {"task_id": "body"} if barrier is None else {"task_id": "body", "barrier": barrier}
    return {**sig("body"), "options": options, "chord_size": size}


class Launcher:
    """Stands where ``launch`` stands: keeps what it is asked to start."""

    def __init__(self, *, refuses: str = "") -> None:
        self.asked: list[tuple[str, tuple[object, ...], dict[str, object]]] = []
        self.ids: list[str] = []
        self._refuses = refuses

    def __call__(
        self,
        sig: Mapping[str, Any],
        args: Sequence[object],
        options: Mapping[str, object],
        *,
        root_id: str,
        parent_id: str | None,
        reply_to: str | None,
        ids: Callable[[], str],
    ) -> Started:
        if sig["task"] == self._refuses:
            raise ValueError("not this one")
        self.asked.append((sig["task"], tuple(args), dict(options)))
        self.ids.append(f"{root_id}<{parent_id}>{reply_to}")
        task_id = ids()
        return Started((), (Call(id=task_id, task=sig["task"]),), ((task_id, None), None))


def after(**fields: Any) -> Continuation:
    return Continuation(id="me", task="t", root_id="root", reply_to="replies", **fields)


FAILED = Ended(
    "FAILURE", {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}
)
