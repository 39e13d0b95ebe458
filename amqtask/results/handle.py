"""The handle of a task that was sent: ``AsyncResult``, and its twin for a task that ran in place, ``EagerResult``."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any, Generic, Protocol, TypeVar, cast

from amqtask.core.result import FAILURE, PENDING, SUCCESS
from amqtask.errors import ResultTimeout
from amqtask.results.loops import running_loop
from amqtask.results.pending import Awaited
from amqtask.results.record import Known

R_co = TypeVar("R_co", covariant=True)


class Control(Protocol):
    """What a handle needs of its app to tell the workers about its task."""

    def revoke(self, task_id: str, *, terminate: bool = ..., signal: str | int = ...) -> None:
        """Have the task not run."""
        ...

    async def arevoke(
        self, task_id: str, *, terminate: bool = ..., signal: str | int = ...
    ) -> None:
        """``revoke`` for coroutines."""
        ...

    def abort(self, task_id: str) -> None:
        """Ask the task to stop."""
        ...

    async def aabort(self, task_id: str) -> None:
        """``abort`` for coroutines."""
        ...


class AsyncResult(Generic[R_co]):
    """What becomes of one task. Any thread and any event loop may use it.

    The result arrives at the process that sent the task. A handle made elsewhere, or for an id this process never sent,
    stays ``PENDING``.

    Args:
        awaited: the entry in the table of awaited results; ``None`` when the task's result is ignored.
        task_id: the task's id.
        name: the task's name, when it is known.
        control: the app's way to the workers.
    """

    __slots__ = ("_awaited", "_control", "_owner", "id", "name")

    def __init__(
        self,
        awaited: Awaited | None,
        task_id: str,
        name: str | None = None,
        control: Control | None = None,
    ) -> None:
        self.id = task_id
        self.name = name
        self._awaited = awaited
        self._control = control
        self._owner = os.getpid()

    # ------------------------------------------------------------ waiting

    def get(self, timeout: float | None = None, propagate: bool = True) -> R_co:
        """Wait for the task to end and return what it returned; ``None`` at once when its result is ignored.

        Args:
            timeout: seconds to wait; ``None`` waits for ever.
            propagate: raise the exception of a failed task; ``False`` returns it.

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
            if not awaited.wait(timeout):
                raise self._timed_out(timeout)
        return self._outcome(propagate)

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> R_co:  # noqa: ASYNC109  # the twin of get
        """``get`` for coroutines. Works in any event loop, whichever way the task was sent.

        Args:
            timeout: seconds to wait; ``None`` waits for ever.
            propagate: raise the exception of a failed task; ``False`` returns it.

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
            from amqtask.results.aio_wait import (
                wait,
            )  # asyncio is loaded where a loop runs, not with amqtask

            if not await wait(awaited, timeout):
                raise self._timed_out(timeout)
        return self._outcome(propagate)

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

    def forget(self) -> None:
        """Drop the stored result. The handle is ``PENDING`` again."""
        if self._awaited is not None:
            self._awaited.forget()

    # ------------------------------------------------------------ telling the workers

    def revoke(self, *, terminate: bool = False, signal: str | int = "SIGTERM") -> None:
        """Have the task not run (again); return when the broker has confirmed it.

        See ``Control.revoke``. The handle learns of it from the worker that would have run the task.

        Args:
            terminate: end it if it runs.
            signal: with ``terminate``: how.

        Raises:
            BrokerError: the broker did not take it.
        """
        self._controlled().revoke(self.id, terminate=terminate, signal=signal)

    async def arevoke(self, *, terminate: bool = False, signal: str | int = "SIGTERM") -> None:
        """``revoke`` for coroutines."""
        await self._controlled().arevoke(self.id, terminate=terminate, signal=signal)

    def abort(self) -> None:
        """Ask the task to stop by itself: ``is_aborted()`` is true in it; return when the broker has confirmed that.

        Raises:
            BrokerError: the broker did not take it.
        """
        self._controlled().abort(self.id)

    async def aabort(self) -> None:
        """``abort`` for coroutines."""
        await self._controlled().aabort(self.id)

    def __repr__(self) -> str:
        return f"<AsyncResult: {self.id}>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return self.id == other.id
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __copy__(self) -> AsyncResult[R_co]:
        return type(self)(self._awaited, self.id, self.name, self._control)

    # ------------------------------------------------------------ inside

    def _controlled(self) -> Control:
        if self._control is None:
            raise RuntimeError(
                f"The handle of task {self._called} belongs to no app; write app.control.revoke(id)."
            )
        return self._control

    def _record(self) -> Known | None:
        return None if self._awaited is None else self._awaited.latest()

    def _outcome(self, propagate: bool) -> R_co:
        assert self._awaited is not None
        record = self._awaited.latest()
        if record is None or not record.final:
            error = self._awaited.error
            assert error is not None
            raise error.with_traceback(None)
        if record.state != SUCCESS and propagate:
            raise record.value.with_traceback(None)
        return cast(R_co, record.value)

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
                f"The result of task {self._called} arrives at the process that sent it ({self._owner}), "
                f"not at this fork of it ({os.getpid()}); get it there."
            )

    @property
    def _called(self) -> str:
        return f"{self.name}[{self.id}]" if self.name else self.id

    def _timed_out(self, timeout: float | None) -> ResultTimeout:
        return ResultTimeout(
            f"No result of task {self._called} within {timeout:g} s; its last known state is {self.state}."
        )


class EagerResult(Generic[R_co]):
    """The outcome of ``task.apply()``: the task has run already, here.

    Args:
        task_id: the id the task ran under.
        name: the task's name.
        state: SUCCESS or FAILURE.
        value: what it returned, or the exception it raised.
        traceback: formatted, of a failure.
    """

    __slots__ = ("id", "name", "result", "state", "traceback")

    def __init__(
        self, task_id: str, name: str, state: str, value: object, traceback: str | None = None
    ) -> None:
        self.id = task_id
        self.name = name
        self.state = state
        self.result: Any = value
        self.traceback = traceback

    def get(self, timeout: float | None = None, propagate: bool = True) -> R_co:
        """What the task returned; raises what it raised unless ``propagate`` is false. Never waits."""
        if self.state != SUCCESS and propagate:
            raise self.result
        return cast(R_co, self.result)

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> R_co:  # noqa: ASYNC109  # nothing waits here
        """``get`` for coroutines."""
        return self.get(timeout, propagate)

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
        return self.state != SUCCESS

    def forget(self) -> None:
        """Does nothing: no result is stored anywhere."""

    def revoke(self, *, terminate: bool = False, signal: str | int = "SIGTERM") -> None:
        """Does nothing: the task has run."""

    async def arevoke(self, *, terminate: bool = False, signal: str | int = "SIGTERM") -> None:
        """Does nothing: the task has run."""

    def abort(self) -> None:
        """Does nothing: the task has run."""

    async def aabort(self) -> None:
        """Does nothing: the task has run."""

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"
