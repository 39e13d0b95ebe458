"""``amqtask call``: send one task from the shell, and wait for its result if asked to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amqtask.cli import output
from amqtask.cli.flags import AppOption, BrokerOption, TopologyOption
from amqtask.cli.sender import closing
from amqtask.cli.target import Target
from amqtask.errors import AmqtaskError, ConfigurationError, ResultTimeout

if TYPE_CHECKING:
    from amqtask.app import App
    from amqtask.results.handle import AsyncResult

app = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def call(
    context: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's full name.")],
    args: Annotated[
        str, typer.Option("--args", "-a", metavar="JSON", help="Positional arguments, a JSON list.")
    ] = "[]",
    kwargs: Annotated[
        str,
        typer.Option("--kwargs", "-k", metavar="JSON", help="Keyword arguments, a JSON object."),
    ] = "{}",
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Wait for the result and print it as JSON.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="SECONDS",
            min=0,
            show_default=False,
            help="With --wait: wait at most so long. Else for ever.",
        ),
    ] = None,
    queue: Annotated[
        str | None,
        typer.Option(
            "--queue",
            "-Q",
            metavar="QUEUE",
            show_default=False,
            help="Send to this queue, past the routes.",
        ),
    ] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", metavar="N", min=0, max=255, show_default=False)
    ] = None,
    expires: Annotated[
        float | None,
        typer.Option(
            "--expires",
            metavar="SECONDS",
            min=0,
            show_default=False,
            help="A task that has not started by then is not run.",
        ),
    ] = None,
    task_id: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="ID", show_default=False, help="The task's id. Else a random UUID."
        ),
    ] = None,
    file: TopologyOption = None,
    app_name: AppOption = None,
    broker: BrokerOption = None,
) -> None:
    """Send a task; print its id, or with --wait its result.

    Without an app the task is sent by its name alone: with --topology by that file's routes, else to --queue or the queue
    "default". A task that fails prints its traceback; exit code 1.
    """
    positional = parse_json(args, "--args", list, "a JSON list like '[1, \"two\"]'")
    named = parse_json(kwargs, "--kwargs", dict, "a JSON object like '{\"key\": 1}'")
    options = {
        "queue": queue,
        "priority": priority,
        "expires": expires,
        "task_id": task_id,
        "ignore_result": not wait,
    }
    target: Target = context.obj.override(app_name, broker)
    with closing(_app(target, file)) as sender:
        try:
            sent = _send(sender, task, positional, named, options)
        except (TypeError, ValueError) as error:  # arguments that do not fit the task's signature
            raise ConfigurationError(str(error)) from None
        if not wait:
            typer.echo(sent.id)
            return
        _print_outcome(sent, timeout)


def parse_json(text: str, option: str, kind: type, example: str) -> Any:
    """The value of an option that is written in JSON.

    Raises:
        ConfigurationError: it is no JSON, or JSON of another type.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{option} must be {example}; this is no JSON: {error}.") from None
    if not isinstance(value, kind):
        raise ConfigurationError(f"{option} must be {example}, not {text}.")
    return value


def _app(target: Target, file: Path | None) -> App:
    if file is None and target.has_app():
        return target.load_app()
    from amqtask.app import App

    sender = App("amqtask-call", topology=file)
    if target.broker:
        sender.broker_url = target.broker
    return sender


def _send(
    sender: App, name: str, args: list[Any], kwargs: dict[str, Any], options: dict[str, Any]
) -> AsyncResult[Any]:
    task = sender.tasks.get(name)
    if task is not None:
        return task.apply_async(args, kwargs, **options)
    if sender.tasks:
        from amqtask.names import did_you_mean

        near = did_you_mean(name, sender.tasks) or "; it is sent by its name alone."
        output.warn((f"App {sender.name!r} has no task {name!r}{near}",))
    return sender.send_task(name, args, kwargs, **options)


def _print_outcome(sent: AsyncResult[Any], timeout: float | None) -> None:
    try:
        value = sent.get(timeout=timeout)
    except ResultTimeout:
        raise
    except Exception as error:  # whatever the task raised
        if sent.traceback is None and isinstance(error, AmqtaskError) and not sent.ready():
            raise
        _print_failure(sent, error)
        raise typer.Exit(1) from None
    typer.echo(json.dumps(value, ensure_ascii=False, default=repr))


def _print_failure(sent: AsyncResult[Any], error: BaseException) -> None:
    """The worker's traceback, or the exception where there is none."""
    text = sent.traceback or f"{type(error).__name__}: {error}"
    typer.echo(f"Task {output.safe(sent.id)} ended as {sent.state}:", err=True)
    for line in text.rstrip("\n").split("\n"):
        typer.echo(output.safe(line), err=True)
    sys.stderr.flush()
