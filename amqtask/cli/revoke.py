"""``amqtask revoke``: have tasks not run, from the shell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from amqtask.cli.flags import AppOption, BrokerOption
from amqtask.cli.sender import closing
from amqtask.cli.target import Target
from amqtask.errors import ConfigurationError

if TYPE_CHECKING:
    from amqtask.app import App

app = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def revoke(
    context: typer.Context,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", show_default=False, help="The tasks' ids."),
    ] = None,
    headers: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            metavar="NAME=VALUE",
            show_default=False,
            help="All tasks with this header instead of an id; may be repeated, one match is enough.",
        ),
    ] = None,
    terminate: Annotated[
        bool, typer.Option("--terminate", help="End those that run, too.")
    ] = False,
    signal: Annotated[
        str,
        typer.Option(
            metavar="SIGNAL",
            help="With --terminate: SIGUSR1 raises SoftTimeLimitExceeded in the task; SIGKILL kills its process soon if it does not end by itself.",
        ),
    ] = "SIGTERM",
    app_name: AppOption = None,
    broker: BrokerOption = None,
) -> None:
    """Have tasks not run (again): they end as REVOKED. Returns when the broker has it; workers that start later know it too."""
    by_header = parse_headers(headers or [])
    if bool(ids) == bool(by_header):
        raise ConfigurationError("Which tasks? Give their ids, or --header NAME=VALUE.")
    target: Target = context.obj.override(app_name, broker)
    with closing(_app(target)) as sender:
        try:
            if ids:
                sender.control.revoke(ids, terminate=terminate, signal=signal)
            else:
                sender.control.revoke_by_headers(by_header, terminate=terminate, signal=signal)
        except ValueError as error:  # an empty id, no such signal
            raise ConfigurationError(str(error)) from None


def parse_headers(texts: list[str]) -> dict[str, list[str]]:
    """Headers as ``NAME=VALUE``, those of one name together.

    Raises:
        ConfigurationError: one is not of that form.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigurationError(f"--header takes NAME=VALUE, not {text!r}.")
        found.setdefault(name, []).append(value)
    return found


def _app(target: Target) -> App:
    if target.has_app():
        return target.load_app()
    from amqtask.app import App

    sender = App("amqtask-revoke")
    if target.broker:
        sender.broker_url = target.broker
    return sender
