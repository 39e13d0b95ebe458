"""Dead letters as people read them, or as JSON: counted, in a table, one whole, what was done about them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from amqtask.cli import output

if TYPE_CHECKING:
    from amqtask.core.letters import Group
    from amqtask.dead.look import Found
    from amqtask.dead.tally import Tally


def letters_of(count: int) -> str:
    """So many dead letters."""
    return f"{count} dead letter{'' if count == 1 else 's'}"


def _when(time: datetime | None) -> str:
    return "-" if time is None else f"{time:%Y-%m-%d %H:%M:%S}"


def _first_line(text: str, length: int = 80) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= length else line[: length - 1] + "…"


def print_groups(groups: list[Group]) -> None:
    """Print what is there, counted."""
    if not groups:
        return
    rows = [
        (
            group.queue,
            group.task or "(no task)",
            group.error + (f" ({group.doubtful} in doubt)" if group.doubtful else ""),
            str(group.count),
            _when(group.oldest),
            _when(group.newest),
            group.sample,
            _first_line(group.message or group.reason),
        )
        for group in groups
    ]
    output.print_table(
        ("queue", "task", "error", "count", "oldest", "newest", "sample", "message"), rows, (3,)
    )


def row(found: Found) -> tuple[str, ...]:
    """One letter's line, for ``print_rows``."""
    letter = found.letter
    return (
        _when(letter.time),
        found.queue,
        letter.id,
        letter.task or "(no task)",
        letter.error + (" (in doubt)" if letter.doubt else ""),
        _first_line(letter.message or letter.reason, 60),
    )


def print_rows(rows: list[tuple[str, ...]]) -> None:
    """Print letters, and empty the list."""
    if rows:
        output.print_table(("died", "queue", "id", "task", "error", "message"), rows)
        rows.clear()


def print_letter(found: Found, as_json: bool) -> None:
    """Print all of one letter."""
    from amqtask.core import letters
    from amqtask.core.dead import PREFIX

    letter, properties, body = found.letter, found.properties, found.delivery.body
    known = letters.arguments(properties, body)
    if as_json:
        data = letters.as_json(letter, found.queue)
        data["args"] = letters.plain(known.args) if known.problem is None else None
        data["kwargs"] = letters.plain(known.kwargs) if known.problem is None else None
        data["problem"], data["hex"] = known.problem, known.hex
        data["content_type"] = properties.content_type if properties else None
        data["headers"] = letters.plain((properties.headers if properties else None) or {})
        typer.echo(json.dumps(data, indent=2))
        return
    lines: list[tuple[str, object]] = [
        ("id", letter.id),
        ("task", letter.task or "(no task)"),
        ("queue", f"{letter.source or '?'}, now in {found.queue}"),
        ("reason", letter.reason),
        ("error", f"{letter.exception}: {letter.message}" if letter.exception else None),
        ("died", _when(letter.time)),
        ("first died", _when(letter.first_time) if letter.first_time != letter.time else None),
        ("attempts", letter.attempts),
        ("node", letter.node),
        ("sent back", f"{letter.rounds} times before" if letter.rounds else None),
        ("in doubt", letter.doubt),
    ]
    if known.problem is None:
        lines += [("args", _compact(known.args)), ("kwargs", _compact(known.kwargs))]
    else:
        lines += [("body", f"{letter.size} bytes: {known.problem}"), ("begins with", known.hex)]
    for death in letter.broker:
        lines.append(("broker", f"{death.reason} from {death.queue}, {death.count} times, {_when(death.time)}"))  # fmt: skip
    if properties is not None:
        for name in ("content_type", "content_encoding", "priority", "reply_to", "correlation_id"):
            lines.append((name.replace("_", " "), getattr(properties, name)))
        for name, value in (properties.headers or {}).items():
            if not name.startswith(PREFIX) and name != "x-death":
                lines.append((f"header {name}", _compact(value)))
    for label, text in lines:
        if text not in (None, ""):
            typer.echo(f"{label}: {output.safe(str(text))}")
    if letter.traceback:
        typer.echo("traceback:")
        for line in letter.traceback.rstrip().split("\n"):
            typer.echo(f"  {output.safe(line)}")


def _compact(value: object) -> str:
    from amqtask.core.letters import plain

    return json.dumps(plain(value), ensure_ascii=False)


def print_tally(tally: Tally, what: str, as_json: bool) -> None:
    """What was done, and what was not."""
    left = tally.ready - tally.done - tally.finished
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "done": tally.done,
                    "left": left,
                    "skipped": tally.skipped,
                    "finished": tally.finished,
                    "kept": tally.kept,
                    "doubtful": tally.doubtful,
                    "stopped": tally.stopped.value if tally.stopped else None,
                    "targets": dict(tally.targets),
                }
            )
        )
    else:
        where = ", ".join(f"{output.safe(name)} {count}" for name, count in tally.targets.items())
        into = f" ({where})" if where else ""
        typer.echo(f"{letters_of(tally.done)} {what}{into}; {left} left.")
    if tally.skipped:
        typer.echo(f"{letters_of(tally.skipped)} do not tell which queue they came from: name one with --queue.", err=True)  # fmt: skip
    if tally.finished:
        typer.echo(f"{letters_of(tally.finished)} had been sent back before, by a command that was ended in the middle.", err=True)  # fmt: skip
    if tally.doubtful:
        typer.echo(f"{letters_of(tally.doubtful)} may go back twice: the broker, a full queue or a command that was ended left that open. The second ones carry the header amqtask-dead-doubt.", err=True)  # fmt: skip
    if tally.problem:
        typer.echo(output.safe(tally.problem), err=True)


@contextmanager
def bar(queue: str, state: Any) -> Iterator[Callable[[Any], None]]:
    """A progress bar on a terminal's standard error; nothing elsewhere."""
    if not output.is_terminal(sys.stderr):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        line = progress.add_task(output.safe(queue), total=state.messages if state else None)

        def advance(tally: Any) -> None:
            if isinstance(tally, int):
                progress.update(line, completed=tally)
            else:
                progress.update(line, completed=tally.seen, total=tally.ready)

        yield advance
