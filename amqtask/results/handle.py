"""The handle of a task that was sent: ``AsyncResult``, and its twin for a task that ran in place, ``EagerResult``."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from typing import Any, Generic, TypeVar, cast

from amqtask.core.result import EXCEPTION_STATES, FAILURE, IGNORED, PENDING, REJECTED, SUCCESS
from amqtask.errors import ResultTimeout
from amqtask.results.base import Control, Headers, Leaf, ResultBase
from amqtask.results.group import arevoke_all, revoke_all
from amqtask.results.loops import running_loop
from amqtask.results.pending import Awaited
from amqtask.results.record import Known
from amqtask.results.tree import result_from_tuple
from amqtask.results.watch import arrivals

R_co = TypeVar("R_co", covariant=True)


class AsyncResult(Leaf, Generic[R_co]):
    """What becomes of one task. Any thread and any event loop may use it.

    The result arrives at the process that sent the task. A handle made elsewhere, or for an id this process never sent,
    stays ``PENDING``.

    Args:
        awaited: the entry in the table of awaited results; ``None`` when the task's result is ignored.
        task_id: the task's id.
        name: the task's name, when it is known.
        control: the app's way to the workers.
        parent: the handle of what came before it in its chain.
    """

    __slots__ = ("_awaited", "_children", "_control", "_owner", "id", "name", "parent")

    def __init__(
        self,
        awaited: Awaited | None,
        task_id: str,
        name: str | None = None,
        control: Control | None = None,
        parent: ResultBase | None = None,
    ) -> None:
        self.id = task_id
        self.name = name
        self.parent = parent
        # with the record that they were made from
        self._children: tuple[Known, list[ResultBase]] | None = None
        self._awaited = awaited
        self._control = control
        self._owner = os.getpid()

    # ------------------------------------------------------------ waiting

    def get(
        self, timeout: float | None = None, propagate: bool = True, follow_parents: bool = True
    ) -> R_co:
        """Wait for the task to end and return what it returned; ``None`` at once when its result is ignored.

        Args:
            timeout: seconds to wait; ``None`` waits for ever.
            propagate: raise the exception of a failed task; ``False`` returns it.
            follow_parents: with ``propagate``, raise as soon as something before it in its chain has failed.

        Raises:
            ResultTimeout: the time passed; the task goes on.
            RuntimeError: called where waiting would stop the wait from ending: on the I/O thread, in a thread whose event
                loop runs, or in a process forked from the one that sent the task.
            AmqtaskError: the result will not come, because the app was closed or the task could not be sent.
            Exception: what the task raised, as its own class where this process has it, else ``TaskFailed``.
        """
        awaited = self._awaited
        if awaited is None:
            return cast(R_co, None)
        self._may_block()  # always, so that the mistake does not hide while results happen to be early
        if not awaited.settled():
            self._may_live()
            if self.parent is not None and propagate and follow_parents:
                self._wait_after_parents(awaited, timeout)
            elif not awaited.wait(timeout):
                raise self._timed_out(timeout)
        return self.outcome(propagate)

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # the twin of get
        propagate: bool = True,
        follow_parents: bool = True,
    ) -> R_co:
        """``get`` for coroutines. Works in any event loop, whichever way the task was sent.

        Args:
            timeout: seconds to wait; ``None`` waits for ever.
            propagate: raise the exception of a failed task; ``False`` returns it.
            follow_parents: with ``propagate``, raise as soon as something before it in its chain has failed.

        Raises:
            ResultTimeout: the time passed; the task goes on.
            RuntimeError: in a process forked from the one that sent the task.
            AmqtaskError: the result will not come, because the app was closed or the task could not be sent.
            Exception: what the task raised.
        """
        awaited = self._awaited
        if awaited is None:
            return cast(R_co, None)
        if not awaited.settled():
            self._may_live()
            from amqtask.results import aio_wait  # asyncio is loaded where a loop runs

            if self.parent is not None and propagate and follow_parents:
                before = self.links_before()
                entries = [awaited, *(leaf.entry for leaf in before)]
                async for place in aio_wait.arrivals(entries, timeout):
                    if self._ended(place, before, timeout):
                        break
            elif not await aio_wait.wait(awaited, timeout):
                raise self._timed_out(timeout)
        return self.outcome(propagate)

    def __await__(self) -> Generator[Any, None, R_co]:
        """``await result`` is ``await result.aget()``."""
        return self.aget().__await__()

    # ------------------------------------------------------------ looking

    @property
    def task_id(self) -> str:
        """The same as ``id``."""
        return self.id

    @property
    def state(self) -> str:
        """The best known state: PENDING, STARTED, RETRY, SUCCESS, FAILURE, REVOKED or one of the task's own."""
        record = self._record()
        return PENDING if record is None else record.state

    @property
    def status(self) -> str:
        """The same as ``state``."""
        return self.state

    @property
    def result(self) -> Any:
        """The return value, the exception of a failure, or what came with a state on the way; ``None`` before that."""
        record = self._record()
        return None if record is None else record.value

    @property
    def info(self) -> Any:
        """The same as ``result``."""
        return self.result

    @property
    def traceback(self) -> str | None:
        """The formatted traceback of a failed task, as its worker saw it."""
        record = self._record()
        return None if record is None else record.traceback

    @property
    def ignored(self) -> bool:
        """Whether the task was sent without asking for its result."""
        return self._awaited is None

    def ready(self) -> bool:
        """Whether the task has ended, as far as it is known here."""
        record = self._record()
        return record is not None and record.final

    def successful(self) -> bool:
        """Whether the task has returned."""
        return self.state == SUCCESS

    def failed(self) -> bool:
        """Whether the task has raised. A revoked task has neither returned nor raised."""
        return self.state == FAILURE

    @property
    def children(self) -> list[ResultBase] | None:
        """What the task started, as its worker told; ``None`` before that. What cannot be read is left out."""
        record = self._record()
        if record is None:
            return None
        known = self._children
        if known is None or known[0] is not record:
            known = self._children = record, self._made(record.children)
        return known[1]

    @property
    def entry(self) -> Awaited | None:
        """The entry in the table of awaited results; ``None`` when the result is ignored."""
        return self._awaited

    @property
    def meta(self) -> dict[str, Any]:
        """What is known, by Celery's names: ``task_id status result traceback children``."""
        return _meta(self, self.traceback)

    @property
    def failure(self) -> BaseException | None:
        """Why the task failed or was revoked, ``None`` when it has not, as far as it is known."""
        record = self._record()
        if record is None or not record.final or record.state not in EXCEPTION_STATES:
            return None
        return cast(BaseException, record.value)

    def outcome(self, propagate: bool = True) -> R_co:
        """What ``get`` comes to, without waiting: for a task that has ended; ``None`` when the result is ignored."""
        if self._awaited is None:
            return cast(R_co, None)
        record = self._awaited.latest()
        if record is None or not record.final:
            error = self._awaited.error
            if error is None:
                raise self._timed_out(0.0)
            raise error.with_traceback(None)
        if record.state != SUCCESS and propagate:
            raise record.value.with_traceback(None)
        return cast(R_co, record.value)

    def forget(self) -> None:
        """Drop what is known of it and of what came before it. The handle is ``PENDING`` again."""
        for node in (self, *self.ancestors()):
            for leaf in node.leaves():
                if leaf.entry is not None:
                    leaf.entry.forget()

    # ------------------------------------------------------------ telling the workers

    @property
    def control(self) -> Control:
        """The way to the workers.

        Raises:
            RuntimeError: the handle belongs to no app.
        """
        if self._control is None:
            raise RuntimeError(
                f"The handle of task {self.called} belongs to no app; write app.control.revoke(id)."
            )
        return self._control

    def revoke(
        self, *, terminate: bool = False, signal: str | int = "SIGTERM", tree: bool = False
    ) -> None:
        """Have the task not run (again); return when the broker has confirmed it.

        See ``Control.revoke``. The handle learns of it from the worker that would have run the task.

        Args:
            terminate: end it if it runs.
            signal: with ``terminate``: how.
            tree: also what came before it in its chain, and what it has started as far as it is known.

        Raises:
            BrokerError: the broker did not take it.
        """
        if tree:
            revoke_all(self, tree, terminate, signal)
        else:
            self.control.revoke(self.id, terminate=terminate, signal=signal)

    async def arevoke(
        self, *, terminate: bool = False, signal: str | int = "SIGTERM", tree: bool = False
    ) -> None:
        """``revoke`` for coroutines."""
        if tree:
            await arevoke_all(self, tree, terminate, signal)
        else:
            await self.control.arevoke(self.id, terminate=terminate, signal=signal)

    def revoke_by_stamped_headers(
        self, headers: Headers, *, terminate: bool = False, signal: str | int = "SIGTERM"
    ) -> None:
        """Have no task with one of these stamps run (again), this one or others; see ``Control``."""
        self.control.revoke_by_stamped_headers(headers, terminate=terminate, signal=signal)

    async def arevoke_by_stamped_headers(
        self, headers: Headers, *, terminate: bool = False, signal: str | int = "SIGTERM"
    ) -> None:
        """``revoke_by_stamped_headers`` for coroutines."""
        await self.control.arevoke_by_stamped_headers(headers, terminate=terminate, signal=signal)

    def abort(self) -> None:
        """Ask the task to stop by itself: ``is_aborted()`` is true in it; return when the broker has confirmed that.

        Raises:
            BrokerError: the broker did not take it.
        """
        self.control.abort(self.id)

    async def aabort(self) -> None:
        """``abort`` for coroutines."""
        await self.control.aabort(self.id)

    def __repr__(self) -> str:
        return f"<AsyncResult: {self.id}>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        return _same(self, other)

    def __hash__(self) -> int:
        return hash(self.id)

    def __copy__(self) -> AsyncResult[R_co]:
        return type(self)(self._awaited, self.id, self.name, self._control, self.parent)

    # ------------------------------------------------------------ inside

    def _record(self) -> Known | None:
        return None if self._awaited is None else self._awaited.latest()

    def _made(self, forms: Sequence[object]) -> list[ResultBase]:
        made: list[ResultBase] = []
        for form in forms:
            try:
                made.append(result_from_tuple(form, _Relatives(self)))
            except (ValueError, RecursionError):
                pass  # whatever sent it; a handle is made of what can be read
        return made

    def _wait_after_parents(self, awaited: Awaited, timeout: float | None) -> None:
        before = self.links_before()
        for place in arrivals([awaited, *(leaf.entry for leaf in before)], timeout):
            if self._ended(place, before, timeout):
                return

    def _ended(self, place: int | None, before: Sequence[Leaf], timeout: float | None) -> bool:
        """Whether what has settled is the task itself; raises when the time has passed, or something before it failed."""
        if place is None:
            raise self._timed_out(timeout)
        if place == 0:
            return True
        failure = before[place - 1].failure
        if failure is not None:
            raise failure.with_traceback(None)
        return False

    def may_wait(self, *, blocks: bool = True) -> None:
        """Look whether waiting can end.

        Args:
            blocks: whether the thread waits; a coroutine does not block it.

        Raises:
            RuntimeError: in an event loop or on the I/O thread, where the thread must not wait, or in a fork.
        """
        if blocks:
            self._may_block()
        if self._awaited is not None and not self._awaited.settled():
            self._may_live()

    def _may_block(self) -> None:
        if self._awaited is not None and self._awaited.in_feeder:
            raise RuntimeError(
                "get() on the thread that receives results would wait for ever; call it in a thread of your own."
            )
        if running_loop() is not None:
            raise RuntimeError(
                "get() would stop the running event loop; write: await result.aget()"
            )

    def _may_live(self) -> None:
        if os.getpid() != self._owner:
            raise RuntimeError(
                f"The result of task {self.called} arrives at the process that sent it ({self._owner}), "
                f"not at this fork of it ({os.getpid()}); get it there."
            )

    def _timed_out(self, timeout: float | None) -> ResultTimeout:
        known = f"its last known state is {self.state}"
        # what the chain waits for: the first that has not ended
        before = (leaf for each in self.ancestors() for leaf in each.leaves())
        late = [leaf for leaf in before if leaf.entry is not None and not leaf.ready()]
        if late:
            known += f"; before it, task {late[-1].called} is {late[-1].state}"
        return ResultTimeout(f"No result of task {self.called} within {timeout:g} s; {known}.")


