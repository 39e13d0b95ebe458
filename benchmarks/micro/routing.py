"""From a task's name to an exchange and a key."""

from __future__ import annotations

from collections.abc import Iterator

from amqtask.topology.parse import parse
from amqtask.topology.routes import Router
from benchmarks.micro.timing import Case

RULES = 20
TOPOLOGY = (
    "version: 1\nexchanges: {tasks: {type: topic}}\nqueues:\n"
    + "".join(
        f'  q{n}: {{bindings: [{{exchange: tasks, routing_key: "part{n}.#"}}]}}\n'
        for n in range(RULES)
    )
    + "routes:\n"
    + "".join(
        f'  - {{task: "part{n}.*", exchange: tasks, routing_key: "{{task}}"}}\n'
        for n in range(RULES)
    )
)


def cases() -> Iterator[Case]:
    """A name that was routed before, which is every one but the first; and the first, at the last of twenty rules."""
    router = Router(parse(TOPOLOGY, "benchmark"), {}, "default")
    name = f"part{RULES - 1}.send"
    yield Case("resolve, known", lambda: router.resolve(name))
    yield Case("resolve, known, with a priority", lambda: router.resolve(name, priority=5))
    yield Case("resolve, queue given", lambda: router.resolve(name, queue="q1"))
    yield Case("match, the last of 20 rules", lambda: router.match(name))
