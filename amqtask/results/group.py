"""Handles of several tasks together: ``ResultSet``, and ``GroupResult``, which a group gives.

Both wait for all their members at once, woken as results arrive, and never poll: what ten thousand members cost is ten
thousand looks.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, MutableMapping
from typing import Any, Self

from amqtask.errors import ConfigurationError, ResultTimeout
from amqtask.results import keeping
from amqtask.results.base import (
    Control,
    Handles,
    Headers,
    Leaf,
    ResultBase,
    Several,
    form_of,
    ids_of,
)
from amqtask.results.pending import Awaited
from amqtask.results.watch import arrivals

Callback = Callable[[str | None, Any], object]


class ResultSet(Several):
    """Handles, waited for together. Any thread and any event loop may use it; one at a time may change it.

    Args:
        results: the members: ``AsyncResult``, ``EagerResult``, ``GroupResult``.
        parent: the handle of what came before them in a chain.
    """

    __slots__ = ("id", "parent", "results")

    def __init__(self, results: Iterable[ResultBase], parent: ResultBase | None = None) -> None:
        self.id: str | None = None
        self.results = list(results)
        self.parent = parent

    # ------------------------------------------------------------ members

    def add(self, result: ResultBase) -> None:
        """Add a member; nothing when it is one already."""
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
        for result in results:
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
    ) -> list[Any]:
        """Wait for all members and return their values in order; a group inside gives a list.

        Args:
            timeout: seconds to wait for all; ``None`` waits for ever.
            propagate: raise as soon as a member, or what came before them in the chain, has failed; ``False`` puts the
                exception in its place.
            callback: called with the id and the value of each member as they end; the values are then not returned.

        Raises:
            ResultTimeout: the time passed; the tasks go on.
            RuntimeError: as ``AsyncResult.get``.
            Exception: what the first failed member raised.
        """
        gathering = self._gathering(propagate)
        for place in arrivals(gathering.entries, timeout):
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
    ) -> list[Any]:
        """``get`` for coroutines."""
        from amqtask.results import aio_wait  # asyncio is loaded where a loop runs

        gathering = self._gathering(propagate, blocks=False)
        async for place in aio_wait.arrivals(gathering.entries, timeout):
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
    ) -> list[Any]:
        """``get`` that looks at one member after the other: a failure is raised when all before it have ended.

        Args:
            timeout: as in ``get``.
            propagate: as in ``get``.
            callback: as in ``get``, in order.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        values = []
        for member in self.results:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            value = member.get(left, propagate)
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
    ) -> list[Any]:
        """``join`` for coroutines."""
        deadline = None if timeout is None else time.monotonic() + timeout
        values = []
        for member in self.results:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            value = await member.aget(left, propagate)
            if callback is None:
                values.append(value)
            else:
                callback(_id_of(member), value)
        return values

    def as_completed(self, timeout: float | None = None) -> Iterator[ResultBase]:
        """The members as they end, failed or not.

        Args:
            timeout: seconds to wait for all.

        Raises:
            ResultTimeout: the time passed.
        """
        gathering = self._gathering(propagate=False)
        yield from gathering.empty
        for place in arrivals(gathering.entries, timeout):
            if place is None:
                raise gathering.timed_out(timeout)
            yield from gathering.arrived(place)

    async def aas_completed(self, timeout: float | None = None) -> AsyncIterator[ResultBase]:  # noqa: ASYNC109  # the twin
        """``as_completed`` for coroutines."""
        from amqtask.results import aio_wait

        gathering = self._gathering(propagate=False, blocks=False)
        for member in gathering.empty:
            yield member
        async for place in aio_wait.arrivals(gathering.entries, timeout):
            if place is None:
                raise gathering.timed_out(timeout)
            for member in gathering.arrived(place):
                yield member

    def iterate(self, timeout: float | None = None, propagate: bool = True) -> Iterator[Any]:
        """The values as they come.

        Args:
            timeout: seconds to wait for all.
            propagate: raise what a member raised; ``False`` gives the exception.
        """
        for member in self.as_completed(timeout):
            yield member.outcome(propagate)

    async def aiterate(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # the twin of iterate
        propagate: bool = True,
    ) -> AsyncIterator[Any]:
        """``iterate`` for coroutines."""
        async for member in self.aas_completed(timeout):
            yield member.outcome(propagate)

    def __aiter__(self) -> AsyncIterator[Any]:
        """``async for value in results`` is ``aiterate``."""
        return self.aiterate()

    def iter_native(self, timeout: float | None = None) -> Iterator[tuple[str | None, Any]]:
        """The members as they end, as Celery's backends give them: id and what is known of it by name; of a group, its members.

        Args:
            timeout: seconds to wait for all.
        """
        for member in self.as_completed(timeout):
            yield _native(member)

    async def aiter_native(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # the twin of iter_native
    ) -> AsyncIterator[tuple[str | None, Any]]:
        """``iter_native`` for coroutines."""
        async for member in self.aas_completed(timeout):
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

    def maybe_throw(self, propagate: bool = True, callback: Callback | None = None) -> None:
        """Raise why a member failed, if one is known to have. Never waits.

        Args:
            propagate: ``False`` does not raise.
            callback: called with the id and what is known of the result of each.
        """
        for leaf in self.leaves():
            value = leaf.maybe_throw(propagate)
            if callback is not None:
                callback(leaf.id, value)

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

    def _gathering(self, propagate: bool, *, blocks: bool = True) -> _Gathering:
        gathering = _Gathering(self, propagate)
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

    def save(self, store: MutableMapping[str, Any] | None = None) -> None:
        """Keep the ids in a store, for ``restore``.

        Args:
            store: any mapping of texts to texts: a dictionary, ``shelve``, a wrapper of a database.

        Raises:
            ConfigurationError: no store was given.
        """
        _given(store, "save")[keeping.key(self.id)] = keeping.packed(self)

    def delete(self, store: MutableMapping[str, Any] | None = None) -> None:
        """Take it out of a store again; nothing when it is not there."""
        _given(store, "delete").pop(keeping.key(self.id), None)

    @classmethod
    def restore(
        cls,
        id: str,  # noqa: A002  # Celery's name for it
        store: MutableMapping[str, Any] | None = None,
        *,
        app: Handles[Leaf],
    ) -> Self | None:
        """The group that was saved under this id, ``None`` when there is none.

        Args:
            id: the group's id.
            store: where it was saved.
            app: the app that it was sent with; its results come to the process that sent it.

        Raises:
            ConfigurationError: no store was given.
            ValueError: what is there is no group.
        """
        kept = _given(store, "restore").get(keeping.key(id))
        if kept is None:
            return None
        own, results, parent = keeping.unpacked(kept, app, GroupResult)
        return cls(own, results, parent)

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
    """

    def __init__(self, results: ResultSet, propagate: bool) -> None:
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


def _given(store: MutableMapping[str, Any] | None, function: str) -> MutableMapping[str, Any]:
    if store is None:
        raise ConfigurationError(
            f"A group's ids are kept in a store of yours; write {function}(store) with any mapping of texts, such as a shelve."
        )
    return store


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
