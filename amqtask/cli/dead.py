"""``amqtask dead``: look at dead letters, send them back to work, or delete them.

Exit codes: 0 everything that was meant is done; 1 something was not, told in a sentence; 130 stopped by Ctrl-C after a whole
batch.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amqtask.cli import output
from amqtask.cli.flags import AppOption, BrokerOption, TopologyOption
from amqtask.cli.target import Target
from amqtask.errors import ConfigurationError

if TYPE_CHECKING:
    from amqtask.core.letters import Filter, Group
    from amqtask.dead import Discard, Found, Replace, Retry, Tally
    from amqtask.topology.model import Topology

app = typer.Typer(
    help="Look at dead letters, send them back to work, or delete them.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: a table would cut the names of options
    context_settings={"help_option_names": ["-h", "--help"]},
)

Queues = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[QUEUE]...",
        show_default=False,
        help="Work queues, or their queues of dead letters. Else all of the topology.",
    ),
]
MoreQueues = Annotated[
    list[str] | None,
    typer.Option("-Q", "--queues", metavar="QUEUE", show_default=False, help="The same; may be repeated."),
]  # fmt: skip
TaskOption = Annotated[
    str | None,
    typer.Option("--task", metavar="GLOB", show_default=False, help="Only these tasks."),
]
ErrorOption = Annotated[
    str | None,
    typer.Option(
        "--error",
        metavar="TYPE",
        show_default=False,
        help="Only this exception type or reason, a glob: ValueError, expired.",
    ),
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        show_default=False,
        help="Only those that died since: 2h, 7d, or 2026-11-01T12:00 (UTC).",
    ),
]
IdOption = Annotated[
    list[str] | None,
    typer.Option("--id", metavar="ID", show_default=False, help="Only this one; may be repeated."),
]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, show_default=False, help="At most so many."),
]
RateOption = Annotated[
    str | None,
    typer.Option("--rate", metavar="N/s", show_default=False, help="So many a second at most."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only tell which are meant; nothing is changed.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(
    context: typer.Context,
    names: Queues = None,
    more: MoreQueues = None,
    task: TaskOption = None,
    error: ErrorOption = None,
    since: SinceOption = None,
    ids: IdOption = None,
    limit: LimitOption = None,
    flat: Annotated[bool, typer.Option("--flat", help="One line for each letter.")] = False,
    as_json: Json = False,
    file: TopologyOption = None,
    app_name: AppOption = None,
    broker: BrokerOption = None,
) -> None:
    """List dead letters, counted by task and exception. Changes nothing.

    While this runs, another command sees none of the letters it has read.
    """
    from amqtask.core.letters import Groups
    from amqtask.core.letters import as_json as plain_letter

    place = _Place(context.obj.override(app_name, broker), file, names, more)
    wanted = _filter(task, error, since, ids)
    groups = Groups()
    count = 0
    rows: list[tuple[str, ...]] = []
    for found in place.look(wanted):
        count += 1
        if not flat:
            groups.add(found.queue, found.letter)
        elif as_json:
            typer.echo(json.dumps(plain_letter(found.letter, found.queue)))
        else:
            rows.append(_row(found))
            if len(rows) == 1000:
                _print_rows(rows)
        if count == limit:
            break
    if flat:
        _print_rows(rows)
    elif as_json:
        import msgspec

        from amqtask.core.letters import plain

        typer.echo(json.dumps([plain(msgspec.structs.asdict(group)) for group in groups.all()], indent=2))  # fmt: skip
    else:
        _print_groups(groups.all())
    if not as_json and not count:
        typer.echo("No dead letters." if wanted.everything else "No dead letters match.")


@app.command()
def show(
    context: typer.Context,
    letter_id: Annotated[
        str, typer.Argument(metavar="ID", help="The task's id, as list shows it.")
    ],
    names: Queues = None,
    more: MoreQueues = None,
    as_json: Json = False,
    file: TopologyOption = None,
    app_name: AppOption = None,
    broker: BrokerOption = None,
) -> None:
    """Show all of one dead letter: arguments, headers, traceback, and what the broker did. Changes nothing.

    Only JSON and MessagePack are decoded; of anything else the size and the first bytes are shown.
    """
    place = _Place(context.obj.override(app_name, broker), file, names, more)
    shown = 0
    for found in place.look(_filter(None, None, None, [letter_id])):
        if shown and not as_json:
            typer.echo("")
        _show(found, as_json)
        shown += 1
    if not shown:
        raise _nobody(letter_id, place)


@app.command()
def retry(
    context: typer.Context,
    names: Queues = None,
    more: MoreQueues = None,
    task: TaskOption = None,
    error: ErrorOption = None,
    since: SinceOption = None,
    ids: IdOption = None,
    limit: LimitOption = None,
    rate: RateOption = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--queue", metavar="QUEUE", show_default=False, help="Send them there instead."
        ),
    ] = None,
    keep_expires: Annotated[
        bool,
        typer.Option("--keep-expires", help="Keep a time of expiry that is past; they die again."),
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    file: TopologyOption = None,
    app_name: AppOption = None,
    broker: BrokerOption = None,
) -> None:
    """Send dead letters back to the queue each died in, with their retries reset.

    Killed in the middle it has lost none; run it again for the rest. Ctrl-C ends after a whole batch.
    """
    from amqtask.dead import Retry

    place = _Place(context.obj.override(app_name, broker), file, names, more)
    wanted = _filter(task, error, since, ids)
    if dry_run:
        place.count(wanted, limit, as_json, "would be sent back")
        return
    action = Retry(to, keep_expires)
    place.move(wanted, action, "sent back", limit=limit, rate=_rate(rate), as_json=as_json)


@app.command()
def discard(
    context: typer.Context,
    names: Queues = None,
    more: MoreQueues = None,
    task: TaskOption = None,
    error: ErrorOption = None,
    since: SinceOption = None,
    ids: IdOption = None,
    limit: LimitOption = None,
    rate: RateOption = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            metavar="FILE",
            dir_okay=False,
            show_default=False,
            help="First append each to this file, whole, as a line of JSON.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    file: TopologyOption = None,
    app_name: AppOption = None,
    broker: BrokerOption = None,
) -> None:
    """Delete dead letters for good. Asks first, at a terminal."""
    from amqtask.dead import Discard

    place = _Place(context.obj.override(app_name, broker), file, names, more)
    wanted = _filter(task, error, since, ids)
    if dry_run:
        place.count(wanted, limit, as_json, "would be deleted")
        return
    pace = _rate(rate)
    if not yes:
        if not output.is_terminal(sys.stdin):
            raise ConfigurationError(
                "Discarding deletes dead letters for good: give --yes where nobody can be asked."
            )
        count = sum(1 for _ in place.look(wanted, limit))
        if not typer.confirm(f"Delete {_letters(count)} of {output.safe(place.title)} for good?"):
            typer.echo("Nothing was deleted.")
            raise typer.Exit(1)
    with _exporter(export) as write:
        place.move(wanted, Discard(write), "deleted", limit=limit, rate=pace, as_json=as_json)


@app.command()
def edit(
    context: typer.Context,
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="The task's id, as list shows it.")],
    names: Queues = None,
    more: MoreQueues = None,
    args: Annotated[
        str | None,
        typer.Option("-a", "--args", metavar="JSON", show_default=False, help="New positional arguments: '[1, \"two\"]'."),
    ] = None,
    kwargs: Annotated[
        str | None,
        typer.Option("-k", "--kwargs", metavar="JSON", show_default=False, help="New keyword arguments: '{\"key\": 1}'."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", show_default=False, help="Another task (task=shop.other) or header; JSON, else text; may be repeated."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--queue", metavar="QUEUE", show_default=False, help="Send it there instead."),
    ] = None,
    as_json: Json = False,
    file: TopologyOption = None,
    app_name: AppOption = None,
    broker: BrokerOption = None,
) -> None:  # fmt: skip
    """Change one dead letter and send it back: in your editor ($VISUAL, $EDITOR), or with --args, --kwargs and --set."""
    from amqtask.core import letters
    from amqtask.core.message import Envelope, Publication
    from amqtask.dead import Replace, Retry

    place = _Place(context.obj.override(app_name, broker), file, names, more)
    matches = list(place.look(_filter(None, None, None, [letter_id])))
    if not matches:
        raise _nobody(letter_id, place)
    if len(matches) > 1:
        raise ConfigurationError(
            f"{len(matches)} dead letters have the id {letter_id!r}: name the queue, or retry or discard them together."
        )
    found = matches[0]
    changes = _from_options(args, kwargs, settings)
    if not changes:
        changes = _from_editor(found)
        if not changes:
            typer.echo("Nothing was changed.")
            return
    publication = Retry(to)(found)
    if publication is None:
        raise ConfigurationError(
            f"It is not told which queue {letter_id!r} came from: name one with --queue."
        )
    if not isinstance(publication, Publication):
        raise ConfigurationError(f"The properties of {letter_id!r} cannot be read, so it can only be retried as it is.")  # fmt: skip
    envelope = publication.envelope
    properties, body = letters.changed(envelope.properties, envelope.body, **changes)
    assert found.properties is not None
    action = Replace(
        letters.fingerprint(found.properties, found.delivery.body),
        Publication("", publication.routing_key, Envelope(body, properties)),
    )
    place.queues = (found.queue,)
    tally = place.move(_filter(None, None, None, [letter_id]), action, "sent back", limit=1, rate=None, as_json=as_json)  # fmt: skip
    if tally.finished:
        raise ConfigurationError(f"Dead letter {letter_id!r} had been sent back before, unchanged.")
    if not tally.done:
        raise ConfigurationError(f"Dead letter {letter_id!r} was taken by somebody else meanwhile.")


# ---------------------------------------------------------------- what a command works on


class _Place:
    """The queues of dead letters a command works on, and the way to them."""

    def __init__(
        self, target: Target, file: Path | None, names: list[str] | None, more: list[str] | None
    ) -> None:
        from amqtask.dead import queues_of

        self.target = target
        wanted = [*(names or ()), *(q for text in more or () for q in text.split(",") if q)]
        self.topology: Topology | None = None
        if file is not None or target.has_app():
            self.topology = target.topology(file)
        self.named = bool(wanted)
        self.queues = queues_of(self.topology, wanted)

    @property
    def title(self) -> str:
        return ", ".join(self.queues)

    def look(self, wanted: Filter, limit: int | None = None) -> Iterator[Found]:
        """The letters that are meant, of all queues; a queue nobody named may be missing."""
        from amqtask.dead import look

        left = limit
        with self.target.transfer(self.topology) as transfer:
            for queue in self._there(transfer):
                with _bar(queue, transfer.queue(queue)) as advance:
                    for found in look(transfer, queue, wanted, advance):
                        if left is not None:
                            left -= 1
                        yield found
                        if left == 0:
                            return
                transfer.give_back()

    def _there(self, transfer: Any) -> tuple[str, ...]:
        there = tuple(queue for queue in self.queues if transfer.queue(queue) is not None)
        if self.named or not there:
            for queue in self.queues:
                if queue not in there:
                    raise ConfigurationError(f"There is no queue {queue!r} on the broker.")
        return there

    def count(self, wanted: Filter, limit: int | None, as_json: bool, what: str) -> None:
        """What a dry run says."""
        from amqtask.core.letters import Groups

        groups = Groups()
        count = 0
        for found in self.look(wanted, limit):
            groups.add(found.queue, found.letter)
            count += 1
        if as_json:
            typer.echo(json.dumps({"matched": count, "dry_run": True}))
            return
        _print_groups(groups.all())
        typer.echo(f"{_letters(count)} {what}.")

    def move(
        self,
        wanted: Filter,
        action: Retry | Discard | Replace,
        what: str,
        *,
        limit: int | None,
        rate: float | None,
        as_json: bool,
    ) -> Tally:
        """Carry out an action and tell what was done; ends the command with exit code 1 or 130 where not all was."""
        from amqtask.dead import Mover, Stopped, Tally

        with self.target.session(self.topology) as session:
            there = self._there(session)
        mover = Mover(lambda: self.target.transfer(self.topology), self.topology)
        tally = Tally()
        with _interruptible() as stop:
            for queue in there:
                if limit is not None and tally.done >= limit:
                    break
                with _bar(queue, None) as advance:
                    mover.run(queue, wanted, action, tally=tally, limit=limit, rate=rate, stop=stop, progress=advance)  # fmt: skip
                if tally.stopped is not None:
                    break
        _tell(tally, what, wanted, as_json)
        if tally.stopped is Stopped.INTERRUPTED:
            raise typer.Exit(130)
        if tally.stopped is not None or tally.skipped:
            raise typer.Exit(1)
        return tally


def _filter(
    task: str | None, error: str | None, since: str | None, ids: list[str] | None
) -> Filter:
    from amqtask.core.letters import Filter, parse_since

    try:
        moment = parse_since(since, datetime.now(UTC)) if since is not None else None
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint="--since") from None
    return Filter(task=task, error=error, since=moment, ids=frozenset(ids or ()))


def _rate(text: str | None) -> float | None:
    from amqtask.core.letters import parse_rate

    try:
        return parse_rate(text) if text is not None else None
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint="--rate") from None


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and TERM end the run after the batch under way; a second one ends it at once, which is as safe."""
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = [(number, signal.signal(number, ask)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextlib.contextmanager
def _exporter(file: Path | None) -> Iterator[Callable[[Sequence[Found]], None] | None]:
    if file is None:
        yield None
        return
    from amqtask.core.letters import exported

    try:
        stream = file.open("a", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}.") from None
    with stream:

        def write(batch: Sequence[Found]) -> None:
            for found in batch:
                delivery = found.delivery
                line = exported(
                    found.letter, found.queue, found.properties, delivery.header, delivery.body
                )
                stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())

        yield write


# ---------------------------------------------------------------- changes


def _from_options(
    args: str | None, kwargs: str | None, settings: list[str] | None
) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if args is not None:
        changes["args"] = _json(args, "--args", list)
    if kwargs is not None:
        changes["kwargs"] = _json(kwargs, "--kwargs", dict)
    headers: list[tuple[str, object]] = []
    for text in settings or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
        if name == "task":
            changes["task"] = value
            continue
        try:
            headers.append((name, json.loads(value)))
        except ValueError:
            headers.append((name, value))
    if headers:
        changes["headers"] = headers
    return changes


def _json(text: str, option: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"no JSON: {error}", param_hint=option) from None
    if type(value) is not kind:
        what = "a list" if kind is list else "an object"
        raise typer.BadParameter(f"must be {what} of JSON", param_hint=option)
    return value


_PARTS = ("task", "args", "kwargs", "headers")


def _from_editor(found: Found) -> dict[str, Any]:
    """What somebody changed in an editor; empty when nothing."""
    from amqtask.core.dead import PREFIX
    from amqtask.core.letters import arguments, plain

    known = arguments(found.properties, found.delivery.body)
    if known.problem is not None:
        raise ConfigurationError(f"Its arguments cannot be shown, so not edited: {known.problem}")
    assert found.properties is not None
    headers = {
        name: value
        for name, value in (found.properties.headers or {}).items()
        if not name.startswith((PREFIX, "x-"))
        and name not in ("id", "task", "argsrepr", "kwargsrepr")
    }
    before = {
        "task": found.letter.task,
        "args": plain(known.args),
        "kwargs": plain(known.kwargs),
        "headers": plain(headers),
    }
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor and not output.is_terminal(sys.stdin):
        raise ConfigurationError(
            "What is to be changed? Give --args, --kwargs or --set, or an editor in VISUAL or EDITOR."
        )
    with tempfile.TemporaryDirectory(prefix="amqtask-") as folder:
        file = Path(folder) / f"{found.letter.task or 'letter'}.json".replace("/", "_")
        file.write_text(json.dumps(before, indent=2, ensure_ascii=False) + "\n", "utf-8")
        try:
            done = subprocess.run([*shlex.split(editor or "vi"), str(file)], check=False)
        except OSError as error:
            raise ConfigurationError(f"The editor {editor!r} cannot be run: {error.strerror}.") from None  # fmt: skip
        if done.returncode != 0:
            raise ConfigurationError(
                f"The editor ended with code {done.returncode}; nothing was changed."
            )
        try:
            after = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"What the editor left is no JSON: {error}.") from None
    if not isinstance(after, dict) or set(after) - set(_PARTS):
        raise ConfigurationError(f"What the editor left must be an object of {', '.join(_PARTS)}.")
    changes: dict[str, Any] = {}
    for part, kind in (("task", str), ("args", list), ("kwargs", dict), ("headers", dict)):
        value = after.get(part, before[part])
        if not isinstance(value, kind):
            raise ConfigurationError(f"{part} must be a {kind.__name__}; nothing was changed.")
        if value != before[part]:
            changes[part] = value
    if "headers" in changes:
        old = before["headers"]
        changes["headers"] = [(k, v) for k, v in changes["headers"].items() if old.get(k) != v]
    return changes


