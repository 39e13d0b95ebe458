"""The command line's root: its own options, and the sub-commands.

Sub-commands are imported when they are called, so that ``amqtask --version`` and completion answer at once.
"""

from __future__ import annotations

import importlib
from typing import Annotated

import typer
from typer.core import TyperGroup

from amqtask.cli.flags import AppOption, BrokerOption
from amqtask.cli.target import Target
from amqtask.names import did_you_mean

# name: the module whose `app` it is. The order is that of the help.
COMMANDS = {
    "worker": "amqtask.cli.worker",
    "call": "amqtask.cli.tasks",
    "revoke": "amqtask.cli.revoke",
    "graph": "amqtask.cli.graph",
    "topology": "amqtask.cli.topology",
    "queue": "amqtask.cli.queue",
    "dead": "amqtask.cli.dead.commands",
    "doctor": "amqtask.cli.doctor",
    "broker": "amqtask.cli.broker",
    "chaos": "amqtask.cli.chaos",
}


class Commands(TyperGroup):
    """The sub-commands, each imported when somebody asks for it."""

    def list_commands(self, ctx: object) -> list[str]:
        """Name all sub-commands."""
        return list(COMMANDS)

    def get_command(self, ctx: object, cmd_name: str) -> typer.core.TyperCommand | None:
        """Import a sub-command; ``None`` when there is none of this name.

        Raises:
            BadParameter: there is none, and one that is spelt nearly so.
        """
        if cmd_name not in COMMANDS:
            hint = did_you_mean(cmd_name, COMMANDS)
            if hint:
                raise typer.BadParameter(f"there is no command {cmd_name!r}{hint}")
            return None
        command = typer.main.get_command(importlib.import_module(COMMANDS[cmd_name]).app)
        command.name = cmd_name
        return command  # type: ignore[return-value]  # as above


app = typer.Typer(
    name="amqtask",
    help="Background tasks on RabbitMQ.",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: a table would cut the names of options
    pretty_exceptions_enable=False,  # a traceback is for a mistake of ours: plain and whole
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"amqtask {version('amqtask')}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    app_name: AppOption = None,
    broker: BrokerOption = None,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Background tasks on RabbitMQ."""
    context.obj = Target(app_name, broker)
