"""What a running task may know about itself: ``self.request``.

The worker sets ``current`` around a task's run; everything else reads it, with ``running``. A context variable, so that threads,
coroutines and greenlets each see their own task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import msgspec

from amqtask.core.workflow import Sig
from amqtask.errors import Retry
from amqtask.log import set_context_provider
from amqtask.results import waiting

MOST_CHILDREN = 1000


class DeliveryInfo(msgspec.Struct, frozen=True):
    """How the message came here. Give arguments by name; only a worker's slot, where it counts, goes by their order."""

    exchange: str = ""
    routing_key: str = ""
    priority: int | None = None
    redelivered: bool = False
    queue: str | None = None

    def __getitem__(self, name: str) -> object:
        """``delivery_info["exchange"]``, as code written for Celery has it."""
        if name not in self.__struct_fields__:
            raise KeyError(name)
        value: object = getattr(self, name)
        return value

    def get(self, name: str, default: object = None) -> object:
        """``delivery_info.get("priority")``, as code written for Celery has it."""
        return getattr(self, name) if name in self.__struct_fields__ else default


class Asked(msgspec.Struct):
    """What a running task has asked for, by ``retry``, ``replace`` and ``add_to_chord``, and what it has sent: read when it ends."""

    changes: bool = False  # a return of the function is not all there is to it: look at the others
    retry: Retry | None = None  # the latest
    max_retries: int | None = None  # the latest limit given to ``retry``
    replacement: Sig | None = None  # the latest signature given to ``replace``
    # The signatures given to ``add_to_chord`` that are to be sent, with their ids, and the ids of all that was added.
    added: list[Sig] | None = None
    more: list[str] | None = None
    # The results, in Celery's tuple form, of what it has sent: the first ``MOST_CHILDREN``, since they travel with its own.
    children: list[Any] | None = None

    def add(self, sig: Sig, task_id: str, lazy: bool) -> None:
        """Note a part that the task adds to its chord; a lazy one is sent by somebody else."""
        self.more = [*(self.more or ()), task_id]
        if not lazy:
            self.added = [*(self.added or ()), sig]

    def sent(self, result: Any) -> None:
        """Note what the task has sent, by its result. Called by the app, in the task's context."""
        self.changes = True
        if self.children is None:
            self.children = []
        if len(self.children) < MOST_CHILDREN:
            self.children.append(result)


class Request(msgspec.Struct, frozen=True):
    """The message being run. Names are Celery's; times are ISO 8601 texts, ``timelimit`` is ``(hard, soft)`` in seconds.

    ``called_directly`` is true when no worker runs the task: it was called like a function. ``first_time`` is when the first
    attempt began, ``None`` in that attempt itself. ``started`` is when this one did, on the monotonic clock.
    """

    id: str | None = None
    task: str = ""
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    retries: int = 0
    eta: str | None = None
    expires: str | None = None
    timelimit: tuple[float | None, float | None] = (None, None)
    reply_to: str | None = None
    correlation_id: str | None = None
    delivery_info: DeliveryInfo = DeliveryInfo()
    hostname: str | None = None
    origin: str | None = None
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = {}
    headers: Mapping[str, object] = {}
    shadow: str | None = None
    is_eager: bool = False
    called_directly: bool = True
    ignore_result: bool = False
    first_time: str | None = None
    started: float = 0.0
    asked: Asked = msgspec.field(default_factory=Asked)
    # What it carries of its workflow, as signatures in Celery's form; ``chain`` is what follows, last first.
    callbacks: Sequence[Any] | None = None
    errbacks: Sequence[Any] | None = None
    chain: Sequence[Any] | None = None
    chord: Mapping[str, Any] | None = None
    replaced_task_nesting: int = 0
    stamped_headers: Sequence[str] | None = None
    stamps: Mapping[str, object] | None = None

    def get(self, name: str, default: object = None) -> object:
        """``request.get("group")``, as code written for Celery has it."""
        return getattr(self, name) if name in self.__struct_fields__ else default

    def is_aborted(self) -> bool:
        """Whether somebody has asked this task to stop. Any thread of the worker's process; cheap enough for every round of a loop."""
        return self.id is not None and _aborted(self.id)


def _never(_task_id: str) -> bool:
    return False


_aborted: Callable[[str], bool] = _never


def set_abort_lookup(lookup: Callable[[str], bool]) -> None:
    """Have a worker's process answer ``is_aborted``; elsewhere it is always false.

    Args:
        lookup: whether the task of an id was aborted; any thread.
    """
    global _aborted  # one per process, set at its start
    _aborted = lookup


def is_aborted() -> bool:
    """Whether somebody has asked the running task to stop; false outside a task.

    In a thread that the task started itself, keep ``request = task.request`` and ask ``request.is_aborted()``.
    """
    request = running()
    return request is not None and request.is_aborted()


DIRECT = Request()
"""What ``task.request`` is outside a worker."""


class Told(Protocol):
    """A run whose request is put together when somebody asks for it, as few tasks do."""

    @property
    def request(self) -> Request:
        """The run's."""
        ...


current: ContextVar[Request | Told | None] = ContextVar("amqtask_request", default=None)
"""The task that runs in this context, ``None`` outside a worker. Read it with ``running``."""


def running() -> Request | None:
    """What is known of the task that runs in this context; ``None`` outside a worker."""
    run = current.get()
    return run if run is None or isinstance(run, Request) else run.request


def _shown() -> Mapping[str, object]:
    """What every line logged now carries: the running task, ``{}`` outside one."""
    request = running()
    if request is None or request.id is None:
        return {}
    return {"task_id": request.id, "task_name": request.task}


set_context_provider(_shown)
waiting.use(lambda: current.get() is not None)
