"""From YAML to a ``Topology``, or to the complete list of what is wrong with it.

Reading has three steps. The text becomes nodes that know their line and column; the nodes become values by the tables of
``grammar.py``; ``check.py`` looks at the values as a whole. Each step collects its problems instead of stopping at the
first, so one run shows them all. The file is read as YAML 1.2: ``yes``, ``no``, ``on`` and ``off`` are text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from amqtask.errors import TopologyError
from amqtask.topology import grammar
from amqtask.topology.check import Doubts, check
from amqtask.topology.grammar import Key
from amqtask.topology.keys import MAX_KEY_BYTES, template_problem
from amqtask.topology.ladder import prefix_of_file, prefix_problem
from amqtask.topology.model import (
    PREDECLARED,
    Binding,
    DeadLetter,
    DeadQueue,
    Defaults,
    Delays,
    Exchange,
    Queue,
    RouteRule,
    Topology,
    dead_queue_name,
)
from amqtask.topology.names import did_you_mean, nearest
from amqtask.topology.problems import Path as KeyPath
from amqtask.topology.problems import Problems
from amqtask.topology.units import format_duration, format_size, parse_duration, parse_size

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

MAX_BYTES = 4 * 1024 * 1024
# Values read at most, aliases counted each time they are used: a few nested anchors can stand for billions.
MAX_VALUES = 200_000
MAX_DEPTH = 50

_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?(0x[0-9a-fA-F]+|0o[0-7]+|[0-9]+)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
N = TypeVar("N", int, float)
Values: TypeAlias = dict[
    str, Any
]  # what one mapping held, by key; only what was read without a problem


def load(path: str | Path) -> Topology:
    """Read a topology file. The only function here that touches the file system.

    Raises:
        TopologyError: the file cannot be read, or has mistakes; all of them are listed.
    """
    source = str(path)
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise TopologyError(
            (f"{source}: there is no such file (looked for {Path(path).absolute()})",)
        ) from None
    except OSError as error:
        raise TopologyError((f"{source}: cannot be read: {error.strerror or error}",)) from None
    if len(data) > MAX_BYTES:
        raise TopologyError(
            (f"{source}: {format_size(len(data))} is more than a topology file may have (4MiB)",)
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        raise TopologyError(
            (f"{source}:{line}:{column}: not UTF-8 text: byte 0x{data[error.start]:02x}",)
        ) from None
    return parse(text, source)


def parse(text: str, source: str) -> Topology:
    """Read a topology from YAML text.

    Args:
        text: the YAML.
        source: the file's name, for messages.

    Raises:
        TopologyError: there are mistakes; ``problems`` has one line for each, ``file:line:column: key.path: what``.
    """
    root = _compose(text, source)
    if root is None:
        raise TopologyError(
            (f"{source}:1:1: the file is empty: it needs at least 'version: {grammar.VERSION}'",)
        )
    problems = Problems(source)
    reader = _Reader(problems)
    problems.mark((), root)
    draft = reader.topology(root, source)
    if draft is not None:
        check(draft, problems, reader.doubts)
    if problems:
        raise TopologyError(problems.lines())
    assert draft is not None  # a draft is missing only where a problem says why
    return draft


def _compose(text: str, source: str) -> Node | None:
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


class _Reader:
    """Reads nodes by the tables. Each method returns the value, or ``None`` when it reported a problem."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._values = 0
        # by mapping: the keys that are there but say nothing certain, for those that other checks lean on
        self._unread: dict[KeyPath, set[str]] = {}
        self.doubts = Doubts()
        self._readers: dict[str, Callable[[Node, KeyPath, Key], Any]] = {
            "version": self._version,
            "text": self._text,
            "name": self._name,
            "key": self._key,
            "glob": self._name,
            "boolean": self._boolean,
            "integer": self._integer,
            "duration": self._duration,
            "size": self._size,
            "choice": self._choice,
            "arguments": self._arguments,
            "headers": self._arguments,
            "bindings": lambda node, path, key: self._list(node, path, self._binding),
            "dead_letter": self._dead_letter,
            "defaults": lambda node, path, key: self._mapping(node, path, grammar.DEFAULTS),
            "delays": self._delays,
            "prefix": self._prefix,
            "exchanges": lambda node, path, key: self._named(node, path, grammar.EXCHANGE),
            "queues": lambda node, path, key: self._named(node, path, grammar.QUEUE),
            "routes": lambda node, path, key: self._list(node, path, self._route),
        }

    # ------------------------------------------------------------ the whole

    def topology(self, root: Node, source: str) -> Topology | None:
        """The draft: everything that could be read, for the checks to go on with."""
        if not _is(root, "map"):
            self._report(
                (), f"the file must be a mapping with 'version: {grammar.VERSION}', {_found(root)}"
            )
            return None
        top = self._mapping(root, (), grammar.TOP) or {}
        given: Values = top.get("defaults") or {}
        defaults = Defaults(**given)
        raw_queues: dict[str, Values] = top.get("queues") or {}
        queues = {
            name: self._queue(name, values, defaults, raw_queues)
            for name, values in raw_queues.items()
        }
        raw_exchanges: dict[str, Values] = top.get("exchanges") or {}
        delays: Delays = top.get("delays") or Delays()
        exchanges = {name: Exchange(name=name, **values) for name, values in raw_exchanges.items()}
        return Topology(
            vhost=top.get("vhost"),
            defaults=defaults,
            delays=Delays(prefix=delays.prefix or prefix_of_file(source), apply=delays.apply),
            exchanges=exchanges,
            queues=queues,
            routes=tuple(top.get("routes") or ()),
            source=source,
        )

    def _queue(
        self, name: str, values: Values, defaults: Defaults, queues: dict[str, Values]
    ) -> Queue:
        """One queue with the defaults applied, as far as its type can have them."""
        kind = values.get("type", defaults.type)
        path: KeyPath = ("queues", name)
        if "type" in self._unread.get(path, ()) or (
            "type" not in values and "type" in self._unread.get(("defaults",), ())
        ):
            self.doubts.queues.add(name)  # what it may have depends on a type that is not known
        else:
            for key in grammar.QUEUE:
                # what a type cannot have may always be switched off
                if values.get(key.name, False) is not False and kind in key.refused:
                    what = "a stream" if kind == "stream" else f"a {kind} queue"
                    self._report((*path, key.name), f"{what} cannot have it: {key.refused[kind]}")
        if kind != "stream":
            # A queue that holds another's dead letters is the end of the line, unless it says otherwise.
            ends_here = any(
                name == dead_queue_name(other)
                and _ends_in_dead_queue(raw.get("dead_letter", defaults.dead_letter))
                for other, raw in queues.items()
            )
            values.setdefault("dead_letter", False if ends_here else defaults.dead_letter)
            values.setdefault("max_crashes", defaults.max_crashes)
        if kind == "quorum":
            if values["dead_letter"] is not False:
                values.setdefault("delivery_limit", defaults.delivery_limit)
            values.setdefault("consumer_timeout", defaults.consumer_timeout)
        return Queue(name=name, **{**values, "type": kind})

    # ------------------------------------------------------------ mappings and lists

    def _mapping(self, node: Node, path: KeyPath, keys: tuple[Key, ...]) -> Values | None:
        """The known keys of a mapping; unknown, repeated and missing ones are reported."""
        if _is(node, "null"):
            return self._missing({}, path, keys)
        if not _is(node, "map"):
            self._report(
                path, f"must be a mapping of {', '.join(key.name for key in keys)}; {_found(node)}"
            )
            return None
        known = {key.name: key for key in keys}
        values: Values = {}
        seen: Values = {}
        for name, value in self._entries(node, path):
            seen[name] = value
            key = known.get(name)
            if key is None:
                self._unknown((*path, name), name, known)
                self._unread.setdefault(path, set()).add(nearest(name, known) or "")
                continue
            read = self._readers[key.kind](value, (*path, name), key)
            if read is not None:
                values[name] = read
            else:
                self._unread.setdefault(path, set()).add(name)
        return self._missing(values, path, keys, seen)

    def _missing(
        self, values: Values, path: KeyPath, keys: tuple[Key, ...], seen: Values | None = None
    ) -> Values:
        for key in keys:
            if key.required and key.name not in (seen or {}):
                remedy = f": write 'version: {grammar.VERSION}'" if key.kind == "version" else ""
                self._report(path, f"{key.name} is missing{remedy}")
        return values

    def _unknown(self, path: KeyPath, name: str, known: dict[str, Key]) -> None:
        if name == "bindings" and len(path) == 1:
            hint = ": bindings are written in the queue or the exchange that receives"
        elif (near := nearest(name, known)) is not None:
            hint = f"; did you mean {near!r}?"
            if near in ("exchanges", "queues"):
                self.doubts.everything = True  # what is in there is not missing, only misnamed
        else:
            hint = f"; the keys here are {', '.join(known)}"
        self._report(path, f"unknown key {name!r}{hint}", at_key=True)

    def _entries(self, node: Node, path: KeyPath) -> Iterator[tuple[str, Node]]:
        """The entries of a mapping with ``<<`` merged in; each value's and key's position is noted."""
        if not self._enter(path):
            return
        first: dict[str, int] = {}
        merged: list[tuple[Node, Node]] = []
        own: list[tuple[Node, Node]] = []
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":
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

    def _merge(self, node: Node, path: KeyPath) -> list[tuple[Node, Node]]:
        """The entries of ``<<: *anchor`` or ``<<: [*one, *two]``, the earlier ones first."""
        if not self._enter(path):
            return []
        sources = node.value if _is(node, "seq") else [node]
        entries: list[tuple[Node, Node]] = []
        for source in sources:
            if not _is(source, "map"):
                self._problems.add_at(
                    path, source, f"must name a mapping to merge; {_found(source)}"
                )
                continue
            for key, value in source.value:
                if key.tag == f"{_TAG}merge":
                    entries.extend(self._merge(value, (*path, "<<")))
                else:
                    entries.append((key, value))
        return entries

    def _entry_name(self, key: Node, path: KeyPath) -> str | None:
        if _is(key, "str") or _is(key, "timestamp"):
            return str(key.value)
        if _is(key, "map") or _is(key, "seq"):
            self._problems.add_at(path, key, f"a key must be text; {_found(key)}")
        else:
            self._problems.add_at(
                path, key, f"a key must be text; {_found(key)}: write it in quotes, '{key.value}'"
            )
        return None

    def _list(
        self, node: Node, path: KeyPath, read: Callable[[Node, KeyPath], Any]
    ) -> tuple[Any, ...] | None:
        if _is(node, "null"):
            return ()
        if not _is(node, "seq"):
            self._report(path, f"must be a list (each entry begins with '- '); {_found(node)}")
            return None
        if not self._enter(path):
            return None
        items = []
        for index, child in enumerate(node.value):
            self._problems.mark((*path, index), child)
            items.append(read(child, (*path, index)))
        return tuple(items)

    def _named(self, node: Node, path: KeyPath, keys: tuple[Key, ...]) -> dict[str, Values] | None:
        """The mapping from names to exchanges or queues. One that could not be read still counts as declared."""
        if _is(node, "null"):
            return {}
        what = str(path[-1])
        if not _is(node, "map"):
            self._report(path, f"must be a mapping from names to {what}; {_found(node)}")
            self.doubts.everything = True
            return None
        found: dict[str, Values] = {}
        for name, value in self._entries(node, path):
            self._check_name(name, (*path, name), what[:-1])
            found[name] = self._mapping(value, (*path, name), keys) or {}
            unread = self._unread.get((*path, name), set())
            if what == "exchanges" and unread & {"type", "alternate_exchange"}:
                self.doubts.exchanges.add(name)
            if what == "queues" and unread & {"type", "max_priority"}:
                self.doubts.queues.add(name)
            if "bindings" in unread:
                self.doubts.bindings = True
        return found

    # ------------------------------------------------------------ the small mappings

    def _binding(self, node: Node, path: KeyPath) -> Binding:
        before = len(self._problems)
        values = self._mapping(node, path, grammar.BINDING)
        if len(self._problems) > before:
            exchange = (values or {}).get("exchange")
            if exchange is None:
                self.doubts.bindings = True
            else:
                self.doubts.exchanges.add(exchange)
        if values is None or "exchange" not in values:
            return Binding("")  # keeps the index of the others
        if "routing_key" not in values:
            self._problems.omitted.add((*path, "routing_key"))
        return Binding(**values)

    def _delays(self, node: Node, path: KeyPath, key: Key) -> Delays | None:
        if _is(node, "bool"):
            return Delays(apply=bool(self._boolean(node, path, key)))
        if not _is(node, "map"):
            self._report(
                path, f"must be true, false or {{prefix: …}}; {_found(node)}{_yes_no(node)}"
            )
            return None
        return Delays(**(self._mapping(node, path, grammar.DELAYS) or {}))

    def _prefix(self, node: Node, path: KeyPath, key: Key) -> str | None:
        text = self._name(node, path, key)
        problem = None if text is None else prefix_problem(text)
        if problem is not None:
            self._report(path, f"{problem}, not {text!r}")
            return None
        return text

    def _dead_letter(
        self, node: Node, path: KeyPath, key: Key
    ) -> bool | DeadLetter | DeadQueue | None:
        if _is(node, "bool"):
            return self._boolean(node, path, key)
        if not _is(node, "map"):
            hint = _yes_no(node)
            self._report(
                path,
                f"must be true, false, {{exchange: …, routing_key: …}} or {{ttl: …, max_length: …}}; {_found(node)}{hint}",
            )
            return None
        given = {name for _, name in _child_names(node)}
        if given & {bound.name for bound in grammar.DEAD_QUEUE}:
            if given & {name.name for name in grammar.DEAD_LETTER}:
                self._report(
                    path,
                    "gives both an exchange and bounds of <name>.dead: give one of the two, and the bounds to the queue the "
                    "exchange leads to",
                )
                return None
            bounds = self._mapping(node, path, grammar.DEAD_QUEUE)
            return DeadQueue(**bounds) if bounds is not None else None
        values = self._mapping(node, path, grammar.DEAD_LETTER)
        if path in self._unread:
            self.doubts.dead_letters.add(path)
        return DeadLetter(**values) if values is not None and "exchange" in values else None

    def _route(self, node: Node, path: KeyPath) -> RouteRule:
        before = len(self._problems)
        values = self._mapping(node, path, grammar.ROUTE)
        if values is None:
            self.doubts.routes.add(path)
            return RouteRule(task="")  # keeps the index of the others
        given = {name for _, name in _child_names(node)} if _is(node, "map") else set()
        if "queue" in given and "exchange" in given:
            self._report(path, "gives both queue and exchange: give one of the two")
        elif not given & {"queue", "exchange"}:
            self._report(path, "leads nowhere: give a queue, or an exchange and a routing_key")
        elif "queue" in given and "routing_key" in given:
            self._report(
                (*path, "routing_key"),
                "a queue is reached by its own name: leave routing_key out, or give an exchange instead of the queue",
            )
        key = values.get("routing_key")
        problem = template_problem(key) if key is not None else None
        if problem is not None:
            self._report((*path, "routing_key"), problem)
        if key is None:
            self._problems.omitted.add((*path, "routing_key"))
        if len(self._problems) > before:
            self.doubts.routes.add(path)
        return RouteRule(**{"task": "", **values})

    # ------------------------------------------------------------ single values

    def _version(self, node: Node, path: KeyPath, key: Key) -> int | None:
        value = self._integer(node, path, key)
        if value is not None and value != grammar.VERSION:
            self._report(
                path, f"{value} is not known: this amqtask reads version {grammar.VERSION}"
            )
            return None
        return value

    def _text(self, node: Node, path: KeyPath, key: Key) -> str | None:
        # YAML 1.2 has no dates; to us 2024-05-01 is text like any other
        if _is(node, "str") or _is(node, "timestamp"):
            return str(node.value)
        quotes = f": write it in quotes, '{node.value}'" if _is_scalar(node) and node.value else ""
        self._report(path, f"must be text; {_found(node)}{quotes}")
        return None

    def _name(self, node: Node, path: KeyPath, key: Key) -> str | None:
        value = self._text(node, path, key)
        if value == "" and key.name != "exchange":
            self._report(path, "must not be empty")
            return None
        if value == "":
            self._report(path, "nothing can be bound to the default exchange: name another one")
            return None
        return value

    def _key(self, node: Node, path: KeyPath, key: Key) -> str | None:
        value = self._text(node, path, key)
        if value is not None and len(value.encode()) > MAX_KEY_BYTES:
            self._report(
                path,
                f"is {len(value.encode())} bytes, and AMQP allows {MAX_KEY_BYTES} in a routing key",
            )
            return None
        return value

    def _boolean(self, node: Node, path: KeyPath, key: Key) -> bool | None:
        if _is(node, "bool"):
            # under "%YAML 1.1" the parser resolves yes and on as booleans too
            return str(node.value).lower() in ("true", "yes", "on")
        self._report(path, f"must be true or false; {_found(node)}{_yes_no(node)}")
        return None

    def _integer(self, node: Node, path: KeyPath, key: Key) -> int | None:
        value = self._number(node)
        if not isinstance(value, int):
            hint = ""
            if _is(node, "str") and _INTEGER.fullmatch(node.value):
                hint = ": leave the quotes out"
            self._report(path, f"must be a whole number; {_found(node)}{hint}")
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
        value = str(node.value) if _is(node, "str") else self._number(node)
        if value is None:
            self._report(path, f"must be {what}; {_found(node)}")
            return None
        try:
            return self._in_range(read(value), path, key, write)
        except ValueError as error:
            self._report(path, str(error))
            return None

    def _choice(self, node: Node, path: KeyPath, key: Key) -> str | None:
        value = str(node.value) if _is(node, "str") else None
        if value in key.choices:
            return value
        near = nearest(value, key.choices) if value else None
        hint = f"; did you mean {near!r}?" if near is not None else ""
        *most, last = key.choices
        self._report(path, f"must be {', '.join(most)} or {last}; {_found(node)}{hint}")
        return near  # the other checks go on with what was most likely meant

    def _in_range(self, value: N, path: KeyPath, key: Key, write: Callable[[N], str]) -> N | None:
        if key.minimum is not None and value < key.minimum:
            remedy = (
                ": -1 is no limit on some versions of RabbitMQ and no second chance on others"
                if key.name == "delivery_limit"
                else ""
            )
            self._report(
                path, f"must be at least {write(key.minimum)}, and it is {write(value)}{remedy}"
            )
            return None
        if key.maximum is not None and value > key.maximum:
            self._report(path, f"must be at most {write(key.maximum)}, and it is {write(value)}")
            return None
        return value

    def _number(self, node: Node) -> int | float | None:
        text = str(node.value).replace("_", "") if _is_scalar(node) else ""
        if _is(node, "int"):
            if not _INTEGER.fullmatch(text) or len(text) > 30:
                return None
            digits = text.lstrip("+-").lower()
            base = {"0x": 16, "0o": 8}.get(digits[:2], 10)
            return (-1 if text.startswith("-") else 1) * int(digits, base)
        if _is(node, "float"):
            try:
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            except ValueError:
                return None
        return None

    # ------------------------------------------------------------ raw arguments

    def _arguments(self, node: Node, path: KeyPath, key: Key) -> Values | None:
        if _is(node, "null"):
            return {}
        if not _is(node, "map"):
            self._report(path, f"must be a mapping from argument names to values; {_found(node)}")
            return None
        values: Values = {}
        binding = key.kind == "headers"
        for name, value in self._entries(node, path):
            own = grammar.OWN_ARGUMENTS.get(name)
            if own is not None and not binding:
                self._report(
                    (*path, name),
                    f"{name} has a key of its own, which checks it: use {own}",
                    at_key=True,
                )
                continue
            if len(name.encode()) > MAX_KEY_BYTES:
                self._report((*path, name), "an argument's name has at most 255 bytes", at_key=True)
                continue
            read, good = self._plain(value, (*path, name))
            if binding and name == "x-match" and good and read not in grammar.X_MATCHES:
                near = did_you_mean(str(read), grammar.X_MATCHES)
                self._report(
                    (*path, name),
                    f"must be all, any, all-with-x or any-with-x; found {read!r}{near}",
                )
                continue
            if good:
                values[name] = read
        return values

    def _plain(self, node: Node, path: KeyPath) -> tuple[Any, bool]:
        """Any value an AMQP table can hold, and whether it could be read."""
        if not self._enter(path):
            return None, False
        if _is(node, "map"):
            table: Values = {}
            for name, child in self._entries(node, path):
                table[name], good = self._plain(child, (*path, name))
                if not good:
                    return None, False
            return table, True
        if _is(node, "seq"):
            items: list[Any] = []
            for index, child in enumerate(node.value):
                self._problems.mark((*path, index), child)
                item, good = self._plain(child, (*path, index))
                if not good:
                    return None, False
                items.append(item)
            return items, True
        if _is(node, "null"):
            return None, True
        if _is(node, "bool"):
            return str(node.value).lower() in ("true", "yes", "on"), True
        if _is(node, "str") or _is(node, "timestamp"):
            return str(node.value), True
        number = self._number(node)
        if isinstance(number, int) and -(2**63) <= number < 2**63:
            return number, True
        if isinstance(number, float) and math.isfinite(number):
            return number, True
        self._report(path, f"cannot be an argument: {_found(node)}")
        return None, False

    # ------------------------------------------------------------ shared

    def _check_name(self, name: str, path: KeyPath, what: str) -> None:
        size = len(name.encode())
        if name == "":
            problem = f"an empty name: give the {what} one"
        elif name.startswith("amq."):
            problem = "names that begin with 'amq.' belong to the broker"
            if name in PREDECLARED:
                problem += f": {name} is always there, leave it out here"
        elif size > grammar.MAX_NAME_BYTES:
            problem = f"the name has {size} bytes, and AMQP allows {grammar.MAX_NAME_BYTES}"
        elif _CONTROL.search(name):
            problem = "a name cannot hold line breaks or other control characters"
        else:
            return
        self._report(path, problem, at_key=True)

    def _enter(self, path: KeyPath) -> bool:
        """Count one collection or argument; report once when the aliases of a file expand without end."""
        self._values += 1
        if self._values == MAX_VALUES or len(path) == MAX_DEPTH:
            self._report(
                path[:3], "the aliases of this file expand to too much: write the values out"
            )
        return self._values < MAX_VALUES and len(path) < MAX_DEPTH

    def _report(self, path: KeyPath, what: str, *, at_key: bool = False) -> None:
        self._problems.add(path, what, at_key=at_key)


