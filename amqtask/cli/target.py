"""What a command works for: the app it was pointed at, the broker, and the topology.

The app's name comes from ``-A``, else ``AMQTASK_APP``, else ``[tool.amqtask]`` in the nearest ``pyproject.toml``. Imports
of the app and of everything heavy happen only in the methods that need them.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amqtask.errors import ConfigurationError

if TYPE_CHECKING:
    from amqtask.app import App
    from amqtask.topology.model import Topology

APP_VARIABLE = "AMQTASK_APP"
BROKER_VARIABLE = "AMQTASK_BROKER_URL"

AppOption = Annotated[
    str | None,
    typer.Option(
        "-A",
        "--app",
        metavar="MODULE[:APP]",
        show_default=False,
        help="The application. Else AMQTASK_APP, else app under \\[tool.amqtask] in pyproject.toml.",
    ),
]
BrokerOption = Annotated[
    str | None,
    typer.Option(
        "-b",
        "--broker",
        metavar="URL",
        show_default=False,
        help="The broker's URL. Else the app's, else AMQTASK_BROKER_URL, else the local broker.",
    ),
]
TopologyOption = Annotated[
    Path | None,
    typer.Option(
        "-f",
        "--topology",
        "--file",
        metavar="FILE",
        show_default=False,
        help="A topology file. Else the app's topology.",
    ),
]


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

        return load_app(self.app_name())

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
