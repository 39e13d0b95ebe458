"""The text of a topology file as YAML nodes, which know their line and column: reading, telling apart, walking through.

The file is read as YAML 1.2: ``yes``, ``no``, ``on`` and ``off`` are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from amqtask.errors import TopologyError
from amqtask.topology.problems import Path, Problems

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

# Values read at most, aliases counted each time they are used: a few nested anchors can stand for billions.
MAX_VALUES = 200_000
MAX_DEPTH = 50
INTEGER: Final = re.compile(r"[-+]?(0x[0-9a-fA-F]+|0o[0-7]+|[0-9]+)")
"""What YAML 1.2 reads as a whole number."""

_TAG = "tag:yaml.org,2002:"


def compose(text: str, source: str) -> Node | None:
    """The root of a YAML text, ``None`` when there is nothing in it.

    Raises:
        TopologyError: this is not YAML.
    """
    # imported here because it is half of what importing amqtask would cost, and an app without a file never needs it
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    try:
        node: Node | None = YAML(typ="rt").compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark is not None else source
        raise TopologyError((f"{where}: not valid YAML: {_yaml_problem(error)}",)) from None
    except ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1
        code = ord(error.character) if isinstance(error.character, str) else error.character
        raise TopologyError(
            (
                f"{source}:{line}:{column}: not valid YAML: the character #x{code:04x} is not allowed",
            )
        ) from None
    except RecursionError:
        raise TopologyError((f"{source}: nested too deeply to be a topology",)) from None
    except (YAMLError, ValueError) as error:
        first = " ".join(str(error).split())
        raise TopologyError((f"{source}: not valid YAML: {first}",)) from None
    return node


def _yaml_problem(error: Any) -> str:
    """One line of what ruamel.yaml found; its own text is a page with excerpts."""
    what = str(error.problem or error.context or "it cannot be read")
    if what.startswith("found character '\\t'"):
        return "a tab; YAML is indented with spaces only"
    if "another document" in what:
        return "a second document begins here, and a topology file is one"
    context = str(error.context or "")
    if error.problem and context.startswith("while parsing"):
        what += f" ({context} that begins in line {error.context_mark.line + 1})"
    return " ".join(what.split())


# ---------------------------------------------------------------- walking through


class Walk:
    """Goes through the mappings and lists of one file.

    Args:
        problems: takes what is wrong with them, and where each entry stands.
    """

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._values = 0

    def entries(self, node: Node, path: Path) -> Iterator[tuple[str, Node]]:
        """The entries of a mapping with ``<<`` merged in; each value's and key's position is noted."""
        if not self.enter(path):
            return
        first: dict[str, int] = {}
        merged: list[tuple[Node, Node]] = []
        own: list[tuple[Node, Node]] = []
        for key, value in node.value:
            if is_merge(key):
                merged.extend(self._merge(value, (*path, "<<")))
            else:
                own.append((key, value))
        for key, value in own:
            name = self._entry_name(key, path)
            if name is None:
                continue
            if name in first:
                self._problems.add_at(
                    (*path, name), key, f"duplicate key, first written in line {first[name]}"
                )
                continue
            first[name] = key.start_mark.line + 1
            self._problems.mark((*path, name), value, key)
            yield name, value
        for key, value in merged:
            name = self._entry_name(key, path)
            if name is not None and name not in first:
                first[name] = key.start_mark.line + 1
                self._problems.mark((*path, name), value, key)
                yield name, value

    def _merge(self, node: Node, path: Path) -> list[tuple[Node, Node]]:
        """The entries of ``<<: *anchor`` or ``<<: [*one, *two]``, the earlier ones first."""
        if not self.enter(path):
            return []
        sources = node.value if is_a(node, "seq") else [node]
        entries: list[tuple[Node, Node]] = []
        for source in sources:
            if not is_a(source, "map"):
                self._problems.add_at(
                    path, source, f"must name a mapping to merge; {found(source)}"
                )
                continue
            for key, value in source.value:
                if is_merge(key):
                    entries.extend(self._merge(value, (*path, "<<")))
                else:
                    entries.append((key, value))
        return entries

    def _entry_name(self, key: Node, path: Path) -> str | None:
        if is_a(key, "str") or is_a(key, "timestamp"):
            return str(key.value)
        if is_a(key, "map") or is_a(key, "seq"):
            self._problems.add_at(path, key, f"a key must be text; {found(key)}")
        else:
            self._problems.add_at(
                path, key, f"a key must be text; {found(key)}: write it in quotes, '{key.value}'"
            )
        return None

    def enter(self, path: Path) -> bool:
        """Count one collection or argument; report once when the aliases of a file expand without end."""
        self._values += 1
        if self._values == MAX_VALUES or len(path) == MAX_DEPTH:
            self._problems.add(
                path[:3], "the aliases of this file expand to too much: write the values out"
            )
        return self._values < MAX_VALUES and len(path) < MAX_DEPTH

    def items(self, node: Node, path: Path) -> Iterator[tuple[Node, Path]]:
        """The entries of a list, with their paths; each one's position is noted."""
        for index, child in enumerate(node.value):
            self._problems.mark((*path, index), child)
            yield child, (*path, index)


