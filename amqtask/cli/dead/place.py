"""What a command works on: the queues of dead letters, which letters of them, and the way to them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from amqtask.cli.dead.printing import bar, letters_of, print_groups, print_tally
from amqtask.cli.target import Target
from amqtask.errors import ConfigurationError

if TYPE_CHECKING:
    from amqtask.core.letters import Filter
    from amqtask.dead.actions import Action
    from amqtask.dead.look import Found
    from amqtask.dead.tally import Tally
    from amqtask.topology.model import Topology


class Place:
    """The queues of dead letters a command works on, and the way to them.

    Args:
        target: the brokers and the app.
        file: a topology file, when one was given.
        names: queues, as arguments.
        more: queues, as options.
    """

    def __init__(
        self, target: Target, file: Path | None, names: list[str] | None, more: list[str] | None
    ) -> None:
        from amqtask.dead.queues import queues_of

        self.target = target
        wanted = [*(names or ()), *(q for text in more or () for q in text.split(",") if q)]
        self.topology: Topology | None = None
        if file is not None or target.has_app():
            self.topology = target.topology(file)
        self.named = bool(wanted)
        self.queues = queues_of(self.topology, wanted)

    @property
    def title(self) -> str:
        """The queues, for people."""
        return ", ".join(self.queues)

    def nobody(self, letter_id: str) -> ConfigurationError:
        """What is said when no letter has an id."""
        return ConfigurationError(f"No dead letter has the id {letter_id!r} in {self.title}.")

    def look(self, wanted: Filter, limit: int | None = None) -> Iterator[Found]:
        """The letters that are meant, of all queues; a queue nobody named may be missing."""
        from amqtask.dead.look import look

        left = limit
        with self.target.transfer(self.topology) as transfer:
            for queue in self._there(transfer):
                with bar(queue, transfer.queue(queue)) as advance:
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
        print_groups(groups.all())
        typer.echo(f"{letters_of(count)} {what}.")

    def move(
        self,
        wanted: Filter,
        action: Action,
        what: str,
        *,
        limit: int | None,
        rate: float | None,
        as_json: bool,
    ) -> Tally:
        """Carry out an action and tell what was done; ends the command with exit code 1 or 130 where not all was."""
        from amqtask.dead.mover import Mover
        from amqtask.dead.tally import Stopped, Tally

        with self.target.session(self.topology) as session:
            there = self._there(session)
        mover = Mover(lambda: self.target.transfer(self.topology), self.topology)
        tally = Tally()
        with interruptible() as stop:
            for queue in there:
                if limit is not None and tally.done >= limit:
                    break
                with bar(queue, None) as advance:
                    mover.run(queue, wanted, action, tally=tally, limit=limit, rate=rate, stop=stop, progress=advance)  # fmt: skip
                if tally.stopped is not None:
                    break
        print_tally(tally, what, as_json)
        if tally.stopped is Stopped.INTERRUPTED:
            raise typer.Exit(130)
        if tally.stopped is not None or tally.skipped:
            raise typer.Exit(1)
        return tally


def which(task: str | None, error: str | None, since: str | None, ids: list[str] | None) -> Filter:
    """Which letters the options mean."""
    from amqtask.core.letters import Filter, parse_since

    try:
        moment = parse_since(since, datetime.now(UTC)) if since is not None else None
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint="--since") from None
    return Filter(task=task, error=error, since=moment, ids=frozenset(ids or ()))


def rate_of(text: str | None) -> float | None:
    """Messages a second."""
    from amqtask.core.letters import parse_rate

    try:
        return parse_rate(text) if text is not None else None
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint="--rate") from None


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
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