# ---------------------------------------------------------------- printing


def _letters(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"


def _when(time: datetime | None) -> str:
    return "-" if time is None else f"{time:%Y-%m-%d %H:%M:%S}"


def _first_line(text: str, length: int = 80) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= length else line[: length - 1] + "…"


def _print_groups(groups: list[Group]) -> None:
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


def _row(found: Found) -> tuple[str, ...]:
    letter = found.letter
    return (
        _when(letter.time),
        found.queue,
        letter.id,
        letter.task or "(no task)",
        letter.error + (" (in doubt)" if letter.doubt else ""),
        _first_line(letter.message or letter.reason, 60),
    )


def _print_rows(rows: list[tuple[str, ...]]) -> None:
    if rows:
        output.print_table(("died", "queue", "id", "task", "error", "message"), rows)
        rows.clear()


def _show(found: Found, as_json: bool) -> None:
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


def _nobody(letter_id: str, place: _Place) -> ConfigurationError:
    return ConfigurationError(f"No dead letter has the id {letter_id!r} in {place.title}.")


def _tell(tally: Tally, what: str, wanted: Filter, as_json: bool) -> None:
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
        typer.echo(f"{_letters(tally.done)} {what}{into}; {left} left.")
    if tally.skipped:
        typer.echo(f"{_letters(tally.skipped)} do not tell which queue they came from: name one with --queue.", err=True)  # fmt: skip
    if tally.finished:
        typer.echo(f"{_letters(tally.finished)} had been sent back before, by a command that was ended in the middle.", err=True)  # fmt: skip
    if tally.doubtful:
        typer.echo(f"{_letters(tally.doubtful)} may go back twice: the broker, a full queue or a command that was ended left that open. The second ones carry the header amqtask-dead-doubt.", err=True)  # fmt: skip
    if tally.problem:
        typer.echo(output.safe(tally.problem), err=True)


@contextlib.contextmanager
def _bar(queue: str, state: Any) -> Iterator[Callable[[Any], None]]:
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
