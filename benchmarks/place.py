"""The broker of a run: what is on it before is there afterwards, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from amqtask.amqp.address import Address
from amqtask.amqp.session import Session
from amqtask.errors import OperationRefused
from benchmarks import machine

CALM = 0.25  # CPUs; a broker that uses less has done what it was asked
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Place:
    """A broker that jobs run on; a context manager that deletes at its end what appeared meanwhile.

    Args:
        url: of the broker; with the virtual host the jobs use.
        patience: seconds to wait, before a job, for a broker that is busy with something else.
    """

    def __init__(self, url: str, patience: float = 6.0) -> None:
        self.url = _spelt_out(url)
        self._patience = patience
        self.address = Address.parse(url)
        local = self.address.host in _LOCAL
        self.pid = machine.listener(self.address.port) if local else None
        self._ours: dict[str, set[str]] = {"queue": set(), "exchange": set()}
        self._theirs: dict[str, set[str]] = {"queue": set(), "exchange": set()}
        with self._session() as session:
            self.version = session.server.version

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.clean()

    @property
    def env(self) -> dict[str, str]:
        """What the processes of a job are told of the broker."""
        told = {"AMQTASK_BROKER_URL": self.url}
        return told if self.pid is None else {**told, "BENCH_BROKER_PID": str(self.pid)}

    def expect(self, queues: Iterable[str], exchanges: Iterable[str]) -> None:
        """Note which of these are there already: they stay. The others are deleted by ``clean``. Call before the first job."""
        with self._session() as session:
            for name in queues:
                there = session.queue(name) is not None
                (self._theirs if there else self._ours)["queue"].add(name)
            for name in exchanges:
                there = session.exchange_exists(name)
                (self._theirs if there else self._ours)["exchange"].add(name)

    def clean(self) -> None:
        """Delete what jobs left: queues with what is in them, and exchanges."""
        with self._session() as session:
            for kind, delete in (
                ("queue", session.delete_queue),
                ("exchange", session.delete_exchange),
            ):
                for name in sorted(self._ours[kind] - self._theirs[kind]):
                    try:
                        delete(name)
                    except OperationRefused:
                        continue  # what is not there is not left behind

    def cpu(self) -> float:
        """Seconds of CPU the broker has used; 0 when it is not on this machine."""
        return 0.0 if self.pid is None else machine.cpu(self.pid)

    def settle(self) -> None:
        """Wait until the broker has finished what came before, as long as patience lasts."""
        deadline = time.monotonic() + self._patience
        while self.pid is not None and time.monotonic() < deadline:
            used = self.cpu()
            time.sleep(0.4)
            if self.cpu() - used < CALM * 0.4:
                return

    def _session(self) -> Session:
        return Session([self.address], name="amqtask benchmark")


def _spelt_out(url: str) -> str:
    """A URL with its virtual host ``/`` as every client reads it: to some, ``//`` at the end is the one without a name."""
    return f"{url[:-1]}%2F" if url.endswith("//") else url
