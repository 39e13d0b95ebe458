"""How commands print: text that cannot steer a terminal, trees and tables that read the same when piped."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn, TextIO

import typer

from amqtask.log import escape

if TYPE_CHECKING:
    from rich.tree import Tree

    from amqtask.topology.diagram import Branch


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits before a stream; a closed one has nobody."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def safe(text: str) -> str:
    """A name from a file or a broker, with control characters written out."""
    return escape(text)


def warn(sentences: Iterable[str]) -> None:
    """Print warnings to standard error."""
    for sentence in sentences:
        typer.echo(f"Warning: {safe(sentence)}", err=True)


def fail(sentences: Sequence[str]) -> None:
    """Print what is wrong to standard error and end with exit code 1; nothing wrong does nothing."""
    if sentences:
        _end_with(sentences)


def _end_with(sentences: Sequence[str]) -> NoReturn:
    for sentence in sentences:
        typer.echo(safe(sentence), err=True)
    raise typer.Exit(1)


def print_tree(branch: Branch) -> None:
    """Print a tree: with rich on a terminal, as plain lines elsewhere."""
    if is_terminal(sys.stdout):
        from rich.console import Console

        Console().print(_rich(branch))
        return
    from amqtask.topology.diagram import lines_of

    for line in lines_of(branch):
        typer.echo(safe(line))


def _rich(branch: Branch, depth: int = 0) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    text = Text(safe(branch.text), style="bold" if depth == 0 else "")
    text.highlight_regex(r"(?<=exchange )[^ ,]+|^[^→]+(?= →)", "cyan")
    text.highlight_regex(r"\([^()]*\)$", "dim")
    tree = Tree(text, guide_style="dim")
    tree.children += [_rich(child, depth + 1) for child in branch.children]
    return tree


def print_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Iterable[int] = ()
) -> None:
    """Print rows below a head: a rich table on a terminal, aligned columns elsewhere.

    Args:
        head: the columns' names.
        rows: texts, as many as there are columns.
        numbers: the columns that are aligned to the right.
    """
    right = set(numbers)
    if is_terminal(sys.stdout):
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, name in enumerate(head):
            table.add_column(name, justify="right" if index in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(safe(cell)) for cell in row))
        Console().print(table)
        return
    lines = [list(head), *([safe(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(head))]
    for line in lines:
        cells = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())
