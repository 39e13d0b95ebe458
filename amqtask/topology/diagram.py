"""A topology as a tree of plain text: what leads where, for people.

Pure: the command line draws the tree, in colour on a terminal and with the same words elsewhere.
"""

from __future__ import annotations

import msgspec

from amqtask.topology.model import PREDECLARED, Binding, DeadLetter, Link, Queue, Topology
from amqtask.topology.simulate import Reach
from amqtask.topology.units import format_duration, format_size


class Branch(msgspec.Struct, frozen=True):
    """One line of a tree, and what hangs below it."""

    text: str
    children: tuple[Branch, ...] = ()


def tree_of(topology: Topology) -> Branch:
    """The whole topology: exchanges and what they lead to, queues that only their name reaches, routes."""
    links: dict[str, list[Link]] = {}
    for link in topology.bindings:
        links.setdefault(link.binding.exchange, []).append(link)
    fed = {link.destination for link in topology.bindings if link.kind == "exchange"}
    names = [*topology.exchanges, *(name for name in PREDECLARED if name in links)]
    roots = [name for name in names if name not in fed]
    shown: set[str] = set()
    branches = [_exchange(topology, name, links, shown) for name in roots]
    # exchanges bound in a circle have no first one
    branches += [_exchange(topology, name, links, shown) for name in names if name not in shown]
    bound = {link.destination for link in topology.bindings if link.kind == "queue"}
    by_name = [queue for name, queue in topology.all_queues().items() if name not in bound]
    if by_name:
        branches.append(
            Branch(
                "(default exchange)",
                tuple(Branch(f"{queue.name} → {queue_text(queue)}") for queue in by_name),
            )
        )
    if topology.routes:
        branches.append(Branch("routes", tuple(Branch(text) for text in _routes(topology))))
    where = f" (virtual host {topology.vhost})" if topology.vhost is not None else ""
    return Branch(f"{topology.source}{where}", tuple(branches))


def _exchange(
    topology: Topology, name: str, links: dict[str, list[Link]], shown: set[str], via: str = ""
) -> Branch:
    kind = topology.exchange_type(name) or "?"
    marks: list[str] = [kind]
    declared = topology.exchanges.get(name)
    if declared is not None:
        if not declared.durable:
            marks.append("not durable")
        if declared.internal:
            marks.append("internal")
        if declared.alternate_exchange is not None:
            marks.append(f"alternate {declared.alternate_exchange}")
    text = f"{via}exchange {name} ({', '.join(marks)})"
    if name in shown:
        return Branch(f"{text}, shown above" if links.get(name) else text)
    shown.add(name)
    children: list[Branch] = []
    queues = topology.all_queues()
    for link in links.get(name, ()):
        key = binding_text(kind, link.binding)
        if link.kind == "queue":
            children.append(Branch(f"{key} → {queue_text(queues[link.destination])}"))
        else:
            children.append(_exchange(topology, link.destination, links, shown, f"{key} → "))
    return Branch(text, tuple(children))


def binding_text(kind: str, binding: Binding) -> str:
    """What a binding of an exchange of this kind asks of a message."""
    if kind == "headers":
        return (
            ", ".join(f"{name}={value}" for name, value in binding.arguments.items()) or "anything"
        )
    if kind == "fanout":
        return "*"
    return binding.routing_key or '""'


def queue_text(queue: Queue) -> str:
    """A queue's name and what is special about it."""
    marks: list[str] = [queue.type]
    if not queue.durable:
        marks.append("not durable")
    if queue.max_priority is not None:
        marks.append(f"max_priority {queue.max_priority}")
    for name in ("message_ttl", "expires", "consumer_timeout"):
        seconds = getattr(queue, name)
        if seconds is not None:
            marks.append(f"{name} {format_duration(seconds)}")
    if queue.max_length is not None:
        marks.append(f"max_length {queue.max_length}")
    if queue.max_length_bytes is not None:
        marks.append(f"max_length_bytes {format_size(queue.max_length_bytes)}")
    if queue.overflow is not None:
        marks.append(f"overflow {queue.overflow}")
    if queue.delivery_limit is not None:
        marks.append(f"delivery_limit {queue.delivery_limit}")
    if queue.single_active_consumer:
        marks.append("single active consumer")
    marks += [f"{name} {value}" for name, value in queue.arguments.items()]
    match queue.dead_letter:
        case True:
            marks.append(f"dead letters to {queue.name}.dead")
        case DeadLetter(exchange=exchange, routing_key=key):
            to = f"exchange {exchange}" if exchange else "the default exchange"
            marks.append(f"dead letters to {to}" + (f" with key {key}" if key is not None else ""))
        case _:
            pass
    return f"{queue.name} ({', '.join(marks)})"


def _routes(topology: Topology) -> list[str]:
    texts = []
    for rule in topology.routes:
        to = (
            f"queue {rule.queue}"
            if rule.queue is not None
            else f"exchange {rule.exchange}, key {rule.routing_key or chr(34) * 2}"
        )
        priority = f", priority {rule.priority}" if rule.priority is not None else ""
        texts.append(f"{rule.task} → {to}{priority}")
    return texts


def reach_tree(topology: Topology, reach: Reach) -> Branch:
    """Where a message goes: one branch for each queue that gets it, with the bindings on the way."""
    origin = f"exchange {reach.exchange}" if reach.exchange else "the default exchange"
    queues = topology.all_queues()
    branches = []
    for name, steps in reach.paths.items():
        way = tuple(
            Branch(
                f"{step.exchange or '(default exchange)'} → {step.kind} {step.destination}: "
                + (
                    "its name is the key"
                    if step.via == "default"
                    else "alternate exchange"
                    if step.via == "alternate"
                    else "binding "
                    + binding_text(
                        topology.exchange_type(step.exchange) or "?",
                        Binding(step.exchange, step.routing_key, step.arguments),
                    )
                )
            )
            for step in steps
        )
        branches.append(Branch(queue_text(queues[name]), way))
    return Branch(f"{origin}, key {reach.routing_key or chr(34) * 2}", tuple(branches))


def lines_of(branch: Branch) -> list[str]:
    """The tree as lines, with guides."""
    lines = [branch.text]
    for index, child in enumerate(branch.children):
        last = index == len(branch.children) - 1
        first, *rest = lines_of(child)
        lines.append(("└── " if last else "├── ") + first)
        lines += [("    " if last else "│   ") + line for line in rest]
    return lines
