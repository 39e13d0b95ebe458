"""The routing simulation: rules by example, against a naive reference, and against a real broker."""

from __future__ import annotations

import uuid
from itertools import pairwise
from typing import Any

import pika
import pika.exceptions
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pika.adapters.blocking_connection import BlockingChannel

from amqtask.errors import ConfigurationError
from amqtask.settings import TaskRoute
from amqtask.topology.keys import Shape, render
from amqtask.topology.model import Binding, Exchange, Queue, Topology
from amqtask.topology.parse import parse
from amqtask.topology.plan import (
    BindExchange,
    BindQueue,
    Declaration,
    DeclareExchange,
    DeclareQueue,
    declarations,
)
from amqtask.topology.routes import Router
from amqtask.topology.simulate import explain_task, headers_match, may_reach, reach
from tests.brokers import Broker


def topology(text: str) -> Topology:
    return parse(f"version: 1\n{text}", "t.yaml")


def test_the_default_exchange_leads_to_the_queue_of_that_name() -> None:
    shape = topology("queues: {a: {}}")

    assert reach(shape, "", "a").queues == {"a"}
    assert reach(shape, "", "a.dead").queues == {"a.dead"}
    assert reach(shape, "", "b").queues == frozenset()


def test_each_type_of_exchange() -> None:
    shape = topology("""
exchanges: {d: {type: direct}, t: {type: topic}, f: {type: fanout}, h: {type: headers}}
queues:
  one: {bindings: [{exchange: d, routing_key: k}, {exchange: t, routing_key: "a.*"}, {exchange: f},
                   {exchange: h, arguments: {x-match: any, color: red, size: 3}}]}
  two: {bindings: [{exchange: d, routing_key: K}, {exchange: t, routing_key: "a.#"}, {exchange: f},
                   {exchange: h, arguments: {color: red, size: 3}}]}
""")

    assert reach(shape, "d", "k").queues == {"one"}
    assert reach(shape, "d", "").queues == frozenset()
    assert reach(shape, "t", "a").queues == {"two"}
    assert reach(shape, "t", "a.b").queues == {"one", "two"}
    assert reach(shape, "f", "whatever").queues == {"one", "two"}
    assert reach(shape, "h", "", {"color": "red"}).queues == {"one"}
    assert reach(shape, "h", "", {"color": "red", "size": 3}).queues == {"one", "two"}
    assert reach(shape, "h", "").queues == frozenset()


def test_exchange_bindings_may_go_in_circles() -> None:
    shape = topology("""
exchanges:
  a: {type: topic, bindings: [{exchange: b, routing_key: "#"}]}
  b: {type: topic, bindings: [{exchange: a, routing_key: "x.#"}]}
queues: {q: {bindings: [{exchange: b, routing_key: "#"}]}}
""")

    assert reach(shape, "a", "x.y").queues == {"q"}
    assert reach(shape, "a", "y").queues == frozenset()
    assert [step.destination for step in reach(shape, "a", "x").paths["q"]] == ["b", "q"]


def test_an_alternate_exchange_gets_what_matches_no_binding() -> None:
    shape = topology("""
exchanges:
  a: {type: direct, alternate_exchange: rest}
  rest: {type: fanout}
  empty: {type: direct, bindings: [{exchange: a, routing_key: dead-end}]}
queues:
  q: {bindings: [{exchange: a, routing_key: k}]}
  r: {bindings: [{exchange: rest}]}
""")

    assert reach(shape, "a", "k").queues == {"q"}
    assert reach(shape, "a", "other").queues == {"r"}
    assert reach(shape, "a", "other").paths["r"][0].via == "alternate"
    # a binding that matched counts as routed, though nothing lies behind it
    assert reach(shape, "a", "dead-end").queues == frozenset()


def test_an_unknown_exchange_is_an_error_with_the_nearest_name() -> None:
    shape = topology("exchanges: {tasks: {type: topic}}")

    with pytest.raises(ConfigurationError, match=r"t\.yaml declares no exchange 'taks'; did you"):
        reach(shape, "taks", "k")


@pytest.mark.parametrize(
    ("arguments", "headers", "matches"),
    [
        ({}, {}, True),
        ({"x-match": "any"}, {"a": 1}, False),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": "1"}, {"a": 1}, False),
        ({"a": None}, {"a": 5}, True),
        ({"a": None}, {}, False),
        ({"x-match": "any", "a": 1, "b": 2}, {"b": 2}, True),
        ({"x-match": "all", "x-a": 1}, {}, True),
        ({"x-match": "all-with-x", "x-a": 1}, {}, False),
        ({"x-match": "all-with-x", "x-a": 1}, {"x-a": 1}, True),
        ({"x-match": "any-with-x", "x-a": 1, "b": 2}, {"x-a": 1}, True),
        ({"x-match": "any", "x-a": 1}, {"x-a": 1}, False),
    ],
)
def test_headers(arguments: dict[str, Any], headers: dict[str, Any], matches: bool) -> None:
    assert headers_match(arguments, headers) is matches


def test_a_task_is_explained() -> None:
    shape = topology("""
exchanges: {tasks: {type: topic}}
queues: {email: {bindings: [{exchange: tasks, routing_key: "email.#"}]}, slow: {}}
routes: [{task: "shop.email.*", exchange: tasks, routing_key: "email.{name}", priority: 5}]
""")
    router = Router(shape, {"shop.slow.*": TaskRoute(queue="slow")}, "email")

    found = explain_task(shape, router, "shop.email.send")
    assert found.origin == "t.yaml: routes[0]"
    assert found.route.routing_key == "email.send"
    assert found.reach.queues == {"email"}
    assert explain_task(shape, router, "shop.slow.x").origin == "task_routes['shop.slow.*']"
    assert explain_task(shape, router, "other").origin == "the default queue"


