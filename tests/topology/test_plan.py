"""What is declared, what a version lacks, and what differs from a live broker."""

from __future__ import annotations

import urllib.parse
import uuid
from collections.abc import Iterator
from typing import Any

import pika.exceptions
import pytest

from amqtask.errors import ConfigurationError
from amqtask.topology.dropped import DROPPED
from amqtask.topology.model import Queue, Topology
from amqtask.topology.parse import parse
from amqtask.topology.plan import (
    BIND_LATE_PLANS,
    DECLARE_QUEUE_OF_DROPPED,
    NO_DELIVERY_LIMIT,
    BindExchange,
    BindQueue,
    DeadLetterTarget,
    Declaration,
    DeclareExchange,
    DeclareQueue,
    Difference,
    compare,
    dead_letter_of,
    dead_queues,
    declarations,
    declare_queue,
    delivery_limit_of,
    explain_conflict,
    unsupported,
    untold,
)
from amqtask.topology.routes import default_topology
from tests.brokers import Broker
from tests.topology.test_simulate import declare


def topology(text: str) -> Topology:
    return parse(f"version: 1\n{text}", "t.yaml")


def arguments(text: str) -> dict[str, Any]:
    """What the broker gets for one queue ``q``."""
    shape = topology(f"exchanges: {{x: {{type: fanout}}}}\nqueues: {{q: {{{text}}}, sink: {{dead_letter: false, bindings: [{{exchange: x}}]}}}}")  # fmt: skip
    return next(dict(d.arguments) for d in declarations(shape) if isinstance(d, DeclareQueue))


