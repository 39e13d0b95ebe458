"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AppOption = Annotated[
    str | None,
    typer.Option(
        "-A",
        "--app",
        metavar="MODULE[:APP]",
        show_default=False,
        help="The application. Else AMQTASK_APP, else app under [tool.amqtask] in pyproject.toml.",
    ),
]
BrokerOption = Annotated[
    str | None,
    typer.Option(
        "-b",
        "--broker",
        metavar="URL",
        show_default=False,
        help="The broker's URL. Else AMQTASK_BROKER_URL, else the app's, else the local broker.",
    ),
]
TopologyOption = Annotated[
    Path | None,
    typer.Option(
        "-f",
        "--topology",
        "--file",
        metavar="FILE",
        show_default=False,
        help="A topology file. Else the app's topology.",
    ),
]
