"""Options: names, counts and the sentences about what cannot be."""

from __future__ import annotations

import os
import re

import pytest

from amqtask.errors import ConfigurationError
from amqtask.worker.start import options
from amqtask.worker.start.options import PoolShape, WorkerOptions, node_name


def test_defaults_are_one_slot_per_cpu() -> None:
    parsed = WorkerOptions.parse(app="shop", concurrency=None, pool=None)

    assert parsed.children == len(os.sched_getaffinity(0))
    assert (parsed.slots, parsed.pool, parsed.declare) == (1, "prefork", True)
    assert parsed.node.startswith("amqtask@")


@pytest.mark.parametrize(
    ("pool", "concurrency", "processes", "children", "slots"),
    [
        ("prefork", 8, 1, 8, 1),
        ("prefork", 8, 2, 16, 1),
        ("solo", 8, 1, 0, 1),
        ("shared", 32, 1, 1, 32),
        ("shared", 32, 4, 4, 32),
    ],
)
def test_processes_and_slots(
    pool: str,
    concurrency: int,
    processes: int,
    children: int,
    slots: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(options.POOLS, "shared", PoolShape(children=1, slots=None))
    parsed = WorkerOptions.parse(
        app="shop", pool=pool, concurrency=concurrency, processes=processes, prefetch_multiplier=4
    )

    assert (parsed.children, parsed.slots, parsed.prefetch) == (children, slots, 4 * slots)


@pytest.mark.parametrize(
    ("pool", "asked", "more"),
    [
        ("solo", {}, None),
        ("solo", {"concurrency": 1, "processes": 1}, None),
        ("solo", {"concurrency": 4}, "--concurrency 4"),
        ("solo", {"concurrency": 4, "processes": 2}, "--concurrency 4 and --processes 2"),
        ("prefork", {"concurrency": 4, "processes": 2}, None),
    ],
)
def test_more_than_a_pool_runs_at_a_time_is_named(
    pool: str, asked: dict[str, int], more: str | None
) -> None:
    assert WorkerOptions.parse(app="shop", pool=pool, **asked).more_than_one == more


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("", "amqtask@box.example.org"),
        ("worker1@%h", "worker1@box.example.org"),
        ("worker1@%n", "worker1@box"),
        ("worker1@%d", "worker1@example.org"),
        ("worker1", "worker1@box.example.org"),
        ("50%%@%n", "50%@box"),
        ("a@b", "a@b"),
    ],
)
def test_node_names(pattern: str, name: str) -> None:
    assert node_name(pattern, "box.example.org") == name


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("w@%q", "'%q'"),
        ("w@%", "'%'"),
        ("a b@%h", "without spaces"),
        ("@%h", "name@host"),
        ("w@%d", "name@host"),  # this host has no domain
        ("a@b@c", "name@host"),
        ("x" * 300, "255 bytes"),
    ],
)
def test_bad_node_names(pattern: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words.replace("(", r"\(")):
        node_name(pattern, "box")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"pool": "treads"},
            "There is no pool 'treads': choose one of prefork, solo, threads, asyncio, gevent, eventlet.",
        ),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": "many"}, "concurrency"),
        ({"time_limit": -1.0}, "--time-limit must be more than 0."),
        ({"soft_time_limit": 5.0, "time_limit": 5.0}, "must be shorter"),
        ({"colour": "red"}, "colour"),
        ({"autoscale": (2, 3)}, "--autoscale 2,3 has its minimum above its maximum: write 3,2."),
        ({"autoscale": (2, 1), "processes": 3}, "leave out --processes"),
        ({"autoscale": (2, 1), "pool": "solo"}, "--autoscale cannot add any: use another pool"),
        ({"max_tasks_per_child": 0}, "--max-tasks-per-child must be at least 1."),
        ({"pool": "threads", "concurrency": 65_536}, "spread them with --processes"),
    ],
)
def test_bad_options_are_one_sentence(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        WorkerOptions.parse(app="shop", **values)

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pool", "concurrency", "autoscale", "children", "most", "slots"),
    [
        ("prefork", 8, (10, 3), 3, 10, 1),
        ("prefork", 8, (4, 0), 0, 4, 1),
        ("shared", 32, (5, 1), 1, 5, 32),
        ("shared", 32, None, 1, 1, 32),
        ("prefork", 8, None, 8, 8, 1),
    ],
)
def test_children_between_two_numbers(
    pool: str,
    concurrency: int,
    autoscale: tuple[int, int] | None,
    children: int,
    most: int,
    slots: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(options.POOLS, "shared", PoolShape(children=1, slots=None))
    parsed = WorkerOptions.parse(
        app="shop", pool=pool, concurrency=concurrency, autoscale=autoscale
    )

    assert (parsed.children, parsed.most_children, parsed.slots) == (children, most, slots)
    assert not parsed.in_process


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            {"autoscale": (99_999_999, 1)},
            "99999999 processes with 1 slot each are more than a node",
        ),
        ({"processes": 9_000, "pool": "threads", "concurrency": 500}, "9000 processes with 500"),
        ({"concurrency": 1_000_000}, "1000000 processes with 1 slot each"),
        ({"time_limit": float("inf")}, "--time-limit must be at most 1e+09."),
    ],
)
def test_what_no_node_could_keep_is_refused(asked: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        WorkerOptions.parse(app="shop", **asked)
