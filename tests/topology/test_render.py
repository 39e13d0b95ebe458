"""The tree that `topology show` prints."""

from __future__ import annotations

from amqtask.topology.parse import parse
from amqtask.topology.render import tree


def test_a_tree() -> None:
    shape = parse(
        """
version: 1
vhost: shop
exchanges:
  tasks: {type: topic, alternate_exchange: rest}
  rest: {type: fanout, durable: false, auto_delete: true, internal: true, bindings: [{exchange: amq.direct, routing_key: r}]}
queues:
  email: {bindings: [{exchange: tasks, routing_key: "email.#"}], consumer_timeout: 2h}
  images: {type: classic, max_priority: 9, max_length_bytes: 16MiB, dead_letter: {exchange: rest, routing_key: x}}
  last: {dead_letter: {exchange: "", routing_key: email}, bindings: [{exchange: rest}]}
  kept: {dead_letter: false, bindings: [{exchange: amq.headers, arguments: {a: 1}}]}
routes: [{task: "shop.*", exchange: tasks, routing_key: "email.{name}", priority: 5}, {task: x, queue: last}]
""".replace("{exchange: rest, routing_key: x}", "{exchange: rest}").replace("last: {dead_letter: {exchange: \"\", routing_key: email}", "last: {dead_letter: true"),
        "t.yaml",
    )  # fmt: skip

    found = tree(shape)

    assert found["source"] == "t.yaml"
    assert found["vhost"] == "shop"
    assert found["delays"] == {"prefix": "t"}
    assert tree(parse("{version: 1, delays: false}", "t.yaml"))["delays"] == {
        "prefix": "t",
        "apply": False,
    }
    assert found["exchanges"] == [
        {"name": "tasks", "type": "topic", "alternate_exchange": "rest",
         "bindings": [{"to": "queue", "name": "email", "routing_key": "email.#"}]},
        {"name": "rest", "type": "fanout", "durable": False, "auto_delete": True, "internal": True,
         "bindings": [{"to": "queue", "name": "last"}]},
        {"name": "amq.direct", "type": "direct", "predeclared": True,
         "bindings": [{"to": "exchange", "name": "rest", "routing_key": "r"}]},
        {"name": "amq.headers", "type": "headers", "predeclared": True,
         "bindings": [{"to": "queue", "name": "kept", "arguments": {"a": 1}}]},
    ]  # fmt: skip
    assert found["queues"] == [
        {"name": "email", "type": "quorum", "dead_letter": "email.dead", "max_crashes": 3, "consumer_timeout": "2h"},
        {"name": "images", "type": "classic", "max_priority": 9, "max_length_bytes": "16MiB", "dead_letter": "rest", "max_crashes": 3},
        {"name": "last", "type": "quorum", "dead_letter": "last.dead", "max_crashes": 3},
        {"name": "kept", "type": "quorum", "max_crashes": 3},
        {"name": "email.dead", "type": "quorum", "holds_dead_letters": True},
        {"name": "last.dead", "type": "quorum", "holds_dead_letters": True},
    ]  # fmt: skip
    assert found["routes"] == [
        {"task": "shop.*", "exchange": "tasks", "routing_key": "email.{name}", "priority": 5},
        {"task": "x", "queue": "last"},
    ]
