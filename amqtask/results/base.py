"""What every handle has in common: what came before it, what it started, and the walks over that tree.

The walks are iterative: a chain of a thousand links is a tree a thousand deep.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar, Unpack

from amqtask.core.result import FAILURE, SUCCESS
from amqtask.errors import IncompleteStream
from amqtask.results import callbacks
from amqtask.results.dependencies import DependencyGraph
from amqtask.results.pending import Awaited
from amqtask.results.waiting import WaitOptions, callback_checked

Callback = Callable[[str | None, Any], object]

HeaderValue = str | int | float
Headers = Mapping[
    str, HeaderValue | Sequence[HeaderValue] | set[HeaderValue] | frozenset[HeaderValue]
]


class Control(Protocol):
    """What a handle needs of its app to tell the workers about its task."""

    def revoke(
        self, task_id: str | Iterable[str], *, terminate: bool = ..., signal: str | int = ...
    ) -> None:
        """Have tasks not run."""
        ...

    async def arevoke(
        self, task_id: str | Iterable[str], *, terminate: bool = ..., signal: str | int = ...
    ) -> None:
        """``revoke`` for coroutines."""
        ...

    def revoke_by_stamped_headers(
        self, headers: Headers, *, terminate: bool = ..., signal: str | int = ...
    ) -> None:
        """Have the tasks with one of these stamps or headers not run."""
        ...

    async def arevoke_by_stamped_headers(
        self, headers: Headers, *, terminate: bool = ..., signal: str | int = ...
    ) -> None:
        """``revoke_by_stamped_headers`` for coroutines."""
        ...

    def abort(self, task_id: str) -> None:
        """Ask the task to stop."""
        ...

    async def aabort(self, task_id: str) -> None:
        """``abort`` for coroutines."""
        ...


class ResultBase(ABC):
    """A handle: of one task, of one that ran in place, or of several together. Any thread and any event loop.

    Attributes:
        id: the task's or the group's id, ``None`` for a set without one.
        parent: the handle of what came before it in its chain, ``None`` for the first.
    """

    __slots__ = ()

    id: str | None
    parent: ResultBase | None

    @property
    @abstractmethod
    def called(self) -> str:
        """What it is called in messages: the task's name and id, or the group's id."""

    @property
    @abstractmethod
    def children(self) -> list[ResultBase] | None:
        """What it started, as far as it is known here; the members of a group."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it has ended."""

    @abstractmethod
    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        **options: Unpack[WaitOptions],
    ) -> Any:
        """Wait for the end and return the value."""

    @abstractmethod
    async def aget(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # the twin of get
        propagate: bool = True,
        **options: Unpack[WaitOptions],
    ) -> Any:
        """``get`` for coroutines."""

    @abstractmethod
    def outcome(self, propagate: bool = True) -> Any:
        """What ``get`` comes to, without waiting: for what has ended."""

    @abstractmethod
    def leaves(self) -> Iterator[Leaf]:
        """The handles of single tasks it consists of, in order."""

    @abstractmethod
    def as_tuple(self) -> Any:
        """Itself and what came before it as nested tuples of ids, Celery's form; ``result_from_tuple`` reads it."""

    @abstractmethod
    def forget(self) -> None:
        """Drop what is known of it and of what came before it."""

    @abstractmethod
    def revoke(self, *, terminate: bool = False, signal: str | int = "SIGTERM") -> None:
        """Have it not run (again)."""

    def __json__(self) -> Any:
        """What a serializer writes where a handle is an argument, or what a task returns: ``as_tuple()``."""
        return self.as_tuple()

    # ------------------------------------------------------------ what came before

    def ancestors(self) -> Iterator[ResultBase]:
        """What came before it in its chain, nearest first."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def links_before(self) -> list[Leaf]:
        """The tasks before it in its chain whose failure is its own: not the parts of a chord, which fail the body by ``ChordError``."""
        return [node for node in self.ancestors() if isinstance(node, Leaf)]

    # ------------------------------------------------------------ what follows

    def iterdeps(
        self, intermediate: bool = False
    ) -> Iterator[tuple[ResultBase | None, ResultBase]]:
        """This handle and all that it and they started, as ``(parent, handle)``, breadth first.

        What several started comes once for each; what follows from it comes once.

        Args:
            intermediate: go on where something has not ended, without what it may start yet.

        Raises:
            IncompleteStream: something has not ended, and ``intermediate`` is false.
        """
        waiting: deque[tuple[ResultBase | None, ResultBase]] = deque([(None, self)])
        seen: set[ResultBase] = set()
        while waiting:
            parent, node = waiting.popleft()
            yield parent, node
            if node in seen:
                continue
            seen.add(node)
            if not node.ready() and not intermediate:
                raise IncompleteStream(
                    f"{node.called} has not ended, and so what it starts is not known; wait with get(), "
                    "or look with intermediate=True."
                )
            waiting.extend((node, child) for child in node.children or ())

    def collect(
        self,
        intermediate: bool = False,
        timeout: float | None = None,
        propagate: bool = True,
        **options: Unpack[WaitOptions],
    ) -> Iterator[tuple[ResultBase, Any]]:
        """Wait for this and for all that it started in turn, as ``(handle, value)``.

        Args:
            intermediate: as in ``iterdeps``.
            timeout: seconds to wait for each.
            propagate: as in ``get``.
            options: as in ``get``.

        Raises:
            Exception: as ``get``.
        """
        for _, node in self.iterdeps(intermediate):
            yield node, node.get(timeout, propagate, **options)

    async def acollect(
        self,
        intermediate: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109  # the twin of collect
        propagate: bool = True,
        **options: Unpack[WaitOptions],
    ) -> AsyncIterator[tuple[ResultBase, Any]]:
        """``collect`` for coroutines."""
        for _, node in self.iterdeps(intermediate):
            yield node, await node.aget(timeout, propagate, **options)

    def get_leaf(self, timeout: float | None = None, propagate: bool = True) -> Any:
        """Wait for all that was started, and return the value of the last.

        Args:
            timeout: seconds to wait for each.
            propagate: as in ``get``.
        """
        value = None
        for _, value in self.collect(timeout=timeout, propagate=propagate):  # noqa: B007  # the last one counts
            pass
        return value

    async def aget_leaf(self, timeout: float | None = None, propagate: bool = True) -> Any:  # noqa: ASYNC109  # the twin of get_leaf
        """``get_leaf`` for coroutines."""
        value = None
        async for _, value in self.acollect(timeout=timeout, propagate=propagate):  # noqa: B007  # the last one counts
            pass
        return value

    def build_graph(self, intermediate: bool = False) -> DependencyGraph[ResultBase]:
        """What started what, as ``iterdeps`` finds it.

        Args:
            intermediate: as in ``iterdeps``.

        Raises:
            IncompleteStream: something has not ended, and ``intermediate`` is false.
        """
        graph: DependencyGraph[ResultBase] = DependencyGraph()
        for parent, node in self.iterdeps(intermediate):
            graph.add_arc(node)
            if parent is not None:
                graph.add_edge(parent, node)
        return graph

    @property
    def graph(self) -> DependencyGraph[ResultBase]:
        """``build_graph()``."""
        return self.build_graph()

    def graph_svg(self) -> str:
        """What is known of this and of all around it, with states, as an SVG picture. Nothing is waited for."""
        from amqtask.core import flow_svg
        from amqtask.results import picture  # loaded by those who draw

        return flow_svg.svg(picture.flow_of(self), f"results of {self.called}")

    def graph_mermaid(self) -> str:
        """The same as a mermaid flowchart."""
        from amqtask.core import flow_mermaid
        from amqtask.results import picture

        return flow_mermaid.mermaid(picture.flow_of(self))

    def graph_json(self) -> str:
        """The same, whole, as a text that ``amqtask graph`` draws."""
        from amqtask.core import flow
        from amqtask.results import picture

        return flow.to_json(picture.flow_of(self))

    # ------------------------------------------------------------ being called

    def then(
        self,
        callback: Callable[[Self], object],
        on_error: Callable[[Exception], object] | None = None,
    ) -> Self:
        """Have ``callback`` called with this handle once it has ended, however it ended; return the handle.

        Called in an event loop, it runs in that loop, and must not block. Else it runs in a thread that all such callbacks of
        the process share, one after the other.

        Args:
            callback: called once, also when no result will come: ``get()`` and ``outcome()`` say what came.
            on_error: called with what ``callback`` raised, such as what ``get()`` in it raised; else that is logged.

        Raises:
            TypeError: one of them cannot be called.
        """
        callback_checked(callback)
        if on_error is not None:
            callback_checked(on_error, "on_error")
        entries = [leaf.entry for leaf in self.leaves()]
        callbacks.Then(self, entries, callback, on_error, callbacks.here())
        return self


class Leaf(ResultBase):
    """The handle of one task.

    Attributes:
        id: the task's id.
    """

    __slots__ = ()

    id: str

    @property
    @abstractmethod
    def name(self) -> str | None:
        """The task's name, when it is known."""

    @property
    def called(self) -> str:
        """The task's name and id, as in messages."""
        return f"{self.name}[{self.id}]" if self.name else self.id

    @property
    @abstractmethod
    def entry(self) -> Awaited | None:
        """The entry in the table of awaited results; ``None`` when nothing is awaited."""

    @property
    @abstractmethod
    def control(self) -> Control | None:
        """The way to the workers; ``None`` when there is nothing to tell them.

        Raises:
            RuntimeError: the handle belongs to no app.
        """

    @property
    @abstractmethod
    def state(self) -> str:
        """The best known state."""

    @property
    @abstractmethod
    def result(self) -> Any:
        """The return value, the exception of a failure, or what came with a state on the way; ``None`` before that."""

    @property
    @abstractmethod
    def traceback(self) -> str | None:
        """The formatted traceback of a failed task."""

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

    def successful(self) -> bool:
        """Whether the task has returned."""
        return self.state == SUCCESS

    def failed(self) -> bool:
        """Whether the task has raised. A revoked task has neither returned nor raised."""
        return self.state == FAILURE

    @property
    def meta(self) -> dict[str, Any]:
        """What is known, by Celery's names: ``task_id status result traceback children``, and what else its worker told."""
        return {
            "task_id": self.id,
            "status": self.state,
            "result": self.result,
            "traceback": self.traceback,
            "children": self.children or [],
        }

    @property
    @abstractmethod
    def failure(self) -> BaseException | None:
        """Why it failed or was revoked, ``None`` when it has not, as far as it is known."""

    @abstractmethod
    def may_wait(self, *, blocks: bool = True) -> None:
        """Look whether waiting can end.

        Args:
            blocks: whether the thread waits; a coroutine does not block it.

        Raises:
            RuntimeError: in an event loop or on the I/O thread, where the thread must not wait, or in a fork.
        """

    def leaves(self) -> Iterator[Leaf]:
        """Itself."""
        yield self

    def as_tuple(self) -> Any:
        """Itself and what came before it as nested tuples of ids, Celery's form; ``result_from_tuple`` reads it."""
        return form_of(self)

    def as_list(self) -> list[str]:
        """Its id and those of what came before it, nearest first; of a group on the way also its members'."""
        return ids_of(self)

    def maybe_throw(self, propagate: bool = True, callback: Callback | None = None) -> Any:
        """Raise why it failed, if it has; else return what is known of its result. Never waits.

        Args:
            propagate: ``False`` does not raise.
            callback: called with the id and what is known of the result.
        """
        failure = self.failure
        if failure is not None and propagate:
            raise failure.with_traceback(None)
        value = self.result
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        # handles are equal by their ids, and equal to those
        if isinstance(other, Leaf):
            return self.id == other.id
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)


L_co = TypeVar("L_co", bound=Leaf, covariant=True)


class Handles(Protocol[L_co]):
    """What makes the handle of a task from its id: an ``App``."""

    def AsyncResult(self, task_id: str, *, parent: ResultBase | None = None) -> L_co:  # noqa: N802  # Celery's name for it
        """The handle of a task that this process sent."""
        ...


class Several(ResultBase):
    """A handle of several."""

    __slots__ = ()

    results: list[ResultBase]


def form_of(node: ResultBase) -> Any:
    """Celery's tuple form of a handle: ``((id, parent's form or None), members' forms or None)``."""
    form: Any = None
    for each in reversed((node, *node.ancestors())):
        if isinstance(each, Several):
            form = ((each.id, form), [form_of(member) for member in each.results])
        else:
            assert isinstance(each, Leaf)
            form = ((each.id, form), None)
    return form


def ids_of(node: ResultBase) -> list[str]:
    """The ids of a handle and of what came before it, nearest first."""
    found: list[str] = []
    for each in (node, *node.ancestors()):
        if isinstance(each, Leaf):
            found.append(each.id)
        else:
            assert isinstance(each, Several)
            if each.id is not None:
                found.append(each.id)
            found += [leaf.id for leaf in each.leaves()]
    return found
