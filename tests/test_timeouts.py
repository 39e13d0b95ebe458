"""Tasks that may outlast what the broker lets a consumer hold."""

from __future__ import annotations

from typing import Any

from amqtask import App
from amqtask.timeouts import outlasting
from amqtask.topology.parse import parse

TOPOLOGY = """
version: 1
queues: {slow: {consumer_timeout: 1h}, default: {}, old: {type: classic}}
routes: [{task: "*.slow", queue: slow}, {task: "*.old", queue: old}]
"""


def shop(**settings: Any) -> App:
    app = App("shop", topology=parse(TOPOLOGY, "t.yaml"), **settings)

    @app.task(name="a.slow", time_limit=7200)
    def slow() -> None: ...

    @app.task(name="a.old", time_limit=7200)
    def old() -> None: ...

    @app.task(name="a.quick")
    def quick() -> None: ...

    return app


def test_each_version_has_its_own_remedy() -> None:
    app = shop(task_time_limit=10.0)

    on_310 = {each.queue: each for each in outlasting(app, (3, 10, 8))}
    on_313 = {each.queue: each for each in outlasting(app, (3, 13, 0))}
    on_43 = outlasting(app, (4, 3, 6))

    assert set(on_310) == {"slow", "old"}
    assert "'a.old' may run 2h" in on_310["old"].text
    assert all("rabbitmq.conf" in each.remedy for each in on_310.values())
    assert "after 1h" in on_313["slow"].text
    assert "policy" in on_313["old"].remedy
    # 4.3: the queue's own timeout is too short; classic queues have none, and the others are asked for
    assert [each.queue for each in on_43] == ["slow"]


def test_no_limit_is_longer_than_any() -> None:
    app = shop()

    (found,) = (each for each in outlasting(app, (3, 10, 8)) if each.queue == "default")
    assert found.tasks == ("a.quick",)
    assert "has no time limit" in found.text
    assert "rabbitmq.conf" in found.remedy
    assert not [each for each in outlasting(app, (4, 3, 6)) if each.queue == "default"]


def test_the_queues_of_a_worker_and_its_limits_alone() -> None:
    app = shop()

    assert {each.queue for each in outlasting(app, (3, 10, 8), queues=["old"])} == {"old"}
    limited = outlasting(app, (3, 10, 8), app.settings.replace(task_time_limit=60.0), ["default"])
    assert limited == []


def test_many_tasks_are_one_sentence() -> None:
    app = App("many", topology=parse("{version: 1, queues: {default: {}}}", "t.yaml"))
    for number in range(9):

        @app.task(name=f"a.t{number}")
        def task() -> None: ...

    (found,) = outlasting(app, (3, 10, 8))
    assert len(found.tasks) == 9
    assert "and 4 more have no time limit" in found.text
