"""The delay ladder: which steps a message passes, where it comes out, what it is called."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask.topology.keys import topic_matches
from amqtask.topology.ladder import (
    LONGEST,
    STEPS,
    TICK,
    Ladder,
    holds_unroutable,
    prefix_of,
    prefix_of_file,
    prefix_problem,
    queue_of,
    word,
)
from amqtask.topology.plan import BindExchange, BindQueue, DeclareExchange, DeclareQueue

LADDER = Ladder("shop")
QUEUES = st.text(st.characters(codec="utf-8"), min_size=1).filter(
    lambda name: len(name.encode()) <= 255
)


def journey(delay: float, queue: str, others: tuple[str, ...] = ()) -> tuple[list[float], set[str]]:
    """The times a message waits, step by step, and the queues it comes out in, by the broker's rules."""
    declared = [*LADDER.declarations(), *(LADDER.target(each) for each in (queue, *others))]
    holds = {each.name: each for each in declared if isinstance(each, DeclareQueue)}
    exchange, key = LADDER.entry(delay, queue)
    waited: list[float] = []
    while True:
        exchanges, reached = [exchange], set()
        for name in exchanges:
            for each in declared:
                if isinstance(each, BindQueue) and each.exchange == name:
                    if each.queue == LADDER.unroutable or topic_matches(each.routing_key, key):
                        reached.add(each.queue)
                elif (
                    isinstance(each, BindExchange)
                    and each.source == name
                    and topic_matches(each.routing_key, key)
                ):
                    exchanges.append(each.destination)
        steps = [
            name for name in reached if name in holds and "x-message-ttl" in holds[name].arguments
        ]
        if not steps:
            return waited, reached
        assert reached == set(steps)
        assert len(steps) == 1, "a message waits in one step at a time"
        arguments = holds[steps[0]].arguments
        waited.append(arguments["x-message-ttl"] / 1000)
        exchange = arguments["x-dead-letter-exchange"]


@given(st.floats(0, LONGEST), QUEUES)
def test_a_message_waits_as_long_as_it_should_and_comes_to_its_queue(
    delay: float, queue: str
) -> None:
    waited, reached = journey(delay, queue)

    assert reached == {queue}
    assert waited == sorted(set(waited), reverse=True)
    assert 0 <= sum(waited) - delay + 1e-6 <= TICK + 2e-6 or (delay < TICK and waited == [TICK])


@given(st.integers(1, 2**STEPS - 1))
def test_it_passes_exactly_the_set_bits(ticks: int) -> None:
    waited, _ = journey(ticks * TICK, "q")

    assert waited == [2**bit * TICK for bit in range(STEPS - 1, -1, -1) if ticks & 2**bit]


def test_it_enters_at_the_highest_set_bit() -> None:
    assert LADDER.entry(0.1, "q") == ("amqtask.shop.delay.00", "0." * 27 + "1.q")
    assert LADDER.entry(0.0, "q").exchange == "amqtask.shop.delay.00"
    assert LADDER.entry(0.11, "q").exchange == "amqtask.shop.delay.01"
    assert LADDER.entry(1.0, "a.b") == ("amqtask.shop.delay.03", "0." * 24 + "1.0.1.0.a%2Eb")


@pytest.mark.parametrize("delay", [LONGEST, LONGEST + 1, 1e15, 3.2e11])
def test_what_is_too_long_enters_at_the_top(delay: float) -> None:
    assert LADDER.entry(delay, "q") == ("amqtask.shop.delay.27", "1." * 28 + "q")


@given(st.floats(0, LONGEST), st.integers(0, 2**STEPS), QUEUES)
def test_what_waited_elsewhere_enters_lower(delay: float, ticks: int, queue: str) -> None:
    entry = LADDER.entry(delay, queue)
    held = int(entry.routing_key[: 2 * STEPS].replace(".", ""), 2)

    sooner = LADDER.sooner(entry.routing_key, ticks)

    assert sooner == LADDER.entry(max(1, held - ticks) * TICK, queue)


@given(st.lists(QUEUES, min_size=1, max_size=6, unique=True))
def test_other_queues_do_not_get_it(queues: list[str]) -> None:
    _, reached = journey(0.3, queues[0], tuple(queues[1:]))

    assert reached == {queues[0]}


@given(QUEUES, QUEUES)
def test_words(one: str, other: str) -> None:
    assert not set(word(one)) & set(".*#")
    assert len(LADDER.entry(LONGEST, one).routing_key.encode()) <= 255
    assert len(LADDER.target(one).routing_key.encode()) <= 255
    assert (word(one) == word(other)) == (one == other)


@given(QUEUES)
def test_the_queue_is_read_back_from_a_routing_key(queue: str) -> None:
    found = queue_of(LADDER.entry(5.0, queue).routing_key)

    assert found in (queue, None)
    assert found == queue or len(queue.encode()) > 60
    assert queue_of("not.from.a.ladder") is None


def test_names_of_what_found_no_queue() -> None:
    assert holds_unroutable(LADDER.unroutable)
    assert holds_unroutable(Ladder().unroutable)
    assert not holds_unroutable("shop.delay.unroutable")
    assert not holds_unroutable(LADDER.step(0))


def test_no_name_can_pass_for_the_hash_of_another() -> None:
    long = "x" * 255
    assert len(word(long)) == 65
    assert word(word(long)) != word(long)


def test_every_step_survives_the_brokers_death() -> None:
    names = {each.name for each in LADDER.declarations() if isinstance(each, DeclareExchange)}
    for each in LADDER.declarations():
        if isinstance(each, DeclareQueue) and each.name != LADDER.unroutable:
            arguments = each.arguments
            assert arguments["x-queue-type"] == "quorum"
            assert arguments["x-dead-letter-strategy"] == "at-least-once"
            assert (
                arguments["x-overflow"] == "reject-publish"
            )  # without it the broker falls back silently
            assert arguments["x-dead-letter-exchange"] in names


def test_the_longest_wait() -> None:
    assert math.isclose(LONGEST / 86400, 310.69, abs_tol=0.01)


def test_a_ladder_without_a_prefix() -> None:
    assert Ladder().step(7) == "amqtask.delay.07"
    assert Ladder("a").delivery == "amqtask.a.delay.deliver"


def test_prefixes() -> None:
    assert prefix_of_file("routing/shop.yaml") == "shop"
    assert prefix_of_file("routing/shop.eu.yml") == "shop.eu"
    assert prefix_of("the built-in topology") == "the-built-in-topology"
    assert prefix_of("***") == "app"
    assert prefix_of("-a-") == "a"
    assert prefix_problem("shop_2.eu-west") is None
    assert "letters" in (prefix_problem("-a") or "")
    assert "letters" in (prefix_problem("") or "")
    assert "100" in (prefix_problem("a" * 101) or "")


@given(st.text())
def test_any_name_makes_a_prefix(name: str) -> None:
    assert prefix_problem(prefix_of(name)) is None
