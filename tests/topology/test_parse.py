"""Reading YAML: what is accepted, and every mistake with its place."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqtask.errors import TopologyError
from amqtask.topology import grammar
from amqtask.topology.model import Binding, DeadLetter, Delays, Topology
from amqtask.topology.parse import load, parse

ROUTING = Path(__file__).parents[2] / "routing"


def good(text: str) -> Topology:
    return parse(dedent(text), "t.yaml")


def problems(text: str) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        parse(dedent(text), "t.yaml")
    return list(caught.value.problems)


def queue(text: str) -> list[str]:
    """The problems of a file with this one queue ``q``, without their place."""
    return [line.split(": ", 1)[1] for line in problems(f"version: 1\nqueues: {{q: {{{text}}}}}\n")]


# ---------------------------------------------------------------- what is accepted


def test_a_whole_file() -> None:
    shape = good("""
        version: 1
        vhost: shop
        defaults: {type: quorum, dead_letter: true, max_crashes: 5}
        exchanges:
          tasks: {type: topic, alternate_exchange: rest}
          rest: {type: fanout, durable: false, auto_delete: true, internal: true, arguments: {x-a: [1, {b: null}]}}
          copy: {type: headers, bindings: [{exchange: tasks, routing_key: "#"}]}
        queues:
          email: {bindings: [{exchange: tasks, routing_key: "email.#"}], consumer_timeout: 2h}
          images: {type: classic, max_priority: 9, durable: true, message_ttl: 1h30m, expires: 2d,
                   max_length: 10, max_length_bytes: 16MiB, overflow: reject-publish-dlx, max_crashes: 1,
                   single_active_consumer: true, arguments: {x-queue-mode: lazy}}
          log: {type: stream, max_length_bytes: 1GB, bindings: [{exchange: copy, arguments: {x-match: any, a: 1}}]}
          old: {dead_letter: {exchange: rest, routing_key: old}, delivery_limit: 7, bindings: [{exchange: rest}]}
          sink: {dead_letter: false, bindings: [{exchange: rest}]}
        routes:
          - {task: "shop.email.*", exchange: tasks, routing_key: "email.{name}", priority: 5}
          - {task: "*", queue: images, priority: 9}
    """.replace("old: {dead_letter: {exchange: rest, routing_key: old}, delivery_limit: 7, bindings: [{exchange: rest}]}",
                "old: {dead_letter: {exchange: rest, routing_key: old}, delivery_limit: 7}"))  # fmt: skip

    assert shape.vhost == "shop"
    assert shape.source == "t.yaml"
    email, images, log, old = (shape.queues[n] for n in ("email", "images", "log", "old"))
    assert (email.type, email.dead_letter, email.max_crashes) == ("quorum", True, 5)
    assert email.bindings == (Binding("tasks", "email.#"),)
    assert email.consumer_timeout == 7200.0
    assert (images.max_priority, images.message_ttl, images.expires) == (9, 5400.0, 172800.0)
    assert (images.max_length_bytes, images.max_crashes) == (16 * 2**20, 1)
    assert images.arguments == {"x-queue-mode": "lazy"}
    assert (log.dead_letter, log.max_length_bytes) == (False, 10**9)
    assert old.dead_letter == DeadLetter("rest", "old")
    assert old.delivery_limit == 7
    assert shape.exchanges["rest"].arguments == {"x-a": [1, {"b": None}]}
    assert shape.exchanges["copy"].bindings == (Binding("tasks", "#"),)
    assert [route.task for route in shape.routes] == ["shop.email.*", "*"]
    assert shape.routes[1].queue == "images"


def test_defaults_of_the_defaults() -> None:
    shape = good("version: 1\nqueues: {a: {}, b: , c: {type: classic}}")

    assert [(q.type, q.dead_letter, q.max_crashes) for q in shape.queues.values()] == [
        ("quorum", True, 3),
        ("quorum", True, 3),
        ("classic", True, 3),
    ]


def test_defaults_apply_only_to_queues_that_can_have_them() -> None:
    shape = good("""
        version: 1
        defaults: {delivery_limit: 9, consumer_timeout: 1h}
        queues: {a: {}, b: {type: classic}, c: {type: stream}, d: {dead_letter: false}}
    """)

    assert {q.name: (q.delivery_limit, q.consumer_timeout, q.dead_letter) for q in shape.queues.values()} == {
        "a": (9, 3600.0, True),
        "b": (None, None, True),
        "c": (None, None, False),
        "d": (None, 3600.0, False),
    }  # fmt: skip


def test_dead_letters_within_bounds() -> None:
    shape = good("""
        version: 1
        defaults: {dead_letter: {ttl: 14d, max_length: 100000}}
        queues:
          a: {}
          b: {type: classic, dead_letter: {max_length_bytes: 1GB}}
          c: {dead_letter: {ttl: 1h}}
          d: {dead_letter: false}
          s: {type: stream}
    """)

    queues = shape.all_queues()
    assert list(queues) == ["a", "b", "c", "d", "s", "a.dead", "b.dead", "c.dead"]
    assert {
        name: (q.type, q.message_ttl, q.max_length, q.max_length_bytes, q.overflow, q.dead_letter)
        for name, q in queues.items()
        if name.endswith(".dead")
    } == {
        "a.dead": ("quorum", 14 * 86400, 100000, None, "drop-head", False),
        "b.dead": ("classic", None, None, 10**9, "drop-head", False),
        "c.dead": ("quorum", 3600, None, None, None, False),
    }


def test_bounds_of_a_queue_that_is_in_the_file_are_written_there() -> None:
    (found,) = problems("version: 1\nqueues:\n  a.dead: {}\n  a: {dead_letter: {ttl: 1d}}\n")

    assert found.startswith("t.yaml:4:20: queues.a.dead_letter: queue 'a.dead' is in this file")


def test_a_queue_that_holds_dead_letters_gets_none_of_its_own_by_default() -> None:
    shape = good("version: 1\nqueues: {a: {}, a.dead: {message_ttl: 7d}}")

    assert shape.queues["a.dead"].dead_letter is False
    assert list(shape.all_queues()) == ["a", "a.dead"]


@pytest.mark.parametrize(
    "text", ["version: 1", "version: 1\nqueues:\nroutes:\nexchanges:\ndefaults:\n", "version: 1\nqueues: {}\nroutes: []"]
)  # fmt: skip
def test_sections_may_be_empty(text: str) -> None:
    assert good(text).queues == {}


def test_anchors_and_merge_keys() -> None:
    shape = good("""
        version: 1
        queues:
          a: &base {type: classic, max_priority: 9}
          b: {<<: *base, max_priority: 5}
          c: {<<: [{max_length: 3}, *base]}
          d: *base
    """)

    assert [q.max_priority for q in shape.queues.values()] == [9, 5, 9, 9]
    assert shape.queues["c"].max_length == 3


def test_merges_inside_merges() -> None:
    shape = good("""
        version: 1
        defaults: &all {type: classic}
        queues:
          a: &a {<<: *all, max_length: 3}
          b: {<<: *a, max_priority: 5}
        routes: [&r {task: "x.*", queue: b}, {<<: *r, priority: 5}]
    """)

    assert (shape.queues["b"].type, shape.queues["b"].max_length) == ("classic", 3)
    assert shape.routes[1].queue == "b"


def test_yaml_1_1_is_honoured_where_the_file_asks_for_it() -> None:
    shape = good("%YAML 1.1\n---\nversion: 1\nqueues: {q: {type: classic, durable: no}}\n")

    assert shape.queues["q"].durable is False


def test_numbers_in_other_bases() -> None:
    shape = good("version: 1\nqueues: {q: {max_length: 0x10, max_length_bytes: 1_000, arguments: {x-a: 1.5, x-b: 2024-01-01, x-c: true}}}")  # fmt: skip

    assert (shape.queues["q"].max_length, shape.queues["q"].max_length_bytes) == (16, 1000)
    assert shape.queues["q"].arguments == {"x-a": 1.5, "x-b": "2024-01-01", "x-c": True}


def test_predeclared_exchanges_can_be_used() -> None:
    shape = good("""
        version: 1
        queues: {a: {bindings: [{exchange: amq.topic, routing_key: "a.#"}]}}
        routes: [{task: "*", exchange: amq.topic, routing_key: "a.{name}"}]
    """)

    assert shape.exchange_type("amq.topic") == "topic"


def test_yaml_is_version_1_2() -> None:
    shape = good("version: 1\nqueues: {on: {}, yes: {}, NO: {}}\nroutes: [{task: no, queue: on}]")

    assert list(shape.queues) == ["on", "yes", "NO"]
    assert shape.routes[0].task == "no"


@pytest.mark.parametrize("name", sorted(path.name for path in ROUTING.glob("*.yaml")))
def test_the_files_in_routing_are_right(name: str) -> None:
    assert load(ROUTING / name).version == 1


# ---------------------------------------------------------------- files that are none


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"shop\.yaml: there is no such file") as caught:
        load(tmp_path / "shop.yaml")
    assert len(caught.value.problems) == 1


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"cannot be read: Is a directory$"):
        load(tmp_path)


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_bytes(b"version: 1\nvhost: \xff\n")

    with pytest.raises(TopologyError, match=r"t\.yaml:2:8: not UTF-8 text: byte 0xff$"):
        load(path)


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_bytes(b"\xef\xbb\xbfversion: 1\n")

    assert load(str(path)).source == str(path)


def test_a_huge_file(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_bytes(b"#" * (5 * 1024 * 1024))

    with pytest.raises(TopologyError, match="5MiB is more than a topology file may have"):
        load(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "t.yaml:1:1: the file is empty: it needs at least 'version: 1'"),
        ("# only words\n", "t.yaml:1:1: the file is empty: it needs at least 'version: 1'"),
        ("null", "t.yaml:1:1: the file must be a mapping with 'version: 1', found nothing"),
        ("- 1", "t.yaml:1:1: the file must be a mapping with 'version: 1', found a list"),
        ("hello", "t.yaml:1:1: the file must be a mapping with 'version: 1', found the text 'hello'"),
        (
            "version: [1\nqueues: {}",
            "t.yaml:2:7: not valid YAML: expected ',' or ']', but got ':' (while parsing a flow sequence that begins in line 1)",
        ),
        ("a: b: c", "t.yaml:1:5: not valid YAML: mapping values are not allowed here"),
        ("a:\n\t- b", "t.yaml:2:1: not valid YAML: a tab; YAML is indented with spaces only"),
        ("a: *x", "t.yaml:1:4: not valid YAML: found undefined alias 'x'"),
        ("version: 1\nx: \x01", "t.yaml:2:4: not valid YAML: the character #x0001 is not allowed"),
        ("a: " + "{a: " * 20000, "t.yaml: nested too deeply to be a topology"),
    ],
)  # fmt: skip
def test_not_yaml_or_not_a_topology(text: str, line: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse(text, "t.yaml")
    assert list(caught.value.problems) == [line]


def test_two_documents() -> None:
    assert problems("version: 1\n---\nversion: 1\n") == [
        "t.yaml:2:1: not valid YAML: a second document begins here, and a topology file is one"
    ]  # fmt: skip


def test_an_alias_bomb_ends_soon() -> None:
    levels = "\n".join(
        f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" if n else "  a0: &a0 [x, x, x]"
        for n in range(12)
    )
    found = problems("version: 1\nqueues:\n q:\n  arguments:\n" + levels.replace("\n", "\n ").replace("  a0", "   a0", 1))  # fmt: skip

    assert len(found) == 1
    assert "aliases" in found[0]


def test_an_alias_inside_itself() -> None:
    found = problems("version: 1\nqueues: {q: {arguments: &a {x-a: *a}}}")

    assert len(found) == 1
    assert "aliases" in found[0]


# ---------------------------------------------------------------- mistakes, one by one


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("queues: {}", "t.yaml:1:1: version is missing: write 'version: 1'"),
        ("version: 2", "t.yaml:1:10: version: 2 is not known: this amqtask reads version 1"),
        ("version: '1'", "t.yaml:1:10: version: must be a whole number; found the text '1': leave the quotes out"),
        ("version: true", "t.yaml:1:10: version: must be a whole number; found the boolean true"),
        ("version: 1.0", "t.yaml:1:10: version: must be a whole number; found the number 1.0"),
        ("version: 1\nqueue: {}", "t.yaml:2:1: queue: unknown key 'queue'; did you mean 'queues'?"),
        ("version: 1\nbindings: []", "t.yaml:2:1: bindings: unknown key 'bindings': bindings are written in the queue or the exchange that receives"),
        ("version: 1\nzzz: 1", "t.yaml:2:1: zzz: unknown key 'zzz'; the keys here are version, vhost, defaults, delays, exchanges, queues, routes"),
        ("version: 1\ndelays: 5", "t.yaml:2:9: delays: must be true, false or {prefix: …}; found the number 5"),
        ("version: 1\ndelays: {prefix: a b}", "t.yaml:2:18: delays.prefix: a prefix is made of letters, digits, '_', '-' and '.', and begins with none of the last two, not 'a b'"),
        ("version: 1\ndelays: {prefx: a}", "t.yaml:2:10: delays.prefx: unknown key 'prefx'; did you mean 'prefix'?"),
        ("version: 1\nvhost: 5", "t.yaml:2:8: vhost: must be text; found the number 5: write it in quotes, '5'"),
        ("version: 1\nqueues: []", "t.yaml:2:9: queues: must be a mapping from names to queues; found a list"),
        ("version: 1\nroutes: {}", "t.yaml:2:9: routes: must be a list (each entry begins with '- '); found a mapping"),
        ("version: 1\nroutes: [5]", "t.yaml:2:10: routes[0]: must be a mapping of task, queue, exchange, routing_key, priority; found the number 5"),
        ("version: 1\nqueues: {a: 5}", "t.yaml:2:13: queues.a: must be a mapping of type, "),
        ("version: 1\nqueues: {5: {}}", "t.yaml:2:10: queues: a key must be text; found the number 5: write it in quotes, '5'"),
        ("version: 1\nqueues: {[a]: {}}", "t.yaml:2:10: queues: a key must be text; found a list"),
        ("version: 1\nqueues: {a: {}, b: {}, a: {}}", "t.yaml:2:24: queues.a: duplicate key, first written in line 2"),
        ("version: 1\nversion: 1", "t.yaml:2:1: version: duplicate key, first written in line 1"),
        ("version: 1\nqueues: {a: {<<: 5}}", "t.yaml:2:18: queues.a[\"<<\"]: must name a mapping to merge; found the number 5"),
        ("version: 1\nqueues: {a: !foo {}}", "t.yaml:2:13: queues.a: must be a mapping of type, "),
        ("version: 1\nexchanges: {amq.mine: {}}", "t.yaml:2:13: exchanges[\"amq.mine\"]: names that begin with 'amq.' belong to the broker"),
        ("version: 1\nexchanges: {amq.topic: {}}", "t.yaml:2:13: exchanges[\"amq.topic\"]: names that begin with 'amq.' belong to the broker: amq.topic is always there, leave it out here"),
        ("version: 1\nqueues: {amq.q: {}}", "t.yaml:2:10: queues[\"amq.q\"]: names that begin with 'amq.' belong to the broker"),
        ("version: 1\nqueues: {'': {}}", "t.yaml:2:10: queues[\"\"]: an empty name: give the queue one"),
        ('version: 1\nqueues: {"a\\nb": {}}', "t.yaml:2:10: queues[\"a\\nb\"]: a name cannot hold line breaks or other control characters"),
        (f"version: 1\nexchanges: {{{'é' * 128}: {{}}}}", "t.yaml:2:13: exchanges"),
        (f"version: 1\nqueues: {{{'q' * 251}: {{}}}}", "t.yaml:2:10: queues"),
        ("version: 1\nexchanges: {e: {type: topik}}", "t.yaml:2:23: exchanges.e.type: must be direct, topic, fanout or headers; found the text 'topik'; did you mean 'topic'?"),
        ("version: 1\nexchanges: {e: {type: 5}}", "t.yaml:2:23: exchanges.e.type: must be direct, topic, fanout or headers; found the number 5"),
        ("version: 1\nexchanges: {e: {durable: yes}}", "t.yaml:2:26: exchanges.e.durable: must be true or false; found the text 'yes': write true without quotes"),
        ("version: 1\nexchanges: {e: {durable: 1}}", "t.yaml:2:26: exchanges.e.durable: must be true or false; found the number 1"),
        ("version: 1\nexchanges: {e: {durable: }}", "t.yaml:2:17: exchanges.e.durable: must be true or false; found nothing"),
        ("version: 1\nexchanges: {e: {alternate_exchange: f}}", "t.yaml:2:37: exchanges.e.alternate_exchange: there is no exchange 'f'"),
        ("version: 1\nexchanges: {e: {bindings: [{exchange: f}]}}", "t.yaml:2:39: exchanges.e.bindings[0].exchange: there is no exchange 'f'"),
    ],
)  # fmt: skip
def test_one_mistake_one_line(text: str, line: str) -> None:
    found = problems(text)

    assert len(found) == 1, found
    assert found[0].startswith(line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("max_prioirty: 9", "queues.q.max_prioirty: unknown key 'max_prioirty'; did you mean 'max_priority'?"),
        ("x-max-priority: 9", "queues.q.x-max-priority: unknown key 'x-max-priority'; did you mean 'max_priority'?"),
        ("type: quorom", "queues.q.type: must be quorum, classic or stream; found the text 'quorom'; did you mean 'quorum'?"),
        ("max_priority: 9", "queues.q.max_priority: a quorum queue cannot have it: RabbitMQ refuses it; use type: classic, or quorum priorities on RabbitMQ 4.3"),
        ("type: stream, max_priority: 9", "queues.q.max_priority: a stream cannot have it"),
        ("type: classic, max_priority: 256", "queues.q.max_priority: must be at most 255, and it is 256"),
        ("type: classic, max_priority: 0", "queues.q.max_priority: must be at least 1, and it is 0"),
        ("type: classic, max_priority: true", "queues.q.max_priority: must be a whole number; found the boolean true"),
        ("type: classic, max_priority: 9.5", "queues.q.max_priority: must be a whole number; found the number 9.5"),
        ("type: classic, max_priority: ", "queues.q.max_priority: must be a whole number; found nothing"),
        ("type: classic, delivery_limit: 3", "queues.q.delivery_limit: a classic queue cannot have it"),
        ("type: classic, consumer_timeout: 3h", "queues.q.consumer_timeout: a classic queue cannot have it"),
        ("delivery_limit: -1", "queues.q.delivery_limit: must be at least 0, and it is -1"),
        ("delivery_limit: 5, dead_letter: false", "queues.q.delivery_limit: without a dead letter the broker silently deletes"),
        ("durable: false", "queues.q.durable: a quorum queue is always durable"),
        ("type: stream, durable: false", "queues.q.durable: a stream queue is always durable"),
        ("type: stream, dead_letter: true", "queues.q.dead_letter: a stream cannot have it"),
        ("type: stream, message_ttl: 1s", "queues.q.message_ttl: a stream cannot have it"),
        ("type: stream, expires: 1s", "queues.q.expires: a stream cannot have it"),
        ("type: stream, max_length: 1", "queues.q.max_length: a stream cannot have it"),
        ("type: stream, overflow: drop-head", "queues.q.overflow: a stream cannot have it"),
        ("type: stream, delivery_limit: 1", "queues.q.delivery_limit: a stream cannot have it"),
        ("type: stream, max_crashes: 1", "queues.q.max_crashes: a stream cannot have it"),
        ("type: stream, single_active_consumer: true", "queues.q.single_active_consumer: a stream cannot have it"),
        ("overflow: reject-publish-dlx", "queues.q.overflow: reject-publish-dlx works on classic queues only"),
        ("overflow: reject", "queues.q.overflow: must be drop-head, reject-publish or reject-publish-dlx"),
        ("max_crashes: 0", "queues.q.max_crashes: must be at least 1, and it is 0"),
        ("message_ttl: 2x", "queues.q.message_ttl: '2x' is not a duration (no unit 'x')"),
        ("message_ttl: true", "queues.q.message_ttl: must be a duration such as 90s or 2h; found the boolean true"),
        ("message_ttl: [1]", "queues.q.message_ttl: must be a duration such as 90s or 2h; found a list"),
        ("message_ttl: 20000d", "queues.q.message_ttl: must be at most 521w3d, and it is 2857w1d"),
        ("message_ttl: -5", "queues.q.message_ttl: a duration cannot be negative"),
        ("expires: 0s", "queues.q.expires: must be at least 1s, and it is 0s"),
        ("consumer_timeout: 0", "queues.q.consumer_timeout: must be at least 1s, and it is 0s"),
        ("max_length: 1e9", "queues.q.max_length: must be a whole number; found the number 1e9"),
        ("max_length: 99999999999999999999999999999999999", "queues.q.max_length: must be a whole number"),
        ("max_length: 9999999999999999999", "queues.q.max_length: must be at most"),
        ("max_length_bytes: 16Mib", "queues.q.max_length_bytes: '16Mib' is not a size (no unit 'Mib')"),
        ("max_length_bytes: 0", "queues.q.max_length_bytes: must be at least 1B, and it is 0B"),
        ("dead_letter: yes", "queues.q.dead_letter: must be true, false, {exchange: …, routing_key: …} or {ttl: …, max_length: …}; found the text 'yes': write true"),
        ("dead_letter: {}", "queues.q.dead_letter: exchange is missing"),
        ("dead_letter: {exchange: nope}", "queues.q.dead_letter.exchange: there is no exchange 'nope'"),
        ("dead_letter: {exchange: '', routing_key: nope}", "queues.q.dead_letter: dead letters would be lost: the default exchange with key 'nope' leads to no queue"),
        ("dead_letter: {exchange: '', routing_key: q}", "queues.q.dead_letter: a cycle of dead letters: q → q"),
        ("dead_letter: {exchange: ''}", "queues.q.dead_letter: a cycle of dead letters: q → q"),
        ("dead_letter: {ttl: 0}", "queues.q.dead_letter.ttl: must be at least 1s, and it is 0s"),
        ("dead_letter: {ttl: soon}", "queues.q.dead_letter.ttl: 'soon' is not a duration"),
        ("dead_letter: {max_length: 0}", "queues.q.dead_letter.max_length: must be at least 1, and it is 0"),
        ("dead_letter: {max_length_bytes: big}", "queues.q.dead_letter.max_length_bytes: 'big' is not a size"),
        ("dead_letter: {ttl: 1d, lenght: 5}", "queues.q.dead_letter.lenght: unknown key 'lenght'"),
        ("dead_letter: {ttl: 1d, exchange: amq.topic}", "queues.q.dead_letter: gives both an exchange and bounds of <name>.dead"),
        ("dead_letter: {exchange: amq.topic, key: x}", "queues.q.dead_letter.key: unknown key 'key'"),
        ("bindings: {}", "queues.q.bindings: must be a list (each entry begins with '- '); found a mapping"),
        ("bindings: [tasks]", "queues.q.bindings[0]: must be a mapping of exchange, routing_key, arguments; found the text 'tasks'"),
        ("bindings: [{routing_key: a}]", "queues.q.bindings[0]: exchange is missing"),
        ("bindings: [{exchange: '', routing_key: a}]", "queues.q.bindings[0].exchange: nothing can be bound to the default exchange"),
        ("bindings: [{exchange: nope, routing_key: a}]", "queues.q.bindings[0].exchange: there is no exchange 'nope'"),
        ("bindings: [{exchange: amq.topics, routing_key: a}]", "queues.q.bindings[0].exchange: there is no exchange 'amq.topics'; did you mean 'amq.topic'?"),
        ("bindings: [{exchange: amq.topic}]", "queues.q.bindings[0].routing_key: is missing: the topic exchange 'amq.topic' routes by it"),
        ("bindings: [{exchange: amq.topic, routing_key: 5}]", "queues.q.bindings[0].routing_key: must be text; found the number 5: write it in quotes, '5'"),
        ("bindings: [{exchange: amq.topic, routing_key: 'a.b*'}]", "queues.q.bindings[0].routing_key: in 'b*' the wildcard is plain text"),
        ("bindings: [{exchange: amq.topic, routing_key: a, arguments: {b: 1}}]", "queues.q.bindings[0].arguments: only headers exchanges compare arguments"),
        ("bindings: [{exchange: amq.headers, arguments: {x-match: some}}]", "queues.q.bindings[0].arguments.x-match: must be all, any, all-with-x or any-with-x; found 'some'"),
        (f"bindings: [{{exchange: amq.topic, routing_key: {'k' * 256}}}]", "queues.q.bindings[0].routing_key: is 256 bytes, and AMQP allows 255 in a routing key"),
        ("arguments: {x-max-priority: 5}", "queues.q.arguments.x-max-priority: x-max-priority has a key of its own, which checks it: use max_priority"),
        ("arguments: {x-queue-type: classic}", "queues.q.arguments.x-queue-type: x-queue-type has a key of its own, which checks it: use type"),
        ("arguments: {x-a: .nan}", "queues.q.arguments.x-a: cannot be an argument: found the number .nan"),
        ("arguments: {x-a: 9999999999999999999999}", "queues.q.arguments.x-a: cannot be an argument"),
        ("arguments: {x-a: !!binary aGk=}", "queues.q.arguments.x-a: cannot be an argument"),
        ("arguments: 5", "queues.q.arguments: must be a mapping from argument names to values; found the number 5"),
    ],
)  # fmt: skip
def test_mistakes_in_a_queue(text: str, line: str) -> None:
    found = queue(text)

    assert len(found) == 1, found
    assert found[0].startswith(line)


ROUTED = """
version: 1
exchanges:
  tasks: {type: topic}
  copies: {type: fanout, bindings: [{exchange: tasks, routing_key: "copy.#"}]}
  inner: {type: direct, internal: true}
  spare: {type: direct, alternate_exchange: tasks}
  heads: {type: headers}