SAFE = {
    "x-queue-type": "quorum",
    "x-dead-letter-exchange": "amqtask.dropped",
    "x-dead-letter-routing-key": "q.dead",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
    "x-delivery-limit": 100,
}
CLASSIC = {
    "x-queue-type": "classic",
    "x-dead-letter-exchange": "amqtask.dropped",
    "x-dead-letter-routing-key": "q.dead",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", SAFE),
        ("delivery_limit: 7", {**SAFE, "x-delivery-limit": 7}),
        ("consumer_timeout: 2h", {**SAFE, "x-consumer-timeout": 7_200_000}),
        ("max_crashes: 9", SAFE),
        ("dead_letter: false", {"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT}),
        ("type: classic", CLASSIC),
        ("type: classic, max_priority: 9", {**CLASSIC, "x-max-priority": 9}),
        ("type: classic, dead_letter: false", {"x-queue-type": "classic"}),
        ("type: stream", {"x-queue-type": "stream"}),
        ("type: stream, max_length_bytes: 1GB, arguments: {x-max-age: 7D}", {"x-queue-type": "stream", "x-max-length-bytes": 10**9, "x-max-age": "7D"}),
        ("type: classic, message_ttl: 1500ms, expires: 1d, max_length: 5, max_length_bytes: 1KiB, overflow: reject-publish-dlx, single_active_consumer: true",
         {**CLASSIC, "x-message-ttl": 1500, "x-expires": 86_400_000, "x-max-length": 5, "x-max-length-bytes": 1024, "x-overflow": "reject-publish-dlx", "x-single-active-consumer": True, "x-dead-letter-routing-key": "q.full"}),
        ("overflow: drop-head", {k: v for k, v in SAFE.items() if k != "x-dead-letter-strategy"} | {"x-overflow": "drop-head"}),
        ("dead_letter: {exchange: x}", {k: v for k, v in SAFE.items() if k != "x-dead-letter-routing-key"} | {"x-dead-letter-exchange": "x"}),
        ("dead_letter: {exchange: x, routing_key: k}", {**SAFE, "x-dead-letter-exchange": "x", "x-dead-letter-routing-key": "k"}),
    ],
)  # fmt: skip
def test_the_arguments_of_a_queue(text: str, expected: dict[str, Any]) -> None:
    assert arguments(text) == expected


def test_the_order_is_one_a_broker_accepts() -> None:
    shape = topology("""
exchanges:
  copies: {type: fanout, bindings: [{exchange: tasks, routing_key: "#"}]}
  tasks: {type: topic, alternate_exchange: rest}
  rest: {type: headers, durable: false, auto_delete: true, internal: true, arguments: {x-a: 1}}
queues:
  q: {type: classic, bindings: [{exchange: copies}, {exchange: rest, arguments: {x-match: any, a: 1}}]}
""")

    assert declarations(shape) == (
        DeclareExchange("copies", "fanout"),
        DeclareExchange("tasks", "topic", arguments={"alternate-exchange": "rest"}),
        DeclareExchange("rest", "headers", False, True, True, {"x-a": 1}),
        DeclareExchange("amqtask.dropped", "direct"),
        DeclareQueue("q", arguments=CLASSIC),
        DeclareQueue("q.dead", arguments={"x-queue-type": "classic"}),
        DECLARE_QUEUE_OF_DROPPED,
        BIND_LATE_PLANS,
        BindQueue("q.dead", "amqtask.dropped", "q.dead"),
        BindQueue("amqtask.dropped", "amqtask.dropped", "q.dead"),
        BindExchange("copies", "tasks", "#"),
        BindQueue("q", "copies"),
        BindQueue("q", "rest", "", {"x-match": "any", "a": 1}),
    )


def test_a_dead_letter_queue_never_deletes() -> None:
    assert DeclareQueue(
        "q.dead", arguments={"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT}
    ) in declarations(default_topology("q"))


def test_a_dead_letter_queue_with_bounds_deletes_the_oldest_and_refuses_none() -> None:
    shape = topology("queues: {q: {dead_letter: {ttl: 2d, max_length: 7, max_length_bytes: 1kB}}}")
    (dead,) = (d for d in declarations(shape) if isinstance(d, DeclareQueue) and d.name == "q.dead")

    assert isinstance(dead, DeclareQueue)
    assert dead.arguments == {
        "x-queue-type": "quorum",
        "x-delivery-limit": NO_DELIVERY_LIMIT,
        "x-overflow": "drop-head",
        "x-message-ttl": 172_800_000,
        "x-max-length": 7,
        "x-max-length-bytes": 1000,
    }


def test_where_dead_letters_arrive() -> None:
    shape = topology("""exchanges: {rest: {type: topic}}
queues:
  a: {dead_letter: {ttl: 1h}}
  b: {dead_letter: {exchange: rest, routing_key: b}}
  c: {dead_letter: false}
  all: {dead_letter: false, bindings: [{exchange: rest, routing_key: "#"}]}
""")

    assert [dead_queues(shape, name) for name in ("a", "b", "c", "nobody")] == [("a.dead",), ("all",), (), ()]  # fmt: skip


def names(found: tuple[Declaration, ...]) -> list[str]:
    return [d.name for d in found if isinstance(d, DeclareExchange | DeclareQueue)]


def test_one_queue_brings_what_it_needs() -> None:
    shape = topology("""
exchanges:
  first: {type: topic, alternate_exchange: rest}
  second: {type: fanout, bindings: [{exchange: first, routing_key: "#"}]}
  rest: {type: fanout}
  failed: {type: direct}
  other: {type: direct}
queues:
  a: {bindings: [{exchange: second}]}
  leftovers: {bindings: [{exchange: rest}]}
  b: {dead_letter: {exchange: failed, routing_key: b}, bindings: [{exchange: other, routing_key: b}]}
  graveyard: {dead_letter: false, bindings: [{exchange: failed, routing_key: b}]}
  c: {type: classic, bindings: [{exchange: other, routing_key: c}]}
""")

    assert names(declarations(shape, ["a"])) == ["first", "second", "rest", DROPPED, "a", "leftovers", "a.dead", "leftovers.dead", DROPPED]  # fmt: skip
    assert names(declarations(shape, ["b"])) == [
        "failed",
        "other",
        DROPPED,
        "b",
        "graveyard",
        DROPPED,
    ]
    assert names(declarations(shape, ["c"])) == ["other", DROPPED, "c", "c.dead", DROPPED]
    assert names(declarations(shape, ["c.dead"])) == ["c.dead"]
    assert declarations(shape, []) == ()
    assert [d for d in declarations(shape, ["c"]) if isinstance(d, BindQueue)] == [
        BIND_LATE_PLANS,
        BindQueue("c.dead", DROPPED, "c.dead"),
        BindQueue(DROPPED, DROPPED, "c.dead"),
        BindQueue("c", "other", "c"),
    ]


def test_an_unknown_queue_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"^the built-in topology declares no queue 'qq'; did"):  # fmt: skip
        declarations(default_topology("q"), ["qq"])


def test_dead_letter_targets() -> None:
    shape = topology("queues: {a: {}, b: {dead_letter: {exchange: '', routing_key: a}}, c: {dead_letter: false}}")  # fmt: skip

    assert dead_letter_of(shape, "a") == DeadLetterTarget("", "a.dead") == ("", "a.dead")
    assert dead_letter_of(shape, "b") == ("", "a")
    assert dead_letter_of(shape, "c") is None
    assert dead_letter_of(shape, "a.dead") is None
    assert dead_letter_of(shape, "unknown") is None


def test_delivery_limits() -> None:
    shape = topology("queues: {a: {}, b: {delivery_limit: 7}, c: {dead_letter: false}, d: {type: classic}}")  # fmt: skip

    assert [delivery_limit_of(shape, name) for name in "ab"] == [100, 7]
    assert [delivery_limit_of(shape, name) for name in "cd"] == [NO_DELIVERY_LIMIT] * 2
    assert delivery_limit_of(shape, "unknown") == 20


def test_queues_of_which_nobody_is_told() -> None:
    shape = topology("""
exchanges: {failed: {type: fanout}}
queues:
  told: {}
  bounded: {dead_letter: {ttl: 1h}}
  elsewhere: {dead_letter: {exchange: failed}}
  lost: {dead_letter: false}
  rest: {dead_letter: false, bindings: [{exchange: failed}]}
  told.dead: {}
  log: {type: stream}
""")

    assert untold(shape) == ("elsewhere", "lost")


# ---------------------------------------------------------------- versions


@pytest.mark.parametrize(
    ("text", "version", "errors", "warnings"),
    [
        ("queues: {q: {}}", (3, 10, 8), [], []),
        ("queues: {q: {}}", (3, 9, 0), [], ["3.10 and later move them at least once", ]),
        ("queues: {q: {dead_letter: false}}", (3, 7, 0), ["is a quorum queue, which RabbitMQ has since 3.8"], []),
        ("queues: {q: {type: stream}}", (3, 8, 0), ["is a stream, which RabbitMQ has since 3.9"], []),
        ("queues: {q: {message_ttl: 1s, dead_letter: false}}", (3, 9, 0), ["message_ttl, which RabbitMQ has since 3.10"], []),
        ("queues: {q: {consumer_timeout: 1h}}", (3, 10, 8), [], ["ignores consumer_timeout"]),
        ("queues: {q: {consumer_timeout: 1h}}", (3, 12, 0), [], []),
        ("queues: {q: {}}\nroutes: [{task: '*', queue: q, priority: 5}]", (3, 10, 8), [], ["RabbitMQ 3.10.8 ignores it in quorum queue 'q'; 4.3 has strict priorities"]),
        ("queues: {q: {}}\nroutes: [{task: '*', queue: q, priority: 5}]", (4, 2, 1), [], ["knows only two levels"]),
        ("queues: {q: {}}\nroutes: [{task: '*', queue: q, priority: 5}]", (4, 3, 0), [], []),
        ("queues: {q: {type: classic, max_priority: 9}}\nroutes: [{task: '*', queue: q, priority: 5}]", (3, 10, 8), [], []),
        ("queues: {q: {type: classic, durable: false, dead_letter: false}}", (4, 3, 6), [], ["is not durable"]),
        ("queues: {q: {type: classic, durable: false, dead_letter: false}}", (4, 2, 0), [], []),
        ("queues: {q: {max_length: 9}}", (3, 10, 8), [], ["hold up the delayed tasks of other queues"]),
        ("queues: {q: {type: classic, max_length_bytes: 9, overflow: reject-publish}}", (4, 2, 0), [], ["hold up the delayed"]),
        ("queues: {q: {max_length: 9}}", (4, 3, 0), [], []),
        ("queues: {q: {max_length: 9, dead_letter: false}}", (3, 10, 8), [], []),
        ("queues: {q: {max_length: 9, overflow: drop-head}}", (3, 10, 8), [], []),
        ("queues: {q: {dead_letter: {max_length: 9}}}", (3, 10, 8), [], []),
        ("queues: {q: {type: classic, arguments: {x-queue-version: 1}}}", (4, 3, 0), ["x-queue-version 1"], []),
        ("queues: {q: {arguments: {x-delayed-retry-type: failed}}}", (3, 10, 8), [], ["4.3 has delayed retry"]),
        ("queues: {q: {bindings: [{exchange: amq.topic, routing_key: '#.a.#.b.#'}]}}", (4, 3, 5), ["more than two '#'"], []),
        ("queues: {q: {bindings: [{exchange: amq.topic, routing_key: '#.a.#.b.#'}]}}", (4, 3, 4), [], []),
    ],
)  # fmt: skip
def test_what_a_version_lacks(
    text: str, version: tuple[int, int, int], errors: list[str], warnings: list[str]
) -> None:
    found = unsupported(topology(text), version)

    for sentences, expected in ((found.errors, errors), (found.warnings, warnings)):
        assert len(sentences) == len(expected), sentences
        assert all(part in sentence for part, sentence in zip(expected, sentences, strict=True))
        assert all(sentence.endswith(".") for sentence in sentences)


# ---------------------------------------------------------------- differences


def test_the_same_is_no_difference() -> None:
    live = {"name": "q", "durable": True, "exclusive": False, "auto_delete": False, "type": "classic", "arguments": {"x-max-priority": 9, "x-queue-type": "classic"}}  # fmt: skip
    declared = DeclareQueue("q", arguments={"x-queue-type": "classic", "x-max-priority": 9})

    assert compare(declared, live) == ()


def test_a_queue_without_a_type_is_classic() -> None:
    live: dict[str, Any] = {"durable": True, "arguments": {}}

    assert compare(DeclareQueue("q", arguments={"x-queue-type": "classic"}), live) == ()
    assert compare(DeclareQueue("q", arguments={"x-queue-type": "quorum"}), live) == (
        Difference("queue", "q", "x-queue-type", "quorum", "classic"),
    )


def test_differences_on_either_side() -> None:
    live = {"durable": False, "arguments": {"x-max-priority": 5, "x-foo": "a"}}
    declared = DeclareQueue("q", arguments={"x-queue-type": "classic", "x-max-priority": 9, "x-expires": 1})  # fmt: skip

    found = compare(declared, live)

    assert [(d.argument, d.declared, d.live) for d in found] == [
        ("durable", True, False),
        ("x-max-priority", 9, 5),
        ("x-expires", 1, None),
        ("x-foo", None, "a"),
    ]
    assert str(found[1]) == (
        "Queue 'q' exists on the broker with x-max-priority (max_priority) 5, and the topology declares it with 9: "
        "change the topology, or delete the queue, with its messages (`rabbitmqctl delete_queue -p VHOST q`), and declare it again."
    )  # fmt: skip


def test_differences_of_an_exchange() -> None:
    live = {"type": "topic", "durable": True, "auto_delete": False, "internal": False, "arguments": {"alternate-exchange": "a"}}  # fmt: skip

    found = compare(DeclareExchange("e", "direct"), live)

    assert [(d.argument, d.declared, d.live) for d in found] == [
        ("type", "direct", "topic"),
        ("alternate-exchange", None, "a"),
    ]
    assert str(found[1]).startswith(
        "Exchange 'e' exists on the broker with alternate-exchange (alternate_exchange) a, and the topology declares it without it: "
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("PRECONDITION_FAILED - inequivalent arg 'x-max-priority' for queue 'q' in vhost '/': received the value '9' of type 'signedint' but current is none",
         "Queue 'q' exists on the broker without x-max-priority (max_priority), and the topology declares it with 9: "),
        ("PRECONDITION_FAILED - inequivalent arg 'x-max-priority' for queue 'q' in vhost '/': received none but current is the value '5' of type 'signedint'",
         "Queue 'q' exists on the broker with x-max-priority (max_priority) 5, and the topology declares it without it: "),
        ("(406, \"PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'\")",
         "Queue 'q' exists on the broker with durable true, and the topology declares it with false: "),
        ("PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' in vhost '/': received 'a' but current is ''",
         "Queue 'q' exists on the broker with x-dead-letter-exchange (dead_letter) '', and the topology declares it with a: "),
        ("PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type rabbit_quorum_queue",
         "The broker refuses x-max-priority (max_priority) on the quorum queue 'q': change it in the topology."),
        ("PRECONDITION_FAILED - invalid arg 'x-expires' for queue 'q' in vhost '/': {value_zero,0}",
         "The broker refuses x-expires (expires) on the queue 'q' ({value_zero,0}): change it in the topology."),
        ("PRECONDITION_FAILED - invalid property 'non-durable' for queue 'q' in vhost '/'",
         "The broker refuses non-durable on the queue 'q': change it in the topology."),
        ("NOT_FOUND - no exchange 'x' in vhost '/'", "The broker refuses queue 'q': NOT_FOUND - no exchange 'x' in vhost '/'."),
    ],
)  # fmt: skip
def test_conflicts_are_explained(text: str, sentence: str) -> None:
    assert explain_conflict(text, DeclareQueue("q")).startswith(sentence)


