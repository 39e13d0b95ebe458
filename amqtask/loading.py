"""Finding the application a command works for: ``-A shop.tasks``, ``-A shop.tasks:app``.

Reads no environment and no file but the user's modules; the command line decides where the name comes from.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from pathlib import Path

from amqtask.app import App
from amqtask.errors import AppNotFound, ConfigurationError
from amqtask.names import did_you_mean


def load_app(target: str, directory: Path | None = None) -> App:
    """Import an application.

    ``target`` is ``module`` or ``module:attribute``. Without an attribute the module must hold one App; a package without
    one is searched for a submodule ``app``, ``tasks`` or ``celery``. ``directory`` (the working directory) goes to the
    front of the import path, as ``python -m`` does.

    Raises:
        AppNotFound: one sentence: what could not be imported, and where the user's code failed.
    """
    root = str(directory or Path.cwd())
    if root not in sys.path:
        sys.path.insert(0, root)
    name, _, attribute = target.partition(":")
    module = _import(name, target)
    if attribute:
        found = getattr(module, attribute, None)
        if not isinstance(found, App):
            raise AppNotFound(
                f"{name} has no App called {attribute!r}: check the name after the colon in -A {target}."
            )
        return found
    apps = _apps(module)
    if not apps and hasattr(module, "__path__"):
        for child in ("app", "tasks", "celery"):
            if child in {found.name for found in pkgutil.iter_modules(module.__path__)}:
                apps = _apps(_import(f"{name}.{child}", target))
                if apps:
                    break
    if not apps:
        raise AppNotFound(
            f"No App in {name}: create one (app = App(...)) or name the module that has it with -A module:app."
        )
    if len(apps) > 1:
        names = ", ".join(sorted(f"{name}:{key}" for key in apps))
        raise AppNotFound(f"{name} holds more than one App; choose one of {names}.")
    return next(iter(apps.values()))


def load_value(target: str) -> object:
    """Import what a module holds: ``module:name``, with the working directory at the front of the import path.

    Raises:
        AppNotFound: one sentence: what could not be imported, or that it is not there.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    name, _, attribute = target.partition(":")
    module = _import(name, target)
    if not hasattr(module, attribute):
        near = did_you_mean(attribute, vars(module)) or "."
        raise AppNotFound(f"{name} has no {attribute!r}{near}")
    return getattr(module, attribute)


def _apps(module: object) -> dict[str, App]:
    """The apps of a module, each once, under its first name."""
    found: dict[str, App] = {}
    for key, value in vars(module).items():
        if isinstance(value, App) and not any(value is other for other in found.values()):
            found[key] = value
    return found


def _import(name: str, target: str) -> object:
    if name.startswith(".") or name.endswith(".py") or "/" in name:
        module = name.removesuffix(".py").strip("./").replace("/", ".")
        raise AppNotFound(
            f"{name!r} (-A {target}) is the name of a file and not of a module: write -A {module}"
            f"{target[len(name) :]}, in the folder that holds it."
        )
    try:
        return importlib.import_module(name)
    except ConfigurationError as error:
        raise AppNotFound(f"Importing {name} failed: {error}") from None
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise AppNotFound(
                f"There is no module {name!r} (-A {target}): run the command from the folder that holds it, "
                "or check the name."
            ) from None
        raise AppNotFound(_failure(name, error)) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever the user's module raises is told in one sentence
        raise AppNotFound(_failure(name, error)) from None


def _failure(name: str, error: BaseException) -> str:
    """One sentence with the place in the user's code where an import failed."""
    if isinstance(error, SyntaxError):
        return f"Importing {name} failed: {error.msg} ({error.filename}:{error.lineno})."
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and frame.filename != __file__
    ]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"Importing {name} failed: {type(error).__name__}{': ' + text if text else ''}{where}."
