"""The arguments and options that the commands about dead letters share."""

from __future__ import annotations

from typing import Annotated

import typer

LetterId = Annotated[str, typer.Argument(metavar="ID", help="The task's id, as list shows it.")]
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
