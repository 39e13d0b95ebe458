"""Publish: no-op tasks from one process, one after another with each confirmed, and many at a time.

Beside them rabbitmq-c, every message confirmed: what a client without a framework reaches on this broker.
"""

from __future__ import annotations

from functools import partial

from benchmarks.environments import rabbitmq_c
from benchmarks.figures import Size
from benchmarks.frameworks import Framework, run
from benchmarks.place import Place
from benchmarks.system.jobs import Job

WORK = "publish"
LIMIT = "rabbitmq-c"


def jobs(framework: Framework, place: Place, size: Size) -> list[Job]:
    """One job for each way to publish."""
    amounts = {"one": size.calls, "many": size.tasks}
    return [
        Job(
            place, WORK, framework.who, way, label, partial(_publish, framework, place, way, amount)
        )
        for way, amount in amounts.items()
        if (label := framework.about["publish"].get(way))
    ]


def limit(framework: Framework, place: Place, size: Size) -> list[Job]:
    """rabbitmq-c into the queue of a framework.

    Raises:
        Missing: it cannot be built here.
    """
    address = place.address
    login = [address.host, str(address.port), address.user, address.password, address.vhost]
    command = [str(rabbitmq_c()), *login, framework.about["queues"][0], str(size.tasks)]

    def publish() -> dict[str, float]:
        framework.ask(place, "setup")
        place.settle()
        used = place.cpu()
        answer: dict[str, float] = run(command)
        if place.pid is not None:
            answer["broker_us"] = (place.cpu() - used) / size.tasks * 1e6
        return answer

    return [Job(place, WORK, LIMIT, "many", "1,000 unconfirmed at most", publish)]


def _publish(framework: Framework, place: Place, way: str, tasks: int) -> dict[str, float]:
    framework.ask(place, "setup")
    place.settle()
    answer: dict[str, float] = framework.ask(place, "publish", way=way, tasks=tasks)
    return answer
