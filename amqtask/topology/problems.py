"""The mistakes found in one file, each with its line, column and key path."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

Path: TypeAlias = tuple[str | int, ...]
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class Problems:
    """Collects mistakes while a file is read; remembers where each key and value stands. For one thread.

    ``omitted`` holds the paths of keys that were left out, where that differs from their default value.
    """

    def __init__(self, source: str) -> None:
        self.omitted: set[Path] = set()
        self._source = source
        self._found: set[tuple[int, int, str]] = set()
        self._values: dict[Path, tuple[int, int]] = {}
        self._keys: dict[Path, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def mark(self, path: Path, value: Node, key: Node | None = None) -> None:
        """Note where the value at a path stands, and its key."""
        self._values[path] = _position(value)
        if key is not None:
            self._keys[path] = _position(key)
            if str(value.tag) == "tag:yaml.org,2002:null":
                self._values[path] = self._keys[path]  # nothing stands there to point at

    def written(self, path: Path) -> bool:
        """Does the file have a value at this path."""
        return path in self._values

    def add(self, path: Path, what: str, *, at_key: bool = False) -> None:
        """Report a mistake at the value of a path, or at its key; a path that was left out is at what should hold it."""
        near = path
        while near and near not in self._values:
            near = near[:-1]
        # what is missing in a mapping that is a value is pointed at by the mapping's own key
        place = self._keys if (at_key or near != path) and near in self._keys else self._values
        self._add(place.get(near, (1, 1)), path, what)

    def add_at(self, path: Path, node: Node, what: str) -> None:
        """Report a mistake at a node."""
        self._add(_position(node), path, what)

    def lines(self) -> tuple[str, ...]:
        """``file:line:column: key.path: what``, in the order of the file, none twice."""
        return tuple(
            f"{self._source}:{line}:{column}: {what}" for line, column, what in sorted(self._found)
        )

    def _add(self, place: tuple[int, int], path: Path, what: str) -> None:
        where = format_path(path)
        self._found.add((*place, f"{where}: {what}" if where else what))


def format_path(path: Path) -> str:
    """``queues.email.bindings[0].exchange``; names with other characters stand in brackets and quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _BARE.fullmatch(part) and len(part) <= 60:
            text += f".{part}" if text else part
        else:
            shown = part if len(part) <= 60 else part[:59] + "…"
            # everything but plain printable text is escaped: a path is one line on every terminal
            shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
            text += '["' + shown.replace('"', '\\"') + '"]'
    return text


def _position(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1
