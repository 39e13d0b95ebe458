"""``amqtask topology``: check a topology, show it, ask it where messages go, declare it on a broker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from amqtask.cli import output
from amqtask.cli.flags import AppOption, BrokerOption, TopologyOption
from amqtask.cli.target import Target
from amqtask.errors import ConfigurationError

app = typer.Typer(
    help="Check, show, explain and declare exchanges, queues and routes.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: a table would cut the names of options
    context_settings={"help_option_names": ["-h", "--help"]},
)

MARKS = {True: "+", False: "=", None: " "}  # made now, there already, not known

File = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FILE]", show_default=False, help="The topology file. Else the app's topology."
    ),
]


@app.command()
def validate(
    context: typer.Context,
    file: File = None,
    rabbitmq: Annotated[
        str | None,
        typer.Option(
            "--rabbitmq",
            metavar="VERSION",
            show_default=False,
            help="Check as well what this version of RabbitMQ lacks, as in 3.10 or 4.3.1.",
        ),
    ] = None,
    app_name: AppOption = None,
) -> None:
    """Check a topology without a broker: every mistake with its line, exit code 1; else what it declares."""
    from amqtask.topology.plan import unsupported, untold

    topology = _target(context, app_name).topology(file)
    if rabbitmq is not None:
        lacks = unsupported(topology, _version(rabbitmq))
        output.warn(lacks.warnings)
        output.fail(lacks.errors)
    silent = untold(topology)
    if silent:
        output.warn((_nobody_is_told(silent),))
    extra = len(topology.all_queues()) - len(topology.queues)
    dead = f" and {extra} more for dead letters" if extra else ""
    counts = (
        f"{_many(len(topology.exchanges), 'exchange')}, {_many(len(topology.queues), 'queue')}{dead}, "
        f"{_many(len(topology.bindings), 'binding')}, {_many(len(topology.routes), 'route')}"
    )
    typer.echo(f"{topology.source} is valid: {counts}.")


@app.command()
def apply(
    context: typer.Context,
    file: File = None,
    delays: Annotated[
        bool | None,
        typer.Option(
            "--delays/--no-delays",
            show_default=False,
            help="Declare the delay ladder, or leave it out. Else as the file's `delays` has it.",
        ),
    ] = None,
    verdicts: Annotated[
        bool,
        typer.Option(
            "--verdicts/--no-verdicts",
            help="Declare the stream of verdicts with the app's verdict_max_age and verdict_max_bytes, or leave it out.",
        ),
    ] = True,
    app_name: AppOption = None,
    broker: BrokerOption = None,
) -> None:
    """Declare a topology on the broker, with its delay ladder and the stream of verdicts. Deletes nothing; doing it again changes nothing.

    A queue or exchange that is there with other properties is an error, found before anything new is declared. So is a queue that is
    there and cannot be reached; everything else is declared.
    """
    from amqtask.amqp.declare import Absentees, carry_out, carry_out_delays, carry_out_verdicts
    from amqtask.core.verdicts import STREAM
    from amqtask.topology.ladder import Ladder

    target = _target(context, app_name, broker)
    topology = target.topology(file)
    settings = target.settings(file)

    def warn(text: str) -> None:
        output.warn((text,))

    absentees = Absentees()
    with target.session(topology) as session:
        for step in carry_out(session, topology, warn, absentees):
            typer.echo(f"{MARKS[step.created]} {output.safe(step.text)}")
        if topology.delays.apply if delays is None else delays:
            new = carry_out_delays(session, topology, absentees)
            bound = _many(len(topology.queues.keys() - absentees.told.keys()), "queue")
            typer.echo(f"{MARKS[new]} {Ladder(topology.delays.prefix)}, {bound} bound")
        if verdicts:
            usable = carry_out_verdicts(session, settings, warn, absentees)
            if usable is not None:
                typer.echo(f"{MARKS[usable]} stream {STREAM}")
        output.fail(tuple(absentees.told.values()))
        version = session.server.version
        typer.echo(f"{topology.source} is in place on {session.address} (RabbitMQ {version}).")


@app.command()
def show(
    context: typer.Context,
    file: File = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    app_name: AppOption = None,
) -> None:
    """Show a topology as a tree: exchanges, their bindings, the queues behind them, routes."""
    topology = _target(context, app_name).topology(file)
    if as_json:
        from amqtask.topology.render import tree

        typer.echo(json.dumps(tree(topology), indent=2, default=str))
        return
    from amqtask.topology.diagram import tree_of

    output.print_tree(tree_of(topology))


@app.command()
def explain(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASK",
            show_default=False,
            help="A task's full name; a topology file may stand beside it.",
        ),
    ] = None,
    exchange: Annotated[
        str | None,
        typer.Option(
            "--exchange",
            "-x",
            metavar="EXCHANGE",
            show_default=False,
            help='Explain a message instead of a task; "" is the default exchange.',
        ),
    ] = None,
    key: Annotated[
        str,
        typer.Option(
            "--key", "--routing-key", "-k", metavar="KEY", help="The message's routing key."
        ),
    ] = "",
    headers: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            "-H",
            metavar="NAME=VALUE",
            show_default=False,
            help="A header of the message; may be repeated. 5 is a number, true a boolean, anything else text.",
        ),
    ] = None,
    file: TopologyOption = None,
    app_name: AppOption = None,
) -> None:
    """Tell which queues a task or a message reaches, and by which bindings. Needs no broker; exit code 1 when it is none."""
    from amqtask.topology.diagram import reach_tree
    from amqtask.topology.simulate import explain_task, reach

    task, named_file = _task_and_file(words or ())
    if (task is None) == (exchange is None):
        raise typer.BadParameter("give a task's name, or --exchange with --key.")
    if task is not None and key:
        raise typer.BadParameter("--key goes with --exchange; a task's route has its own key.")
    target = _target(context, app_name)
    file = file or named_file
    values = parse_headers(headers or ())
    if task is not None:
        topology, router = target.routing(file)
        explained = explain_task(topology, router, task, values)
        found = explained.reach
        priority = explained.route.priority
        typer.echo(
            f"Task {output.safe(task)} takes {output.safe(explained.origin)}"
            + (f", priority {priority}." if priority is not None else ".")
        )
    else:
        assert exchange is not None
        topology = target.topology(file)
        found = reach(topology, exchange, key, values)
    output.print_tree(reach_tree(topology, found))
    if not found.queues:
        output.fail(("It reaches no queue: RabbitMQ would return the message as unroutable.",))


def parse_headers(texts: Sequence[str]) -> dict[str, object]:
    """Headers from ``name=value``; values that are JSON numbers or booleans are those, everything else is text.

    Raises:
        ConfigurationError: there is no ``=``.
    """
    headers: dict[str, object] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise ConfigurationError(f"--header {text!r} must be NAME=VALUE.")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        headers[name] = parsed if isinstance(parsed, (int, float)) else value
    return headers


def _task_and_file(words: Sequence[str]) -> tuple[str | None, Path | None]:
    """A task's name and a file, in any order: a file ends in .yaml or .yml."""
    files = [word for word in words if word.endswith((".yaml", ".yml"))]
    tasks = [word for word in words if word not in files]
    if len(files) > 1 or len(tasks) > 1:
        raise typer.BadParameter("give one task, and at most one file that ends in .yaml.")
    return (tasks[0] if tasks else None), (Path(files[0]) if files else None)


def _version(text: str) -> tuple[int, int, int]:
    parts = text.split(".")
    if not 1 <= len(parts) <= 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise typer.BadParameter(
            f"{text!r} is no version: write 3.10 or 4.3.1.", param_hint="--rabbitmq"
        )
    major, minor, patch = (*map(int, parts), 0, 0)[:3]
    return major, minor, patch


def _target(context: typer.Context, app_name: str | None, broker: str | None = None) -> Target:
    target: Target = context.obj.override(app_name, broker)
    return target


def _nobody_is_told(queues: Sequence[str]) -> str:
    """What the broker drops from queues with other dead letters than ours."""
    named, them = ", ".join(map(repr, queues)), "it" if len(queues) == 1 else "them"
    return f"Nobody is told of tasks that the broker drops from {named}: give {them} dead_letter: true if somebody may wait for those."


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
