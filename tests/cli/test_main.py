"""The command itself: version, help, exit codes, streams that go away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from amqtask.cli.root import COMMANDS, app
from tests.cli.running import AMQTASK, Folder, Shop

pytestmark = pytest.mark.process

COMPLETE = {"_AMQTASK_COMPLETE": "complete_bash", "COMP_CWORD": "1"}


def test_version() -> None:
    found = CliRunner().invoke(app, ["--version"])

    assert (found.exit_code, found.stdout) == (0, f"amqtask {version('amqtask')}\n")


def test_version_imports_nothing_heavy() -> None:
    code = (
        "import sys; from amqtask.cli.root import app; app(['--version'], standalone_mode=False);"
        "print(*{'pika', 'aio_pika', 'structlog', 'rich', 'ruamel.yaml'} & set(sys.modules))"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.splitlines()[1].strip() == ""


def test_help_names_every_command() -> None:
    found = CliRunner().invoke(app, ["--help"])

    assert found.exit_code == 0
    for name in COMMANDS:
        assert f"  {name} " in found.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    for flag in ("--help", "-h"):
        assert CliRunner().invoke(app, [name, flag]).exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["worker", "--nonsense"],
        ["worker", "-c", "0"],
        ["worker", "-c", "many"],
        ["worker", "--prefetch-multiplier", "-1"],
        ["call"],
        ["call", "x", "--priority", "256"],
        ["queue", "purge"],
        ["topology", "explain"],
        ["topology", "explain", "a", "b"],
        ["topology", "explain", "a", "--exchange", "b"],
        ["topology", "validate", "--rabbitmq", "new", os.devnull],
    ],
)
def test_wrong_usage_ends_with_2(folder: Folder, arguments: list[str]) -> None:
    folder.write("pyproject.toml", "")
    found = folder.run(*arguments)

    if arguments[-1] == os.devnull:  # the file is looked at first
        assert found.returncode in (1, 2)
    else:
        assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr


def test_a_misspelt_command_finds_the_nearest(folder: Folder) -> None:
    found = folder.run("wroker")

    assert found.returncode == 2
    assert "did you mean 'worker'?" in found.stderr


def test_completion(folder: Folder) -> None:
    found = folder.run(**COMPLETE, COMP_WORDS="amqtask to")

    assert found.stdout.split() == ["topology"]
    assert "complete" in folder.run("--show-completion", "bash").stdout


def test_a_closed_output_is_quiet(offline: Shop) -> None:
    for closed in ("| true", ">&-", "2>&-"):
        found = subprocess.run(
            ["bash", "-c", f"{AMQTASK} topology show shop.yaml {closed}"],
            cwd=offline.path,
            env=offline.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.stderr == "", closed


def test_an_interrupt_ends_with_130(shop: Shop) -> None:
    assert shop.run("topology", "apply", "shop.yaml").returncode == 0
    with shop.process(
        "-A", "shop.tasks", "call", "shop.tasks.add", "--args", "[1, 2]", "--wait"
    ) as call:
        # no worker: the message lies in its queue while the command waits
        from tests.waiting import eventually

        eventually(lambda: " 1 " in shop.run("queue", "ls", shop.email).stdout + " ", 60, 0.2)

        assert call.end(signal.SIGINT) == 130
        assert call.output == ""


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    code = (
        "from amqtask.cli import main, root\n"
        "def broken(ctx, name): raise RuntimeError('a bug')\n"
        "root.Commands.get_command = lambda self, ctx, name: broken(ctx, name)\n"
        "main.main()"
    )

    found = subprocess.run(
        [sys.executable, "-c", code, "call"], capture_output=True, text=True, check=False
    )

    assert found.returncode == 1
    assert "Traceback" in found.stderr
    assert "a bug" in found.stderr


def test_an_error_cannot_steer_the_terminal(folder: Folder) -> None:
    found = folder.run("-A", "no\x1b[31mthing", "worker")

    assert "\\x1b[31m" in found.stderr
    assert "\x1b" not in found.stderr