# ---------------------------------------------------------------- nodes


def _is(node: Node, kind: str) -> bool:
    return bool(node.tag == f"{_TAG}{kind}")


def _is_scalar(node: Node) -> bool:
    return isinstance(node.value, str)


def _child_names(node: Node) -> list[tuple[Node, str]]:
    """The names in a mapping, merged ones too, without reporting anything."""
    names: list[tuple[Node, str]] = []
    for key, value in node.value:
        if key.tag == f"{_TAG}merge":
            for source in value.value if _is(value, "seq") else [value]:
                if _is(source, "map"):
                    names.extend((inner, str(inner.value)) for inner, _ in source.value)
        else:
            names.append((key, str(key.value)))
    return names


def _found(node: Node) -> str:
    """``"found …"``: what stands there instead."""
    tag = str(node.tag)
    if not tag.startswith(_TAG):
        return f"found the unknown tag {tag!r}"
    kind = tag.removeprefix(_TAG)
    if kind == "null":
        return "found nothing"
    if kind in ("map", "seq"):
        return "found a mapping" if kind == "map" else "found a list"
    if not _is_scalar(node):
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


def _ends_in_dead_queue(dead_letter: object) -> bool:
    return dead_letter is True or isinstance(dead_letter, DeadQueue)


def _yes_no(node: Node) -> str:
    text = str(node.value).lower() if _is(node, "str") else ""
    if text in ("yes", "on", "true"):
        return ": write true without quotes"
    if text in ("no", "off", "false"):
        return ": write false without quotes"
    return ""
