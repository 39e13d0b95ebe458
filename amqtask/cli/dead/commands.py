"""``amqtask dead``: look at dead letters, send them back to work, or delete them.

Exit codes: 0 everything that was meant is done; 1 something was not, told in a sentence; 130 stopped by Ctrl-C after a whole
batch.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amqtask.cli import output
from amqtask.cli.dead.changes import from_editor, from_options
from amqtask.cli.dead.options import (
    DryRun,
    ErrorOption,
    IdOption,
    Json,
    LetterId,
    LimitOption,
    MoreQueues,
    Queues,
    RateOption,
    SinceOption,
    TaskOption,
)
from amqtask.cli.dead.place import Place, rate_of, which
from amqtask.cli.dead.printing import letters_of, print_groups, print_letter, print_rows, row
from amqtask.cli.flags import AppOption, BrokerOption, TopologyOption
from amqtask.errors import ConfigurationError

if TYPE_CHECKING:
    from amqtask.dead.look import Found

app = typer.Typer(
    help="Look at dead letters, send them back to work, or delete them.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: a table would cut the names of options
    context_settings={"help_option_names": ["-h", "--help"]},
)


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

    place = Place(context.obj.override(app_name, broker), file, names, more)
    wanted = which(task, error, since, ids)
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
            rows.append(row(found))
            if len(rows) == 1000:
                print_rows(rows)
        if count == limit:
            break
    if flat:
        print_rows(rows)
    elif as_json:
        import msgspec

        from amqtask.core.letters import plain

        typer.echo(json.dumps([plain(msgspec.structs.asdict(group)) for group in groups.all()], indent=2))  # fmt: skip
    else:
        print_groups(groups.all())
    if not as_json and not count:
        typer.echo("No dead letters." if wanted.everything else "No dead letters match.")


@app.command()
def show(
    context: typer.Context,
    letter_id: LetterId,
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
    place = Place(context.obj.override(app_name, broker), file, names, more)
    shown = 0
    for found in place.look(which(None, None, None, [letter_id])):
        if shown and not as_json:
            typer.echo("")
        print_letter(found, as_json)
        shown += 1
    if not shown:
        raise place.nobody(letter_id)


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
    from amqtask.dead.actions import Retry

    place = Place(context.obj.override(app_name, broker), file, names, more)
    wanted = which(task, error, since, ids)
    if dry_run:
        place.count(wanted, limit, as_json, "would be sent back")
        return
    action = Retry(to, keep_expires)
    place.move(wanted, action, "sent back", limit=limit, rate=rate_of(rate), as_json=as_json)


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
    from amqtask.dead.actions import Discard

    place = Place(context.obj.override(app_name, broker), file, names, more)
    wanted = which(task, error, since, ids)
    if dry_run:
        place.count(wanted, limit, as_json, "would be deleted")
        return
    pace = rate_of(rate)
    if not yes:
        if not output.is_terminal(sys.stdin):
            raise ConfigurationError(
                "Discarding deletes dead letters for good: give --yes where nobody can be asked."
            )
        count = sum(1 for _ in place.look(wanted, limit))
        if not typer.confirm(f"Delete {letters_of(count)} of {output.safe(place.title)} for good?"):
            typer.echo("Nothing was deleted.")
            raise typer.Exit(1)
    with _exporter(export) as write:
        place.move(wanted, Discard(write), "deleted", limit=limit, rate=pace, as_json=as_json)


@app.command()
def edit(
    context: typer.Context,
    letter_id: LetterId,
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
    from amqtask.dead.actions import Replace, Retry

    place = Place(context.obj.override(app_name, broker), file, names, more)
    matches = list(place.look(which(None, None, None, [letter_id])))
    if not matches:
        raise place.nobody(letter_id)
    if len(matches) > 1:
        raise ConfigurationError(
            f"{len(matches)} dead letters have the id {letter_id!r}: name the queue, or retry or discard them together."
        )
    found = matches[0]
    changes = from_options(args, kwargs, settings)
    if not changes:
        changes = from_editor(found)
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
    tally = place.move(which(None, None, None, [letter_id]), action, "sent back", limit=1, rate=None, as_json=as_json)  # fmt: skip
    if tally.finished:
        raise ConfigurationError(f"Dead letter {letter_id!r} had been sent back before, unchanged.")
    if not tally.done:
        raise ConfigurationError(f"Dead letter {letter_id!r} was taken by somebody else meanwhile.")


@contextmanager
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
