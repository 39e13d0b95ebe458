"""Names people write, and the known name they most likely meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to ``name``, or ``None`` when none is close.

    Spellings of other tools count as close: ``x-max-priority``, ``maxPriority`` and ``ttl`` find ``max_priority`` and
    ``message_ttl``.
    """
    names = list(known)
    plain = {_plain(candidate): candidate for candidate in names}
    wanted = _plain(name)
    if wanted in plain:
        return plain[wanted]
    close = difflib.get_close_matches(wanted, plain, n=1)
    if close:
        return plain[close[0]]
    inside = [candidate for candidate in names if wanted in candidate.split("_")]
    return inside[0] if len(inside) == 1 else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail ``"; did you mean 'x'?"`` of a message about an unknown name, or the empty string."""
    near = nearest(name, known)
    return f"; did you mean {near!r}?" if near is not None else ""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The sentence ``" Did you mean 'x'?"`` after a message about an unknown name, or the empty string."""
    near = nearest(name, known)
    return f" Did you mean {near!r}?" if near is not None else ""


def _plain(name: str) -> str:
    words = "".join(f"_{c}" if c.isupper() else c for c in name).lower().replace("-", "_")
    return words.removeprefix("x_").strip("_")
