"""The app of a command that sends something and ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amqtask.app import App


@contextmanager
def closing(app: App) -> Iterator[App]:
    """Close the app at the end of the block; at once, and not when all is sent, where somebody has interrupted it."""
    try:
        yield app
    except KeyboardInterrupt:
        app.close(0)
        raise
    finally:
        app.close()
