"""Which queues hold the dead letters that somebody means."""

from __future__ import annotations

from collections.abc import Iterable

from amqtask.errors import ConfigurationError
from amqtask.topology import ladder, plan
from amqtask.topology.model import Topology, dead_queue_name


def queues_of(topology: Topology | None, names: Iterable[str]) -> tuple[str, ...]:
    """The queues of dead letters that names stand for: those of a work queue, or the queue itself.

    Args:
        topology: tells where the dead letters of a queue go; without one it is ``<name>.dead``.
        names: of work queues or of queues of dead letters; none is all of the topology.

    Raises:
        ConfigurationError: no name and no topology, or a queue that has no dead letters.
    """
    wanted = list(names)
    if not wanted:
        if topology is None:
            raise ConfigurationError(
                "Which dead letters? Name a queue, or give a topology with -f, or an app with -A or AMQTASK_APP."
            )
        wanted = list(topology.queues)
        return tuple(dict.fromkeys(q for name in wanted for q in plan.dead_queues(topology, name)))
    found: list[str] = []
    holders = (
        {q for name in topology.queues for q in plan.dead_queues(topology, name)}
        if topology
        else set()
    )
    for name in wanted:
        theirs = plan.dead_queues(topology, name) if topology is not None else ()
        if theirs:
            found += theirs
        elif name in holders or name.endswith(".dead") or ladder.holds_unroutable(name):
            found.append(name)
        elif topology is not None and name in topology.queues:
            raise ConfigurationError(
                f"Queue {name!r} has no dead letters: {topology.source} gives it dead_letter: false."
            )
        else:
            found.append(dead_queue_name(name))
    return tuple(dict.fromkeys(found))
