"""Where an app's tasks go: its brokers, its topology, its routes and its delay ladder. Each is read when it is first needed."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from amqtask.errors import ConfigurationError
from amqtask.settings import Settings
from amqtask.topology.ladder import Ladder, prefix_of
from amqtask.topology.model import Delays, Topology
from amqtask.topology.parse import load
from amqtask.topology.routes import Router, default_topology

if TYPE_CHECKING:
    from amqtask.amqp.address import Address

BROKER_URL_VARIABLE = "AMQTASK_BROKER_URL"
DEFAULT_BROKER_URL = "amqp://guest:guest@localhost//"


class Place:
    """Where an app's tasks go. Any thread.

    Args:
        name: the app's.
        settings: the app's.
        source: a topology file, a topology, or ``None`` for a single queue.
        home: the folder from which, upwards, a relative path is looked for after the working directory.
        broker_url: the broker that comes before the environment's and the settings'.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        source: str | os.PathLike[str] | Topology | None,
        home: Path | None,
        broker_url: str | None,
    ) -> None:
        if source is not None and not isinstance(source, (str, os.PathLike, Topology)):
            raise ConfigurationError(
                f"An app's topology is the path of a YAML file or a Topology, not {type(source).__name__}: write it into a file"
                " and give its name."
            )
        self._name = name
        self._settings = settings
        self._source = source
        self._home = home
        self._broker_url = broker_url
        self._lock = threading.Lock()
        self._topology: Topology | None = None  # guarded by _lock, then never replaced
        self._router: Router | None = None  # the same

    @property
    def broker_url(self) -> str:
        """The broker's URL, password and all: what was given, the environment's, the setting's, or the default."""
        return (
            self._broker_url
            or os.environ.get(BROKER_URL_VARIABLE)
            or self._settings.broker_url
            or DEFAULT_BROKER_URL
        )

    @broker_url.setter
    def broker_url(self, url: str) -> None:
        """Put another broker before all of these."""
        self._broker_url = url

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The brokers to try, in order, in the topology's virtual host; shuffled where the settings say so.

        Raises:
            ConfigurationError: the URL has a mistake, or the topology cannot be read.
        """
        # with the first connection
        from amqtask.amqp.address import in_order, in_vhost, parse_addresses

        found = in_vhost(parse_addresses(self.broker_url), self.topology.vhost)
        return in_order(found, self._settings.broker_failover_strategy)

    @property
    def topology(self) -> Topology:
        """The topology; read from its file on first use.

        Raises:
            ConfigurationError: the file is not there.
            TopologyError: it has mistakes; all are listed.
        """
        if self._topology is None:
            with self._lock:
                if self._topology is None:
                    self._topology = self._load()
        return self._topology

    @property
    def has_topology_file(self) -> bool:
        """Whether the topology comes from a file, so that it has a name by which it can be applied."""
        return isinstance(self._source, (str, os.PathLike))

    @property
    def router(self) -> Router:
        """Finds the exchange and the routing key of a task.

        Raises:
            ConfigurationError: a route leads nowhere, or the topology cannot be read.
        """
        if self._router is None:
            own = self.topology if self._source is not None else None
            router = Router(own, self._settings.task_routes, self._settings.task_default_queue)
            with self._lock:
                if self._router is None:
                    self._router = router
        return self._router

    @property
    def ladder(self) -> Ladder:
        """The delay ladder that what is sent for later waits in.

        Raises:
            ConfigurationError, TopologyError: as ``topology``.
        """
        return Ladder(self.topology.delays.prefix)

    def after_fork(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def _load(self) -> Topology:
        if isinstance(self._source, (str, os.PathLike)):
            return load(_find_file(Path(self._source), self._home))
        topology = self._source or default_topology(self._settings.task_default_queue)
        if topology.delays.prefix:
            return topology
        delays = Delays(prefix=prefix_of(self._name), apply=topology.delays.apply)
        return msgspec.structs.replace(topology, delays=delays)


def folder_of_caller() -> Path | None:
    """The folder of the module that creates an app, ``None`` at a prompt; asked by what creates it."""
    frame = sys._getframe(2)  # noqa: SLF001  # the caller of App(): there is no public way to it
    file = frame.f_globals.get("__file__")
    return Path(file).resolve().parent if isinstance(file, str) else None


def _find_file(path: Path, home: Path | None) -> Path:
    """Where a topology file is.

    Raises:
        ConfigurationError: nowhere; the message says where it was looked for.
    """
    if path.is_absolute() or path.is_file():
        return path  # a missing absolute one is reported by its reader
    folders = [] if home is None else [home, *home.parents]
    for folder in folders:
        if (folder / path).is_file():
            return folder / path
    places = f"the working directory ({Path.cwd()})"
    if home is not None:
        places += f", {home} and the folders above it"
    raise ConfigurationError(f"There is no topology file {str(path)!r}: looked in {places}.")