def test_a_queue_from_before_dropped_messages_were_told_may_stay() -> None:
    text = "PRECONDITION_FAILED - inequivalent arg 'x-dead-letter-exchange' for queue 'q' in vhost '/': received 'amqtask.dropped' but current is ''"  # fmt: skip
    said = explain_conflict(text, DeclareQueue("q"))

    assert "with x-dead-letter-exchange (dead_letter) ''" in said
    assert "dead_letter: {exchange: '', routing_key: q.dead}" in said


@pytest.mark.parametrize(
    ("declaration", "begin"),
    [
        (DeclareExchange("e", "topic"), "Exchange 'e' exists on the broker with type that differs, and the topology declares it with topic: "),
        (DeclareQueue("e", durable=False), "Queue 'e' exists on the broker with type that differs, and the topology declares it without it: "),
    ],
)  # fmt: skip
def test_an_answer_that_was_cut_off_still_names_the_argument(
    declaration: Declaration, begin: str
) -> None:
    text = "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'e' in vhost '/': rec..."

    assert explain_conflict(text, declaration).startswith(begin)


def test_a_refused_binding_names_its_end() -> None:
    assert explain_conflict("NOT_FOUND - no queue", BindQueue("q", "e")).startswith("The broker refuses queue 'q': ")  # fmt: skip
    assert explain_conflict("NOT_FOUND", BindExchange("d", "s")) == "The broker refuses exchange 'd': NOT_FOUND."  # fmt: skip


