"""``amqtask doctor``: one line for each check of ``amqtask.diagnosis``, with the remedy where something is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amqtask.cli import output
from amqtask.cli.flags import AppOption, BrokerOption, TopologyOption
from amqtask.cli.target import Target
from amqtask.errors import AmqtaskError

if TYPE_CHECKING:
    from amqtask.amqp.address import Address
    from amqtask.amqp.session import Session
    from amqtask.app import App
    from amqtask.findings import Finding
    from amqtask.settings import Settings
    from amqtask.topology.model import Topology

app = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})

COLORS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "FAIL": typer.colors.RED}


@app.command()
def doctor(
    context: typer.Context,
    file: TopologyOption = None,
    management: Annotated[
        str | None,
        typer.Option(
            "--management-url",
            metavar="URL",
            show_default=False,
            help="The management API, like http://host:15672. Else the broker's host with the default port.",
        ),
    ] = None,
    app_name: AppOption = None,
    broker: BrokerOption = None,
) -> None:
    """Check this machine, the broker and what lies between them. Exit code 1 when a check fails; changes nothing."""
    target: Target = context.obj.override(app_name, broker)
    failed = 0
    for finding in _findings(target, file, management):
        failed += finding.status.value == "FAIL"
        _print(finding)
    if failed:
        typer.echo(f"{failed} check{'s' if failed > 1 else ''} failed.", err=True)
        raise typer.Exit(1)


def _findings(target: Target, file: Path | None, management: str | None) -> Iterator[Finding]:
    from amqtask import diagnosis, findings

    yield diagnosis.check_python()
    app, topology = None, None
    try:
        app = target.load_app() if target.has_app() else None
        if app is not None:
            yield findings.ok("app", f"{app.name}: {len(app.tasks)} tasks")
        if file is not None or app is not None:
            topology = target.topology(file)
    except AmqtaskError as error:
        for line in str(error).split("\n"):
            yield findings.fail("app" if app is None and file is None else "topology", line)
    yield diagnosis.check_client(app is None or app.settings.broker_fast_frames)
    try:
        addresses = _addresses(target, app, topology)
    except AmqtaskError as error:
        yield findings.fail("broker", str(error))
        return
    session, found = diagnosis.check_addresses(addresses)
    yield from found
    if session is None:
        return
    with session:
        yield from _of_broker(session, app, topology, management)


def _addresses(target: Target, app: App | None, topology: Topology | None) -> tuple[Address, ...]:
    """Where the broker is; an app that cannot be imported is told of already, and then has no say."""
    from amqtask.amqp.address import in_vhost, parse_addresses
    from amqtask.cli.target import BROKER_VARIABLE
    from amqtask.place import DEFAULT_BROKER_URL

    if app is not None:
        url = app.broker_url
    else:
        url = target.broker or os.environ.get(BROKER_VARIABLE) or DEFAULT_BROKER_URL
    return in_vhost(parse_addresses(url), topology.vhost if topology is not None else None)


def _of_broker(
    session: Session, app: App | None, topology: Topology | None, management: str | None
) -> Iterator[Finding]:
    from amqtask import diagnosis, findings
    from amqtask.amqp.management import Management

    try:
        yield from diagnosis.check_version(session, topology)
        yield from diagnosis.check_permissions(session)
        if topology is not None:
            yield from diagnosis.check_topology(session, topology)
            yield from diagnosis.check_dead_letters(session, topology)
            yield from diagnosis.check_delays(session, topology)
            yield from diagnosis.check_verdicts(session, _settings(app))
        yield diagnosis.check_clock(session)
        if app is not None:
            yield from diagnosis.check_time_limits(app, session.server.release)
        api = Management.of(session.address, management)
        yield from diagnosis.check_management(api, session, topology)
    except AmqtaskError as error:
        # the connection went away under a check
        yield findings.fail("broker", str(error))


def _settings(app: App | None) -> Settings:
    from amqtask.settings import Settings

    return Settings() if app is None else app.settings


def _print(finding: Finding) -> None:
    status = finding.status.value
    text = output.safe(finding.text) + (
        f": {output.safe(finding.remedy)}" if finding.remedy else ""
    )
    color = False if os.environ.get("NO_COLOR") else None
    typer.echo(
        f"{typer.style(f'{status:<4}', fg=COLORS[status], bold=status == 'FAIL')}  {finding.check:<12} {text}",
        color=color,
    )
