"""A run as text: one table for each kind of work and broker, the bars, and the versions. Markdown that reads well unrendered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.bars import judge
from benchmarks.figures import FULL, OURS, Key, Medians, Run, Spread, medians, ratio


class Column(NamedTuple):
    """A figure in a table: its heading, how it is written, and whether more is better (``None``: not compared).

    Headings, and titles of tables, may name an amount of ``Size`` in braces.
    """

    name: str
    heading: str
    form: str = ",.0f"
    more: bool | None = True
    spread: bool = True


class Table(NamedTuple):
    """The table of one kind of work."""

    work: str
    hows: tuple[str, ...]
    title: str
    columns: tuple[Column, ...]


_COSTS = (
    Column("worker_us", "worker, µs a task", ",.0f", None, spread=False),
    Column("broker_us", "broker, µs a task", ",.0f", None, spread=False),
)
_SENDING = (
    Column("client_us", "sender, µs a task", ",.0f", None, spread=False),
    Column("broker_us", "broker, µs a task", ",.0f", None, spread=False),
)
TABLES = (
    Table("drain", ("drain", "best"), "Drain, classic queue", (Column("rate", "tasks/s"), *_COSTS)),
    Table("drain", ("quorum",), "Drain, quorum queue", (Column("rate", "tasks/s"), *_COSTS)),
    Table("publish", ("many",), "Publish, many at a time", (Column("rate", "tasks/s"), *_SENDING)),
    Table("publish", ("one",), "Publish, one by one", (Column("rate", "tasks/s"), *_SENDING)),
    Table(
        "results",
        ("results",),
        "Results",
        (
            Column("p50_ms", "p50, ms", ".2f", more=False),
            Column("p95_ms", "p95, ms", ".2f", more=False, spread=False),
            Column("p99_ms", "p99, ms", ".2f", more=False, spread=False),
            Column("group_s", "group of {group}, s", ".3f", more=False, spread=False),
            Column("flight_rate", "{flight} in flight, results/s"),
        ),
    ),
    Table(
        "chords",
        ("chords",),
        "A chord of {group} no-op parts",
        (Column("chord_s", "call to value, s", ".3f", more=False),),
    ),
    Table(
        "sleeping",
        ("sleeping", "sleeping-gevent", "sleeping-eventlet", "sleeping-threads"),
        "Sleeping tasks, 50 ms each",
        (Column("rate", "tasks/s"), *_COSTS),
    ),
    Table(
        "memory",
        ("eight",),
        "Memory of a node with 8 processes",
        (
            Column("idle_mib", "idle, PSS MiB", ",.0f", more=False),
            Column("after_mib", "after its tasks, PSS MiB", ",.0f", more=False),
            Column("child_mib", "one child, USS MiB", ",.1f", more=False, spread=False),
        ),
    ),
    Table(
        "start",
        ("drain",),
        "Start",
        (
            Column("first_s", "first task done, s", ".2f", more=False),
            Column("import_ms", "import, ms", ".0f", more=False, spread=False),
        ),
    ),
    Table(
        "growth",
        ("drain",),
        "Growth of the backlog",
        (
            Column("short_rate", "tasks/s at {short}", more=None),
            Column("long_rate", "tasks/s at {long}", more=None),
            Column("share", "ratio", ".2f", more=None),
        ),
    ),
)


def text(run: Run) -> str:
    """The whole report."""
    found = medians(run.samples)
    machine = run.machine
    parts = [
        ", ".join(
            [
                run.started,
                f"{machine['cpus']} CPUs ({machine['model']}) shared with the broker",
                machine["system"],
                f"Python {machine['python']}",
                f"RabbitMQ {' and '.join(run.brokers)}",
                "one repetition"
                if run.repetitions == 1
                else f"medians of up to {run.repetitions} interleaved repetitions (least–most)",
                "× is how many times better amqtask is.",
            ]
        ),
        versions(run),
    ]
    if run.size != FULL:
        parts.append(
            f"Size {run.size}: these figures show that all works. They do not show how fast it is."
        )
    for broker in run.brokers:
        parts.append(f"### RabbitMQ {broker}")
        parts += tables(run, found, broker)
        if run.size == FULL:
            parts += bars(found, broker)
    if run.left_out:
        lines = [
            f"- {one.who}{f', {one.work} ({one.how}) on {one.broker}' if one.work else ''}: {one.why}"
            for one in run.left_out
        ]
        parts.append("\n".join(["Left out:", "", *lines]))
    return "\n\n".join(parts) + "\n"


def versions(run: Run) -> str:
    """One line for each framework: its packages."""
    lines = [
        f"- {who}: {', '.join(f'{name} {number}' for name, number in packages.items())}"
        for who, packages in run.versions.items()
    ]
    return "\n".join(lines)


def tables(run: Run, found: Medians, broker: str) -> list[str]:
    """The tables of one broker, those that have a row."""
    parts = []
    for table in TABLES:
        rows = [
            key
            for key in found
            if key.broker == broker and key.work == table.work and key.how in table.hows
        ]
        if rows:
            rows.sort(key=lambda key: _place(table, key))
            parts.append(f"**{run.sized(table.title)}**\n\n{_table(run, found, table, rows)}")
    return parts


def bars(found: Medians, broker: str) -> list[str]:
    """The bars of one broker that were measured, and how many were not."""
    verdicts = judge(found, broker)
    measured = [verdict for verdict in verdicts if verdict.measured is not None]
    if not measured:
        return []
    rows = [
        (verdict.bar.text, verdict.demand, f"{verdict.measured:.3g}", verdict.word)
        for verdict in measured
    ]
    parts = [f"**Bars**\n\n{grid(('bar', 'demand', 'measured', ''), rows)}"]
    if missing := len(verdicts) - len(measured):
        parts.append(
            f"{missing} of {len(verdicts)} bars need work or peers that are not in this run."
        )
    return parts


def grid(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned; the first is text, the others figures."""
    rows = [tuple(heading), *(tuple(row) for row in rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading))]
    lines = [
        "| "
        + " | ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in rows
    ]
    rule = [
        "-" * width if number == 0 else "-" * (width - 1) + ":"
        for number, width in enumerate(max(width, 3) for width in widths)
    ]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines)


