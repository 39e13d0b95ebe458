"""``amqtask broker``: a private RabbitMQ development node of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amqtask.broker.choice import ensure_server
from amqtask.broker.node import NodeStatus, PrivateNode, default_home

app = typer.Typer(
    help="Run a private RabbitMQ for development: own ports on loopback, own data folder.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: a table would cut the names of options
)

NOT_RUNNING = 3  # as `systemctl status` and LSB scripts answer for a stopped service

Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="The node's folder, which is its identity; several nodes run side by side."
        " By default AMQTASK_BROKER_HOME, else ~/.local/state/amqtask/broker.",
    ),
]


@app.command()
def start(
    home: Home = None,
    install: Annotated[
        bool,
        typer.Option(
            help="On Debian, as root or with passwordless sudo, install rabbitmq-server if it is"
            " missing."
        ),
    ] = True,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Seconds the node may take to come up.")
    ] = 120.0,
) -> None:
    """Start the node, or find it running; return when it accepts logins."""
    if install:
        ensure_server()
    _show(_node(home).start(timeout))


@app.command()
def stop(
    home: Home = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="Seconds RabbitMQ has to close its data before it is killed."
        ),
    ] = 60.0,
) -> None:
    """Stop the node; its data stays. Nothing to do is fine too."""
    stopped = _node(home).stop(timeout)
    typer.echo("The broker is stopped." if stopped else "No broker was running.")


@app.command()
def status(home: Home = None) -> None:
    """Show version, process, ports and folder; exit code 0 when it runs, 3 when it does not."""
    found = _node(home).status()
    _show(found)
    if not found.running:
        raise typer.Exit(NOT_RUNNING)


@app.command()
def url(home: Home = None) -> None:
    """Print the broker's URL, for AMQTASK_BROKER_URL; exit code 1 when it does not run."""
    typer.echo(_node(home).url)


def _node(home: Path | None) -> PrivateNode:
    return PrivateNode(home.expanduser() if home else default_home())


def _show(found: NodeStatus) -> None:
    """Print one ``name: value`` line per fact, so that people and scripts read the same."""
    facts: dict[str, object | None] = {
        "state": "running" if found.running else "stopped",
        "version": found.version and f"RabbitMQ {found.version}",
        "pid": found.pid,
        "url": found.url,
        "management": found.management_url and f"{found.management_url} (guest, guest)",
    }
    if found.running and found.ports:
        facts |= {
            "amqp port": found.ports.amqp,
            "management port": found.management_url and found.ports.management,
            "distribution port": found.ports.distribution,
            "epmd port": found.ports.epmd,
        }
    facts |= {"folder": found.home, "log": found.log if found.version else None}
    for name, value in facts.items():
        if value is not None:
            typer.echo(f"{name + ':':<19}{value}")
