"""``amqtask queue``: how full queues are, and emptying one. Needs no management API."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amqtask.cli import output
from amqtask.cli.flags import AppOption, BrokerOption, TopologyOption
from amqtask.cli.target import Target
from amqtask.errors import ConfigurationError, OperationRefused

if TYPE_CHECKING:
    from amqtask.amqp.session import Session
    from amqtask.topology.model import Topology

app = typer.Typer(
    help="Look at queues and empty them.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: a table would cut the names of options
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def ls(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUEUE]...", show_default=False, help="Queues. Else those of the topology."
        ),
    ] = None,
    file: TopologyOption = None,
    app_name: AppOption = None,
    broker: BrokerOption = None,
) -> None:
    """List queues with their ready messages and consumers. Exit code 1 when a queue that was named is missing."""
    target: Target = context.obj.override(app_name, broker)
    topology = _topology(target, file, needed=not names)
    known = topology.all_queues() if topology is not None else {}
    wanted = list(dict.fromkeys(names)) if names else list(known)
    rows: list[tuple[str, str, str, str]] = []
    missing: list[str] = []
    with target.session(topology) as session:
        for name in wanted:
            kind = known[name].type if name in known else "-"
            messages, consumers = _look(session, name)
            if messages == "missing":
                missing.append(name)
            rows.append((name, kind, messages, consumers))
    output.print_table(("queue", "type", "messages", "consumers"), rows, numbers=(2, 3))
    if names:
        output.fail([f"There is no queue {name!r} on the broker." for name in missing])


@app.command()
def purge(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue to empty.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    app_name: AppOption = None,
    broker: BrokerOption = None,
) -> None:
    """Delete all ready messages of a queue for good, and print how many. Messages that consumers hold stay."""
    target: Target = context.obj.override(app_name, broker)
    with target.session(_topology(target, None, needed=False)) as session:
        state = session.queue(name)
        if state is None:
            raise ConfigurationError(f"There is no queue {name!r} on the broker.")
        if not yes:
            if not output.is_terminal(sys.stdin):
                raise ConfigurationError(
                    f"Purging {name!r} deletes its messages for good: give --yes where nobody can be asked."
                )
            asked = f"Delete {_messages(state.messages)} of queue {output.safe(name)} for good?"
            if not typer.confirm(asked):
                typer.echo("Nothing was deleted.")
                raise typer.Exit(1)
        typer.echo(f"Deleted {_messages(session.purge(name))} of queue {output.safe(name)}.")


def _topology(target: Target, file: Path | None, *, needed: bool) -> Topology | None:
    if file is None and not target.has_app():
        if not needed:
            return None
        raise ConfigurationError(
            "Which queues? Name them, or give a topology with -f, or an app with -A or AMQTASK_APP."
        )
    return target.topology(file)


def _look(session: Session, name: str) -> tuple[str, str]:
    """Messages and consumers of a queue, or why they cannot be told."""
    try:
        state = session.queue(name)
    except OperationRefused as error:
        why = {403: "forbidden", 405: "exclusive"}.get(error.code, f"error {error.code}")
        return why, "-"
    return ("missing", "-") if state is None else (str(state.messages), str(state.consumers))


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"
