"""The reference of the command line names every command and every option there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from amqtask.cli.root import app

REFERENCE = (Path(__file__).parents[2] / "docs/reference/cli.md").read_text()


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            yield from _commands(command.get_command(None, name), (*path, name))


def test_every_command_and_option_is_described() -> None:
    words = set(re.findall(r"--?[a-zA-Z][\w-]*|\b[a-z]+\b", REFERENCE))

    for path, command in _commands(typer.main.get_command(app), ()):
        missing = {name for name in path if name not in words}
        for parameter in command.params:
            if parameter.param_type_name == "option":
                missing |= {
                    o for o in (*parameter.opts, *parameter.secondary_opts) if o not in words
                }

        assert not missing, (path, missing)