# ---------------------------------------------------------------- telling apart


def is_a(node: Node, kind: str) -> bool:
    """Whether a node is of a kind: ``map``, ``seq``, ``null``, ``str``, ``int``, ``float``, ``bool``, ``timestamp``."""
    return bool(node.tag == f"{_TAG}{kind}")


def is_scalar(node: Node) -> bool:
    """Whether a node is neither a mapping nor a list."""
    return isinstance(node.value, str)


def is_merge(key: Node) -> bool:
    """Whether a key is ``<<``."""
    return is_a(key, "merge")


def names_in(node: Node) -> set[str]:
    """The names in a mapping, merged ones too, without reporting anything."""
    names: set[str] = set()
    for key, value in node.value:
        if is_merge(key):
            for source in value.value if is_a(value, "seq") else [value]:
                if is_a(source, "map"):
                    names.update(str(inner.value) for inner, _ in source.value)
        else:
            names.add(str(key.value))
    return names


def found(node: Node) -> str:
    """``"found …"``: what stands there instead."""
    tag = str(node.tag)
    if not tag.startswith(_TAG):
        return f"found the unknown tag {tag!r}"
    kind = tag.removeprefix(_TAG)
    if kind == "null":
        return "found nothing"
    if kind in ("map", "seq"):
        return "found a mapping" if kind == "map" else "found a list"
    if not is_scalar(node):
        return f"found a !!{kind}"
    text = str(node.value)
    shown = repr(text if len(text) <= 40 else text[:39] + "…")
    kinds = {
        "str": "the text ",
        "int": "the number ",
        "float": "the number ",
        "bool": "the boolean ",
    }
    bare = shown if kind == "str" else shown[1:-1]
    return f"found {kinds.get(kind, '')}{bare}"


def yes_no(node: Node) -> str:
    """What to do about a text that was meant as true or false; else empty."""
    text = str(node.value).lower() if is_a(node, "str") else ""
    if text in ("yes", "on", "true"):
        return ": write true without quotes"
    if text in ("no", "off", "false"):
        return ": write false without quotes"
    return ""


def truth(node: Node) -> bool:
    """What a boolean says. Under ``%YAML 1.1`` yes and on are booleans, too."""
    return str(node.value).lower() in ("true", "yes", "on")


def number(node: Node) -> int | float | None:
    """The number that a node holds, ``None`` when it holds none."""
    text = str(node.value).replace("_", "") if is_scalar(node) else ""
    if is_a(node, "int"):
        if not INTEGER.fullmatch(text) or len(text) > 30:
            return None
        digits = text.lstrip("+-").lower()
        base = {"0x": 16, "0o": 8}.get(digits[:2], 10)
        return (-1 if text.startswith("-") else 1) * int(digits, base)
    if is_a(node, "float"):
        try:
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            return None
    return None
