"""The quick reading of a worker's command line agrees with the library's, or leaves the line to it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from amqtask.cli import quick
from amqtask.cli import worker as command
from amqtask.cli.boot import Flags
from amqtask.cli.root import app
from amqtask.cli.target import Target

SAMPLES = {"INTEGER": "3", "FLOAT": "2.5", "TEXT": "word", "QUEUE,…": "a,b", "NAME": "n@h"}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the library hands on for a command line, ``None`` when it refuses or helps."""
    seen: list[tuple[Target, Flags]] = []

    def start(target: Target, flags: Flags) -> int:
        seen.append((target, flags))
        return 0

    monkeypatch.setattr(command, "start", start)

    def read(line: list[str]) -> tuple[Target, Flags] | None:
        seen.clear()
        CliRunner().invoke(app, line)
        return seen[0] if seen else None

    return read


def spellings() -> list[str]:
    """Every option of the worker command, as it may be written."""
    group: Any = typer.main.get_command(app)
    params = group.get_command(None, "worker").params
    about_itself = {"--help", "-h", "--install-completion", "--show-completion"}
    return [
        option
        for each in params
        for option in (*each.opts, *each.secondary_opts)
        if option not in about_itself
    ]


@pytest.mark.parametrize("option", spellings())
def test_every_option_is_read_as_the_library_reads_it(option: str, library: Any) -> None:
    found = [
        quick.worker(line, {})
        for value in ("3", "word", "2.5", None)
        if (line := ["worker", option, *([value] if value else [])])
        and quick.worker(line, {}) == library(line) is not None
    ]

    assert found, f"{option} is not read: name it in amqtask/cli/quick.py or in Flags"


@pytest.mark.parametrize(
    "line",
    [
        "worker",
        "-A shop worker -c 2",
        "--app=shop -b amqp://h// worker -Q a -Q b,c --no-declare",
        "-A one worker --app two -n w%n@%h -l warning --concurrency=4",
        "worker -c 2 -c 3 --reload --json-logs --no-json-logs",
        "worker --time-limit 1.5 --soft-time-limit 1 --shutdown-timeout 0",
    ],
)
def test_usual_lines_are_read(line: str, library: Any) -> None:
    words = line.split()

    read = quick.worker(words, {})

    assert read is not None
    assert read == library(words)


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "worker --help",
        "worker -h",
        "--version worker",
        "worker -c",
        "worker -c 0",
        "worker -c two",
        "worker -c null",
        "worker -c -1",
        "worker -c2",
        "worker --unknown 1",
        "worker extra",
        "worker -Q --reload",
        "worker --time-limit nan",
        "-Q a worker",
        "--reload worker",
        "call worker",
        "call shop.worker",
        "",
    ],
)
def test_everything_else_is_left_to_the_library(line: str) -> None:
    assert quick.worker(line.split(), {}) is None


def test_completion_is_left_to_the_library() -> None:
    assert quick.worker(["worker"], {quick.COMPLETION: "complete_bash"}) is None


def test_a_worker_is_started_without_the_library() -> None:
    program = (
        "import sys\n"
        "from amqtask.cli import boot, main\n"
        "boot.start = lambda target, flags: 7\n"
        "sys.argv = ['amqtask', '-A', 'shop', 'worker', '-c', '2']\n"
        "try: main.main()\n"
        "except SystemExit as stop: print(stop.code, sorted({'typer', 'pydantic', 'rich'} & set(sys.modules)))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout == "7 []\n"
