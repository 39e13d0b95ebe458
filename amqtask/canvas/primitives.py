"""``chain``, ``group`` and ``chord`` in one place. Their kinds are known to ``Signature.from_dict`` when this is imported."""

from __future__ import annotations

from amqtask.canvas.chains import chain
from amqtask.canvas.chords import chord
from amqtask.canvas.groups import group

__all__ = ["chain", "chord", "group"]
