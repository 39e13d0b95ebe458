"""A topology as a tree of plain text: what leads where, for people.

Pure: the command line draws the tree, in colour on a terminal and with the same words elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from amqtask.topology import render
from amqtask.topology.ladder import Ladder
from amqtask.topology.model import DEFAULT_MAX_CRASHES, Topology
from amqtask.topology.simulate import Reach, Step


class Branch(msgspec.Struct, frozen=True):
    """One line of a tree, and what hangs below it."""

    text: str
    children: tuple[Branch, ...] = ()


def lines_of(branch: Branch) -> list[str]:
    """The tree as lines, with guides."""
    lines = [branch.text]
    for index, child in enumerate(branch.children):
        last = index == len(branch.children) - 1
        first, *rest = lines_of(child)
        lines.append(("└── " if last else "├── ") + first)
        lines += [("    " if last else "│   ") + line for line in rest]
    return lines


# ---------------------------------------------------------------- the whole


def tree_of(topology: Topology) -> Branch:
    """Exchanges and what they lead to, then the queues that only their own name reaches, then the routes."""
    shape = render.tree(topology)
    queues = {queue["name"]: queue_text(queue) for queue in shape["queues"]}
    drawing = _Drawing({exchange["name"]: exchange for exchange in shape["exchanges"]}, queues)
    fed = {
        binding["name"]
        for exchange in shape["exchanges"]
        for binding in exchange["bindings"]
        if binding["to"] == "exchange"
    }
    branches = [drawing.exchange(name) for name in drawing.exchanges if name not in fed]
    # exchanges that are bound in a circle have no first one
    branches += [drawing.exchange(name) for name in drawing.exchanges if name not in drawing.drawn]
    by_name = [Branch(text) for name, text in queues.items() if name not in drawing.bound]
    if by_name:
        branches.append(Branch("(default exchange, by the queue's name)", tuple(by_name)))
    if shape["routes"]:
        branches.append(Branch("routes", tuple(Branch(_route(rule)) for rule in shape["routes"])))
    branches.append(Branch(str(Ladder(topology.delays.prefix))))
    where = f" (virtual host {topology.vhost})" if topology.vhost is not None else ""
    return Branch(f"{topology.source}{where}", tuple(branches))


class _Drawing:
    """Draws each exchange once, however many lead to it."""

    def __init__(self, exchanges: Mapping[str, render.Tree], queues: Mapping[str, str]) -> None:
        self.exchanges = exchanges
        self.drawn: set[str] = set()
        self.bound: set[str] = set()
        self._queues = queues

    def exchange(self, name: str, via: str = "") -> Branch:
        found = self.exchanges.get(name, {"name": name, "bindings": []})
        text = f"{via}exchange {name} ({', '.join(_marks(found, ('name', 'type', 'bindings')))})"
        if name in self.drawn:
            return Branch(f"{text}, drawn above" if found["bindings"] else text)
        self.drawn.add(name)
        children = []
        for binding in found["bindings"]:
            key = _condition(binding.get("routing_key"), binding.get("arguments"))
            if binding["to"] == "exchange":
                children.append(self.exchange(binding["name"], f"{key} → "))
            else:
                self.bound.add(binding["name"])
                children.append(Branch(f"{key} → {self._queues[binding['name']]}"))
        return Branch(text, tuple(children))


def queue_text(queue: render.Tree) -> str:
    """A queue's name and what is special about it."""
    usual = queue.get("max_crashes") == DEFAULT_MAX_CRASHES
    hidden = ("name", "type", "max_crashes") if usual else ("name", "type")
    return f"{queue['name']} ({', '.join(_marks(queue, hidden))})"


def _marks(item: render.Tree, hidden: tuple[str, ...]) -> list[str]:
    """The properties of an exchange or a queue, in words."""
    marks = [str(item["type"])] if item.get("type") else []
    for name, value in item.items():
        words = name.replace("_", " ")
        if name in hidden:
            continue
        if name == "arguments":
            marks += [f"{argument} {_value(entry)}" for argument, entry in value.items()]
        elif name == "dead_letter":
            marks.append(f"dead letters to {value}")
        elif isinstance(value, bool):
            marks.append(words if value else f"not {words}")
        else:
            marks.append(f"{name} {value}")
    return marks


def _condition(key: str | None, arguments: Mapping[str, Any] | None) -> str:
    """What a binding asks of a message: its key, its headers, or nothing (``*``)."""
    if key is not None:
        return key or '""'
    return ", ".join(f"{name}={_value(value)}" for name, value in (arguments or {}).items()) or "*"


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _route(rule: render.Tree) -> str:
    if "queue" in rule:
        to = f"queue {rule['queue']}"
    else:
        to = f"exchange {rule.get('exchange', '')}, key {rule.get('routing_key') or _EMPTY}"
    return f"{rule['task']} → {to}" + (
        f", priority {rule['priority']}" if "priority" in rule else ""
    )


_EMPTY = '""'


# ---------------------------------------------------------------- one message


def reach_tree(topology: Topology, reach: Reach) -> Branch:
    """Where a message goes: one branch for each queue that gets it, with the bindings on the way."""
    origin = f"exchange {reach.exchange}" if reach.exchange else "the default exchange"
    queues = {queue["name"]: queue_text(queue) for queue in render.tree(topology)["queues"]}
    branches = [
        Branch(queues[name], tuple(Branch(_step(topology, step)) for step in steps))
        for name, steps in reach.paths.items()
    ]
    return Branch(f"{origin}, key {reach.routing_key or _EMPTY}", tuple(branches))


def _step(topology: Topology, step: Step) -> str:
    way = f"{step.exchange or '(default exchange)'} → {step.kind} {step.destination}"
    match step.via:
        case "default":
            return f"{way}: its name is the key"
        case "alternate":
            return f"{way}: alternate exchange"
        case "binding":
            kind = topology.exchange_type(step.exchange)
            key = step.routing_key if kind in ("direct", "topic") else None
            return f"{way}: binding {_condition(key, step.arguments)}"
