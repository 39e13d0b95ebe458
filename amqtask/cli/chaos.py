"""``amqtask chaos``: breaks a system of workers and publishers on purpose, and accounts for every task."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from amqtask.cli import output
from amqtask.cli.target import Target

if TYPE_CHECKING:
    from amqtask.testing.chaos import Progress, Report

app = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})

EVERY = 10.0  # seconds between two lines of progress where there is no terminal


@app.command()
def chaos(
    context: typer.Context,
    tasks: Annotated[int, typer.Option(metavar="N", min=1, help="Tasks to publish.")] = 1000,
    faults: Annotated[int, typer.Option(metavar="N", min=0, help="Faults to inject.")] = 10,
    seed: Annotated[int, typer.Option(metavar="N", help="Draws tasks, faults and victims.")] = 1,
    queue_type: Annotated[
        str, typer.Option(metavar="TYPE", help="Of the work queue: quorum or classic.")
    ] = "quorum",
    broker: Annotated[
        str | None,
        typer.Option(
            "-b",
            "--broker",
            metavar="BROKER",
            show_default=False,
            help="auto, 3.10 or 4.x: a private broker of that release, which is stopped and killed too; or the URL of"
            " one that is left alone. Else auto.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Worker nodes.")] = 2,
    concurrency: Annotated[
        int,
        typer.Option(
            "-c", "--concurrency", metavar="N", min=1, help="Tasks that a node runs at a time."
        ),
    ] = 2,
    publishers: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processes that publish.")
    ] = 2,
    duration: Annotated[
        str,
        typer.Option(metavar="SECONDS", help="Spread tasks and faults over so long, or auto."),
    ] = "auto",
    kinds: Annotated[
        str | None,
        typer.Option(
            metavar="FAULT,…", show_default=False, help="Only these faults. Else all there are."
        ),
    ] = None,
    task_kinds: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,…", show_default=False, help="Only these kinds of tasks. Else all."
        ),
    ] = None,
    patience: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=1.0, help="Give up when nothing has happened for so long."
        ),
    ] = 45.0,
    recovery: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.1, help="Work must go on so soon after the broker is back."
        ),
    ] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the folder with all logs of a good run too.")
    ] = False,
) -> None:
    """Break workers, publishers, broker and network on purpose, and account for every task.

    Starts a broker, worker nodes and publishers, injects faults that the seed draws, waits until everything has ended and
    prints the ledger. Exit code 1 when anything was lost, stuck or unexpected; the logs are kept then.
    """
    import msgspec

    from amqtask.errors import ConfigurationError
    from amqtask.testing import chaos as running

    target: Target = context.obj.override(None, broker)
    if queue_type not in ("quorum", "classic"):
        raise ConfigurationError(f"--queue-type is quorum or classic, not {queue_type!r}.")
    options = running.Options(
        tasks=tasks,
        faults=faults,
        seed=seed,
        queue_type="classic" if queue_type == "classic" else "quorum",
        broker=target.broker or "auto",
        workers=workers,
        concurrency=concurrency,
        publishers=publishers,
        duration=_seconds(duration),
        kinds=_names(kinds),
        tasks_of=_names(task_kinds),
        patience=patience,
        recovery=recovery,
        keep=keep,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: it cleans up and ends
    report = running.run(options, _Screen())
    if as_json:
        text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
        typer.echo(text)
    else:
        _print(report)
    if not report.verdict.good:
        raise typer.Exit(1)


def _names(given: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (given or "").split(",") if name.strip())


def _seconds(given: str) -> float | None:
    from amqtask.errors import ConfigurationError

    if given == "auto":
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ConfigurationError(f"--duration is auto or a number of seconds, not {given!r}.")
    return seconds


class _Screen:
    """Shows how a run goes on standard error: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._terminal = output.is_terminal(sys.stderr)
        self._last = 0.0
        self._line = ""

    def note(self, text: str) -> None:
        """Print a line."""
        self._clear()
        typer.echo(text, err=True)

    def progress(self, progress: Progress) -> None:
        """Show the numbers."""
        text = (
            f"{progress.seconds:7.1f} s  {progress.phase}: {progress.sent} of {progress.tasks} acknowledged,"
            f" {progress.ended} ended, {progress.fault} of {progress.faults} faults"
        )
        if self._terminal:
            if text != self._line:
                self._line = text
                typer.echo(f"\r{text}\x1b[K", nl=False, err=True)
        elif progress.seconds - self._last >= EVERY:
            self._last = progress.seconds
            typer.echo(text, err=True)

    def _clear(self) -> None:
        if self._terminal and self._line:
            self._line = ""
            typer.echo("\r\x1b[K", nl=False, err=True)


def _print(report: Report) -> None:
    verdict, options = report.verdict, report.options
    typer.echo(
        f"RabbitMQ {report.broker}, {options.queue_type} queue, Python {report.python}, {report.machine}:"
        f" {options.tasks} tasks, {len(report.incidents)} faults, seed {options.seed}, {report.seconds:.0f} s"
    )
    above = (
        ""
        if verdict.duplicates_count
        else "; not counted: a classic queue forgets acks when the broker is killed"
    )
    rows = [
        ("attempted", str(verdict.attempted), "sent by a publisher"),
        ("acknowledged", str(verdict.acknowledged), "confirmed by the broker"),
        ("done", str(verdict.done), ""),
        ("dead", str(verdict.dead), "among the dead letters, with a reason"),
        ("revoked", str(verdict.revoked), "taken back before they ran"),
        ("pending", str(verdict.pending), ""),
        ("lost", str(verdict.lost), ""),
        ("stuck", str(verdict.stuck), "still in a queue when nothing moved any more"),
        ("unexpected", str(verdict.unexpected), "ended as it should not"),
        ("recovered", str(verdict.recovered), "never acknowledged, and ran all the same"),
        ("duplicates", str(verdict.duplicates), f"at most {verdict.bound} explained{above}"),
        ("crashes", str(verdict.crashes), f"of {verdict.crashed} tasks that kill their process"),
        ("results missing", str(verdict.results_missing), f"of {verdict.results}"),
        (
            "longest recovery",
            "-" if verdict.recovery is None else f"{verdict.recovery:.1f} s",
            "until the next task ended",
        ),
        (
            "broker back",
            "-" if verdict.returns is None else f"{verdict.returns:.1f} s",
            f"the same after the broker was away; at most {options.recovery:g} s",
        ),
    ]
    output.print_table(("ledger", "count", "what"), rows, numbers=(1,))
    typer.echo("")
    output.print_table(
        ("fault", "times", "longest recovery"),
        [
            (
                found.kind,
                str(found.count),
                "-" if found.recovery is None else f"{found.recovery:.1f} s",
            )
            for found in verdict.faults
        ],
        numbers=(1, 2),
    )
    for finding in verdict.findings:
        typer.echo(f"\n{finding.id} ({finding.kind}): {finding.why}")
        for line in finding.lines:
            typer.echo(f"  {output.safe(line)}")
    typer.echo("")
    if verdict.good:
        typer.echo(
            f"No task was lost: {verdict.acknowledged} published = {verdict.done} done + {verdict.dead} dead"
            f" + {verdict.revoked} revoked"
            f" + {verdict.pending} pending."
        )
    else:
        for sentence in verdict.failures:
            typer.echo(f"FAILED: {output.safe(sentence)}")
    if report.folder:
        typer.echo(f"The logs of all processes are in {report.folder}.")
