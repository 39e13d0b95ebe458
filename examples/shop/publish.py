"""Send the shop's tasks, wait for their results, print them: ``python -m examples.shop.publish [PATH ...]``.

This is the service's side. It declares nothing and runs no task: it publishes, and the results come back to this very
process over its reply queue. Without workers it waits, and gives up after half a minute.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from amqtask import AmqtaskError, AsyncResult
from examples.shop.tasks import ROOT, Done, app, checksum, count_words, is_text, summarize

PATHS = ("README.md", "amqtask", "docs", "examples", "routing", "tests")
SHOWN = 6  # subjects of each kind in the table, unless --all is given
PATIENCE = 30.0  # seconds for all results
URGENT = 9


class Wrong(Exception):
    """Something to tell the user in one sentence."""


@dataclass(frozen=True, slots=True)
class Order:
    """One task that was sent."""

    subject: str
    task: str
    result: AsyncResult[Done]
    urgent: bool = False


def find(paths: Sequence[str]) -> list[str]:
    """The text files at and below some paths, as paths from the repository's root, the largest first.

    Raises:
        Wrong: a path is not there, lies outside, or no text is found.
    """
    found: set[Path] = set()
    for name in paths:
        path = (ROOT / name).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            raise Wrong(
                f"There is no {name!r} in {ROOT}: name files and folders of the repository."
            )
        found.update(filter(is_text, path.rglob("*") if path.is_dir() else (path,)))
    if not found:
        raise Wrong(f"No text files are in {', '.join(paths)}.")
    by_size = sorted(found, key=lambda file: (-file.stat().st_size, file))
    return [str(file.relative_to(ROOT)) for file in by_size]


def send(files: Sequence[str]) -> list[Order]:
    """Send two tasks per file and one per folder; all are confirmed by the broker when this returns."""
    folders = sorted({str(Path(file).parent) for file in files})
    *normal, last = folders
    orders = []
    with app.batch():  # without it, each delay() would wait for its own confirm
        for file in files:
            orders.append(Order(file, "count_words", count_words.delay(file)))
            orders.append(Order(file, "checksum", checksum.delay(file)))
        orders += [Order(folder, "summarize", summarize.delay(folder)) for folder in normal]
        urgent = summarize.apply_async((last,), priority=URGENT)
        orders.append(Order(last, "summarize", urgent, urgent=True))
    return orders


def collect(orders: Sequence[Order]) -> list[tuple[Order, Done]]:
    """Wait for all results.

    Raises:
        Wrong: a task failed, or the results did not come in time.
    """
    deadline = time.monotonic() + PATIENCE
    done = []
    for order in orders:
        try:
            result = order.result.get(timeout=max(0.0, deadline - time.monotonic()))
        except AmqtaskError as error:
            raise Wrong(f"{order.task}({order.subject!r}): {error}") from None
        except Exception as error:  # noqa: BLE001  # a task may raise anything; it is told in one sentence
            raise Wrong(
                f"{order.task}({order.subject!r}) failed: {type(error).__name__}: {error}"
            ) from None
        done.append((order, result))
    return done


def shown(done: Sequence[tuple[Order, Done]], limit: int | None) -> Iterator[tuple[Order, Done]]:
    """What the table holds: per task the first ones, and the urgent report."""
    seen: Counter[str] = Counter()
    for order, result in sorted(
        done, key=lambda pair: (pair[0].task != "summarize", not pair[0].urgent)
    ):
        seen[order.task] += 1
        if limit is None or seen[order.task] <= limit:
            yield order, result


def table(rows: Sequence[tuple[Order, Done]]) -> Table:
    """The results as a table."""
    drawn = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    drawn.add_column("file", overflow="fold", style="cyan")
    for name in ("task", "queue", "node/pid"):
        drawn.add_column(name, overflow="fold")
    drawn.add_column("result", overflow="fold", style="green")
    drawn.add_column("time", justify="right", no_wrap=True)
    for order, done in sorted(rows, key=lambda row: (row[1]["queue"], row[1]["finished"])):
        result = done["result"] if order.task != "checksum" else done["result"][:12]
        drawn.add_row(
            Text(order.subject + (" (urgent)" if order.urgent else "")),
            order.task,
            done["queue"],
            f"{done['node']}/{done['pid']}",
            Text(result),
            f"{done['ran'] * 1000:.1f} ms",
        )
    return drawn


def totals(
    files: Sequence[str], done: Sequence[tuple[Order, Done]], sent: float, finished: float
) -> list[tuple[str, str]]:
    """How much, how fast, and by whom, as pairs of name and value."""
    size = sum((ROOT / file).stat().st_size for file in files)
    reports = sorted(
        (pair for pair in done if pair[0].task == "summarize"), key=lambda pair: pair[1]["finished"]
    )
    place = next(index for index, (order, _) in enumerate(reports, 1) if order.urgent)
    nodes = Counter(result["node"] for _, result in done)
    return [
        ("tasks", f"{len(done):,} on {len(files):,} files ({size / 1e6:.1f} MB), all succeeded"),
        ("sent and confirmed", f"after {sent:.2f} s"),
        ("all results back", f"after {finished:.2f} s: {len(done) / finished:,.0f} tasks/s"),
        ("urgent report", f"sent last of {len(reports)}, number {place} to finish"),
        ("tasks per node", ", ".join(f"{node} {count}" for node, count in sorted(nodes.items()))),
    ]


def run(paths: Sequence[str], everything: bool) -> None:
    """Send, collect and print.

    Raises:
        Wrong, AmqtaskError: told in one sentence.
    """
    files = find(paths)
    with app:  # closing it waits for what is under way and deletes the reply queue
        start = time.perf_counter()
        orders = send(files)
        sent = time.perf_counter() - start
        done = collect(orders)
        finished = time.perf_counter() - start
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    rows = list(shown(done, None if everything else SHOWN))
    console.print(table(rows))
    if len(rows) < len(done):
        console.print(f"... and {len(done) - len(rows):,} more (--all shows them)", style="dim")
    console.print()
    for name, value in totals(files, done, sent, finished):
        console.print(Text.assemble((f"{name:<20}", "bold"), value))


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the demo takes the same."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "paths", nargs="*", default=PATHS, help="files and folders of the repository"
    )
    parser.add_argument("--all", action="store_true", help="show every result")
    return parser.parse_args(words)


def main() -> int:
    """Run as a program; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    given = arguments()
    try:
        run(given.paths, given.all)
    except (Wrong, AmqtaskError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _leave(number: int, frame: FrameType | None) -> None:
    """End in good order: the reply queue is deleted on the way out. A second signal changes nothing."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
