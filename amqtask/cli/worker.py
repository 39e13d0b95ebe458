"""``amqtask worker``: its options, with their help. ``amqtask.cli.quick`` reads the same ones."""

from __future__ import annotations

from typing import Annotated

import typer

from amqtask.cli.boot import Flags, start
from amqtask.cli.flags import AppOption, BrokerOption
from amqtask.cli.target import Target

app = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def worker(
    context: typer.Context,
    queues: Annotated[
        list[str] | None,
        typer.Option(
            "-Q",
            "--queues",
            metavar="QUEUE,…",
            help="Queues to work on, separated by commas; may be repeated. Else the app's default queue, else all queues"
            " of its topology.",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "-c",
            "--concurrency",
            metavar="N",
            min=1,
            show_default=False,
            help="Tasks that run at a time. Else worker_concurrency, else one per CPU.",
        ),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(
            "-P",
            "--pool",
            metavar="POOL",
            show_default=False,
            help="What runs the tasks: prefork (a process each), threads, asyncio, gevent or eventlet (-c of them in one"
            " process), or solo (this process, one at a time)."
            " Else worker_pool.",
        ),
    ] = None,
    hostname: Annotated[
        str,
        typer.Option(
            "-n",
            "--hostname",
            metavar="NAME",
            show_default=False,
            help="The node's name; %h is the host name, %n its first part, %d its domain. Else amqtask@%h.",
        ),
    ] = "",
    loglevel: Annotated[
        str,
        typer.Option(
            "-l", "--loglevel", metavar="LEVEL", help="debug, info, warning, error or critical."
        ),
    ] = "info",
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            metavar="N",
            min=1,
            help="Multiplies the pool: so many of it side by side.",
        ),
    ] = 1,
    autoscale: Annotated[
        str | None,
        typer.Option(
            "--autoscale",
            metavar="MAX,MIN",
            show_default=False,
            help="As many processes as the work needs, between these. Takes the place of -c for prefork; for pools with"
            " several slots, -c is the slots of each process. MAX alone: at least 1.",
        ),
    ] = None,
    prefetch_multiplier: Annotated[
        int | None,
        typer.Option(
            "--prefetch-multiplier",
            metavar="N",
            min=1,
            show_default=False,
            help="Messages a child may hold for each of its slots. Else worker_prefetch_multiplier, else as many as"
            " make 100 ms of work.",
        ),
    ] = None,
    max_tasks_per_child: Annotated[
        int | None,
        typer.Option(
            "--max-tasks-per-child",
            metavar="N",
            min=1,
            show_default=False,
            help="Replace a child after so many tasks.",
        ),
    ] = None,
    max_memory_per_child: Annotated[
        int | None,
        typer.Option(
            "--max-memory-per-child",
            metavar="KIB",
            min=1,
            show_default=False,
            help="Replace a child whose resident memory is above this, after its task.",
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit",
            metavar="SECONDS",
            show_default=False,
            help="Kill the process of a task that runs longer. Tasks may have limits of their own.",
        ),
    ] = None,
    soft_time_limit: Annotated[
        float | None,
        typer.Option(
            "--soft-time-limit",
            metavar="SECONDS",
            show_default=False,
            help="Raise SoftTimeLimitExceeded in a task that runs longer.",
        ),
    ] = None,
    shutdown_timeout: Annotated[
        float | None,
        typer.Option(
            "--shutdown-timeout",
            metavar="SECONDS",
            show_default=False,
            help="Give running tasks so long at a warm stop. Else worker_shutdown_timeout, else "
            "worker_soft_shutdown_timeout, else for ever.",
        ),
    ] = None,
    declare: Annotated[
        bool,
        typer.Option(
            "--declare/--no-declare",
            help="Declare the topology at start, or only check that the queues are there.",
        ),
    ] = True,
    reload: Annotated[
        bool,
        typer.Option("--reload", help="For development: restart the children when code changes."),
    ] = False,
    json_logs: Annotated[
        bool | None,
        typer.Option(
            "--json-logs/--no-json-logs",
            show_default=False,
            help="Log JSON, or lines for people. Else lines on a terminal and JSON elsewhere.",
        ),
    ] = None,
    app_name: AppOption = None,
    broker: BrokerOption = None,
) -> None:
    """Run a worker node until it is told to stop.

    TERM finishes what runs and gives back the rest, INT does the same and a second INT stops at once, QUIT stops at once,
    HUP imports the app anew, USR1 dumps the stacks.
    """
    flags = Flags(
        queues=tuple(queues or ()),
        concurrency=concurrency,
        pool=pool,
        hostname=hostname,
        loglevel=loglevel,
        processes=processes,
        autoscale=autoscale,
        prefetch_multiplier=prefetch_multiplier,
        max_tasks_per_child=max_tasks_per_child,
        max_memory_per_child=max_memory_per_child,
        time_limit=time_limit,
        soft_time_limit=soft_time_limit,
        shutdown_timeout=shutdown_timeout,
        declare=declare,
        reload=reload,
        json_logs=json_logs,
    )
    target: Target = context.obj.override(app_name, broker)
    raise typer.Exit(start(target, flags))