def test_dead_letters_that_keep_their_key_bring_all_queues_behind() -> None:
    shape = topology("""
exchanges: {failed: {type: topic}}
queues:
  a: {dead_letter: {exchange: failed}, bindings: [{exchange: amq.topic, routing_key: "x.#"}]}
  sink: {dead_letter: false, bindings: [{exchange: failed, routing_key: "x.#"}]}
""")

    assert names(declarations(shape, ["a", "a"])) == ["failed", DROPPED, "a", "sink", DROPPED]


# ---------------------------------------------------------------- the real broker


@pytest.fixture
def prefix(broker: Broker) -> Iterator[str]:
    """The beginning of names nobody else uses; all that begins with it is deleted afterwards."""
    name = f"plan-{uuid.uuid4().hex[:8]}-"
    yield name
    with broker.channel() as channel:
        for kind in ("one", "two", "three", "four", "five", "six", "seven", "eight"):
            for queue in (f"{name}{kind}", f"{name}{kind}.dead", f"{name}{kind}{'q' * 150}"):
                channel.queue_delete(queue)
            channel.exchange_delete(f"{name}{kind}")


def live(broker: Broker, kind: str, name: str) -> dict[str, Any]:
    vhost = urllib.parse.quote(broker.vhost, safe="")
    found: dict[str, Any] = broker.api("GET", f"/api/{kind}/{vhost}/{name}")
    return found


