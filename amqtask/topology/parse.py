"""From YAML to a ``Topology``, or to the complete list of what is wrong with it.

Reading has three steps. The text becomes nodes that know their line and column; the nodes become values by the tables of
``grammar.py``; ``check.py`` looks at the values as a whole. Each step collects its problems instead of stopping at the
first, so one run shows them all. The file is read as YAML 1.2: ``yes``, ``no``, ``on`` and ``off`` are text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from amqtask.errors import TopologyError
from amqtask.names import nearest
from amqtask.topology import grammar
from amqtask.topology.check import Doubts, check
from amqtask.topology.grammar import Key
from amqtask.topology.keys import template_problem
from amqtask.topology.ladder import prefix_of_file
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
from amqtask.topology.nodes import Walk, compose, found, is_a, names_in, yes_no
from amqtask.topology.problems import Path as KeyPath
from amqtask.topology.problems import Problems
from amqtask.topology.units import format_size
from amqtask.topology.values import Values

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

MAX_BYTES = 4 * 1024 * 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
Mapped: TypeAlias = dict[str, Any]
"""What one mapping held, by key; only what was read without a problem."""


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
    root = compose(text, source)
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


class _Reader:
    """Reads nodes by the tables. Each method returns the value, or ``None`` when it reported a problem."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._walk = Walk(problems)
        self._single = Values(problems, self._walk)
        # by mapping: the keys that are there but say nothing certain, for those that other checks lean on
        self._unread: dict[KeyPath, set[str]] = {}
        self.doubts = Doubts()
        self._readers: dict[str, Callable[[Node, KeyPath, Key], Any]] = {
            **self._single.readers,
            "bindings": lambda node, path, key: self._list(node, path, self._binding),
            "dead_letter": self._dead_letter,
            "defaults": lambda node, path, key: self._mapping(node, path, grammar.DEFAULTS),
            "delays": self._delays,
            "exchanges": lambda node, path, key: self._named(node, path, grammar.EXCHANGE),
            "queues": lambda node, path, key: self._named(node, path, grammar.QUEUE),
            "routes": lambda node, path, key: self._list(node, path, self._route),
        }

    # ------------------------------------------------------------ the whole

    def topology(self, root: Node, source: str) -> Topology | None:
        """The draft: everything that could be read, for the checks to go on with."""
        if not is_a(root, "map"):
            self._problems.add(
                (), f"the file must be a mapping with 'version: {grammar.VERSION}', {found(root)}"
            )
            return None
        top = self._mapping(root, (), grammar.TOP) or {}
        given: Mapped = top.get("defaults") or {}
        defaults = Defaults(**given)
        raw_queues: dict[str, Mapped] = top.get("queues") or {}
        queues = {
            name: self._queue(name, values, defaults, raw_queues)
            for name, values in raw_queues.items()
        }
        raw_exchanges: dict[str, Mapped] = top.get("exchanges") or {}
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
        self, name: str, values: Mapped, defaults: Defaults, queues: dict[str, Mapped]
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
                    self._problems.add(
                        (*path, key.name), f"{what} cannot have it: {key.refused[kind]}"
                    )
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

    def _mapping(self, node: Node, path: KeyPath, keys: tuple[Key, ...]) -> Mapped | None:
        """The known keys of a mapping; unknown, repeated and missing ones are reported."""
        if is_a(node, "null"):
            return self._missing({}, path, keys)
        if not is_a(node, "map"):
            self._problems.add(
                path, f"must be a mapping of {', '.join(key.name for key in keys)}; {found(node)}"
            )
            return None
        known = {key.name: key for key in keys}
        values: Mapped = {}
        seen: Mapped = {}
        for name, value in self._walk.entries(node, path):
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
        self, values: Mapped, path: KeyPath, keys: tuple[Key, ...], seen: Mapped | None = None
    ) -> Mapped:
        for key in keys:
            if key.required and key.name not in (seen or {}):
                remedy = f": write 'version: {grammar.VERSION}'" if key.kind == "version" else ""
                self._problems.add(path, f"{key.name} is missing{remedy}")
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
        self._problems.add(path, f"unknown key {name!r}{hint}", at_key=True)

    def _list(
        self, node: Node, path: KeyPath, read: Callable[[Node, KeyPath], Any]
    ) -> tuple[Any, ...] | None:
        if is_a(node, "null"):
            return ()
        if not is_a(node, "seq"):
            self._problems.add(path, f"must be a list (each entry begins with '- '); {found(node)}")
            return None
        if not self._walk.enter(path):
            return None
        return tuple(read(child, place) for child, place in self._walk.items(node, path))

    def _named(self, node: Node, path: KeyPath, keys: tuple[Key, ...]) -> dict[str, Mapped] | None:
        """The mapping from names to exchanges or queues. One that could not be read still counts as declared."""
        if is_a(node, "null"):
            return {}
        what = str(path[-1])
        if not is_a(node, "map"):
            self._problems.add(path, f"must be a mapping from names to {what}; {found(node)}")
            self.doubts.everything = True
            return None
        named: dict[str, Mapped] = {}
        for name, value in self._walk.entries(node, path):
            self._check_name(name, (*path, name), what[:-1])
            named[name] = self._mapping(value, (*path, name), keys) or {}
            unread = self._unread.get((*path, name), set())
            if what == "exchanges" and unread & {"type", "alternate_exchange"}:
                self.doubts.exchanges.add(name)
            if what == "queues" and unread & {"type", "max_priority"}:
                self.doubts.queues.add(name)
            if "bindings" in unread:
                self.doubts.bindings = True
        return named

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
        if is_a(node, "bool"):
            return Delays(apply=bool(self._single.boolean(node, path)))
        if not is_a(node, "map"):
            self._problems.add(
                path, f"must be true, false or {{prefix: …}}; {found(node)}{yes_no(node)}"
            )
            return None
        return Delays(**(self._mapping(node, path, grammar.DELAYS) or {}))

    def _dead_letter(
        self, node: Node, path: KeyPath, key: Key
    ) -> bool | DeadLetter | DeadQueue | None:
        if is_a(node, "bool"):
            return self._single.boolean(node, path)
        if not is_a(node, "map"):
            hint = yes_no(node)
            self._problems.add(
                path,
                f"must be true, false, {{exchange: …, routing_key: …}} or {{ttl: …, max_length: …}}; {found(node)}{hint}",
            )
            return None
        given = names_in(node)
        if given & {bound.name for bound in grammar.DEAD_QUEUE}:
            if given & {name.name for name in grammar.DEAD_LETTER}:
                self._problems.add(
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
        given = names_in(node) if is_a(node, "map") else set()
        if "queue" in given and "exchange" in given:
            self._problems.add(path, "gives both queue and exchange: give one of the two")
        elif not given & {"queue", "exchange"}:
            self._problems.add(
                path, "leads nowhere: give a queue, or an exchange and a routing_key"
            )
        elif "queue" in given and "routing_key" in given:
            self._problems.add(
                (*path, "routing_key"),
                "a queue is reached by its own name: leave routing_key out, or give an exchange instead of the queue",
            )
        key = values.get("routing_key")
        problem = template_problem(key) if key is not None else None
        if problem is not None:
            self._problems.add((*path, "routing_key"), problem)
        if key is None:
            self._problems.omitted.add((*path, "routing_key"))
        if len(self._problems) > before:
            self.doubts.routes.add(path)
        return RouteRule(**{"task": "", **values})

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
        self._problems.add(path, problem, at_key=True)


def _ends_in_dead_queue(dead_letter: object) -> bool:
    return dead_letter is True or isinstance(dead_letter, DeadQueue)