# ---------------------------------------------------------------- random topologies

WORD = st.sampled_from(["a", "b", ""])
KEY = st.lists(WORD, max_size=4).map(".".join)
PATTERN = (
    st.lists(st.sampled_from(["a", "b", "", "*", "#"]), max_size=4)
    .filter(lambda parts: parts.count("#") <= 2)  # RabbitMQ refuses more since 4.3.5
    .map(".".join)
)
VALUE = st.sampled_from(["red", "1", 1, 2, True, False, None])
HEADERS = st.dictionaries(st.sampled_from(["color", "size", "x-kind"]), VALUE, max_size=3)
MATCH = st.sampled_from([None, "all", "any", "all-with-x", "any-with-x"])
NAMES = ["e0", "e1", "e2", "e3"]


@st.composite
def bindings(draw: st.DrawFn, prefix: str) -> Binding:
    arguments = dict(draw(HEADERS))
    match = draw(MATCH)
    if match is not None:
        arguments["x-match"] = match
    return Binding(prefix + draw(st.sampled_from(NAMES)), draw(st.one_of(KEY, PATTERN)), arguments)


@st.composite
def topologies(draw: st.DrawFn, prefix: str = "") -> Topology:
    exchanges = {}
    for name in NAMES:
        alternate = draw(st.one_of(st.none(), st.sampled_from(NAMES)))
        exchanges[prefix + name] = Exchange(
            name=prefix + name,
            type=draw(st.sampled_from(["direct", "topic", "fanout", "headers"])),
            alternate_exchange=None if alternate is None else prefix + alternate,
            bindings=tuple(draw(st.lists(bindings(prefix), max_size=2))),
        )
    queues = {
        prefix + name: Queue(
            name=prefix + name,
            type="classic",
            bindings=tuple(draw(st.lists(bindings(prefix), max_size=3))),
        )
        for name in ("q0", "q1", "q2")
    }
    return Topology(exchanges=exchanges, queues=queues)


@given(topologies(), st.sampled_from(["", *NAMES]), KEY, HEADERS)
def test_what_is_reached_may_be_reached(
    shape: Topology, exchange: str, key: str, headers: dict[str, Any]
) -> None:
    found = reach(shape, exchange, key, headers)

    assert found.queues <= may_reach(shape, exchange, Shape(key))
    assert found.queues <= may_reach(shape, exchange, Shape(pattern="#"))
    for queue, path in found.paths.items():
        assert path[0].exchange == exchange
        assert path[-1].destination == queue
        assert all(one.destination == two.exchange for one, two in pairwise(path))


@given(topologies(), st.sampled_from(NAMES), st.sampled_from(["a", "b", "x.a"]))
def test_what_a_route_can_reach_is_never_missed(shape: Topology, exchange: str, task: str) -> None:
    for template in ("{name}", "a.{task}", "{task}.b"):
        possible = may_reach(shape, exchange, Shape.of_route(template, "*"))

        assert reach(shape, exchange, render(template, task)).queues <= possible


# ---------------------------------------------------------------- the real broker


def declare(channel: BlockingChannel, declaration: Declaration) -> None:
    match declaration:
        case DeclareExchange():
            channel.exchange_declare(
                declaration.name,
                declaration.type,
                durable=declaration.durable,
                auto_delete=declaration.auto_delete,
                internal=declaration.internal,
                arguments=dict(declaration.arguments),
            )
        case DeclareQueue():
            channel.queue_declare(
                declaration.name,
                durable=declaration.durable,
                arguments=dict(declaration.arguments),
            )
        case BindQueue():
            channel.queue_bind(
                declaration.queue,
                declaration.exchange,
                declaration.routing_key,
                dict(declaration.arguments),
            )
        case BindExchange():
            channel.exchange_bind(
                declaration.destination,
                declaration.source,
                declaration.routing_key,
                dict(declaration.arguments),
            )


make_properties: Any = pika.BasicProperties  # pika has no annotations here
PREFIX = f"simulate-{uuid.uuid4().hex[:8]}-"


@pytest.mark.broker
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=topologies(PREFIX),
    messages=st.lists(
        st.tuples(st.sampled_from(NAMES), KEY, HEADERS, st.lists(KEY, max_size=2)),
        min_size=1,
        max_size=6,
    ),
)
def test_the_broker_routes_as_the_simulation_says(
    broker: Broker, shape: Topology, messages: list[tuple[str, str, dict[str, Any], list[str]]]
) -> None:
    with broker.channel() as channel:
        channel.confirm_delivery()
        try:
            for declaration in declarations(shape):
                declare(channel, declaration)
            for name, key, headers, copies in messages:
                headers = {**headers, "CC": copies} if copies else headers
                predicted = reach(shape, PREFIX + name, key, headers).queues
                try:
                    channel.basic_publish(
                        PREFIX + name,
                        key,
                        b"",
                        make_properties(headers=headers),
                        mandatory=True,
                    )
                    returned = False
                except pika.exceptions.UnroutableError:
                    returned = True
                got = {
                    q for q in shape.queues if channel.basic_get(q, auto_ack=True)[0] is not None
                }
                again = {
                    q for q in shape.queues if channel.basic_get(q, auto_ack=True)[0] is not None
                }

                assert got == predicted
                assert not again  # no queue gets a message twice
                assert returned == (not predicted)
        finally:
            for name in shape.queues:
                channel.queue_delete(name)
            for name in shape.exchanges:
                channel.exchange_delete(name)
