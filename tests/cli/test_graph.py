"""``amqtask graph``: signatures and results drawn from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from amqtask import App, chain
from tests.cli.running import Folder, run_here
from tests.results.table import Table

SHOP = """
    from amqtask import App, chain, group

    app = App("shop")

    @app.task
    def add(x, y=0): ...

    @app.task
    def total(values): ...

    canvas = chain(add.s(1, 2), group(add.s(3), add.s(4)), total.s())
"""


@pytest.fixture(autouse=True)
def own_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a command in this process imports, and where from, is forgotten."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("wares_to_draw", None)


def drawn(folder: Path, *arguments: str, stdin: str | None = None) -> str:
    """What a command that needs no app prints."""
    done = run_here(folder, {}, "graph", *arguments, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused(folder: Path, *arguments: str, stdin: str | None = None) -> str:
    """The sentence that a command ends with."""
    done = run_here(folder, {}, "graph", *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_a_signature_of_a_module_and_an_expression(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("shop.py", SHOP)

    named = folder.run("graph", "shop:canvas", "-o", "work.svg")
    expression = folder.run("-A", "shop", "graph", "chord([add.s(i) for i in range(3)], total.s())")

    assert (named.returncode, named.stdout, named.stderr) == (0, "", "")
    assert (tmp_path / "work.svg").read_text().startswith("<svg ")
    assert (expression.returncode, expression.stderr) == (0, "")
    assert 'subgraph g1["chord of 3"]' in expression.stdout


def test_a_mistake_in_an_expression_is_one_sentence(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("shop.py", SHOP)

    done = folder.run("-A", "shop", "graph", "sub.s(1)")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("'sub.s(1)' cannot be read: NameError")
    assert len(done.stderr.splitlines()) == 1


def test_a_function_that_makes_a_signature_and_one_that_fails(tmp_path: Path) -> None:
    Folder(tmp_path).write(
        "wares_to_draw.py",
        """
        def make():
            return {"task": "add", "args": [5]}

        def broken():
            raise ValueError("no")
        """,
    )

    assert 'n1["add(5)"]' in drawn(tmp_path, "wares_to_draw:make")
    assert refused(tmp_path, "wares_to_draw:broken") == (
        "Calling wares_to_draw:broken failed: ValueError('no').\n"
    )


def test_a_task_is_named_and_not_run(tmp_path: Path) -> None:
    Folder(tmp_path).write(
        "wares_to_draw.py",
        """
        from pathlib import Path

        from amqtask import App

        app = App("shop")

        @app.task
        def sweep():
            Path("swept").touch()
        """,
    )

    assert refused(tmp_path, "wares_to_draw:sweep") == (
        "wares_to_draw:sweep is a task, not a call of one: write sweep.s(…).\n"
    )
    assert refused(tmp_path, "-A", "wares_to_draw", "sweep.s(") == (
        "'sweep.s(' cannot be read: '(' was never closed.\n"
    )
    assert refused(tmp_path, "-A", "wares_to_draw", "group(nope.s(n) for n in range(3))") == (
        "'group(nope.s(n) for n in range(3))' cannot be drawn: "
        "NameError(\"name 'nope' is not defined\").\n"
    )
    assert not (tmp_path / "swept").exists()


def test_a_kind_of_picture_that_is_not_drawn_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, "work.json", "-o", "work.PNG") == (
        "A workflow is drawn as mermaid or svg, not as png: name a file that ends in .svg or .mmd.\n"
    )


def test_a_file_of_a_signature(tmp_path: Path) -> None:
    app = App("shop")

    @app.task(name="add")
    def add(x: int) -> int:
        return x

    text = json.dumps(chain(add.s(1), add.s()))
    (tmp_path / "work.json").write_text(text)

    assert 'n1["add(1)"]' in drawn(tmp_path, "work.json")
    assert drawn(tmp_path, "-", stdin=text) == drawn(tmp_path, "work.json")
    assert drawn(tmp_path, "work.json", "--format", "svg").startswith("<svg ")


def test_files_of_results(tmp_path: Path) -> None:
    table = Table()
    group = table.group("a", "b")
    table.arrives("a", 1)
    (tmp_path / "tree.json").write_text(group.graph_json())
    (tmp_path / "ids.json").write_text(json.dumps(group.as_tuple()))

    assert "1 SUCCESS, 1 PENDING" in drawn(tmp_path, "tree.json")
    assert "group of 2" in drawn(tmp_path, "ids.json")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is no JSON"),
        ("7", "A signature is a mapping"),
        ("{}", "A signature is a mapping"),
        ("[7]", "A result as a tuple is"),
        ('{"type": "odd"}', "no graph that amqtask has written"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "work.json").write_text(text)

    assert sentence in refused(tmp_path, "work.json")


def test_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bytes.json").write_bytes(b"\xff")
    (tmp_path / "ids.json").write_text('[["a", null], null]')

    assert "cannot be read: No such file" in refused(tmp_path, "none.json")
    assert "is no text" in refused(tmp_path, "bytes.json")
    assert "There is no module 'no_such_shop'" in refused(tmp_path, "no_such_shop:canvas")
    assert "json has no 'loadz'; did you mean 'load" in refused(tmp_path, "json:loadz")
    assert "is no signature, but of type list" in refused(tmp_path, "json:__all__")
    assert "name the app" in refused(tmp_path, "add.s(1)")
    assert "cannot be written" in refused(tmp_path, "ids.json", "-o", "no/such/folder.svg")
