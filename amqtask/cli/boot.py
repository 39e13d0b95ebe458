"""Starting a worker node: turns flags into ``WorkerOptions``, sets up logging, shows the banner.

Whoever parsed the command line, ``amqtask.cli.worker`` or ``amqtask.cli.quick``, comes here.
"""

from __future__ import annotations

import functools
import gc
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from amqtask import __version__, log
from amqtask.cli.target import Target
from amqtask.errors import ConfigurationError

Count = Annotated[int, msgspec.Meta(ge=1)]

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


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said, by the names of the options; the defaults are theirs."""

    queues: tuple[str, ...] = ()
    concurrency: Count | None = None
    pool: str | None = None
    hostname: str = ""
    loglevel: str = "info"
    processes: Count = 1
    autoscale: str | None = None
    prefetch_multiplier: Count | None = None
    max_tasks_per_child: Count | None = None
    max_memory_per_child: Count | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    shutdown_timeout: float | None = None
    declare: bool = True
    reload: bool = False
    json_logs: bool | None = None


def start(target: Target, flags: Flags) -> int:
    """Run a worker node until it is told to stop; the exit code. The main thread of a process without others.

    Raises:
        ConfigurationError: a flag that cannot work, or no app is named.
        AppRefused: the app cannot be imported.
    """
    # what a flag says is checked before the app is imported
    log.level_number(flags.loglevel)
    wanted = split_names(flags.queues)
    given: dict[str, Any] = {
        **msgspec.structs.asdict(flags),
        "app": target.app_name(),
        "broker": target.broker,
        "queues": wanted,
        "autoscale": None if flags.autoscale is None else split_bounds(flags.autoscale),
        "node": flags.hostname,
        "loglevel": flags.loglevel.lower(),
    }
    del given["hostname"], given["json_logs"]
    return _run(given, flags.json_logs)


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
    # All of this stays, so the collector need not look for garbage in it meanwhile: that takes a fifth of the time.
    thresholds = gc.get_threshold()
    gc.set_threshold(0)
    # imported here, and before the fork: the processes of the node share it
    from amqtask.worker.start import node
    from amqtask.worker.start.options import WorkerOptions
    from amqtask.worker.start.preview import AppRefused, app_settings
    from amqtask.worker.supervision import supervisor

    # What is imported now stays shared with all processes of the node: no collector looks at it again, and so writes to it.
    gc.freeze()
    gc.set_threshold(*thresholds)
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


def boxed(title: str, rows: Sequence[tuple[str, str]], width: int) -> str:
    """Rows of name and value in a box with a title, in lines of at most ``width`` characters; a longer value is continued below.

    Drawn here, because what draws such things well takes longer to import than a worker to start.
    """
    names = max(len(name) for name, _ in rows)
    room = max(10, width - names - 6)
    lines: list[str] = []
    for name, value in rows:
        shown = name.ljust(names)
        for line in value.split("\n"):
            safe = log.escape(line)
            for start in range(0, max(1, len(safe)), room):
                lines.append(f"{shown}  {safe[start : start + room]}")
                shown = " " * names
    inner = max(len(title) + 2, *map(len, lines))
    top = f" {title} ".center(inner + 2, "\N{BOX DRAWINGS LIGHT HORIZONTAL}")
    return "\n".join(
        (
            f"\N{BOX DRAWINGS LIGHT ARC DOWN AND RIGHT}{top}\N{BOX DRAWINGS LIGHT ARC DOWN AND LEFT}",
            *(
                f"\N{BOX DRAWINGS LIGHT VERTICAL} {line.ljust(inner)} \N{BOX DRAWINGS LIGHT VERTICAL}"
                for line in lines
            ),
            "\N{BOX DRAWINGS LIGHT ARC UP AND RIGHT}"
            + "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (inner + 2)
            + "\N{BOX DRAWINGS LIGHT ARC UP AND LEFT}",
        )
    )


_PLAIN = str.maketrans("╭╮╰╯─│\N{MULTIPLICATION SIGN}", "++++-|x")


def _print_banner(rows: list[tuple[str, str]]) -> None:
    """Print the banner to standard error, where the log goes."""
    stream = sys.stderr
    box = boxed(f"amqtask {__version__}", rows, shutil.get_terminal_size().columns)
    try:
        box.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        box = box.translate(_PLAIN).encode("ascii", "backslashreplace").decode()
    except AttributeError:
        return  # there is no standard error
    try:
        stream.write(box + "\n")
        stream.flush()
    except (OSError, ValueError):
        pass  # nobody is there to see it
