"""Handles of several tasks together: ``ResultSet``.

It waits for all its members at once, woken as results arrive, and never polls: what ten thousand members cost is ten thousand
looks.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from contextlib import aclosing
from typing import Any, Unpack

from amqtask.core.result import safe_repr
from amqtask.errors import ResultTimeout
from amqtask.results.base import (
    Callback,
    Control,
    Headers,
    Leaf,
    ResultBase,
    Several,
    form_of,
    ids_of,
)
from amqtask.results.gathering import Gathering
from amqtask.results.revoking import arevoke_all, revoke_all
from amqtask.results.waiting import WaitOptions, callback_checked, checked
from amqtask.results.watch import arrivals


class ResultSet(Several):
    """Handles, waited for together. Any thread and any event loop may use it; one at a time may change it.

    Args:
        results: the members: ``AsyncResult``, ``EagerResult``, ``GroupResult``.
        parent: the handle of what came before them in a chain.

    Raises:
        TypeError: something else is among them.
    """

    __slots__ = ("id", "parent", "results")

    TimeoutError = ResultTimeout
    """What ``get`` raises when the time has passed."""
    supports_native_join = True
    """As Celery asks it: all members are waited for together."""

    def __init__(self, results: Iterable[ResultBase], parent: ResultBase | None = None) -> None:
        self.id: str | None = None
        self.results = _members(results)
        if parent is not None:
            _member(parent, "What came before")
        self.parent = parent

    # ------------------------------------------------------------ members

    def add(self, result: ResultBase) -> None:
        """Add a member; nothing when it is one already."""
        _member(result)
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: ResultBase | str) -> None:
        """Take a member out, by its handle or its id.

        Raises:
            KeyError: it is none.
        """
        for index, member in enumerate(self.results):
            if member == result or member.id == result:
                del self.results[index]
                return
        raise KeyError(result)

    def discard(self, result: ResultBase | str) -> None:
        """``remove``, and nothing when it is no member."""
        try:
            self.remove(result)
        except KeyError:
            pass

    def update(self, results: Iterable[ResultBase]) -> None:
        """Add several."""
        known = {member.id for member in self.results}
        for result in _members(results):
            task_id = result.id
            if task_id is None:
                self.add(result)
            elif task_id not in known:
                known.add(task_id)
                self.results.append(result)

    def clear(self) -> None:
        """Take all members out."""
        self.results.clear()

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[ResultBase]:
        return iter(self.results)

    def __getitem__(self, index: int) -> ResultBase:
        return self.results[index]

    @property
    def children(self) -> list[ResultBase]:
        """The members."""
        return self.results

    def leaves(self) -> Iterator[Leaf]:
        """The handles of all tasks, those in groups inside too, in order."""
        for member in self.results:
            yield from member.leaves()

    # ------------------------------------------------------------ waiting

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        callback: Callback | None = None,
        **options: Unpack[WaitOptions],
    ) -> list[Any]:
        """Wait for all members and return their values in order; a group inside gives a list.

        Args:
            timeout: seconds to wait for all; ``None`` waits for ever.
            propagate: raise as soon as a member, or what came before them in the chain, has failed; ``False`` puts the
                exception in its place.
            callback: called with the id and the value of each member as they end; the values are then not returned.
            options: see ``WaitOptions``; ``on_message`` is called for every task.

        Raises:
            ResultTimeout: the time passed; the tasks go on.
            RuntimeError, ResultError: as ``AsyncResult.get``.
            Exception: what the first failed member raised.
        """
        gathering = self._gathering(timeout, propagate, callback, options, "get")
        for place in arrivals(gathering.entries, timeout, gathering.listener):
            if place is None:
                raise gathering.timed_out(timeout)
            for member in gathering.arrived(place):
                if callback is not None:
                    callback(member.id, member.outcome(propagate))
            if gathering.done:
                break
        return [] if callback is not None else self.outcome(propagate)

    join_native = get

    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # the twin of get
        propagate: bool = True,
        callback: Callback | None = None,
        **options: Unpack[WaitOptions],
    ) -> list[Any]:
        """``get`` for coroutines. Cancelling it leaves nothing behind."""
        from amqtask.results import aio_wait  # asyncio is loaded where a loop runs

        gathering = self._gathering(timeout, propagate, callback, options, "aget", blocks=False)
        async with aclosing(
            aio_wait.arrivals(gathering.entries, timeout, gathering.listener)
        ) as places:
            async for place in places:
                if place is None:
                    raise gathering.timed_out(timeout)
                for member in gathering.arrived(place):
                    if callback is not None:
                        callback(member.id, member.outcome(propagate))
                if gathering.done:
                    break
        return [] if callback is not None else self.outcome(propagate)

    ajoin_native = aget

    def __await__(self) -> Generator[Any, None, list[Any]]:
        """``await results`` is ``await results.aget()``."""
        return self.aget().__await__()

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        callback: Callback | None = None,
        **options: Unpack[WaitOptions],
    ) -> list[Any]:
        """``get`` that looks at one member after the other: a failure is raised when all before it have ended.

        Args:
            timeout: as in ``get``.
            propagate: as in ``get``.
            callback: as in ``get``, in order.
            options: as in ``get``.
        """
        self._gathering(
            timeout, propagate, callback, options, "join"
        )  # what is wrong is said first
        deadline = None if timeout is None else time.monotonic() + timeout
        values = []
        for member in self.results:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            value = member.get(left, propagate, **options)
            if callback is None:
                values.append(value)
            else:
                callback(member.id, value)
        return values

    async def ajoin(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # the twin of join
        propagate: bool = True,
        callback: Callback | None = None,
        **options: Unpack[WaitOptions],
    ) -> list[Any]:
        """``join`` for coroutines."""
        self._gathering(timeout, propagate, callback, options, "ajoin", blocks=False)
        deadline = None if timeout is None else time.monotonic() + timeout
        values = []
        for member in self.results:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            value = await member.aget(left, propagate, **options)
            if callback is None:
                values.append(value)
            else:
                callback(member.id, value)
        return values

    def as_completed(
        self, timeout: float | None = None, **options: Unpack[WaitOptions]
    ) -> Iterator[ResultBase]:
        """The members as they end, failed or not.

        Args:
            timeout: seconds to wait for all.
            options: as in ``get``.

        Raises:
            ResultTimeout: the time passed.
        """
        gathering = self._gathering(timeout, False, None, options, "as_completed")
        yield from gathering.empty
        for place in arrivals(gathering.entries, timeout, gathering.listener):
            if place is None:
                raise gathering.timed_out(timeout)
            yield from gathering.arrived(place)

    async def aas_completed(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # the twin of as_completed
        **options: Unpack[WaitOptions],
    ) -> AsyncGenerator[ResultBase]:
        """``as_completed`` for coroutines."""
        from amqtask.results import aio_wait

        gathering = self._gathering(timeout, False, None, options, "aas_completed", blocks=False)
        for member in gathering.empty:
            yield member
        async with aclosing(
            aio_wait.arrivals(gathering.entries, timeout, gathering.listener)
        ) as places:
            async for place in places:
                if place is None:
                    raise gathering.timed_out(timeout)
                for member in gathering.arrived(place):
                    yield member

    def iterate(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        **options: Unpack[WaitOptions],
    ) -> Iterator[Any]:
        """The values as they come.

        Args:
            timeout: seconds to wait for all.
            propagate: raise what a member raised; ``False`` gives the exception.
            options: as in ``get``.
        """
        for member in self.as_completed(timeout, **options):
            yield member.outcome(propagate)

    async def aiterate(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # the twin of iterate
        propagate: bool = True,
        **options: Unpack[WaitOptions],
    ) -> AsyncGenerator[Any]:
        """``iterate`` for coroutines."""
        async with aclosing(self.aas_completed(timeout, **options)) as members:
            async for member in members:
                yield member.outcome(propagate)

    def __aiter__(self) -> AsyncIterator[Any]:
        """``async for value in results`` is ``aiterate``."""
        return self.aiterate()

    def iter_native(
        self, timeout: float | None = None, **options: Unpack[WaitOptions]
    ) -> Iterator[tuple[str | None, Any]]:
        """The members as they end, as Celery's backends give them: id and what is known of it by name; of a group, its members.

        Args:
            timeout: seconds to wait for all.
            options: as in ``get``.
        """
        for member in self.as_completed(timeout, **options):
            yield _native(member)

    async def aiter_native(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # the twin of iter_native
        **options: Unpack[WaitOptions],
    ) -> AsyncGenerator[tuple[str | None, Any]]:
        """``iter_native`` for coroutines."""
        async with aclosing(self.aas_completed(timeout, **options)) as members:
            async for member in members:
                yield _native(member)

    def outcome(self, propagate: bool = True) -> list[Any]:
        """The values in order, without waiting: for members that have ended."""
        return [member.outcome(propagate) for member in self.results]

    # ------------------------------------------------------------ looking

    def ready(self) -> bool:
        """Whether all have ended."""
        return all(member.ready() for member in self.results)

    def waiting(self) -> bool:
        """Whether any has not ended."""
        return not self.ready()

    def successful(self) -> bool:
        """Whether all have returned."""
        return all(leaf.state == "SUCCESS" for leaf in self.leaves())

    def failed(self) -> bool:
        """Whether any has raised."""
        return any(leaf.state == "FAILURE" for leaf in self.leaves())

    def completed_count(self) -> int:
        """How many members have returned; a group counts when all in it have."""
        return sum(
            all(leaf.state == "SUCCESS" for leaf in member.leaves()) for member in self.results
        )

    def maybe_throw(self, callback: Callback | None = None, propagate: bool = True) -> None:
        """Raise why a member failed, if one is known to have. Never waits.

        Args:
            callback: called with the id and what is known of the result of each.
            propagate: ``False`` does not raise.
        """
        if callback is not None:
            callback_checked(callback)
        for leaf in self.leaves():
            leaf.maybe_throw(propagate, callback)

    maybe_reraise = maybe_throw

    def as_tuple(self) -> Any:
        """Itself as nested tuples of ids, Celery's form; ``result_from_tuple`` reads a group's."""
        return form_of(self)

    def as_list(self) -> list[str]:
        """The ids of all tasks, and of what came before them."""
        return ids_of(self)

    @property
    def called(self) -> str:
        """What it is called in messages."""
        return f"a set of {len(self.results)} results"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ResultSet):
            return other.results == self.results
        return NotImplemented

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(str(member.id) for member in self.results)}]>"

    # ------------------------------------------------------------ telling

    def forget(self) -> None:
        """Drop what is known of all, and of what came before them."""
        for node in (self, *self.ancestors()):
            for leaf in node.leaves():
                if leaf.entry is not None:
                    leaf.entry.forget()

    def revoke(
        self, *, terminate: bool = False, signal: str | int = "SIGTERM", tree: bool = False
    ) -> None:
        """Have none of the tasks run (again); return when the broker has confirmed it.

        Args:
            terminate: end those that run, too.
            signal: with ``terminate``: how; see ``Control.revoke``.
            tree: also what came before them in the chain, and what they have started as far as it is known.

        Raises:
            BrokerError: the broker did not take it.
        """
        revoke_all(self, tree, terminate, signal)

    async def arevoke(
        self, *, terminate: bool = False, signal: str | int = "SIGTERM", tree: bool = False
    ) -> None:
        """``revoke`` for coroutines."""
        await arevoke_all(self, tree, terminate, signal)

    def revoke_by_stamped_headers(
        self, headers: Headers, *, terminate: bool = False, signal: str | int = "SIGTERM"
    ) -> None:
        """Have no task with one of these stamps run (again), in this group or not; see ``Control``."""
        control = self._control()
        if control is not None:
            control.revoke_by_stamped_headers(headers, terminate=terminate, signal=signal)

    async def arevoke_by_stamped_headers(
        self, headers: Headers, *, terminate: bool = False, signal: str | int = "SIGTERM"
    ) -> None:
        """``revoke_by_stamped_headers`` for coroutines."""
        control = self._control()
        if control is not None:
            await control.arevoke_by_stamped_headers(headers, terminate=terminate, signal=signal)

    def _control(self) -> Control | None:
        return next((leaf.control for leaf in self.leaves() if leaf.control is not None), None)

    def _gathering(
        self,
        timeout: float | None,
        propagate: bool,
        callback: Callback | None,
        options: WaitOptions,
        called: str,
        *,
        blocks: bool = True,
    ) -> Gathering:
        checked(timeout)
        if callback is not None:
            callback_checked(callback)
        gathering = Gathering(self, propagate, timeout, options, called)
        first = next(iter(gathering.leaves), None)
        if first is not None:
            first.may_wait(blocks=blocks)
        return gathering


def _native(member: ResultBase) -> tuple[str | None, Any]:
    if isinstance(member, Leaf):
        return member.id, member.meta
    assert isinstance(member, Several)
    return member.id, member.results


def _member(value: object, what: str = "A member of a group or a set of results") -> None:
    if not isinstance(value, Leaf | Several):
        raise TypeError(
            f"{what} is a handle, an AsyncResult, EagerResult or GroupResult, not {safe_repr(value)[:80]}."
        )


def _members(results: Any) -> list[ResultBase]:
    try:
        made: list[ResultBase] = list(results)
    except TypeError:
        raise TypeError(
            f"The members of a group or a set of results are a list of handles, not {safe_repr(results)[:80]}."
        ) from None
    for each in made:
        _member(each)
    return made
