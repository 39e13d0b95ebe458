"""Topologies as trees of text."""

from __future__ import annotations

from amqtask.topology.diagram import Branch, lines_of, reach_tree, tree_of
from amqtask.topology.parse import parse
from amqtask.topology.simulate import reach

TOPOLOGY = parse(
    """
version: 1
vhost: shop
exchanges:
  tasks: {type: topic, alternate_exchange: rest}
  rest: {type: fanout, durable: false, internal: true, bindings: [{exchange: amq.direct, routing_key: r}]}
  a: {type: fanout, bindings: [{exchange: b}]}
  b: {type: fanout, bindings: [{exchange: a}]}
queues:
  email: {bindings: [{exchange: tasks, routing_key: "email.#"}, {exchange: a}], consumer_timeout: 2h, max_crashes: 5}
  images: {type: classic, max_priority: 9, max_length_bytes: 16MiB, dead_letter: {exchange: rest}}
  last: {dead_letter: true, single_active_consumer: true, bindings: [{exchange: rest}]}
  kept: {dead_letter: false, bindings: [{exchange: amq.headers, arguments: {a: 1, b: true}}]}
routes: [{task: "shop.*", exchange: tasks, routing_key: "email.{name}", priority: 5}, {task: x, queue: last}]
""",
    "t.yaml",
)


def test_guides() -> None:
    tree = Branch("a", (Branch("b", (Branch("c"),)), Branch("d", (Branch("e"),))))

    assert lines_of(tree) == ["a", "├── b", "│   └── c", "└── d", "    └── e"]


def test_a_topology() -> None:
    email = "email (quorum, dead letters to email.dead, max_crashes 5, consumer_timeout 2h)"

    assert lines_of(tree_of(TOPOLOGY)) == [
        "t.yaml (virtual host shop)",
        "├── exchange tasks (topic, alternate_exchange rest)",
        f"│   └── email.# → {email}",
        "├── exchange amq.direct (direct, predeclared)",
        "│   └── r → exchange rest (fanout, not durable, internal)",
        "│       └── * → last (quorum, dead letters to last.dead, single active consumer)",
        "├── exchange amq.headers (headers, predeclared)",
        "│   └── a=1, b=true → kept (quorum)",
        "├── exchange a (fanout)",
        "│   ├── * → exchange b (fanout)",
        "│   │   └── * → exchange a (fanout), drawn above",
        f"│   └── * → {email}",
        "├── (default exchange, by the queue's name)",
        "│   ├── images (classic, max_priority 9, max_length_bytes 16MiB, dead letters to rest)",
        "│   ├── email.dead (quorum, holds dead letters)",
        "│   └── last.dead (quorum, holds dead letters)",
        "├── routes",
        "│   ├── shop.* → exchange tasks, key email.{name}, priority 5",
        "│   └── x → queue last",
        "└── delay ladder amqtask.t.delay.00 … 27",
    ]


def test_the_way_of_a_message() -> None:
    found = reach(TOPOLOGY, "tasks", "other")
    by_name = reach(TOPOLOGY, "", "kept")
    by_header = reach(TOPOLOGY, "amq.headers", "", {"a": 1, "b": True})

    assert lines_of(reach_tree(TOPOLOGY, found)) == [
        "exchange tasks, key other",
        "└── last (quorum, dead letters to last.dead, single active consumer)",
        "    ├── tasks → exchange rest: alternate exchange",
        "    └── rest → queue last: binding *",
    ]
    assert lines_of(reach_tree(TOPOLOGY, by_name))[-1] == (
        "    └── (default exchange) → queue kept: its name is the key"
    )
    assert lines_of(reach_tree(TOPOLOGY, by_header))[-1] == (
        "    └── amq.headers → queue kept: binding a=1, b=true"
    )
