"""``amqtask worker``: turns flags into ``WorkerOptions``, sets up logging, shows the banner."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from amqtask import log
from amqtask.cli.target import AppOption, BrokerOption, Target
from amqtask.errors import ConfigurationError

app = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})

# The settings that stand in for a flag that is not given.
FROM_SETTINGS = {
    "concurrency": "worker_concurrency",
    "autoscale_keepalive": "worker_autoscale_keepalive",
    "pool": "worker_pool",
    "prefetch_multiplier": "worker_prefetch_multiplier",
    "max_tasks_per_child": "worker_max_tasks_per_child",
    "max_memory_per_child": "worker_max_memory_per_child",
    "shutdown_timeout": "worker_shutdown_timeout",
    "soft_shutdown_timeout": "worker_soft_shutdown_timeout",
    "frozen_timeout": "worker_frozen_timeout",
    "verdict_max_age": "verdict_max_age",
}


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
            show_default=False,
            help="What runs the tasks: prefork (a process each) or solo (this process, one at a time)."
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
        typer.Option("-l", "--loglevel", help="debug, info, warning, error or critical."),
    ] = "info",
    processes: Annotated[
        int,
        typer.Option("--processes", min=1, help="Multiplies the pool: so many of it side by side."),
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
    # what a flag says is checked before the app is imported
    log.level_number(loglevel)
    wanted = split_names(queues or ())
    target: Target = context.obj.override(app_name, broker)
    flags: dict[str, Any] = {
        "app": target.app_name(),
        "broker": target.broker,
        "queues": wanted,
        "concurrency": concurrency,
        "pool": pool,
        "node": hostname,
        "loglevel": loglevel.lower(),
        "processes": processes,
        "autoscale": None if autoscale is None else split_bounds(autoscale),
        "prefetch_multiplier": prefetch_multiplier,
        "max_tasks_per_child": max_tasks_per_child,
        "max_memory_per_child": max_memory_per_child,
        "time_limit": time_limit,
        "soft_time_limit": soft_time_limit,
        "shutdown_timeout": shutdown_timeout,
        "declare": declare,
        "reload": reload,
    }
    raise typer.Exit(_run(flags, json_logs))


def split_names(values: Sequence[str]) -> tuple[str, ...]:
    """The names in options that take lists: separated by commas, the option repeated, or both; each name once.

    Raises:
        ConfigurationError: an option was given without a name in it.
    """
    names = [name.strip() for value in values for name in value.split(",")]
    found = tuple(dict.fromkeys(name for name in names if name))
    if values and not found:
        raise ConfigurationError("-Q names no queue: write -Q email or -Q email,images.")
    return found


def split_bounds(text: str) -> tuple[int, int]:
    """The bounds in ``--autoscale``, most and fewest children. In either order, as in Celery; one number is the most.

    Raises:
        ConfigurationError: it is not one or two whole numbers.
    """
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
        raise ConfigurationError(
            f"--autoscale {text!r} is not MAX,MIN: write --autoscale 10,3 for three to ten processes."
        )
    numbers = sorted(int(part) for part in parts)
    most, least = numbers[-1], numbers[0] if len(numbers) == 2 else 1
    if most == 0:
        raise ConfigurationError("--autoscale 0 would never run a task: its maximum is at least 1.")
    return most, least


def _run(flags: dict[str, Any], json_logs: bool | None) -> int:
    # imported here, and before the fork: the processes of the node share it
    from amqtask.worker import node, supervisor
    from amqtask.worker.options import WorkerOptions
    from amqtask.worker.preview import AppRefused, app_settings

    checked = WorkerOptions.parse(**flags)
    as_json = log.configure(checked.loglevel, json=json_logs, node=checked.node)
    logger = log.get_logger("amqtask.worker")
    try:
        settings = app_settings(checked.app, checked.pool)
    except AppRefused as error:
        if error.traceback:
            logger.debug("import failed", traceback=error.traceback)
        raise
    defaults = {flag: getattr(settings, name) for flag, name in FROM_SETTINGS.items()}
    given = {name: value for name, value in flags.items() if value is not None}
    options = WorkerOptions.parse(**{**defaults, **given})
    if options.autoscale is not None and options.one_slot and "concurrency" in given:
        logger.warning(
            "-c has no effect beside --autoscale, which says how many processes there are",
            pool=options.pool,
        )

    def show(info: Mapping[str, object]) -> None:
        if as_json:
            logger.info(
                "worker ready", **{k: v for k, v in info.items() if k not in ("node", "sources")}
            )
        else:
            _print_banner(banner(info, processes=options.processes))

    return supervisor.run(options, functools.partial(node.prepare, options), show)


def banner(info: Mapping[str, object], processes: int = 1) -> list[tuple[str, str]]:
    """What a worker is, as rows of name and value.

    Args:
        info: ``Prepared.info``.
        processes: the ``--processes`` option.
    """
    children, slots = info["children"], info["slots"]
    most = info["most_children"]
    if most:
        count = _many(children, "process")
        if most != children:
            count = f"{children} to {_many(most, 'process')}"
        shape = f"{info['pool']}, {count} \N{MULTIPLICATION SIGN} {_many(slots, 'slot')}"
        if processes > 1:
            shape += f" (--processes {processes})"
    else:
        shape = f"{info['pool']}, in this process"
    tasks = info["tasks"]
    queues = info["queues"]
    assert isinstance(tasks, (list, tuple))
    assert isinstance(queues, (list, tuple))
    return [
        ("node", str(info["node"])),
        ("app", str(info["app"])),
        ("broker", f"{info['broker']} (RabbitMQ {info['version']})"),
        ("queues", ", ".join(map(str, queues))),
        ("pool", shape),
        (
            "prefetch",
            "follows the length of the tasks"
            if info["prefetch"] is None
            else f"{_many(info['prefetch'], 'message')} per process",
        ),
        ("tasks", "\n".join(map(str, tasks)) or "none"),
    ]


def _many(count: object, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{count} {noun if count == 1 else plural}"


def _print_banner(rows: list[tuple[str, str]]) -> None:
    """Print the banner to standard error, where the log goes."""
    from importlib.metadata import version

    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=True)
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, style="dim"), Text(value))
    try:
        console.print(Panel(table, title=f"amqtask {version('amqtask')}", expand=False))
    except OSError:
        pass  # nobody is there to see it
