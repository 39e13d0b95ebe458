"""A graph of what started what, as ``AsyncResult.graph`` gives it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

T = TypeVar("T", bound=Hashable)


class Writable(Protocol):
    """A file of texts that is open for writing."""

    def write(self, text: str, /) -> object:
        """Take a text."""
        ...


class DependencyGraph(Generic[T]):
    """What depends on what: things, and for each the things that follow from it. One thread.

    Args:
        it: things, each with those that follow from it.
    """

    def __init__(self, it: Iterable[tuple[T, Iterable[T]]] = ()) -> None:
        self._adjacent: dict[T, list[T]] = {}
        for thing, following in it:
            self.add_arc(thing)
            for each in following:
                self.add_edge(thing, each)

    def add_arc(self, thing: T) -> None:
        """Add a thing; nothing when it is there."""
        self._adjacent.setdefault(thing, [])

    def add_edge(self, thing: T, following: T) -> None:
        """Say that one follows from another; both are added."""
        self.add_arc(following)
        self._adjacent.setdefault(thing, []).append(following)

    def connect(self, graph: DependencyGraph[T]) -> None:
        """Add all of another graph."""
        for thing, following in graph.items():
            self.add_arc(thing)
            for each in following:
                self.add_edge(thing, each)

    def items(self) -> Iterator[tuple[T, list[T]]]:
        """Things, each with those that follow from it."""
        return iter(self._adjacent.items())

    def edges(self) -> list[T]:
        """The things from which something follows."""
        return [thing for thing, following in self._adjacent.items() if following]

    def valency_of(self, thing: T) -> int:
        """How many things follow from one, directly or not, each way to them counted once."""
        return len(self._reached(thing))

    def topsort(self) -> list[T]:
        """The things, each before all that follow from it.

        Raises:
            ValueError: they follow from each other in a circle.
        """
        missing = dict.fromkeys(self._adjacent, 0)
        for following in self._adjacent.values():
            for each in following:
                missing[each] += 1
        free = [thing for thing, count in missing.items() if not count]
        for thing in free:  # grows while it is read
            for each in self._adjacent[thing]:
                missing[each] -= 1
                if not missing[each]:
                    free.append(each)
        if len(free) < len(self._adjacent):
            raise ValueError("These follow from each other in a circle, and have no order.")
        return free

    def to_dot(self, file: Writable, label: Callable[[T], str] = str) -> None:
        """Write it in Graphviz's language.

        Args:
            file: where to.
            label: what a thing is called.
        """
        names = {thing: f"n{number}" for number, thing in enumerate(self._adjacent)}
        file.write("digraph dependencies {\n")
        for thing, name in names.items():
            text = label(thing).replace("\\", "\\\\").replace('"', '\\"')
            file.write(f'    {name} [label="{text}"];\n')
        for thing, following in self._adjacent.items():
            for each in following:
                file.write(f"    {names[thing]} -> {names[each]};\n")
        file.write("}\n")

    def _reached(self, thing: T) -> set[T]:
        found: set[T] = set()
        waiting = list(self._adjacent[thing])
        while waiting:
            each = waiting.pop()
            if each not in found:
                found.add(each)
                waiting += self._adjacent[each]
        return found

    def __getitem__(self, thing: T) -> list[T]:
        return self._adjacent[thing]

    def __contains__(self, thing: object) -> bool:
        return thing in self._adjacent

    def __iter__(self) -> Iterator[T]:
        return iter(self._adjacent)

    def __len__(self) -> int:
        return len(self._adjacent)

    def __repr__(self) -> str:
        return "\n".join(
            f"{thing}({len(following)})" + "".join(f"\n     {each}" for each in following)
            for thing, following in self._adjacent.items()
        )
