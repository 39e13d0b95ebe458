"""A tree of results as a picture with states: what came before a handle, the handle, and what was started. Pure."""

from __future__ import annotations

from typing import Final

from amqtask.core.flow import Aside, Beside, Box, Flow, Steps, shortened, summary
from amqtask.core.result import safe_repr
from amqtask.results.base import Leaf, ResultBase, Several

DEPTH: Final = 100  # groups in groups, and tasks that started tasks that started several
ID, TIP = 8, 400  # characters of an id where it is short, and of a value


def flow_of(result: ResultBase) -> Flow:
    """Everything that is known around a handle, as boxes and arrows; nothing is waited for."""
    return _line(result, set(), 0)


def _line(result: ResultBase, drawn: set[str], depth: int) -> Flow:
    """A handle after what came before it, and before what followed: as long as one follows from one, in a row."""
    row = [*reversed(list(result.ancestors())), result]
    for node in row:
        drawn.update(leaf.id for leaf in node.leaves())
    parts = [_node(node, drawn, depth, last=node is result) for node in row]
    node = result
    while True:
        started = _started(node, drawn)
        if len(started) != 1 or isinstance(started[0], Several):
            break
        (node,) = started
        parts.append(_node(node, drawn, depth, last=True))
    if started:
        parts += [_line(each, drawn, depth + 1) for each in started] if len(started) == 1 else [
            Beside(f"{len(started):,} started", tuple(_line(each, drawn, depth + 1) for each in started))
        ]  # fmt: skip
    return parts[0] if len(parts) == 1 else Steps(tuple(parts))


def _node(node: ResultBase, drawn: set[str], depth: int, *, last: bool) -> Flow:
    """One handle; what it started hangs on it where the row goes on with something else."""
    if depth > DEPTH:
        return Box("…", "deeper")
    if isinstance(node, Leaf):
        started = [] if last else _started(node, drawn)
        asides = tuple(Aside("started", _line(each, drawn, depth + 1)) for each in started)
        return _box(node, asides)
    assert isinstance(node, Several)
    parts = tuple(_line(member, drawn, depth + 1) for member in node.results)
    states = summary([leaf.state for leaf in node.leaves()])
    return Beside(f"group of {len(parts):,}{f': {states}' if states else ''}", parts)


def _started(node: ResultBase, drawn: set[str]) -> list[ResultBase]:
    """What a task started that is not drawn yet; it is now."""
    if not isinstance(node, Leaf):
        return []
    found = []
    for child in node.children or ():
        ids = [leaf.id for leaf in child.leaves()]
        if not ids or not drawn.issuperset(ids):
            drawn.update(ids)
            found.append(child)
    return found


def _box(leaf: Leaf, asides: tuple[Aside, ...]) -> Box:
    value = leaf.meta["result"]
    tip = f"{leaf.called}\n{shortened(safe_repr(value), TIP)}" if value is not None else leaf.called
    title, detail = (leaf.name, leaf.id) if leaf.name else (leaf.id, "")
    return Box(shortened(title, 40), shortened(detail, ID + 1), tip, leaf.state, asides)
