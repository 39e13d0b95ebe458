"""Handles of several tasks together: ``ResultSet``, and ``GroupResult``, which a group gives.

Both wait for all their members at once, woken as results arrive, and never poll: what ten thousand members cost is ten
thousand looks.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from contextlib import aclosing
from typing import Any, Self, Unpack, cast

from amqtask.core.result import safe_repr
from amqtask.errors import ResultError, ResultTimeout
from amqtask.results import keeping
from amqtask.results.base import (
    Callback,
    Control,
    Handles,
    Headers,
    Leaf,
    ResultBase,
    Several,
    form_of,
    ids_of,
)
from amqtask.results.keeping import Store
from amqtask.results.pending import Awaited
from amqtask.results.waiting import (
    PATIENCE,
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
            if member == result or _id_of(member) == result:
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
        known = {_id_of(member) for member in self.results}
        for result in _members(results):
            task_id = _id_of(result)
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
                    callback(_id_of(member), member.outcome(propagate))
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
                        callback(_id_of(member), member.outcome(propagate))
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
                callback(_id_of(member), value)
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
                callback(_id_of(member), value)
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
        return f"<{type(self).__name__}: [{', '.join(str(_id_of(member)) for member in self.results)}]>"

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
    ) -> _Gathering:
        checked(timeout)
        if callback is not None:
            callback_checked(callback)
        gathering = _Gathering(self, propagate, timeout, options, called)
        first = next(iter(gathering.leaves), None)
        if first is not None:
            first.may_wait(blocks=blocks)
        return gathering


class GroupResult(ResultSet):
    """The handle of a group.

    Args:
        id: the group's id.
        results: its members.
        parent: the handle of what came before it in its chain.
    """

    __slots__ = ()

    def __init__(
        self,
        id: str | None = None,  # noqa: A002  # Celery's name for it
        results: Iterable[ResultBase] = (),
        parent: ResultBase | None = None,
    ) -> None:
        super().__init__(results, parent)
        self.id = id

    @property
    def called(self) -> str:
        """What it is called in messages."""
        return f"group {self.id}"

    # ------------------------------------------------------------ keeping

    def save(self, store: Store | None = None) -> None:
        """Keep the ids in a store, for ``restore``.

        Args:
            store: what takes texts by name: a dictionary, a ``shelve``, a client of Redis.

        Raises:
            ConfigurationError: no store was given.
            TypeError: that is none.
            ValueError: the group has no id.
        """
        keeping.given(store, "save")[keeping.key(self.id)] = keeping.packed(self)

    def delete(self, store: Store | None = None) -> None:
        """Take it out of a store again; nothing when it is not there. Raises as ``save``."""
        found = keeping.given(store, "delete")
        try:
            del found[keeping.key(self.id)]
        except KeyError:
            pass

    @classmethod
    def restore(
        cls,
        id: str,  # noqa: A002  # Celery's name for it
        store: Store | None = None,
        *,
        app: Handles[Leaf],
    ) -> Self | None:
        """The group that was saved under this id, ``None`` when there is none.

        In another process than the one that sent it the handles tell their ids and can be revoked; asking them for a result
        raises ``ResultError``, because it does not come there.

        Args:
            id: the group's id.
            store: where it was saved.
            app: the app that it was sent with.

        Raises:
            ConfigurationError: no store was given.
            TypeError: that is none.
            ValueError: this is no id, or what is there is no group.
        """
        found, name = keeping.given(store, "restore"), keeping.key(id)
        try:
            text = found[name]
        except KeyError:
            return None
        if text is None:
            return None  # of a store that raises for nothing
        home, made = keeping.unpacked(text, app, GroupResult)
        for node in (made, *made.ancestors()):
            for leaf in node.leaves():
                entry = leaf.entry
                if home and entry is not None and entry.home != home and not entry.expected:
                    entry.fail(
                        ResultError(
                            f"The result of task {leaf.called} comes to the process that sent group {id} "
                            f"({home.partition('/')[0]}) and not here; ask that one for it."
                        )
                    )
        return cls(made.id, made.results, made.parent)

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            # by ids, not by comparing parents with parents: there may be many
            return self.as_list() == other.as_list() and self.results == other.results
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        shown = ", ".join(str(_id_of(member)) for member in self.results)
        return f"<{type(self).__name__}: {self.id} [{shown}]>"


class _Gathering:
    """The members of a set and what has come of them. Pure but for reading the table; one thread.

    Attributes:
        leaves: the tasks that are waited for.
        entries: their entries, and those of what came before them, which is only to raise.
        empty: members without a task, which have ended.
        listener: who is called meanwhile.
    """

    def __init__(
        self,
        results: ResultSet,
        propagate: bool,
        timeout: float | None,
        options: WaitOptions,
        called: str,
    ) -> None:
        self._called = results.called
        self._propagate = propagate
        self._members = results.results
        self.leaves: list[Leaf] = []
        self._owners: list[int] = []
        self._left: list[int] = []
        for number, member in enumerate(results.results):
            before = len(self.leaves)
            self.leaves.extend(member.leaves())
            count = len(self.leaves) - before
            self._owners += [number] * count
            self._left.append(count)
        self._missing = len(self.leaves)
        self.entries: list[Awaited | None] = [leaf.entry for leaf in self.leaves]
        self._before: list[Leaf] = []
        if propagate:
            self._before = results.links_before()
            self.entries += [leaf.entry for leaf in self._before]
        on_message, on_interval, interval = listening(cast(Any, options), called)
        doubts: Interval | None = None
        if timeout is None and on_interval is None:
            unexpected = [
                leaf
                for leaf in self.leaves
                if leaf.entry is not None and not leaf.entry.expected and not leaf.ready()
            ]
            if unexpected:
                doubts = Doubts(f"task {unexpected[0].called}")

        def on_change(place: int) -> None:
            if on_message is not None and place < len(self.leaves):
                on_message(self.leaves[place].meta)

        self.listener = Listener(
            None if on_message is None else on_change,
            on_interval or doubts,
            interval if on_interval is not None else PATIENCE,
        )

    @property
    def empty(self) -> list[ResultBase]:
        return [member for member, left in zip(self._members, self._left, strict=True) if not left]

    @property
    def done(self) -> bool:
        """Whether all members have ended."""
        return not self._missing

    def arrived(self, place: int) -> tuple[ResultBase, ...]:
        """Take note that an entry has settled; the member that has ended with it, if one has.

        Raises:
            Exception: why a task failed, with ``propagate``.
        """
        if place >= len(self.leaves):
            failure = self._before[place - len(self.leaves)].failure
            if failure is not None:
                raise failure.with_traceback(None)
            return ()
        self._missing -= 1
        if self._propagate:
            self.leaves[place].outcome()
        owner = self._owners[place]
        self._left[owner] -= 1
        return () if self._left[owner] else (self._members[owner],)

    def timed_out(self, timeout: float | None) -> ResultTimeout:
        late = next((leaf for leaf in self.leaves if not leaf.ready()), None)
        known = (
            "" if late is None else f"; the last known state of task {late.called} is {late.state}"
        )
        if late is not None and late.entry is not None and not late.entry.expected:
            known += f"; {doubt('it')}"
        return ResultTimeout(
            f"{self._missing} of the {len(self.leaves)} results of {self._called} are missing after {timeout:g} s{known}."
        )


def _id_of(member: ResultBase) -> str | None:
    assert isinstance(member, Leaf | Several)
    return member.id


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


# ---------------------------------------------------------------- revoking


def revocable(node: ResultBase, tree: bool) -> tuple[Control | None, list[str]]:
    """The ids that a revoke of a handle is about, each once, and the way to the workers."""
    nodes: list[ResultBase] = [node]
    if tree:
        nodes = [
            *reversed(list(node.ancestors())),
            *(each for _, each in node.iterdeps(intermediate=True)),
        ]
    control: Control | None = None
    ids: dict[str, None] = {}
    for each in nodes:
        for leaf in each.leaves():
            found = leaf.control
            if found is not None:
                control = found
                ids[leaf.id] = None
    return control, list(ids)


def revoke_all(node: ResultBase, tree: bool, terminate: bool, signal: str | int) -> None:
    """Revoke the tasks of a handle, and with ``tree`` those around it."""
    control, ids = revocable(node, tree)
    if control is not None:
        control.revoke(ids, terminate=terminate, signal=signal)


async def arevoke_all(node: ResultBase, tree: bool, terminate: bool, signal: str | int) -> None:
    """``revoke_all`` for coroutines."""
    control, ids = revocable(node, tree)
    if control is not None:
        await control.arevoke(ids, terminate=terminate, signal=signal)
