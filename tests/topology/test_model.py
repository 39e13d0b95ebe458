"""The values of a topology."""

from __future__ import annotations

import pytest

from amqtask.errors import ConfigurationError
from amqtask.topology.model import Binding, Exchange, Link, Queue, Topology

SHAPE = Topology(
    exchanges={"e": Exchange(name="e", type="topic"), "f": Exchange(name="f", bindings=(Binding("e", "#"),))},
    queues={"q": Queue(name="q", dead_letter=True, bindings=(Binding("f", "k"),)), "r": Queue(name="r", type="classic")},
    source="t.yaml",
)  # fmt: skip


def test_bindings_have_both_their_ends() -> None:
    assert SHAPE.bindings == (
        Link("exchange", "f", Binding("e", "#")),
        Link("queue", "q", Binding("f", "k")),
    )


def test_dead_letter_queues_count_as_queues() -> None:
    assert list(SHAPE.all_queues()) == ["q", "r", "q.dead"]
    assert SHAPE.queue("q.dead") == Queue(name="q.dead", type="quorum")


def test_an_unknown_queue() -> None:
    with pytest.raises(ConfigurationError, match=r"^t\.yaml declares no queue 'q\.daed'; did you mean 'q\.dead'\?$"):  # fmt: skip
        SHAPE.queue("q.daed")
    with pytest.raises(ConfigurationError, match=r"^t\.yaml declares no queue 'zzz'\.$"):
        SHAPE.queue("zzz")


def test_types_of_exchanges() -> None:
    assert SHAPE.exchange_type("e") == "topic"
    assert SHAPE.exchange_type("amq.match") == "headers"
    assert SHAPE.exchange_type("zzz") is None


def test_highest_priorities() -> None:
    assert Queue(name="q").highest_priority == 31
    assert Queue(name="q", type="classic").highest_priority is None
    assert Queue(name="q", type="classic", max_priority=9).highest_priority == 9
