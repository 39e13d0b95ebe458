"""Single values of a topology file: from a node to what the tables of ``grammar.py`` say it is, or to what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from amqtask.names import did_you_mean, nearest
from amqtask.topology import grammar
from amqtask.topology.grammar import Key
from amqtask.topology.keys import MAX_KEY_BYTES
from amqtask.topology.ladder import prefix_problem
from amqtask.topology.nodes import INTEGER, Walk, found, is_a, is_scalar, number, truth, yes_no
from amqtask.topology.problems import Path as KeyPath
from amqtask.topology.problems import Problems
from amqtask.topology.units import format_duration, format_size, parse_duration, parse_size

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

N = TypeVar("N", int, float)
Table: TypeAlias = dict[str, Any]


class Values:
    """Reads single values. Each reader returns the value, or ``None`` when it reported a problem.

    Args:
        problems: takes what is wrong with them.
        walk: goes through the collections of the file.

    Attributes:
        readers: what reads a value, by the kinds of ``grammar.Key``.
    """

    def __init__(self, problems: Problems, walk: Walk) -> None:
        self._problems = problems
        self._walk = walk
        self.readers: Mapping[str, Callable[[Node, KeyPath, Key], Any]] = {
            "version": self._version,
            "text": self._text,
            "name": self._name,
            "key": self._key,
            "glob": self._name,
            "boolean": lambda node, path, key: self.boolean(node, path),
            "integer": self._integer,
            "duration": self._duration,
            "size": self._size,
            "choice": self._choice,
            "arguments": self._arguments,
            "headers": self._arguments,
            "prefix": self._prefix,
        }

    def _version(self, node: Node, path: KeyPath, key: Key) -> int | None:
        value = self._integer(node, path, key)
        if value is not None and value != grammar.VERSION:
            self._problems.add(
                path, f"{value} is not known: this amqtask reads version {grammar.VERSION}"
            )
            return None
        return value

    def _text(self, node: Node, path: KeyPath, key: Key) -> str | None:
        # YAML 1.2 has no dates; to us 2024-05-01 is text like any other
        if is_a(node, "str") or is_a(node, "timestamp"):
            return str(node.value)
        quotes = f": write it in quotes, '{node.value}'" if is_scalar(node) and node.value else ""
        self._problems.add(path, f"must be text; {found(node)}{quotes}")
        return None

    def _name(self, node: Node, path: KeyPath, key: Key) -> str | None:
        value = self._text(node, path, key)
        if value == "" and key.name != "exchange":
            self._problems.add(path, "must not be empty")
            return None
        if value == "":
            self._problems.add(
                path, "nothing can be bound to the default exchange: name another one"
            )
            return None
        return value

    def _prefix(self, node: Node, path: KeyPath, key: Key) -> str | None:
        text = self._name(node, path, key)
        problem = None if text is None else prefix_problem(text)
        if problem is not None:
            self._problems.add(path, f"{problem}, not {text!r}")
            return None
        return text

    def _key(self, node: Node, path: KeyPath, key: Key) -> str | None:
        value = self._text(node, path, key)
        if value is not None and len(value.encode()) > MAX_KEY_BYTES:
            self._problems.add(
                path,
                f"is {len(value.encode())} bytes, and AMQP allows {MAX_KEY_BYTES} in a routing key",
            )
            return None
        return value

    def boolean(self, node: Node, path: KeyPath) -> bool | None:
        """True or false."""
        if is_a(node, "bool"):
            return truth(node)
        self._problems.add(path, f"must be true or false; {found(node)}{yes_no(node)}")
        return None

    def _integer(self, node: Node, path: KeyPath, key: Key) -> int | None:
        value = number(node)
        if not isinstance(value, int):
            hint = ""
            if is_a(node, "str") and INTEGER.fullmatch(node.value):
                hint = ": leave the quotes out"
            self._problems.add(path, f"must be a whole number; {found(node)}{hint}")
            return None
        return self._in_range(value, path, key, str)

    def _duration(self, node: Node, path: KeyPath, key: Key) -> float | None:
        return self._unit(
            node, path, key, parse_duration, format_duration, "a duration such as 90s or 2h"
        )

    def _size(self, node: Node, path: KeyPath, key: Key) -> int | None:
        return self._unit(node, path, key, parse_size, format_size, "a size such as 16MiB")

    def _unit(
        self,
        node: Node,
        path: KeyPath,
        key: Key,
        read: Callable[[float | str], N],
        write: Callable[[N], str],
        what: str,
    ) -> N | None:
        value = str(node.value) if is_a(node, "str") else number(node)
        if value is None:
            self._problems.add(path, f"must be {what}; {found(node)}")
            return None
        try:
            return self._in_range(read(value), path, key, write)
        except ValueError as error:
            self._problems.add(path, str(error))
            return None

    def _choice(self, node: Node, path: KeyPath, key: Key) -> str | None:
        value = str(node.value) if is_a(node, "str") else None
        if value in key.choices:
            return value
        near = nearest(value, key.choices) if value else None
        hint = f"; did you mean {near!r}?" if near is not None else ""
        *most, last = key.choices
        self._problems.add(path, f"must be {', '.join(most)} or {last}; {found(node)}{hint}")
        return near  # the other checks go on with what was most likely meant

    def _in_range(self, value: N, path: KeyPath, key: Key, write: Callable[[N], str]) -> N | None:
        if key.minimum is not None and value < key.minimum:
            remedy = (
                ": -1 is no limit on some versions of RabbitMQ and no second chance on others"
                if key.name == "delivery_limit"
                else ""
            )
            self._problems.add(
                path, f"must be at least {write(key.minimum)}, and it is {write(value)}{remedy}"
            )
            return None
        if key.maximum is not None and value > key.maximum:
            self._problems.add(
                path, f"must be at most {write(key.maximum)}, and it is {write(value)}"
            )
            return None
        return value

    # ------------------------------------------------------------ raw arguments

    def _arguments(self, node: Node, path: KeyPath, key: Key) -> Table | None:
        if is_a(node, "null"):
            return {}
        if not is_a(node, "map"):
            self._problems.add(
                path, f"must be a mapping from argument names to values; {found(node)}"
            )
            return None
        values: Table = {}
        binding = key.kind == "headers"
        for name, value in self._walk.entries(node, path):
            own = grammar.OWN_ARGUMENTS.get(name)
            if own is not None and not binding:
                self._problems.add(
                    (*path, name),
                    f"{name} has a key of its own, which checks it: use {own}",
                    at_key=True,
                )
                continue
            if len(name.encode()) > MAX_KEY_BYTES:
                self._problems.add(
                    (*path, name), "an argument's name has at most 255 bytes", at_key=True
                )
                continue
            read, good = self._plain(value, (*path, name))
            if binding and name == "x-match" and good and read not in grammar.X_MATCHES:
                near = did_you_mean(str(read), grammar.X_MATCHES)
                self._problems.add(
                    (*path, name),
                    f"must be all, any, all-with-x or any-with-x; found {read!r}{near}",
                )
                continue
            if good:
                values[name] = read
        return values

    def _plain(self, node: Node, path: KeyPath) -> tuple[Any, bool]:
        """Any value an AMQP table can hold, and whether it could be read."""
        if not self._walk.enter(path):
            return None, False
        if is_a(node, "map"):
            table: Table = {}
            for name, child in self._walk.entries(node, path):
                table[name], good = self._plain(child, (*path, name))
                if not good:
                    return None, False
            return table, True
        if is_a(node, "seq"):
            items: list[Any] = []
            for child, place in self._walk.items(node, path):
                item, good = self._plain(child, place)
                if not good:
                    return None, False
                items.append(item)
            return items, True
        if is_a(node, "null"):
            return None, True
        if is_a(node, "bool"):
            return truth(node), True
        if is_a(node, "str") or is_a(node, "timestamp"):
            return str(node.value), True
        value = number(node)
        if isinstance(value, int) and -(2**63) <= value < 2**63:
            return value, True
        if isinstance(value, float) and math.isfinite(value):
            return value, True
        self._problems.add(path, f"cannot be an argument: {found(node)}")
        return None, False