def _place(table: Table, key: Key) -> tuple[bool, int]:
    """Ours first, then in the order of the ways; what is equal stays in the order it came."""
    return key.who != OURS, table.hows.index(key.how)


def _table(run: Run, found: Medians, table: Table, rows: Sequence[Key]) -> str:
    columns = [column for column in table.columns if any(column.name in found[key] for key in rows)]
    heading = ["framework"]
    for column in columns:
        heading.append(run.sized(column.heading))
        if column.more is not None and len(rows) > 1:
            heading.append("×")
    body = []
    for key in rows:
        cells = [f"{key.who}, {run.label(key.work, key.who, key.how)}"]
        mine = _ours(found, table, key)
        for column in columns:
            spread = found[key].get(column.name)
            cells.append(_figure(spread, column))
            if column.more is not None and len(rows) > 1:
                cells.append(_times(spread, mine.get(column.name), column, key))
        body.append(cells)
    return grid(heading, body)


def _ours(found: Medians, table: Table, key: Key) -> dict[str, Spread]:
    """amqtask's figures for the same work: the same way where it has that, else the table's first."""
    for how in (key.how, table.hows[0]):
        mine = found.get(key._replace(who=OURS, how=how))
        if mine is not None:
            return dict(mine)
    return {}


def _figure(spread: Spread | None, column: Column) -> str:
    if spread is None:
        return "–"
    shown = format(spread.median, column.form)
    if column.spread and spread.times > 1:
        shown += f" ({format(spread.least, column.form)}–{format(spread.most, column.form)})"
    return shown


def _times(spread: Spread | None, mine: Spread | None, column: Column, key: Key) -> str:
    if key.who == OURS or spread is None or mine is None:
        return ""
    pair = (mine.median, spread.median) if column.more else (spread.median, mine.median)
    times = ratio(*pair)
    return "" if times is None else f"{times:.1f}"
