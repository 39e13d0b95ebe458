"""The documentation holds: its links lead somewhere, its Python compiles and imports what exists, its commands are known."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer

from amqtask.cli.root import app as command_line
from amqtask.settings import Settings
from amqtask.topology.parse import parse

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "benchmarks").rglob("*.md"),
    ]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OURS = ("amqtask", "examples")
PACKAGE = ROOT / "amqtask"
PACKAGES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
FOLDERS = (ROOT, PACKAGE, ROOT / "tests", ROOT / "docs")
NAMED_HERE = re.compile(r"`([a-z_]+(?:\.[a-z_]+)+|(?:\w+/)+\w+\.py)`")
"""A dotted name or the path of a Python file, in backquotes."""

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, text in BLOCK.findall(page.read_text()):
        if language in languages:
            yield text


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = BLOCK.sub("", page.read_text())
    found = set()
    for heading in re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.add(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return found


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(BLOCK.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        inside = file.exists() and file.is_relative_to(ROOT)
        if not inside or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pages
def test_our_modules_and_files_that_a_page_names_exist(page: Path) -> None:
    missing = []
    for named in NAMED_HERE.findall(BLOCK.sub("", page.read_text())):
        if "/" in named:
            if not any((folder / named).exists() for folder in FOLDERS):
                missing.append(named)
            continue
        parts = named.removeprefix("amqtask.").split(".")
        if parts[0] in PACKAGES:
            # the last part may be what is defined there
            places = [PACKAGE.joinpath(*parts[:end]) for end in (len(parts), len(parts) - 1)]
            if not any(each.is_dir() or each.with_suffix(".py").exists() for each in places):
                missing.append(named)
    assert missing == []


@pages
def test_python_compiles_and_imports_what_exists(page: Path) -> None:
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text, str(page))):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = node.module
                if module.partition(".")[0] in OURS:
                    found = importlib.import_module(module)
                    missing = [name.name for name in node.names if not hasattr(found, name.name)]
                    assert missing == [], f"{module} has no {missing}"
            elif isinstance(node, ast.Import):
                for name in node.names:
                    if name.name.partition(".")[0] in OURS:
                        importlib.import_module(name.name)


@pages
def test_settings_given_to_an_app_exist(page: Path) -> None:
    own = {"topology", "broker_url", "settings"}
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "App":
                given = {keyword.arg for keyword in node.keywords}
                assert given <= own | set(Settings.__struct_fields__)


@pages
def test_topologies_have_no_mistakes(page: Path) -> None:
    for text in blocks(page, "yaml"):
        if re.search(r"^version: 1$", text, re.MULTILINE):
            parse(text, page.name)


@pages
def test_commands_and_their_options_exist(page: Path) -> None:
    for text in blocks(page, "", "bash", "sh"):
        for line in text.splitlines():
            for command in re.findall(r"(?:^|\$ |\$\()(amqtask [^#|;&)]*)", line):
                words = [word for word in shlex.split(command.replace("…", "")) if word != "..."]
                check_command(words)


def check_command(words: list[str]) -> None:
    """Each word that begins with a dash is an option of the command or of one above it."""
    command: Any = typer.main.get_command(command_line)
    known = {"-h", "--help", "--install-completion", "--show-completion", *options_of(command)}
    for word in words[1:]:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{word} in {shlex.join(words)}"
        elif found := hasattr(command, "get_command") and command.get_command(None, word):
            command = found
            known |= options_of(command)


def options_of(command: Any) -> set[str]:
    return {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }


def test_the_index_lists_every_page_of_the_documentation() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / target).resolve() for target in LINK.findall(index.read_text())}
    assert {page for page in PAGES if ROOT / "docs" in page.parents} - listed == {index}


def test_the_decisions_have_their_three_parts_and_are_numbered() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [int(page.name[:4]) for page in decisions]
    assert numbers == sorted(set(numbers))
    for number, page in zip(numbers, decisions, strict=True):
        text = page.read_text()
        assert text.startswith(f"# {number}. ")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
            "Context",
            "Choice",
            "What we gave up",
        ]


FAULTS = ROOT / "docs" / "explanation" / "faults.md"
NAMED = re.compile(r"`([\w/]+\.py)(?:::(\w+))?`")


def rows() -> list[list[str]]:
    """The cells of each fault's line."""
    lines = (line for line in FAULTS.read_text().splitlines() if re.match(r"\| \d", line))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_fault_has_a_number_and_an_answer() -> None:
    numbers = [int(row[0]) for row in rows()]
    assert sorted(numbers) == list(range(1, max(numbers) + 1))  # each once, none left out
    assert all(all(row) for row in rows())
    assert all(NAMED.search(row[3]) for row in rows() if len(row) == 4)


def test_every_test_named_there_exists() -> None:
    missing = []
    for file, function in NAMED.findall(FAULTS.read_text()):
        path = ROOT / "tests" / file
        if not path.exists() or not re.search(
            rf"^def {function}\b", path.read_text(), re.MULTILINE
        ):
            missing.append(f"{file}::{function}")
    assert missing == []
