"""What a running task may ask about itself."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from amqtask import AbortableTask, App, ConfigurationError, Task, is_aborted
from amqtask.request import Request, current, running, set_abort_lookup

app = App("asked")


@app.task(bind=True, base=AbortableTask)
def bound(self: Task[..., Any]) -> bool:
    return self.is_aborted()


@app.task
def plain() -> bool:
    return is_aborted()


@pytest.fixture
def aborted() -> Iterator[set[str]]:
    """Ids that were aborted, as a worker knows them."""
    ids: set[str] = set()
    set_abort_lookup(ids.__contains__)
    yield ids
    set_abort_lookup(set[str]().__contains__)


def test_outside_a_task_nothing_is_aborted(aborted: set[str]) -> None:
    assert not is_aborted()
    assert not bound.is_aborted()
    assert not Request().is_aborted()


@pytest.mark.parametrize("task", [bound, plain])
def test_a_task_sees_that_it_is_aborted(aborted: set[str], task: Task[[], bool]) -> None:
    assert task.apply(task_id="one").get() is False
    aborted.add("one")
    assert task.apply(task_id="one").get() is True
    assert task.apply(task_id="two").get() is False


def test_a_thread_of_the_task_asks_the_request(aborted: set[str]) -> None:
    aborted.add("one")
    seen: list[bool] = []

    def run() -> None:
        request = running()
        assert request is not None
        thread = threading.Thread(target=lambda: seen.append(request.is_aborted()))
        thread.start()
        thread.join()

    context = contextvars.copy_context()
    context.run(current.set, Request(id="one", task="t"))
    context.run(run)
    assert seen == [True]


def test_other_base_classes_are_refused() -> None:
    class Mine(Task[..., Any]):
        pass

    with pytest.raises(ConfigurationError, match="base takes"):
        app.task(base=Mine)(lambda: None)
