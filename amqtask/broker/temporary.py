"""Brokers that end with whoever started them: context managers, with a guard for when that is killed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class Temporary(ABC):
    """What is started by ``with`` and removed with its data at the end; a guard process does so too when this one is killed."""

    _guard: subprocess.Popen[bytes] | None = None  # owner: the thread using the context

    @abstractmethod
    def start(self) -> object:
        """Start it; return when it can be used."""

    @abstractmethod
    def discard(self) -> None:
        """Kill it and remove it with all data."""

    @abstractmethod
    def _folders(self) -> Sequence[Path]:
        """What the guard removes, in this order."""

    def __enter__(self) -> Self:
        # Only the write end of this pipe in our process keeps the guard waiting.
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "amqtask.broker.guard", *map(str, self._folders())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()
        if self._guard is not None:
            self._guard.communicate()  # closes the pipe: the guard finds nothing to do and ends
            self._guard = None


def new_folder(root: Path | None) -> Path:
    """Make a temporary folder for a node, inside the file tree at ``root`` where there is one."""
    base = None if root is None else root / "var/tmp"
    return Path(tempfile.mkdtemp(prefix="amqtask-broker-", dir=base))
