"""A group's ids as text, for a store of the user's: what ``GroupResult.save`` writes and ``restore`` reads.

The text is JSON: ``{"result": the group in Celery's tuple form, "home": the process to which its results come}``. What came
before the group is kept as far as results tell it, ``MOST_LEVELS`` steps: nested deeper, few could read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec

from amqtask.core.result import MOST_LEVELS, safe_repr
from amqtask.errors import ConfigurationError
from amqtask.results.base import Handles, Leaf, ResultBase, Several
from amqtask.results.forms import Group, handles

G = TypeVar("G", bound=Several)

_METHODS: Final = ("__getitem__", "__setitem__", "__delitem__")


class Store(Protocol):
    """What keeps texts by name: a dictionary, a ``shelve``, a client of Redis. It may give them back as bytes."""

    def __getitem__(self, name: str, /) -> Any:
        """The text.

        Raises:
            KeyError: there is none. ``None`` says the same.
        """
        ...

    def __setitem__(self, name: str, text: str, /) -> None:
        """Keep a text."""
        ...

    def __delitem__(self, name: str, /) -> None:
        """Take it out.

        Raises:
            KeyError: it is not there; nothing is raised by some.
        """
        ...


class Kept(msgspec.Struct, frozen=True):
    """A group as it is kept."""

    result: Any
    home: str = ""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Kept)


def given(store: Store | None, function: str) -> Store:
    """The store.

    Raises:
        ConfigurationError: there is none.
        TypeError: this is none.
    """
    if store is None:
        raise ConfigurationError(
            f"A group's ids are kept in a store of yours; write {function}(store) with any mapping of texts, such as a shelve."
        )
    kind: Any = type(store)
    if issubclass(kind, Sequence) or not all(hasattr(kind, name) for name in _METHODS):
        raise TypeError(
            f"A store is a mapping, such as a dictionary, a shelve or a client of Redis, not {safe_repr(store)[:80]}."
        )
    return store


def key(group_id: Any) -> str:
    """Under which name a group is kept.

    Raises:
        ValueError: this is no group's id.
    """
    if not isinstance(group_id, str) or not group_id:
        raise ValueError(
            f"A group is kept under its id, a text that is not empty, not {group_id!r}."
        )
    return f"amqtask.group.{group_id}"


def packed(group: ResultBase) -> str:
    """A group and all it is made of as text."""
    home = next(
        (leaf.entry.home for leaf in group.leaves() if leaf.entry is not None),
        "",
    )
    return _encoder.encode(Kept(_form(group, MOST_LEVELS), home)).decode()


def unpacked(text: Any, app: Handles[Leaf], group: Group[G]) -> tuple[str, G]:
    """The group that a text holds, and the process to which its results come.

    Args:
        text: what ``packed`` gave.
        app: makes the handles of tasks.
        group: makes those of groups.

    Raises:
        ValueError: this is no such text.
        TypeError: this is no app.
    """
    try:
        kept = _decoder.decode(text)
    except (msgspec.MsgspecError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise _none(error) from None
    try:
        made = handles(kept.result, app, group)
    except ValueError as error:
        raise _none(error) from None
    if isinstance(made, Leaf):
        raise _none("it has no members")
    return kept.home, made


def _none(reason: object) -> ValueError:
    return ValueError(f"What is kept there is no saved group ({reason}).")


def _form(node: ResultBase, levels: int) -> Any:
    """``as_tuple()`` with so many steps before the handle."""
    lineage = [node]
    for each in node.ancestors():
        if len(lineage) > levels:
            break
        lineage.append(each)
    form: Any = None
    for each in reversed(lineage):
        if isinstance(each, Several):
            form = ((each.id, form), [_form(member, levels) for member in each.results])
        else:
            assert isinstance(each, Leaf)
            form = ((each.id, form), None)
    return form