EVERYTHING = """
exchanges:
  PREone: {type: topic, alternate_exchange: PREtwo}
  PREtwo: {type: fanout, internal: true}
  PREthree: {type: headers, auto_delete: true, bindings: [{exchange: PREone, routing_key: "a.#"}]}
  PREfour: {type: direct, durable: false, arguments: {x-note: [1, {a: text}]}}
queues:
  PREone: {bindings: [{exchange: PREone, routing_key: "a.*"}, {exchange: amq.topic, routing_key: b}], consumer_timeout: 2h, delivery_limit: 7}
  PREtwo: {type: classic, max_priority: 9, message_ttl: 1h30m, expires: 2d, max_length: 10, max_length_bytes: 16MiB,
           overflow: reject-publish-dlx, single_active_consumer: true, bindings: [{exchange: PREtwo}]}
  PREthree: {type: stream, max_length_bytes: 1GB, bindings: [{exchange: PREthree, arguments: {x-match: any, a: 1, b: null}}]}
  PREfour: {dead_letter: {exchange: PREtwo}, message_ttl: 0, max_length: 10, single_active_consumer: true}
  PREfive: {dead_letter: false, overflow: drop-head, max_length: 3, expires: 1d}
  PREseven: {dead_letter: {ttl: 1d, max_length: 10, max_length_bytes: 1MB}}
  PREeight: {type: classic, dead_letter: {ttl: 1d, max_length: 10}}
  PREsix: {type: classic, durable: false, dead_letter: false}
"""