queues:
  email: {bindings: [{exchange: tasks, routing_key: "email.#"}, {exchange: copies}]}
  plain: {type: classic, bindings: [{exchange: tasks, routing_key: "plain.*"}]}
  fast: {type: classic, max_priority: 5}
  log: {type: stream}
routes: [%s]
"""


@pytest.mark.parametrize(
    ("route", "line"),
    [
        ("{task: x}", "routes[0]: leads nowhere: give a queue, or an exchange and a routing_key"),
        ("{queue: email}", "routes[0]: task is missing"),
        ("{task: '', queue: email}", "routes[0].task: must not be empty"),
        ("{task: x, queue: emial}", "routes[0].queue: there is no queue 'emial'; did you mean 'email'?"),
        ("{task: x, exchange: taks}", "routes[0].exchange: there is no exchange 'taks'; did you mean 'tasks'?"),
        ("{task: x, queue: email, exchange: tasks}", "routes[0]: gives both queue and exchange"),
        ("{task: x, queue: email, routing_key: k}", "routes[0].routing_key: a queue is reached by its own name"),
        ("{task: x, exchange: tasks, routing_key: mail.x}", "routes[0].routing_key: leads nowhere: no binding of exchange 'tasks' matches 'mail.x' (its bindings: 'copy.#', 'email.#', 'plain.*')"),
        ("{task: x, exchange: tasks}", "routes[0].routing_key: is missing, and no binding of exchange 'tasks' takes messages without one"),
        ("{task: 'shop.*', exchange: tasks, routing_key: 'mail.{name}'}", "routes[0].routing_key: leads nowhere"),
        ("{task: 'shop.*', exchange: tasks, routing_key: 'plain.x.{name}'}", "routes[0].routing_key: leads nowhere"),
        ("{task: 'shop.*', exchange: tasks, routing_key: '{task}'}", "routes[0].routing_key: leads nowhere"),
        ("{task: x, exchange: heads}", "routes[0].routing_key: is missing"),
        ("{task: x, exchange: '', routing_key: emial}", "routes[0].routing_key: leads nowhere: no binding of the default exchange matches 'emial'; did you mean 'email'?"),
        ("{task: x, exchange: inner, routing_key: k}", "routes[0].exchange: the exchange 'inner' is internal"),
        ("{task: x, exchange: tasks, routing_key: 'email.{nme}'}", "routes[0].routing_key: unknown placeholder {nme}"),
        ("{task: x, exchange: tasks, routing_key: 'email.{name'}", "routes[0].routing_key: a brace that belongs to no placeholder"),
        ("{task: x, queue: plain, priority: 5}", "routes[0].priority: has no effect in queue 'plain': a classic queue has priorities only with max_priority"),
        ("{task: x, queue: log, priority: 5}", "routes[0].priority: has no effect in queue 'log': a stream has no priorities"),
        ("{task: x, queue: fast, priority: 6}", "routes[0].priority: 6 is above 5, the highest priority of queue 'fast'"),
        ("{task: x, queue: email, priority: 32}", "routes[0].priority: 32 is above 31"),
        ("{task: x, exchange: tasks, routing_key: 'plain.{name}', priority: 1}", "routes[0].priority: has no effect in queue 'plain'"),
        ("{task: x, queue: fast, priority: 256}", "routes[0].priority: must be at most 255"),
        ("{task: x, queue: fast, priority: '5'}", "routes[0].priority: must be a whole number; found the text '5': leave the quotes out"),
        ("{task: x, queue: fast, prio: 5}", "routes[0].prio: unknown key 'prio'; did you mean 'priority'?"),
    ],
)  # fmt: skip
def test_mistakes_in_a_route(route: str, line: str) -> None:
    found = [p.split(": ", 1)[1] for p in problems(ROUTED % route)]

    assert len(found) == 1, found
    assert found[0].startswith(line)


@pytest.mark.parametrize(
    "route",
    [
        "{task: x, queue: email}",
        "{task: x, queue: email.dead}",
        "{task: x, queue: email, priority: 5}",
        "{task: x, queue: fast, priority: 5}",
        "{task: x, exchange: tasks, routing_key: 'email.{name}', priority: 5}",
        "{task: x, exchange: tasks, routing_key: copy.that}",
        "{task: 'email.*', exchange: tasks, routing_key: '{task}'}",
        "{task: 'copy.*', exchange: spare, routing_key: '{task}'}",
        "{task: x, exchange: copies}",
        "{task: x, exchange: '', routing_key: email}",
        "{task: 'fa?t', exchange: '', routing_key: '{name}'}",
    ],
)
def test_routes_that_lead_somewhere(route: str) -> None:
    assert len(good(ROUTED % route).routes) == 1


def test_cycles_are_reported_once() -> None:
    found = problems("""
        version: 1
        exchanges: {a: {alternate_exchange: b}, b: {alternate_exchange: a}, c: {alternate_exchange: a}}
        queues:
          one: {dead_letter: {exchange: '', routing_key: two}}
          two: {dead_letter: {exchange: '', routing_key: three}}
          three: {dead_letter: {exchange: '', routing_key: one}}
          four: {dead_letter: {exchange: '', routing_key: one}}
    """)

    assert found == [
        "t.yaml:3:37: exchanges.a.alternate_exchange: a cycle of alternate exchanges: a → b → a",
        "t.yaml:5:22: queues.one.dead_letter: a cycle of dead letters: one → two → three → one",
    ]


def test_a_cycle_through_exchanges_and_a_kept_key() -> None:
    found = problems("""
        version: 1
        exchanges: {tasks: {type: topic}, again: {type: fanout, bindings: [{exchange: tasks, routing_key: "#"}]}}
        queues:
          work: {bindings: [{exchange: again}, {exchange: tasks, routing_key: "a.#"}], dead_letter: {exchange: tasks}}
    """)

    assert len(found) == 1
    assert found[0].endswith("queues.work.dead_letter: a cycle of dead letters: work → work")


def test_dead_letters_that_keep_a_key_with_another_way_are_no_cycle() -> None:
    shape = good("""
        version: 1
        exchanges: {tasks: {type: topic}, failed: {type: topic}}
        queues:
          work: {bindings: [{exchange: tasks, routing_key: "a.#"}], dead_letter: {exchange: failed}}
          sink: {bindings: [{exchange: failed, routing_key: "a.#"}]}
    """)

    assert shape.queues["work"].dead_letter == DeadLetter("failed")


# ---------------------------------------------------------------- all at once


def test_every_mistake_in_one_run_and_no_echoes() -> None:
    found = problems("""
        version: 3
        vhots: shop
        defaults: {type: quorum, max_crashs: 3}
        exchanges:
          tasks: {type: topic}
          events: {type: fanot}
        queues:
          email: {bindings: [{exchange: taks, routing_key: "email.#"}], consumer_timeout: 2 hours}
          images: {max_priority: 9, bindings: [{exchange: events}]}
          plain: {type: clasic, max_priority: 9}
          loop: {dead_letter: {exchange: "", routing_key: loop}}
        routes:
          - {task: "shop.email.*", exchange: tasks, routing_key: "email.{name}"}
          - {task: "shop.images.*", exchange: events}
          - {task: "x", queue: plane}
          - {task: "y", queue: plain, priority: 3}
          - {task: "z.*", exchange: tasks, routing_key: "mail.{name}"}
    """)

    assert [re.sub(r"^t\.yaml:(\d+:\d+: \S+?):? .*", r"\1", line) for line in found] == [
        "2:10: version",
        "3:1: vhots",
        "4:26: defaults.max_crashs",
        "7:18: exchanges.events.type",
        "9:33: queues.email.bindings[0].exchange",
        "9:83: queues.email.consumer_timeout",
        "10:26: queues.images.max_priority",
        "11:17: queues.plain.type",
        "12:23: queues.loop.dead_letter",
        "16:24: routes[2].queue",
        "18:49: routes[4].routing_key",
    ]


def test_a_wrong_default_type_is_not_reported_again_at_every_queue() -> None:
    found = problems("version: 1\ndefaults: {type: clasic}\nqueues: {q: {max_priority: 9}}")

    assert len(found) == 1


def test_problems_have_one_line_each_whatever_names_hold() -> None:
    found = problems('version: 1\nqueues: {q: {"a\\nb\\"c": 1, "\\u2028": 2}}')

    assert len(found) == 2
    assert all(len(line.splitlines()) == 1 for line in found)


VALUE: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(["1", "true", "x", "''", "null", "quorum", "stream", "2h", "16MiB", "-1", ".inf", "q", "tasks", "'a.#'"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(
            st.sampled_from([key.name for table in (grammar.TOP, grammar.QUEUE, grammar.EXCHANGE, grammar.ROUTE, grammar.BINDING) for key in table] + ["q", "tasks", "zz"]),
            inner,
            max_size=4,
        ).map(lambda table: "{" + ", ".join(f"{k}: {v}" for k, v in table.items()) + "}"),
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([key.name for key in grammar.TOP]), VALUE, max_size=6))
def test_any_yaml_is_a_topology_or_a_list_of_problems(sections: dict[str, str]) -> None:
    text = "\n".join(f"{name}: {value}" for name, value in sections.items())
    try:
        parse(text, "t.yaml")
        found: tuple[str, ...] = ()
    except TopologyError as error:
        found = error.problems

    assert all(re.match(r"t\.yaml:\d+:\d+: ", line) for line in found)
    assert len(set(found)) == len(found)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text_ends_in_a_topology_error(text: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse(text, "t.yaml")

    assert all("\n" not in line for line in caught.value.problems)


def test_delays() -> None:
    def read(text: str, source: str = "routing/shop.yaml") -> Delays:
        return parse(f"version: 1\n{text}", source).delays

    assert read("") == Delays(prefix="shop")
    assert read("", "/srv/my shop!.yaml") == Delays(prefix="my-shop")
    assert read("delays: true") == Delays(prefix="shop")
    assert read("delays: false") == Delays(prefix="shop", apply=False)
    assert read("delays: {}") == Delays(prefix="shop")
    assert read("delays: {prefix: other}") == Delays(prefix="other")
