"""A queue that never confirms, as a quorum queue without a majority, for tests that have one node."""

from __future__ import annotations

from typing import Any

from amqtask.core.confirms import InFlight


class Unanswered(InFlight[Any]):
    """In flight on a broker that answers for all but what goes to one queue through the default exchange."""

    _silent = ""

    def __init__(self, silent: str = "") -> None:
        super().__init__()
        self._silent = silent or self._silent  # kept when it starts from nothing

    def confirmed(self, number: int, multiple: bool) -> list[tuple[Any, str | None]]:
        """Settle what the confirm covers, but not what goes to the silent queue."""
        settled = []
        for covered in range(
            min(self._entries, default=number) if multiple else number, number + 1
        ):
            entry = self._entries.get(covered)
            if entry is not None and entry.publication.routing_key != self._silent:
                settled += super().confirmed(covered, False)
        return settled