@pytest.mark.broker
def test_the_broker_takes_everything_a_file_can_say(broker: Broker, prefix: str) -> None:
    shape = topology(EVERYTHING.replace("PRE", prefix))
    found = declarations(shape)

    with broker.channel() as channel:
        for _ in range(2):  # declaring again changes nothing
            for declaration in found:
                declare(channel, declaration)

    for declaration in found:
        if isinstance(declaration, DeclareQueue):
            assert compare(declaration, live(broker, "queues", declaration.name)) == ()
        elif isinstance(declaration, DeclareExchange):
            assert compare(declaration, live(broker, "exchanges", declaration.name)) == ()


@pytest.mark.broker
def test_the_brokers_own_words_are_explained(broker: Broker, prefix: str) -> None:
    def conflict(name: str, first: dict[str, Any], second: dict[str, Any]) -> str:
        shapes = [declare_queue(Queue(name=name, **q)) for q in (first, second)]
        with broker.channel() as channel:
            declare(channel, shapes[0])
            with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
                declare(channel, shapes[1])
        return explain_conflict(caught.value.reply_text, shapes[1])

    assert conflict(f"{prefix}one", {"type": "classic", "max_priority": 5}, {"type": "classic", "max_priority": 9}).startswith(
        f"Queue '{prefix}one' exists on the broker with x-max-priority (max_priority) 5, and the topology declares it with 9: "
    )  # fmt: skip
    assert conflict(f"{prefix}two", {"type": "classic", "max_priority": 5}, {"type": "classic"}).startswith(
        f"Queue '{prefix}two' exists on the broker with x-max-priority (max_priority) 5, and the topology declares it without it: "
    )  # fmt: skip
    assert conflict(f"{prefix}three", {"type": "classic"}, {"type": "quorum"}).startswith(
        f"Queue '{prefix}three' exists on the broker with x-queue-type (type) classic, and the topology declares it with quorum: "
    )  # fmt: skip
    # so long a name that the broker's answer is cut off
    long = f"{prefix}four{'q' * 150}"
    assert conflict(long, {"type": "classic", "max_priority": 5}, {"type": "classic", "max_priority": 9}).startswith(
        f"Queue '{long}' exists on the broker with "
    )  # fmt: skip
