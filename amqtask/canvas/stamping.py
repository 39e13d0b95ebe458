"""Stamps: names and values that a workflow's tasks carry in their headers, and the visitor that chooses them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amqtask.canvas.signature import Signature

STAMPED = "stamped_headers"
"""The option that names the others which are stamps."""


class StampingVisitor(ABC):
    """Chooses the stamps of a workflow's parts: ``sig.stamp(visitor)`` calls it for each.

    Every hook gets the stamps that come from above as keywords, and returns those to add (``None`` is none). A returned
    ``stamped_headers`` names which of the returned are stamps; without it all are. Hooks run in the thread that stamps.
    """

    @abstractmethod
    def on_signature(self, sig: Signature[Any], **headers: Any) -> dict[str, Any] | None:
        """Stamps of one task."""

    def on_group_start(self, group: Signature[Any], **headers: Any) -> dict[str, Any] | None:
        """Stamps of all members of a group, before they are visited."""
        return {}

    def on_group_end(self, group: Signature[Any], **headers: Any) -> None:  # noqa: B027  # a hook to override
        """The members of a group were visited; those of a generator are visited as they come."""

    def on_chain_start(self, chain: Signature[Any], **headers: Any) -> dict[str, Any] | None:
        """Stamps of all links of a chain, before they are visited."""
        return {}

    def on_chain_end(self, chain: Signature[Any], **headers: Any) -> None:  # noqa: B027  # a hook to override
        """The links of a chain were visited."""

    def on_chord_header_start(self, sig: Signature[Any], **header: Any) -> dict[str, Any] | None:
        """Stamps of all parts of a chord's header, and of its body; those of a group unless overridden."""
        kinds = sig.TYPES
        header_group = sig["kwargs"]["header"]
        if not isinstance(header_group, kinds["group"]):
            header_group = sig["kwargs"]["header"] = kinds["group"](header_group)
        return self.on_group_start(header_group, **header)

    def on_chord_header_end(self, sig: Signature[Any], **header: Any) -> None:
        """The parts of a chord's header were visited."""
        self.on_group_end(sig["kwargs"]["header"], **header)

    def on_chord_body(self, sig: Signature[Any], **header: Any) -> dict[str, Any] | None:
        """Stamps of a chord's body. The argument is the chord."""
        return {}

    def on_callback(self, callback: Signature[Any], **header: Any) -> dict[str, Any] | None:
        """Stamps of a callback (``link``)."""
        return {}

    def on_errback(self, errback: Signature[Any], **header: Any) -> dict[str, Any] | None:
        """Stamps of an error callback (``link_error``)."""
        return {}


def visits(visitor: object) -> None:
    """Refuse what cannot choose stamps.

    Raises:
        TypeError: it is neither a visitor nor ``None``.
    """
    if visitor is not None and not callable(getattr(visitor, "on_signature", None)):
        raise TypeError(
            f"stamp() takes a StampingVisitor, not {type(visitor).__name__}; for stamps that are the same everywhere write their"
            " names, as stamp(customer=7)."
        )


def joined(
    headers: Mapping[str, Any],
    visited: Mapping[str, Any] | None,
    own: Mapping[str, Any] | None,
    append: bool,
) -> dict[str, Any]:
    """The stamps of one signature, with the ``stamped_headers`` that names them.

    Args:
        headers: stamps from above.
        visited: what the visitor returned; ``None`` without a visitor.
        own: the signature's options, of which its stamps are kept; ``None`` to leave them out.
        append: put the values of a stamp that is there already into a list, instead of keeping the first.
    """
    result = dict(headers)
    names = list(result.get(STAMPED, result))
    result.pop(STAMPED, None)
    if visited is not None:
        names += visited.get(STAMPED, visited)
        _merge(result, {name: value for name, value in visited.items() if name != STAMPED}, append)
    if own is not None:
        names += own.get(STAMPED) or ()
        kept = {name: own[name] for name in names if name in own and name != STAMPED}
        _merge(result, kept, append)
    result[STAMPED] = list(dict.fromkeys(names))
    return result


def _merge(first: dict[str, Any], second: Mapping[str, Any], append: bool) -> None:
    """Put the second's entries into the first.

    Without ``append`` a value that both have stays the first's, unless both are lists, which are joined.
    """
    for name, value in second.items():
        if name not in first:
            first[name] = value
            continue
        known = first[name]
        if isinstance(known, dict) and isinstance(value, Mapping):
            first[name] = known = dict(known)
            _merge(known, value, append)
        elif isinstance(known, list) and isinstance(value, list):
            first[name] = [*known, *value]
        elif append:
            known = [] if known is None else _as_list(known)
            first[name] = [*known, *value] if isinstance(value, list) else [*known, value]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
