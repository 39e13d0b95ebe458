"""The ``amqtask`` command: mounts the sub-commands and turns our errors into one sentence."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from amqtask.cli import broker
from amqtask.errors import AmqtaskError

app = typer.Typer(
    name="amqtask",
    help="Background tasks on RabbitMQ.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback is for a mistake of ours: plain and whole
)
app.add_typer(broker.app, name="broker")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"amqtask {version('amqtask')}")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Background tasks on RabbitMQ."""


def main() -> None:
    """Run the command line; an error of ours ends as one sentence and exit code 1."""
    try:
        app()
    except AmqtaskError as exc:
        sys.stderr.write(f"{exc}\n")
        sys.exit(1)
