"""Revoking the tasks of a handle, and those around it."""

from __future__ import annotations

from amqtask.results.base import Control, ResultBase


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
