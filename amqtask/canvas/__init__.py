"""Workflows: signatures, how they become messages, and what follows from a task's end."""

from __future__ import annotations

from amqtask.canvas import (
    maps,
    primitives,
)  # which make their kinds known to ``Signature.from_dict``

__all__ = ["maps", "primitives"]