class _Relatives:
    """Makes the handles of what a task started: they belong to the same table and app."""

    __slots__ = ("_of",)

    def __init__(self, of: AsyncResult[Any]) -> None:
        self._of = of

    def AsyncResult(self, task_id: str, *, parent: ResultBase | None = None) -> AsyncResult[Any]:  # noqa: N802  # as of an app
        of = self._of
        entry = None if of.entry is None else of.entry.sibling(task_id)
        return AsyncResult(entry, task_id, None, of._control, parent)  # noqa: SLF001  # made for it


class EagerResult(Leaf, Generic[R_co]):
    """The outcome of ``task.apply()``: the task has run already, here.

    Args:
        task_id: the id the task ran under.
        name: the task's name.
        state: SUCCESS, FAILURE, IGNORED or REJECTED.
        value: what it returned, or the exception it raised.
        traceback: formatted, of a failure.
        parent: what ran before it in its chain.
        children: what followed from it.
    """

    __slots__ = ("_children", "_state", "id", "name", "parent", "result", "traceback")

    def __init__(
        self,
        task_id: str,
        name: str | None,
        state: str,
        value: object,
        traceback: str | None = None,
        parent: ResultBase | None = None,
        children: Sequence[ResultBase] = (),
    ) -> None:
        self.id = task_id
        self.name = name
        self.parent = parent
        self._children = list(children)
        self._state = state
        self.result: Any = value
        self.traceback = traceback

    def get(
        self, timeout: float | None = None, propagate: bool = True, follow_parents: bool = True
    ) -> R_co:
        """What the task returned; raises what it raised unless ``propagate`` is false. Never waits."""
        return self.outcome(propagate)

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # nothing waits here
        propagate: bool = True,
        follow_parents: bool = True,
    ) -> R_co:
        """``get`` for coroutines."""
        return self.outcome(propagate)

    def __await__(self) -> Generator[Any, None, R_co]:
        """``await result`` is ``await result.aget()``."""
        return self.aget().__await__()

    def outcome(self, propagate: bool = True) -> R_co:
        """The same as ``get``."""
        if self.failed() and propagate:
            raise self.result
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
        """What is known, by Celery's names: ``task_id status result traceback children``."""
        return _meta(self, self.traceback)

    @property
    def failure(self) -> BaseException | None:
        """Why the task failed, ``None`` when it has not."""
        return cast(BaseException, self.result) if self.failed() else None

    def may_wait(self, *, blocks: bool = True) -> None:
        """Always: nothing waits."""

    @property
    def task_id(self) -> str:
        """The same as ``id``."""
        return self.id

    @property
    def status(self) -> str:
        """The same as ``state``."""
        return self.state

    @property
    def info(self) -> Any:
        """The same as ``result``."""
        return self.result

    def ready(self) -> bool:
        """Always true."""
        return True

    def successful(self) -> bool:
        """Whether the task returned."""
        return self.state == SUCCESS

    def failed(self) -> bool:
        """Whether the task raised."""
        return self._state not in (SUCCESS, IGNORED, REJECTED)

    def forget(self) -> None:
        """Does nothing: no result is stored anywhere."""

    def revoke(
        self, *, terminate: bool = False, signal: str | int = "SIGTERM", tree: bool = False
    ) -> None:
        """Does nothing: the task has run."""

    async def arevoke(
        self, *, terminate: bool = False, signal: str | int = "SIGTERM", tree: bool = False
    ) -> None:
        """Does nothing: the task has run."""

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

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        return _same(self, other)

    def __hash__(self) -> int:
        return hash(self.id)


def _same(handle: Leaf, other: object) -> bool:
    """Handles are equal by their ids, and equal to those."""
    if isinstance(other, Leaf):
        return handle.id == other.id
    return handle.id == other if isinstance(other, str) else NotImplemented


def _meta(handle: AsyncResult[Any] | EagerResult[Any], traceback: str | None) -> dict[str, Any]:
    return {
        "task_id": handle.id,
        "status": handle.state,
        "result": handle.result,
        "traceback": traceback,
        "children": handle.children or [],
    }
