"""What somebody changes in a dead letter before it is sent back: with options, or in an editor."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from amqtask.cli import output
from amqtask.errors import ConfigurationError

if TYPE_CHECKING:
    from amqtask.dead.look import Found

_PARTS = ("task", "args", "kwargs", "headers")


def from_options(
    args: str | None, kwargs: str | None, settings: list[str] | None
) -> dict[str, Any]:
    """What the options change: the arguments of ``letters.changed``; empty when nothing."""
    changes: dict[str, Any] = {}
    if args is not None:
        changes["args"] = _json(args, "--args", list)
    if kwargs is not None:
        changes["kwargs"] = _json(kwargs, "--kwargs", dict)
    headers: list[tuple[str, object]] = []
    for text in settings or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
        if name == "task":
            changes["task"] = value
            continue
        try:
            headers.append((name, json.loads(value)))
        except ValueError:
            headers.append((name, value))
    if headers:
        changes["headers"] = headers
    return changes


def _json(text: str, option: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"no JSON: {error}", param_hint=option) from None
    if type(value) is not kind:
        what = "a list" if kind is list else "an object"
        raise typer.BadParameter(f"must be {what} of JSON", param_hint=option)
    return value


def from_editor(found: Found) -> dict[str, Any]:
    """What somebody changed in an editor; empty when nothing."""
    from amqtask.core.dead import PREFIX
    from amqtask.core.letters import arguments, plain

    known = arguments(found.properties, found.delivery.body)
    if known.problem is not None:
        raise ConfigurationError(f"Its arguments cannot be shown, so not edited: {known.problem}")
    assert found.properties is not None
    headers = {
        name: value
        for name, value in (found.properties.headers or {}).items()
        if not name.startswith((PREFIX, "x-"))
        and name not in ("id", "task", "argsrepr", "kwargsrepr")
    }
    before = {
        "task": found.letter.task,
        "args": plain(known.args),
        "kwargs": plain(known.kwargs),
        "headers": plain(headers),
    }
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor and not output.is_terminal(sys.stdin):
        raise ConfigurationError(
            "What is to be changed? Give --args, --kwargs or --set, or an editor in VISUAL or EDITOR."
        )
    with tempfile.TemporaryDirectory(prefix="amqtask-") as folder:
        file = Path(folder) / f"{found.letter.task or 'letter'}.json".replace("/", "_")
        file.write_text(json.dumps(before, indent=2, ensure_ascii=False) + "\n", "utf-8")
        try:
            done = subprocess.run([*shlex.split(editor or "vi"), str(file)], check=False)
        except OSError as error:
            raise ConfigurationError(f"The editor {editor!r} cannot be run: {error.strerror}.") from None  # fmt: skip
        if done.returncode != 0:
            raise ConfigurationError(
                f"The editor ended with code {done.returncode}; nothing was changed."
            )
        try:
            after = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"What the editor left is no JSON: {error}.") from None
    if not isinstance(after, dict) or set(after) - set(_PARTS):
        raise ConfigurationError(f"What the editor left must be an object of {', '.join(_PARTS)}.")
    changes: dict[str, Any] = {}
    for part, kind in (("task", str), ("args", list), ("kwargs", dict), ("headers", dict)):
        value = after.get(part, before[part])
        if not isinstance(value, kind):
            raise ConfigurationError(f"{part} must be a {kind.__name__}; nothing was changed.")
        if value != before[part]:
            changes[part] = value
    if "headers" in changes:
        old = before["headers"]
        changes["headers"] = [(k, v) for k, v in changes["headers"].items() if old.get(k) != v]
    return changes
