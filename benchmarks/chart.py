"""A run as a picture for the documentation: plain SVG, horizontal bars, one panel for each kind of work. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from benchmarks.figures import OURS, Key, Medians, Run, medians


class Panel(NamedTuple):
    """One panel: a figure of some jobs, larger is better. The title may name an amount of ``Size`` in braces."""

    title: str
    work: str
    hows: tuple[str, ...]
    name: str = "rate"


PANELS = (
    Panel("Drain a queue of no-op tasks, tasks/s", "drain", ("drain", "best")),
    Panel("Publish from one process, tasks/s", "publish", ("many",)),
    Panel("Results of {flight} tasks in flight, results/s", "results", ("results",), "flight_rate"),
    Panel(
        "1,000 slots, tasks that sleep 50 ms, tasks/s",
        "sleeping",
        ("sleeping", "sleeping-gevent", "sleeping-eventlet"),
    ),
)
WIDTH, NAMES, MARGIN = 1000, 345, 24  # pixels; of the picture, of the names in it, around it
TITLE, BAR, GAP, BETWEEN = 30, 14, 9, 26  # heights: of a title, a bar, between rows, between panels
VALUE = 70  # pixels kept free for the figure behind the longest bar
OURS_FILLS, THEIR_FILLS = ("#0b6e4f", "#63b995"), ("#5b6b7d", "#a9b4c0")
STYLE = (
    "text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1f2933;font-size:12.5px}"
    ".t{font-size:15px;font-weight:600}.v{font-size:11.5px;fill:#3e4c59}.o{font-weight:600}"
)


class Row(NamedTuple):
    """One line of a panel: whose it is, and a figure for each broker, ``None`` where there is none."""

    who: str
    label: str
    values: tuple[float | None, ...]


def rows(run: Run, found: Medians, panel: Panel) -> list[Row]:
    """The lines of a panel: ours first, then the others, fastest first."""
    there: dict[tuple[str, str], Row] = {}
    for key in found:
        if key.work != panel.work or key.how not in panel.hows:
            continue
        values = tuple(
            found[at][panel.name].median
            if (at := Key(broker, key.work, key.who, key.how)) in found and panel.name in found[at]
            else None
            for broker in run.brokers
        )
        there[key.who, key.how] = Row(key.who, run.label(key.work, key.who, key.how), values)
    return sorted(there.values(), key=lambda row: (row.who != OURS, -_most(row.values)))


def svg(run: Run) -> str:
    """The picture. Panels without a figure are left out."""
    found = medians(run.samples)
    parts: list[str] = []
    y = float(MARGIN)
    y = _legend(run, parts, y)
    for panel in PANELS:
        lines = rows(run, found, panel)
        if lines:
            y = _panel(run.sized(panel.title), lines, parts, y) + BETWEEN
    height = math.ceil(y - BETWEEN + MARGIN)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="amqtask beside other task frameworks on RabbitMQ">\n'
        f'<style>{STYLE}</style>\n<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _legend(run: Run, parts: list[str], y: float) -> float:
    x = float(MARGIN)
    for number, broker in enumerate(run.brokers):
        ours, theirs = _fill(OURS, number), _fill("", number)
        parts.append(f'<rect x="{x:g}" y="{y:g}" width="12" height="12" fill="{ours}"/>')
        parts.append(f'<rect x="{x + 14:g}" y="{y:g}" width="12" height="12" fill="{theirs}"/>')
        parts.append(f'<text x="{x + 32:g}" y="{y + 11:g}">RabbitMQ {escape(broker)}</text>')
        x += 160
    told = f"{run.machine['cpus']} CPUs shared with the broker, medians of one interleaved run"
    parts.append(
        f'<text class="v" x="{WIDTH - MARGIN}" y="{y + 11:g}" text-anchor="end">{escape(told)}</text>'
    )
    return y + TITLE


def _panel(title: str, lines: list[Row], parts: list[str], y: float) -> float:
    parts.append(f'<text class="t" x="{MARGIN}" y="{y + 15:g}">{escape(title)}</text>')
    y += TITLE
    left, room = MARGIN + NAMES, WIDTH - 2 * MARGIN - NAMES - VALUE
    most = max((_most(line.values) for line in lines), default=0.0) or 1.0
    for line in lines:
        height = BAR * len(line.values)
        style = ' class="o"' if line.who == OURS else ""
        name = f"{line.who}, {line.label.replace('`', '')}"
        parts.append(
            f'<text{style} x="{left - 10}" y="{y + height / 2 + 4:g}" text-anchor="end">{escape(_cut(name))}</text>'
        )
        for number, value in enumerate(line.values):
            top = y + number * BAR
            if value is None:
                continue
            length = max(1.0, room * value / most)
            parts.append(
                f'<rect x="{left}" y="{top:g}" width="{length:.1f}" height="{BAR - 1}" fill="{_fill(line.who, number)}"/>'
            )
            parts.append(
                f'<text class="v" x="{left + length + 6:.1f}" y="{top + 11:g}">{value:,.0f}</text>'
            )
        y += height + GAP
    return y - GAP


def _cut(name: str, most: int = 47) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _fill(who: str, number: int) -> str:
    fills = OURS_FILLS if who == OURS else THEIR_FILLS
    return fills[number % len(fills)]


def _most(values: Iterable[float | None]) -> float:
    return max((value for value in values if value is not None), default=0.0)
