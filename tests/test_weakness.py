"""What weakens queues behind the back of their declarations is told, and what does not is not."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from amqtask.amqp.address import parse_addresses
from amqtask.amqp.management import Management
from amqtask.amqp.session import Session
from amqtask.diagnosis import check_management
from amqtask.findings import Finding, Status
from amqtask.topology.model import Queue, Topology
from amqtask.weakness import troubled_nodes, weakened_queues
from tests.brokers import Broker
from tests.waiting import eventually

NODE: dict[str, Any] = {
    "name": "rabbit@a",
    "running": True,
    "mem_alarm": False,
    "disk_free_alarm": False,
    "mem_used": 10,
    "mem_limit": 100,
    "fd_used": 10,
    "fd_total": 100,
    "partitions": [],
}
QUORUM: dict[str, Any] = {
    "name": "q",
    "type": "quorum",
    "members": ["a", "b", "c"],
    "online": ["a", "b", "c"],
}
THREE = [NODE | {"name": name} for name in "abc"]
OURS = Topology(queues={"q": Queue(name="q")})


def told(findings: list[Finding]) -> list[tuple[Status, str]]:
    return [(finding.status, finding.text) for finding in findings]


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"mem_alarm": True, "mem_used": 101}, Status.FAIL, "memory alarm on rabbit@a"),
        ({"disk_free_alarm": True}, Status.FAIL, "disk alarm on rabbit@a"),
        ({"partitions": ["rabbit@b"]}, Status.FAIL, "split rabbit@a from rabbit@b"),
        ({"running": False, "mem_used": None}, Status.WARN, "rabbit@a of the cluster is down"),
        ({"mem_used": 95}, Status.WARN, "more than 90 % of the memory"),
        ({"fd_used": 95}, Status.WARN, "95 of 100 file descriptors"),
    ],
)
def test_a_node_in_trouble(change: dict[str, Any], status: Status, words: str) -> None:
    ((found, text),) = told(troubled_nodes([NODE | change, NODE]))

    assert found is status
    assert words in text


def test_a_node_without_trouble() -> None:
    assert troubled_nodes([NODE, {"name": "rabbit@b"}]) == []


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"online": ["a", "b"]}, Status.WARN, "'q' has 2 of 3 members"),
        ({"online": ["a"]}, Status.FAIL, "'q' has 1 of 3 members, no majority"),
        ({"members": ["a"], "online": ["a"]}, Status.WARN, "kept by 1 of 3 nodes"),
        ({"type": "classic", "members": None, "node": "a"}, Status.WARN, "lives on a alone"),
    ],
)
def test_a_queue_that_a_cluster_keeps_badly(
    change: dict[str, Any], status: Status, words: str
) -> None:
    ((found, text),) = told(weakened_queues(OURS, [QUORUM | change], THREE))

    assert found is status
    assert words in text


@pytest.mark.parametrize(
    "policy",
    [{"message-ttl": 5}, {"expires": 5}, {"max-length": 5}, {"ha-mode": "all"}],
    ids=lambda policy: next(iter(policy)),
)
def test_a_policy_that_loses_tasks(policy: dict[str, Any]) -> None:
    queue = QUORUM | {"policy": "tidy", "effective_policy_definition": policy}

    ((found, text),) = told(weakened_queues(OURS, [queue], THREE))

    assert found is Status.WARN
    assert "policy 'tidy'" in text


REJECT = {"x-overflow": "reject-publish"}
CLASSIC: dict[str, Any] = {"name": "q", "type": "classic"}


@pytest.mark.parametrize(
    ("queue", "arguments", "policy", "keys"),
    [
        # as measured on 3.10 and 4.3: in a quorum queue the policy counts, in a classic one the argument
        (QUORUM, REJECT, {"overflow": "drop-head"}, ["overflow"]),
        (QUORUM, REJECT, {"overflow": "reject-publish-dlx"}, ["overflow"]),
        (QUORUM, REJECT, {"overflow": "drop-head", "max-length": 3}, ["max-length", "overflow"]),
        (QUORUM, REJECT, {"max-length": 3}, []),
        (QUORUM, {}, {"overflow": "reject-publish", "max-length": 3}, []),
        (QUORUM, {"x-overflow": "drop-head"}, {"overflow": "drop-head"}, []),
        (CLASSIC, REJECT, {"overflow": "drop-head", "max-length": 3}, []),
        (CLASSIC, {"x-overflow": "drop-head"}, {"overflow": "reject-publish"}, []),
        (CLASSIC, {}, {"overflow": "reject-publish-dlx", "max-length": 3}, []),
        (CLASSIC, {}, {"max-length": 3}, ["max-length"]),
    ],
)
def test_whose_overflow_counts(
    queue: dict[str, Any], arguments: dict[str, Any], policy: dict[str, Any], keys: list[str]
) -> None:
    listed = queue | {
        "members": [],
        "arguments": arguments,
        "policy": "tidy",
        "effective_policy_definition": policy,
    }

    found = told(weakened_queues(OURS, [listed], [NODE]))

    assert [text.split(" of queue")[0] for _, text in found] == [
        f"policy 'tidy' sets {key}" for key in keys
    ]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"max-length": 3, "message-ttl": 5}, []),
        ({"overflow": "reject-publish"}, []),  # it has no limit to reach
        ({"overflow": "reject-publish", "max-length": 3}, ["refuses new dead letters"]),
        ({"expires": 5}, ["deletes it with all dead letters"]),
    ],
)
def test_a_policy_over_the_queue_of_dead_letters(policy: dict[str, Any], words: list[str]) -> None:
    topology = Topology(queues={"q": Queue(name="q", dead_letter=True)})
    queue = QUORUM | {
        "name": "q.dead",
        "policy": "tidy",
        "effective_policy_definition": policy,
    }

    found = told(weakened_queues(topology, [queue], THREE))

    assert len(found) == len(words)
    assert all(word in text for word, (_, text) in zip(words, found, strict=True))


def test_what_weakens_nothing() -> None:
    bounded = {"effective_policy_definition": {"max-length": 5, "delivery-limit": 50}}
    refusing = {"arguments": {"x-overflow": "reject-publish"}}
    foreign = {"name": "foreign", "members": ["a"]}

    assert weakened_queues(OURS, [QUORUM, QUORUM | bounded | refusing, foreign], THREE) == []
    alone = QUORUM | {"members": ["a"], "online": ["a"]}
    assert weakened_queues(OURS, [alone], THREE[:1]) == []


def test_a_policy_of_a_broker(broker: Broker, queue_name: str) -> None:
    if broker.management_url is None:
        assert check_by(broker, queue_name)[0].status is Status.OK  # said to be unchecked
        return
    policy = f"/api/policies/{quote(broker.vhost, safe='')}/{queue_name}"
    with broker.channel() as channel:
        channel.queue_declare(queue_name, durable=True, arguments={"x-queue-type": "quorum"})
    broker.api("PUT", policy, {"pattern": f"^{queue_name}$", "definition": {"message-ttl": 90_000}})
    try:
        found = eventually(
            lambda: [each for each in check_by(broker, queue_name) if each.check == "queues"],
            20,
            interval=0.2,
        )
        assert f"policy {queue_name!r} sets message-ttl of queue {queue_name!r}" in found[0].text
    finally:
        broker.api("DELETE", policy)


def check_by(broker: Broker, queue: str) -> list[Finding]:
    """What the doctor finds with the management API."""
    topology = Topology(queues={queue: Queue(name=queue, dead_letter=False)})
    with Session(parse_addresses(broker.url), name="test") as session:
        management = Management.of(session.address, broker.management_url)
        return check_management(management, session, topology)
