"""The broker takes a message back from a task that runs too long: nothing runs for ever, nothing is lost, the node goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from amqtask.topology.holding import CONSUMER_TIMEOUTS
from tests.acceptance.nodes import Place
from tests.brokers import Broker, OwnBroker
from tests.waiting import eventually

Places = Callable[..., Place]

LONG = 6.0  # seconds of the task that is longer than the timeout of two
CANCELLED = "the broker cancelled a consumer; consuming again on a new channel"
CLOSED = "the broker closed the channel of a queue; consuming again on a new one"
GLOBAL = "application:set_env(rabbit, consumer_timeout, {}), ok."
TICK = "[Channel ! tick || Channel <- rabbit_channel:list()], ok."  # what the broker does once a minute


@pytest.fixture
def impatient(own: OwnBroker) -> Iterator[OwnBroker]:
    """A broker that lets consumers hold a message for two seconds, where a queue cannot say so itself."""
    old = own.version < CONSUMER_TIMEOUTS
    if old:
        own.ctl("eval", GLOBAL.format(2000))
    yield own
    if old:
        own.ctl("eval", GLOBAL.format(1_800_000))


@pytest.mark.parametrize("flags", [(), ("--prefetch-multiplier", "4")], ids=["paused", "consuming"])
def test_a_task_that_outlasts_the_timeout(
    place: Places, impatient: OwnBroker, flags: tuple[str, ...]
) -> None:
    at = place(on=impatient, type="quorum", queue={"consumer_timeout": "2s"})
    node = at.node("-c1", *flags, "-Q", at.queue)
    results = [at.send("note", "long", LONG)]
    at.saw("start", "long")
    results += [at.send("note", f"short-{number}") for number in range(4)]

    def taken_back() -> bool:
        if impatient.version < CONSUMER_TIMEOUTS:
            impatient.ctl("eval", TICK)
        return bool(node.records(CANCELLED) or node.records(CLOSED))

    eventually(taken_back, 10)
    if impatient.version >= CONSUMER_TIMEOUTS and flags:
        assert node.records(CANCELLED)  # while there is a consumer, it is what the broker ends
    else:
        assert "timed out" in node.records(CLOSED)[0]["reason"]
    at.saw("end", "long")
    at.finished(5, 3)  # it works again at once, on a new channel
    for result in results:
        result.get(timeout=10)

    # the short ones once each; the long one is not run again by the process that has run it
    assert at.count("end") == {"long": 1, **{f"short-{number}": 1 for number in range(4)}}
    # copies of the long one may be on their way to the node, neither ready nor held: they are answered for when they come
    eventually(lambda: in_queue(at, impatient) == 0)
    assert node.stop() == 0
    assert in_queue(at, impatient) == at.depth(at.dead) == 0


def in_queue(at: Place, broker: OwnBroker) -> int:
    """Messages of the place's queue, those that consumers hold among them."""
    lines = broker.ctl("list_queues", "--no-table-headers", "name", "messages").splitlines()
    found = dict(line.split() for line in lines if line.startswith("work-"))
    return int(found[at.queue])


def consumers(at: Place) -> list[dict[str, Any]]:
    """The consumers of the place's queue, as the management API lists them."""
    with contextlib.suppress(AssertionError):
        found = at.broker.api("GET", f"/api/consumers/{quote(at.broker.vhost, safe='')}")
        return [each for each in found if each["queue"]["name"] == at.queue]
    return []


@pytest.mark.parametrize(
    ("kind", "settings", "queue", "asked"),
    [
        ("quorum", {}, {}, 315_360_000_000),
        ("quorum", {"task_time_limit": 7200}, {}, 7_500_000),
        ("quorum", {"task_time_limit": 7200}, {"consumer_timeout": "1h"}, None),
        ("classic", {}, {}, None),
    ],
    ids=["no limit", "limit", "the queue's own", "classic"],
)
def test_what_consumers_ask_for(
    place: Places,
    broker: Broker,
    kind: str,
    settings: dict[str, Any],
    queue: dict[str, Any],
    asked: int | None,
) -> None:
    at = place(type=kind, queue=queue, **settings)
    node = at.node("-c1", "-Q", at.queue)
    (consumer,) = eventually(lambda: consumers(at), 20, interval=0.2)
    argument = dict(consumer["arguments"] or {}).get("x-consumer-timeout")

    if broker.version < CONSUMER_TIMEOUTS:
        assert argument is None
        (warning,) = [
            line for line in node.records() if "takes a message of queue" in line["event"]
        ]
        assert "consumer_timeout in rabbitmq.conf" in warning["event"]
    else:
        assert argument == asked
    assert node.stop() == 0
