"""A group's ids as text, for a store of the user's: what ``GroupResult.save`` writes and ``restore`` reads.

Handles are listed flat, each with the place of its parent, so that a long chain is no deep nesting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from amqtask.results.base import Handles, Leaf, ResultBase, Several


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """One handle: its id, the place of its parent, the places of its members."""

    id: str | None
    parent: int | None = None
    members: tuple[int, ...] | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[Kept])


def key(group_id: str | None) -> str:
    """Under which name a group is kept."""
    return f"amqtask.group.{group_id}"


def packed(group: ResultBase) -> str:
    """A handle and all it is made of as text."""
    kept: list[Kept] = []
    _add(group, kept)
    return _encoder.encode(kept).decode()


def unpacked(
    text: str | bytes,
    app: Handles[Leaf],
    group: Callable[[str | None, list[ResultBase], ResultBase | None], Several],
) -> tuple[str | None, list[ResultBase], ResultBase | None]:
    """The id, members and parent of the group that a text holds.

    Args:
        text: what ``packed`` gave.
        app: makes the handles of tasks.
        group: makes those of groups.

    Raises:
        ValueError: this is no such text.
    """
    made: list[ResultBase] = []
    try:
        kept = _decoder.decode(text)
        for each in kept:
            # what a handle refers to comes before it
            parent = None if each.parent is None else made[each.parent]
            if each.members is not None:
                made.append(group(each.id, [made[place] for place in each.members], parent))
            elif each.id:
                made.append(app.AsyncResult(each.id, parent=parent))
        last: Any = made[-1]
        return last.id, last.results, last.parent
    except (msgspec.MsgspecError, IndexError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"What is kept there is no saved group ({error}).") from None


def _add(node: ResultBase, kept: list[Kept]) -> int:
    """Append a handle after all it refers to; its place."""
    place: int | None = None
    for each in reversed((node, *node.ancestors())):
        if isinstance(each, Several):
            members = tuple([_add(member, kept) for member in each.results])
            kept.append(Kept(each.id, place, members))
        else:
            assert isinstance(each, Leaf)
            kept.append(Kept(each.id, place))
        place = len(kept) - 1
    assert place is not None
    return place
