"""Which app and which broker a command works for."""

from __future__ import annotations

from pathlib import Path

import pytest

from amqtask.cli.target import Named, find_app
from amqtask.errors import ConfigurationError
from tests.cli.running import Folder, Shop

FILE = '[tool.amqtask]\napp = "from.file"\n'


def test_flag_before_environment_before_file(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(FILE)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    environment = {"AMQTASK_APP": "from.environment"}

    assert find_app("from.flag", environment, below) == Named("from.flag", below)
    assert find_app(None, environment, below) == Named("from.environment", below)
    assert find_app(None, {"AMQTASK_APP": ""}, below) == Named("from.file", tmp_path)


def test_the_nearest_file_that_names_an_app_counts(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(FILE)
    below = tmp_path / "a"
    below.mkdir()
    (below / "pyproject.toml").write_text("[tool.other]\n")

    found = find_app(None, {}, below)

    assert found == Named("from.file", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool", "cannot be read"),
        ("[tool.amqtask]\napp = 5\n", "must be a text"),
        ("\xff", "cannot be read"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_bytes(text.encode("latin-1"))

    with pytest.raises(ConfigurationError, match=message) as caught:
        find_app(None, {}, tmp_path)

    assert str(file) in str(caught.value)


def test_an_app_named_in_a_parent_is_imported_from_there(offline: Shop) -> None:
    offline.write("pyproject.toml", '[tool.amqtask]\napp = "shop.tasks"\n')
    below = Folder(offline.path / "deep" / "down")
    below.path.mkdir(parents=True)

    found = below.run("topology", "explain", "shop.tasks.add")

    assert found.returncode == 0, found.stderr
    assert offline.email in found.stdout


@pytest.mark.parametrize("before", [True, False], ids=["before the command", "after it"])
def test_the_app_may_stand_on_either_side(offline: Shop, before: bool) -> None:
    words = ["topology", "explain", "shop.tasks.add"]
    app = ["-A", "shop.tasks:app"]

    found = offline.run(*app, *words) if before else offline.run(*words, *app)

    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("worker",), "Which app?"),
        (("-A", "nowhere", "worker"), "There is no module 'nowhere'"),
        (("-A", "./shop/tasks.py", "worker"), "write -A shop.tasks, in the folder"),
        (("-A", "shop.py:app", "worker"), "write -A shop:app, in the folder"),
        (("-A", "shop.tasks:nothing", "worker"), "no App called 'nothing'"),
        (("-A", "broken", "worker"), "ZeroDivisionError"),
        (("-A", "leaves", "worker"), "SystemExit"),
        (("-A", "broken", "topology", "show"), "ZeroDivisionError"),
        (("topology", "show"), "Which topology?"),
        (("queue", "ls"), "Which queues?"),
    ],
)
def test_an_app_that_cannot_be_had_is_one_sentence(
    offline: Shop, arguments: tuple[str, ...], message: str
) -> None:
    offline.write("broken.py", "1 / 0\n")
    offline.write("leaves.py", "import sys\nsys.exit(3)\n")

    found = offline.run(*arguments)

    assert found.returncode == 1
    assert message in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert found.stdout == ""
