"""The garbage collector's room for the tasks that are under way."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from amqtask.worker.slots import collector


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_one_task_at_a_time_needs_no_room() -> None:
    gc.set_threshold(700, 10, 10)
    collector.make_room(1)

    assert gc.get_threshold() == (700, 10, 10)


def test_many_tasks_get_room() -> None:
    gc.set_threshold(700, 11, 12)
    collector.make_room(1_000)

    assert gc.get_threshold() == (1_000 * collector.EACH, 11, 12)


@pytest.mark.parametrize("own", [(10_000_000, 3, 3), (0, 10, 10)])
def test_what_an_app_has_set_is_not_lowered_and_a_collector_is_not_turned_on(
    own: tuple[int, int, int],
) -> None:
    gc.set_threshold(*own)
    collector.make_room(1_000)

    assert gc.get_threshold() == own
