"""The handle of a task that ran in place: ``EagerResult``, the twin of ``AsyncResult``."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Generic, TypeVar, Unpack, cast

from amqtask.core.result import IGNORED, REJECTED, REVOKED, SUCCESS
from amqtask.errors import ResultTimeout, TaskRevokedError
from amqtask.results.base import Callback, Headers, Leaf, ResultBase
from amqtask.results.waiting import WaitOptions, callback_checked, checked, options_checked

R_co = TypeVar("R_co", covariant=True)


class EagerResult(Leaf, Generic[R_co]):
    """The outcome of ``task.apply()``: the task has run already, here.

    Args:
        id: the id the task ran under.
        ret_value: what it returned, or the exception it raised.
        state: SUCCESS, FAILURE, IGNORED or REJECTED.
        traceback: formatted, of a failure.
        name: the task's name.
        parent: what ran before it in its chain.
        children: what followed from it.
    """

    __slots__ = ("_children", "_name", "_state", "id", "parent", "result", "traceback")

    result: Any
    traceback: str | None

    TimeoutError = ResultTimeout
    """As of an ``AsyncResult``; never raised."""
    supports_native_join = False
    """As Celery asks it: nothing is waited for."""

    def __init__(
        self,
        id: str,  # noqa: A002  # Celery's name for it
        ret_value: object,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
        parent: ResultBase | None = None,
        children: Sequence[ResultBase] = (),
    ) -> None:
        self.id = id
        self._name = name
        self.parent = parent
        self._children = list(children)
        self._state = state
        self.result = ret_value
        self.traceback = traceback

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        follow_parents: bool = True,
        callback: Callback | None = None,
        **options: Unpack[WaitOptions],
    ) -> R_co:
        """What the task returned; raises what it raised unless ``propagate`` is false. Never waits."""
        return self._given(timeout, propagate, callback, options, "get")

    wait = get

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # nothing waits here
        propagate: bool = True,
        follow_parents: bool = True,
        callback: Callback | None = None,
        **options: Unpack[WaitOptions],
    ) -> R_co:
        """``get`` for coroutines."""
        return self._given(timeout, propagate, callback, options, "aget")

    def _given(
        self,
        timeout: float | None,
        propagate: bool,
        callback: Callback | None,
        options: WaitOptions,
        called: str,
    ) -> R_co:
        checked(timeout)
        if options:
            options_checked(options, called)
        value = self.outcome(propagate)
        if callback is not None:
            callback_checked(callback)
            callback(self.id, value)
        return value

    def __await__(self) -> Generator[Any, None, R_co]:
        """``await result`` is ``await result.aget()``."""
        return self.aget().__await__()

    def outcome(self, propagate: bool = True) -> R_co:
        """The same as ``get``."""
        failure = self.failure
        if failure is not None and propagate:
            raise failure
        return cast(R_co, None if self._state in (IGNORED, REJECTED) else self.result)

    @property
    def children(self) -> list[ResultBase]:
        """What followed from it: callbacks, and the rest of a chain that it was replaced by."""
        return self._children

    @property
    def state(self) -> str:
        """SUCCESS, FAILURE, or when the task raised ``Ignore`` or ``Reject``: IGNORED, REJECTED."""
        return self._state

    @property
    def entry(self) -> None:
        """Nothing is awaited."""

    @property
    def control(self) -> None:
        """There is nothing to tell the workers."""

    @property
    def meta(self) -> dict[str, Any]:
        """What is known, by Celery's names: ``task_id status result traceback children``, and its name."""
        return {**super().meta, "name": self.name}

    @property
    def failure(self) -> BaseException | None:
        """Why the task failed or counts as revoked, ``None`` when it has not."""
        if self._state in (SUCCESS, IGNORED, REJECTED):
            return None
        return cast(BaseException, self.result)

    def may_wait(self, *, blocks: bool = True) -> None:
        """Always: nothing waits."""

    @property
    def name(self) -> str | None:
        """The task's name."""
        return self._name

    def ready(self) -> bool:
        """Always true."""
        return True

    def exists(self) -> bool:
        """Always true."""
        return True

    def forget(self) -> None:
        """Does nothing: no result is stored anywhere."""

    def revoke(
        self, *, terminate: bool = False, signal: str | int = "SIGTERM", tree: bool = False
    ) -> None:
        """Have it count as revoked from now on, as in Celery: ``get`` raises ``TaskRevokedError``. The task has run all the same."""
        self._state = REVOKED
        self.result = TaskRevokedError("revoked")
        self.traceback = None

    async def arevoke(
        self, *, terminate: bool = False, signal: str | int = "SIGTERM", tree: bool = False
    ) -> None:
        """``revoke`` for coroutines."""
        self.revoke()

    def revoke_by_stamped_headers(
        self, headers: Headers, *, terminate: bool = False, signal: str | int = "SIGTERM"
    ) -> None:
        """Does nothing: the task has run."""

    async def arevoke_by_stamped_headers(
        self, headers: Headers, *, terminate: bool = False, signal: str | int = "SIGTERM"
    ) -> None:
        """Does nothing: the task has run."""

    def abort(self) -> None:
        """Does nothing: the task has run."""

    async def aabort(self) -> None:
        """Does nothing: the task has run."""
