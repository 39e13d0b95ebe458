"""What the processes of a chaos run must know of it: a file in the run's folder, whose path the environment carries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from amqtask.errors import ConfigurationError
from amqtask.topology.ladder import STEPS, Ladder
from amqtask.topology.model import Delays, Queue, Topology

VARIABLE = "AMQTASK_CHAOS_RUN"
"""Names the run's folder to every process of the run, and so marks them."""

QueueKind = Literal["quorum", "classic"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Times are seconds.

    Attributes:
        tag: in the names of queues and in the ids of tasks, so that two runs on one broker never meet.
        queue_type: of the work queue.
        seed: chooses tasks and bursts.
        tasks: how many are published.
        kinds: of tasks; all when empty.
        publishers: processes that publish, each its share.
        duration: over which they spread their sends.
        started: when they begin, on the monotonic clock.
        heartbeat: of all connections; short, so that a frozen connection is noticed within the run.
    """

    tag: str
    queue_type: QueueKind = "quorum"
    seed: int = 1
    tasks: int = 1000
    kinds: tuple[str, ...] = ()
    publishers: int = 2
    duration: float = 60.0
    started: float = 0.0
    heartbeat: int = 4

    @property
    def queue(self) -> str:
        """The work queue."""
        return f"amqtask-chaos-{self.tag}"

    @property
    def topology(self) -> Topology:
        """The work queue, with a queue for its dead letters."""
        queue = Queue(name=self.queue, type=self.queue_type, dead_letter=True, delivery_limit=100)
        if self.queue_type == "classic":
            queue = Queue(name=self.queue, type="classic", dead_letter=True)
        return Topology(
            queues={self.queue: queue},
            delays=Delays(prefix=f"chaos-{self.tag}"),
            source="the topology of the chaos run",
        )

    @property
    def ladder(self) -> Ladder:
        """Where tasks wait until they are due."""
        return Ladder(self.topology.delays.prefix)

    @property
    def waiting_rooms(self) -> tuple[str, ...]:
        """The queues of the ladder."""
        ladder = self.ladder
        return (*(ladder.step(number) for number in range(STEPS)), ladder.unroutable)

    def id(self, number: int) -> str:
        """The id of a task."""
        return f"chaos-{self.tag}-{number}"

    def write(self, folder: Path) -> None:
        """Put the plan where the processes of the run find it; at once, so that none reads half of it."""
        new = folder / "plan.new"
        new.write_bytes(msgspec.json.encode(self))
        new.replace(folder / "plan.json")

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan of a run.

        Raises:
            ConfigurationError: there is none in the folder.
        """
        try:
            return msgspec.json.decode((folder / "plan.json").read_bytes(), type=cls)
        except OSError as error:
            raise ConfigurationError(
                f"{folder} is no folder of a chaos run ({error.strerror}): run `amqtask chaos`."
            ) from error


def run_folder() -> Path:
    """The folder of the run that this process belongs to.

    Raises:
        ConfigurationError: it belongs to none.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        raise ConfigurationError(
            f"{VARIABLE} is not set: this app belongs to `amqtask chaos`, which starts it."
        )
    return Path(named)
