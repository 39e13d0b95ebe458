"""From a task's name to an exchange and a key."""

from __future__ import annotations

import pytest

from amqtask.errors import ConfigurationError, NoRoute
from amqtask.settings import TaskRoute
from amqtask.topology.model import Topology
from amqtask.topology.parse import parse
from amqtask.topology.routes import MAX_REMEMBERED, Route, Router, default_topology

SHOP = parse(
    """
version: 1
exchanges: {tasks: {type: topic}}
queues:
  email: {bindings: [{exchange: tasks, routing_key: "#"}]}
  images: {type: classic, max_priority: 9}
routes:
  - {task: "shop.email.*", exchange: tasks, routing_key: "email.{name}", priority: 5}
  - {task: "shop.*", exchange: tasks, routing_key: "all.{task}"}
  - {task: "shop.email.late", queue: images}
  - {task: resize, queue: images, priority: 9}
""",
    "routing/shop.yaml",
)


def router(topology: Topology | None = SHOP, default: str = "email", **routes: TaskRoute) -> Router:
    return Router(topology, routes, default)


def test_the_first_match_wins() -> None:
    routes = router()

    assert routes.resolve("shop.email.late") == Route("tasks", "email.late", 5)
    assert routes.resolve("shop.x") == Route("tasks", "all.shop.x", None)
    assert routes.resolve("resize") == Route("", "images", 9)


def test_what_matches_nothing_goes_to_the_default_queue() -> None:
    assert router().resolve("other") == Route("", "email")
    assert router(None, "anything").resolve("other") == Route("", "anything")
    assert router(default_topology("d"), "d").resolve("other") == Route("", "d")


def test_without_a_default_queue_there_is_no_route() -> None:
    with pytest.raises(NoRoute) as caught:
        router(default="default").resolve("other")
    assert str(caught.value) == (
        "No route matches task 'other', and routing/shop.yaml has no queue 'default' for tasks without one: "
        "add a route for it under routes: in routing/shop.yaml, or set task_default_queue to one of its queues "
        "(email, images)."
    )  # fmt: skip


def test_the_only_queue_is_not_guessed() -> None:
    with pytest.raises(NoRoute):
        router(default_topology("only"), "default").resolve("other")


def test_settings_come_first() -> None:
    routes = Router(
        SHOP,
        {
            "shop.email.*": TaskRoute(queue="images", priority=1),
            "*": TaskRoute(exchange="tasks", routing_key="{name}"),
        },
        "email",
    )

    assert routes.resolve("shop.email.x") == Route("", "images", 1)
    assert routes.resolve("shop.other") == Route("tasks", "other")


def test_options_win() -> None:
    routes = router()

    assert routes.resolve("resize", queue="q") == Route("", "q")
    assert routes.resolve("resize", exchange="x", routing_key="k") == Route("x", "k")
    assert routes.resolve("resize", exchange="x") == Route("x", "")
    assert routes.resolve("resize", queue="q", exchange="x", routing_key="k") == Route("x", "k")
    assert routes.resolve("shop.email.a", routing_key="k") == Route("tasks", "k", 5)
    assert routes.resolve("shop.email.a", routing_key="k", priority=0) == Route("tasks", "k", 0)
    assert routes.resolve("resize", priority=0) == Route("", "images", 0)
    assert routes.resolve("resize") == Route("", "images", 9)
    assert router(default="none").resolve("unknown", queue="q", priority=3) == Route("", "q", 3)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (TaskRoute(), "task_routes['x'] gives neither queue nor exchange: give one of the two."),
        (TaskRoute(queue="email", exchange="tasks"), "task_routes['x'] gives both queue and exchange: give one of the two."),
        (TaskRoute(queue="email", routing_key="k"), "task_routes['x'] gives a routing_key beside queue, which is reached by its own name: leave the key out, or give an exchange instead of the queue."),
        (TaskRoute(queue="emial"), "task_routes['x'] names queue 'emial', which routing/shop.yaml does not declare; did you mean 'email'?"),
        (TaskRoute(exchange="zzz"), "task_routes['x'] names exchange 'zzz', which routing/shop.yaml does not declare."),
        (TaskRoute(exchange="tasks", routing_key="{nme}"), "task_routes['x'], routing_key '{nme}': unknown placeholder {nme}"),
        (TaskRoute(queue="email", priority=300), "task_routes['x'] has priority 300: give 0 to 255, usually 0 to 9."),
    ],
)  # fmt: skip
def test_settings_that_lead_nowhere(entry: TaskRoute, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        router(x=entry)
    assert str(caught.value).startswith(why)


def test_settings_without_a_topology_may_name_any_queue() -> None:
    assert router(None, x=TaskRoute(queue="q")).resolve("x") == Route("", "q")


def test_a_key_too_long_for_amqp() -> None:
    with pytest.raises(ConfigurationError, match="is 306 bytes, and AMQP allows 255"):
        router().resolve(f"shop.email.{'x' * 300}")


def test_names_from_outside_do_not_fill_the_memory() -> None:
    routes = router()
    for number in range(MAX_REMEMBERED + 10):
        routes.resolve(f"task-{number}")

    assert len(routes._known) <= MAX_REMEMBERED


def test_a_route_is_resolved_once() -> None:
    routes = router()

    assert routes.resolve("shop.x") is routes.resolve("shop.x")
