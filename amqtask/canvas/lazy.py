"""A list whose items come from a generator as they are asked for, each once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex, TypeVar, overload

T = TypeVar("T")
U = TypeVar("U")


class Lazy(list[T]):
    """A list that takes an item from its source when somebody asks for it, and keeps it.

    Iterating, ``peek`` and an index from zero take no more than they need; ``len`` and everything else that a list can do
    takes all first. One thread at a time. When the source has raised, whoever asks for what is missing gets the same error:
    a list that ends too early would be taken for a whole one.

    Args:
        source: where the items come from.
    """

    __slots__ = ("_error", "_source")

    def __init__(self, source: Iterable[T]) -> None:
        super().__init__()  # what came so far
        self._source: Iterator[T] | None = iter(source)  # None when all came
        self._error: BaseException | None = None

    @property
    def complete(self) -> bool:
        """Whether the source is known to have ended."""
        return self._source is None

    def mapped(self, function: Callable[[T], U]) -> Lazy[U]:
        """Another lazy list of what the function makes of each item; it asks this one for them."""
        return Lazy(map(function, self))

    def peek(self, count: int) -> int:
        """How many items there are, ``count`` at most; takes no more than that."""
        while list.__len__(self) < count and self._take():
            pass
        return min(count, list.__len__(self))

    def _take(self) -> bool:
        if self._source is None:
            return False
        if self._error is not None:
            raise self._error
        try:
            item = next(self._source)
        except StopIteration:
            self._source = None
            return False
        except BaseException as error:
            self._error = error
            raise
        list.append(self, item)
        return True

    def take_all(self) -> None:
        """Ask for everything that is left."""
        while self._take():
            pass

    def __iter__(self) -> Iterator[T]:
        index = 0
        while index < list.__len__(self) or self._take():
            yield list.__getitem__(self, index)
            index += 1

    def __bool__(self) -> bool:
        return self.peek(1) > 0

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> T: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[T]: ...
    def __getitem__(self, index: Any, /) -> Any:
        if isinstance(index, slice) or index < 0:
            self.take_all()
        else:
            self.peek(index + 1)
        return list.__getitem__(self, index)

    def __length_hint__(self) -> int:
        return list.__len__(self)

    def __copy__(self) -> Lazy[T]:
        return self.mapped(lambda item: item)

    def __deepcopy__(self, memo: dict[int, Any]) -> Lazy[T]:
        return self.mapped(lambda item: copy.deepcopy(item, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)

    def __reduce_ex__(self, _protocol: SupportsIndex) -> tuple[Any, ...]:
        return self.__reduce__()

    def __repr__(self) -> str:
        shown = ", ".join(repr(list.__getitem__(self, n)) for n in range(list.__len__(self)))
        return f"[{shown}]" if self.complete else f"[{shown}{', ' if shown else ''}…]"

    def __radd__(self, other: list[T]) -> list[T]:
        self.take_all()
        return list.__add__(other, self)


def _after_all(name: str) -> Callable[..., Any]:
    """A list's own method, once every item is there."""
    method = getattr(list, name)

    def call(self: Lazy[Any], *args: Any, **kwargs: Any) -> Any:
        self.take_all()
        return method(self, *args, **kwargs)

    call.__name__ = name
    return call


for _name in (
    *("__len__", "__setitem__", "__delitem__", "__contains__", "__reversed__"),
    *("__add__", "__iadd__", "__mul__", "__imul__", "__rmul__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"),
    *(
        "append",
        "clear",
        "copy",
        "count",
        "extend",
        "index",
        "insert",
        "pop",
        "remove",
        "reverse",
        "sort",
    ),
):
    setattr(Lazy, _name, _after_all(_name))
