"""The handle of a task that was sent: ``AsyncResult``."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar, Unpack, cast

from amqtask.core.result import EXCEPTION_STATES, PENDING, SUCCESS
from amqtask.errors import ResultError, ResultTimeout
from amqtask.results.base import Callback, Control, Handles, Headers, Leaf, ResultBase
from amqtask.results.loops import running_loop
from amqtask.results.pending import Awaited
from amqtask.results.record import Known
from amqtask.results.revoking import arevoke_all, revoke_all
from amqtask.results.tree import result_from_tuple
from amqtask.results.waiting import (
    NOBODY,
    Doubts,
    Interval,
    Listener,
    WaitOptions,
    callback_checked,
    checked,
    doubt,
    listening,
)
from amqtask.results.watch import arrivals

R_co = TypeVar("R_co", covariant=True)

TOLD: Final = (
    "date_done", "name", "args", "kwargs", "worker", "retries", "queue", "group_id", "parent_id",
)  # fmt: skip
"""What a worker tells of a task beside its state and result, by Celery's names; from ``name`` to ``queue`` with ``result_extended``."""


class AsyncResult(Leaf, Generic[R_co]):
    """What becomes of one task. Any thread and any event loop may use it.

    The result arrives at the process that sent the task. A handle made elsewhere, or for an id this process never sent,
    stays ``PENDING``.

    Attributes:
        id: the task's id.
        parent: the handle of what came before it in its chain.

    Args:
        id: the task's id.
        app: the app that sent it.
        parent: the handle of what came before it in its chain.

    Raises:
        RuntimeError: no app was given, and there is no current one.
        ValueError: this is no id.
    """

    __slots__ = ("_awaited", "_children", "_control", "_name", "_owner", "id", "parent")

    TimeoutError = ResultTimeout
    """What ``get`` raises when the time has passed."""
    supports_native_join = True
    """As Celery asks it: results are waited for together."""

    def __init__(
        self,
        id: str,  # noqa: A002  # Celery's name for it
        *,
        app: Handles[AsyncResult[Any]] | None = None,
        parent: ResultBase | None = None,
    ) -> None:
        if app is None:
            raise RuntimeError(
                "A result belongs to an app, and there is no current one: write app.AsyncResult(id), or AsyncResult(id, app=app)."
            )
        made = app.AsyncResult(id, parent=parent)
        for slot in AsyncResult.__slots__:
            setattr(self, slot, getattr(made, slot))

    @classmethod
    def of(
        cls,
        awaited: Awaited | None,
        task_id: str,
        name: str | None = None,
        control: Control | None = None,
        parent: ResultBase | None = None,
    ) -> AsyncResult[Any]:
        """The handle of a task that an app has sent. Made by apps.

        Args:
            awaited: the entry in the table of awaited results; ``None`` when the task's result is ignored.
            task_id: the task's id.
            name: the task's name, when it is known.
            control: the app's way to the workers.
            parent: the handle of what came before it in its chain.
        """
        made = cls.__new__(cls)
        made._fill(awaited, task_id, name, control, parent)  # noqa: SLF001  # a constructor
        return made

    def _fill(
        self,
        awaited: Awaited | None,
        task_id: str,
        name: str | None,
        control: Control | None,
        parent: ResultBase | None,
    ) -> None:
        self.id = task_id
        self.parent = parent
        # with the record that they were made from
        self._children: tuple[Known, list[ResultBase]] | None = None
        self._awaited = awaited
        self._name = name
        self._control = control
        self._owner = os.getpid()

    # ------------------------------------------------------------ waiting

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        follow_parents: bool = True,
        callback: Callback | None = None,
        **options: Unpack[WaitOptions],
    ) -> R_co:
        """Wait for the task to end and return what it returned; ``None`` at once when its result is ignored.

        Args:
            timeout: seconds to wait; ``None`` waits for ever, and 0 only looks.
            propagate: raise the exception of a failed task; ``False`` returns it.
            follow_parents: with ``propagate``, raise as soon as something before it in its chain has failed.
            callback: called with the id and the value, when there is one to return.
            options: see ``WaitOptions``.

        Raises:
            ResultTimeout: the time passed; the task goes on.
            RuntimeError: called where waiting would stop the wait from ending: on the I/O thread, in a thread whose event
                loop runs, or in a process forked from the one that sent the task.
            ResultError: this process has asked for no result, so that none can come.
            AmqtaskError: the result will not come, because the app was closed or the task could not be sent.
            Exception: what the task raised, as its own class where this process has it, else ``TaskFailed``.
        """
        listener = self._asked_for(timeout, callback, options, "get")
        awaited = self._awaited
        if awaited is None:
            return cast(R_co, None)
        self._may_block()  # always, so that the mistake does not hide while results happen to be early
        if not awaited.settled():
            self._may_live()
            before = self._followed(propagate and follow_parents)
            if before or listener is not None:
                entries = [awaited, *(leaf.entry for leaf in before)]
                for place in arrivals(entries, timeout, listener or NOBODY):
                    if self._ended(place, before, timeout):
                        break
            elif not awaited.wait(timeout):
                raise self._timed_out(timeout)
        return self._given(propagate, callback)

    wait = get

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # the twin of get
        propagate: bool = True,
        follow_parents: bool = True,
        callback: Callback | None = None,
        **options: Unpack[WaitOptions],
    ) -> R_co:
        """``get`` for coroutines. Works in any event loop, whichever way the task was sent. Cancelling it leaves nothing behind.

        Args:
            timeout: seconds to wait; ``None`` waits for ever, and 0 only looks.
            propagate: raise the exception of a failed task; ``False`` returns it.
            follow_parents: with ``propagate``, raise as soon as something before it in its chain has failed.
            callback: called with the id and the value, when there is one to return.
            options: see ``WaitOptions``.

        Raises:
            ResultTimeout: the time passed; the task goes on.
            RuntimeError: in a process forked from the one that sent the task.
            ResultError: this process has asked for no result, so that none can come.
            AmqtaskError: the result will not come, because the app was closed or the task could not be sent.
            Exception: what the task raised.
        """
        listener = self._asked_for(timeout, callback, options, "aget")
        awaited = self._awaited
        if awaited is None:
            return cast(R_co, None)
        if not awaited.settled():
            self._may_live()
            from amqtask.results import aio_wait  # asyncio is loaded where a loop runs

            before = self._followed(propagate and follow_parents)
            if before or listener is not None:
                entries = [awaited, *(leaf.entry for leaf in before)]
                async with aclosing(
                    aio_wait.arrivals(entries, timeout, listener or NOBODY)
                ) as places:
                    async for place in places:
                        if self._ended(place, before, timeout):
                            break
            elif not await aio_wait.wait(awaited, timeout):
                raise self._timed_out(timeout)
        return self._given(propagate, callback)

    def __await__(self) -> Generator[Any, None, R_co]:
        """``await result`` is ``await result.aget()``."""
        return self.aget().__await__()

    # ------------------------------------------------------------ looking

    @property
    def name(self) -> str | None:
        """The task's name, when it is known: to who sent it, or from its worker with ``result_extended``."""
        return self._name or self._told("name")

    @property
    def state(self) -> str:
        """The best known state: PENDING, STARTED, RETRY, SUCCESS, FAILURE, REVOKED or one of the task's own."""
        record = self._record()
        return PENDING if record is None else record.state

    @property
    def result(self) -> Any:
        """The return value, the exception of a failure, or what came with a state on the way; ``None`` before that."""
        record = self._record()
        return None if record is None else record.value

    @property
    def traceback(self) -> str | None:
        """The formatted traceback of a failed task, as its worker saw it."""
        record = self._record()
        return None if record is None else record.traceback

    @property
    def date_done(self) -> datetime | None:
        """When the task ended, in UTC; ``None`` before that."""
        return done_at(self._told("date_done"))

    @property
    def args(self) -> Any:
        """The positional arguments, when its worker told: the setting ``result_extended``."""
        return self._told("args")

    @property
    def kwargs(self) -> Any:
        """The keyword arguments, as ``args``."""
        return self._told("kwargs")

    @property
    def worker(self) -> str | None:
        """The node that ran the task, as ``args``; also while it runs with ``task_track_started``."""
        return cast("str | None", self._told("worker"))

    @property
    def retries(self) -> int | None:
        """How often it had been retried before, as ``args``."""
        return cast("int | None", self._told("retries"))

    @property
    def queue(self) -> str | None:
        """The queue it came from, as ``args``."""
        return cast("str | None", self._told("queue"))

    def exists(self) -> bool:
        """Whether anything is known of it here: its end, or a state on the way."""
        return self._record() is not None

    @property
    def ignored(self) -> bool:
        """Whether the task was sent without asking for its result."""
        return self._awaited is None

    def ready(self) -> bool:
        """Whether the task has ended, as far as it is known here."""
        record = self._record()
        return record is not None and record.final

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
        """What is known, by Celery's names: ``task_id status result traceback children``, and what else its worker told."""
        meta = super().meta
        for name in TOLD:
            value = self._told(name)
            if value is not None:
                meta[name] = value
        return meta

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

    def __copy__(self) -> AsyncResult[R_co]:
        return self.of(self._awaited, self.id, self._name, self._control, self.parent)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            f"The handle of task {self.called} belongs to this process and cannot be pickled: pass its id on, or as_tuple(), "
            "of which app.AsyncResult(id) and result_from_tuple(form, app) make handles."
        )

    # ------------------------------------------------------------ inside

    def _record(self) -> Known | None:
        return None if self._awaited is None else self._awaited.latest()

    def _told(self, name: str) -> Any:
        known = self._record()
        return None if known is None or known.record is None else getattr(known.record, name)

    def _asked_for(
        self,
        timeout: float | None,
        callback: Callback | None,
        options: WaitOptions,
        called: str,
    ) -> Listener | None:
        """Who is to be called while this is waited for.

        Raises:
            TypeError, ValueError: what was asked for makes no sense.
            RuntimeError: as ``listening``.
        """
        if timeout is not None:
            checked(timeout)
        if callback is not None:
            callback_checked(callback)
        doubts: Interval | None = None
        if timeout is None and self._awaited is not None and not self._awaited.expected:
            doubts = Doubts(f"task {self.called}")
        if not options and doubts is None:
            return None
        return listening(options, called, self._known, doubts)

    def _known(self, place: int) -> dict[str, Any] | None:
        """What is to be told when the entry in this place has changed: nothing of what came before."""
        return self.meta if not place and self._record() is not None else None

    def _followed(self, follow: bool) -> list[Leaf]:
        return self.links_before() if follow and self.parent is not None else []

    def _given(self, propagate: bool, callback: Callback | None) -> R_co:
        value = self.outcome(propagate)
        if callback is not None:
            callback(self.id, value)
        return value

    def _made(self, forms: Sequence[object]) -> list[ResultBase]:
        made: list[ResultBase] = []
        for form in forms:
            try:
                made.append(result_from_tuple(form, _Relatives(self)))
            except (ValueError, RecursionError):
                pass  # whatever sent it; a handle is made of what can be read
        return made

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
        if self._awaited is not None and self._awaited.vain:
            raise ResultError(
                f"No result of task {self.called} will come: {doubt('it')}; this one has asked for none."
            )

    def _timed_out(self, timeout: float | None) -> ResultTimeout:
        known = f"its last known state is {self.state}"
        # what the chain waits for: the first that has not ended
        before = (leaf for each in self.ancestors() for leaf in each.leaves())
        late = [leaf for leaf in before if leaf.entry is not None and not leaf.ready()]
        if late:
            known += f"; before it, task {late[-1].called} is {late[-1].state}"
        if self._awaited is not None and not self._awaited.expected:
            known += f"; {doubt('it')}"
        return ResultTimeout(f"No result of task {self.called} within {timeout:g} s; {known}.")


class _Relatives:
    """Makes the handles of what a task started: they belong to the same table and app."""

    __slots__ = ("_of",)

    def __init__(self, of: AsyncResult[Any]) -> None:
        self._of = of

    def AsyncResult(self, task_id: str, *, parent: ResultBase | None = None) -> AsyncResult[Any]:  # noqa: N802  # as of an app
        of = self._of
        entry = None if of.entry is None else of.entry.sibling(task_id)
        return AsyncResult.of(entry, task_id, None, of._control, parent)  # noqa: SLF001  # made for it


def done_at(text: str | None) -> datetime | None:
    """A moment as workers tell it; ``None`` for what cannot be read."""
    try:
        moment = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment is not None and moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)  # Celery with enable_utc
    return moment
