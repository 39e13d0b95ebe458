"""What a command works for: the app it was pointed at, the broker, and the topology.

The app's name comes from ``-A``, else ``AMQTASK_APP``, else ``[tool.amqtask]`` in the nearest ``pyproject.toml``. Imports
of the app and of everything heavy happen only in the methods that need them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from amqtask.errors import ConfigurationError

if TYPE_CHECKING:
    from amqtask.amqp.address import Address
    from amqtask.amqp.session import Session
    from amqtask.amqp.transfer import Transfer
    from amqtask.app import App
    from amqtask.settings import Settings
    from amqtask.topology.model import Topology
    from amqtask.topology.routes import Router

APP_VARIABLE = "AMQTASK_APP"
BROKER_VARIABLE = "AMQTASK_BROKER_URL"
SECONDS = 10.0  # a command waits so long for each answer of the broker


@dataclass(frozen=True, slots=True)
class Named:
    """An app's name and where it was written; ``folder`` is where its module is looked for."""

    name: str
    folder: Path


def find_app(flag: str | None, environment: Mapping[str, str], folder: Path) -> Named | None:
    """The app a command works for: the flag, then the environment, then the nearest ``pyproject.toml`` that names one.

    Raises:
        ConfigurationError: a ``pyproject.toml`` on the way cannot be read, or its entry is no text.
    """
    name = flag or environment.get(APP_VARIABLE)
    if name:
        return Named(name, folder)
    for parent in (folder, *folder.parents):
        entry = _from_pyproject(parent / "pyproject.toml")
        if entry is not None:
            return Named(entry, parent)
    return None


def _from_pyproject(file: Path) -> str | None:
    import tomllib  # for those that name their app there

    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}.") from None
    tool = table.get("tool")
    ours = tool.get("amqtask") if isinstance(tool, dict) else None
    entry = ours.get("app") if isinstance(ours, dict) else None
    if entry is not None and not (isinstance(entry, str) and entry):
        raise ConfigurationError(
            f'{file}: app under [tool.amqtask] must be a text like "shop.tasks", not {entry!r}.'
        )
    return entry


@dataclass(frozen=True, slots=True)
class Target:
    """What the options before the command's name said. Kept as the context's object."""

    app_flag: str | None = None
    broker: str | None = None

    def override(self, app: str | None, broker: str | None) -> Target:
        """The same options given after the command's name; those win."""
        return replace(self, app_flag=app or self.app_flag, broker=broker or self.broker)

    def app_name(self) -> str:
        """The app's name, with its folder on the import path.

        Raises:
            ConfigurationError: no app is named anywhere.
        """
        named = find_app(self.app_flag, os.environ, Path.cwd())
        if named is None:
            raise ConfigurationError(
                "Which app? Name its module with -A shop.tasks, in AMQTASK_APP, or as "
                'app = "shop.tasks" under [tool.amqtask] in pyproject.toml.'
            )
        self.apply_broker()
        # the working folder first, as load_app has it; a pyproject.toml above it names modules beside itself
        for folder in (named.folder, Path.cwd()):
            if str(folder) not in sys.path:
                sys.path.insert(0, str(folder))
        return named.name

    def has_app(self) -> bool:
        """Whether an app is named anywhere."""
        return find_app(self.app_flag, os.environ, Path.cwd()) is not None

    def load_app(self) -> App:
        """Import the app.

        Raises:
            ConfigurationError: none is named, or it cannot be imported.
        """
        from amqtask.loading import load_app

        app = load_app(self.app_name())
        if self.broker:
            app.broker_url = self.broker
        return app

    def apply_broker(self) -> None:
        """Make ``--broker`` hold for every app of this process and of those it starts."""
        if self.broker:
            os.environ[BROKER_VARIABLE] = self.broker

    def topology(self, file: Path | None) -> Topology:
        """The topology of a file, or the app's.

        Raises:
            ConfigurationError: neither is given, or either has mistakes.
        """
        if file is not None:
            from amqtask.topology.parse import load

            return load(file)
        if not self.has_app():
            raise ConfigurationError(
                "Which topology? Give a file, or name an app with -A or AMQTASK_APP."
            )
        return self.load_app().topology

    def routing(self, file: Path | None) -> tuple[Topology, Router]:
        """A topology and what finds the routes in it: a file's alone, or the app's with its settings.

        Raises:
            ConfigurationError: neither is given, or either has mistakes.
        """
        if file is not None or not self.has_app():
            from amqtask.settings import Settings
            from amqtask.topology.routes import Router

            topology = self.topology(file)
            return topology, Router(topology, {}, Settings().task_default_queue)
        app = self.load_app()
        return app.topology, app.router

    def settings(self, file: Path | None) -> Settings:
        """The app's settings, or, for a topology file without an app named beside it, the defaults.

        Raises:
            ConfigurationError: the app cannot be imported.
        """
        from amqtask.settings import Settings

        if file is not None and self.app_flag is None:
            return Settings()
        return self.load_app().settings

    def addresses(self, topology: Topology | None = None) -> tuple[Address, ...]:
        """The brokers: the option's, the environment's, the app's if one is named, or the local one.

        Args:
            topology: its virtual host is used where the URL names none.

        Raises:
            ConfigurationError: the URL has a mistake, or the app that should tell it cannot be imported.
        """
        from amqtask.amqp.address import in_vhost, parse_addresses
        from amqtask.place import DEFAULT_BROKER_URL

        url = self.broker or os.environ.get(BROKER_VARIABLE)
        if not url:
            url = self.load_app().broker_url if self.has_app() else DEFAULT_BROKER_URL
        return in_vhost(parse_addresses(url), topology.vhost if topology is not None else None)

    def transfer(self, topology: Topology | None = None) -> Transfer:
        """A connection that moves messages, to be used in a ``with`` block.

        Raises:
            ConfigurationError: as ``addresses``.
        """
        from amqtask.amqp.transfer import Transfer

        return Transfer(
            self.addresses(topology), name="amqtask command", timeout=SECONDS, patience=SECONDS
        )

    def session(self, topology: Topology | None = None) -> Session:
        """A conversation with the broker, to be used in a ``with`` block. It outlives a connection that is cut.

        Raises:
            ConfigurationError: as ``addresses``.
        """
        from amqtask.amqp.session import Session

        return Session(
            self.addresses(topology), name="amqtask command", timeout=SECONDS, patience=SECONDS
        )
