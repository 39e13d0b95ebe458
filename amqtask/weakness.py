"""What makes a broker keep less, or survive less, than the declarations of a topology ask for, and of which it tells nobody.

From what the management API lists; nothing is asked here. ``amqtask doctor`` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amqtask.findings import Finding, fail, warn
from amqtask.topology import plan
from amqtask.topology.ladder import Ladder
from amqtask.topology.model import Topology

Listed = Mapping[str, Any]  # an object as the management API lists it

NEARLY = 0.9  # of a limit


def troubled_nodes(nodes: Sequence[Listed]) -> list[Finding]:
    """Nodes that hold publishers back or soon will, that are down, or that the network has split off."""
    findings = []
    for node in nodes:
        name = node.get("name")
        if node.get("running") is False:
            findings.append(
                warn("management", f"node {name} of the cluster is down", "start it, or forget it")
            )
            continue
        for what, key in (("memory", "mem_alarm"), ("disk", "disk_free_alarm")):
            if node.get(key):
                findings.append(
                    fail(
                        "management",
                        f"{what} alarm on {name}: publishers are held back",
                        f"free {what} there",
                    )
                )
        if node.get("partitions"):
            findings.append(
                fail(
                    "management",
                    f"the network has split {name} from {', '.join(map(str, node['partitions']))}",
                    "restart the nodes of the smaller side",
                )
            )
        if not node.get("mem_alarm") and _nearly(node.get("mem_used"), node.get("mem_limit")):
            findings.append(
                warn(
                    "management",
                    f"{name} uses more than 90 % of the memory at which it holds publishers back",
                    "see which queues are long (amqtask queue ls), or raise vm_memory_high_watermark",
                )
            )
        if _nearly(node.get("fd_used"), node.get("fd_total")):
            findings.append(
                warn(
                    "management",
                    f"{name} uses {node['fd_used']} of {node['fd_total']} file descriptors",
                    "raise the limit (ulimit -n) of the broker",
                )
            )
    return findings


def _nearly(used: object, limit: object) -> bool:
    return (
        isinstance(used, int | float)
        and isinstance(limit, int | float)
        and limit > 0
        and used > NEARLY * limit
    )


def weakened_queues(
    topology: Topology, queues: Sequence[Listed], nodes: Sequence[Listed]
) -> list[Finding]:
    """Queues of the topology whose policies lose messages, or whose copies are fewer than the cluster could keep.

    Args:
        topology: which queues are ours.
        queues: what the management API lists of the virtual host's queues.
        nodes: what it lists of nodes.
    """
    findings = []
    running = {node.get("name") for node in nodes if node.get("running") is not False}
    ours = topology.all_queues()
    for queue in queues:
        name = queue["name"]
        if name not in ours:
            continue
        policy = queue.get("effective_policy_definition") or {}
        origin = queue.get("policy") or queue.get("operator_policy")
        harms = _of_tasks(queue, policy) if name in topology.queues else _of_letters(queue, policy)
        for key, harm in harms.items():
            findings.append(
                warn(
                    "queues",
                    f"policy {origin!r} sets {key} of queue {name!r}: {harm}",
                    "say so in the topology if it is meant, else leave the queue out of the policy's pattern",
                )
            )
        if "ha-mode" in policy:
            findings.append(
                warn(
                    "queues",
                    f"policy {origin!r} mirrors queue {name!r}, which RabbitMQ 4.0 does no more, and which loses messages "
                    "when nodes come back",
                    "use type: quorum",
                )
            )
        members = queue.get("members") or []
        if queue.get("type") == "quorum" and members:
            online = [each for each in queue.get("online") or [] if each in running]
            if len(online) <= len(members) // 2:
                findings.append(
                    fail(
                        "queues",
                        f"queue {name!r} has {len(online)} of {len(members)} members, no majority: nothing is accepted or handed out",
                        "start the nodes that are down",
                    )
                )
            elif len(online) < len(members):
                findings.append(
                    warn(
                        "queues",
                        f"queue {name!r} has {len(online)} of {len(members)} members",
                        "start the nodes that are down",
                    )
                )
            elif len(members) < min(3, len(nodes)):
                findings.append(
                    warn(
                        "queues",
                        f"queue {name!r} is kept by {len(members)} of {len(nodes)} nodes: it stops with a node of them",
                        f"rabbitmq-queues grow NODE all --queue-pattern {name!r}",
                    )
                )
        elif queue.get("type") == "classic" and len(nodes) > 1 and "ha-mode" not in policy:
            findings.append(
                warn(
                    "queues",
                    f"classic queue {name!r} lives on {queue.get('node')} alone: while that node is down nothing is accepted",
                    "use type: quorum",
                )
            )
    return findings


_LOSING_POLICIES = {
    "message-ttl": "tasks that wait longer do not run",
    "expires": "the broker deletes it with all that waits, while nobody consumes",
    "max-length": "the oldest tasks are dropped when there are more",
    "max-length-bytes": "the oldest tasks are dropped when there are more",
}


def _of_tasks(queue: Listed, policy: Listed) -> dict[str, str]:
    """What a policy does to a queue of tasks, by its key."""
    refuses = _refuses(queue, policy)
    harms = {
        key: harm
        for key, harm in _LOSING_POLICIES.items()
        if key in policy and not (key.startswith("max-length") and refuses)
    }
    if "overflow" in policy and not refuses and _refuses(queue, {}):
        harms["overflow"] = (
            "in place of refusing new tasks when it is full it drops the oldest, and its dead letters are moved at most once"
        )
    return harms


def _of_letters(queue: Listed, policy: Listed) -> dict[str, str]:
    """The same for the queue of dead letters that comes with a queue; a policy may bound that."""
    harms = {}
    if "expires" in policy:
        harms["expires"] = "the broker deletes it with all dead letters, because nobody consumes it"
    arguments = queue.get("arguments") or {}
    bounded = any(
        key in policy or f"x-{key}" in arguments for key in ("max-length", "max-length-bytes")
    )
    if bounded and "overflow" in policy and _refuses(queue, policy):
        harms["overflow"] = "when it is full it refuses new dead letters, which are held up or lost"
    return harms


def _refuses(queue: Listed, policy: Listed) -> bool:
    """Whether a full queue refuses new messages instead of dropping old ones.

    A policy has precedence over the argument in a quorum queue, and the argument over a policy in a classic one (3.10, 4.3).
    """
    own, set_by_policy = (queue.get("arguments") or {}).get("x-overflow"), policy.get("overflow")
    if queue.get("type") == "quorum":
        return (
            set_by_policy or own
        ) == "reject-publish"  # it takes reject-publish-dlx for drop-head
    return str(own or set_by_policy).startswith("reject-publish")


def weakened_ladder(
    ladder: Ladder, queues: Sequence[Mapping[str, Any]], features: Sequence[Mapping[str, Any]]
) -> list[Finding]:
    """What makes the broker keep less than the ladder's declarations ask for, of which it tells nobody.

    Args:
        ladder: the delay ladder.
        queues: what the management API lists of the virtual host's queues.
        features: what it lists of feature flags.
    """
    findings = []
    names = {each.name for each in ladder.declarations() if isinstance(each, plan.DeclareQueue)}
    for queue in queues:
        if queue["name"] not in names:
            continue
        policy = queue.get("effective_policy_definition") or {}
        for key, harm in _HARMFUL_POLICIES.items():
            if key in policy and policy[key] != "reject-publish":
                origin = queue.get("policy") or queue.get("operator_policy")
                findings.append(
                    fail(
                        "delays",
                        f"policy {origin!r} sets {key} of {queue['name']!r}: {harm}",
                        "let the policy's pattern leave out names that begin with 'amqtask.'",
                    )
                )
    if any(
        feature.get("name") == "stream_queue" and feature.get("state") != "enabled"
        for feature in features
    ):
        findings.append(
            fail(
                "delays",
                "feature flag stream_queue is off: the broker moves dead letters at most once, and loses delayed tasks when it "
                "is killed",
                "rabbitmqctl enable_feature_flag stream_queue, and restart the broker",
            )
        )
    return findings


_HARMFUL_POLICIES = {
    "overflow": "the broker then moves messages at most once, and loses delayed tasks when it is killed",
    "max-length": "a full step refuses delayed tasks, or drops them",
    "max-length-bytes": "a full step refuses delayed tasks, or drops them",
    "message-ttl": "tasks come early, and go round again",
    "expires": "the broker deletes the step, with all that waits in it",
}
