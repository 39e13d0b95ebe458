"""How many publishes of a batch are on their way, and who waits for which of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import pytest

from amqtask.amqp.ports import Publisher
from amqtask.batch import Batch
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.errors import AmqtaskError, Unroutable
from tests.waiting import eventually

ANY = Publication("", "q", Envelope(b"", Properties()))


class Slow:
    """A publisher that confirms when it is told to."""

    def __init__(self) -> None:
        self.sent: deque[Callable[[AmqtaskError | None], None]] = deque()

    def submit(
        self, _publication: Publication, on_settled: Any, _timeout: float, *, due_in: str | None
    ) -> None:
        assert due_in is None
        self.sent.append(on_settled)

    def confirm(self, count: int, error: AmqtaskError | None = None) -> None:
        for _ in range(count):
            self.sent.popleft()(error)


@pytest.fixture
def slow() -> Slow:
    return Slow()


def fill(batch: Batch, slow: Slow, count: int) -> None:
    for _ in range(count):
        batch.submit(cast(Publisher, slow), ANY, 1.0, None, lambda error, *_: error)


def started(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def waits(thread: threading.Thread) -> bool:
    thread.join(0.05)
    return thread.is_alive()


def test_room_is_there_until_so_many_are_on_their_way(slow: Slow) -> None:
    batch = Batch(1000)
    fill(batch, slow, 9)
    batch.room(10)  # returns
    fill(batch, slow, 1)

    waiter = started(lambda: batch.room(10))
    assert waits(waiter)
    slow.confirm(4)
    assert waits(waiter)
    slow.confirm(1)
    assert not waits(waiter)


def test_room_never_leaves_a_wait_to_submit(slow: Slow) -> None:
    """What ``submit`` held back would have been made already, and late."""
    batch = Batch(8)
    fill(batch, slow, 8)

    waiter = started(lambda: batch.room(250))
    assert waits(waiter)
    slow.confirm(4)
    assert not waits(waiter)


def test_those_who_wait_for_fewer_are_not_forgotten(slow: Slow) -> None:
    batch = Batch(40)
    fill(batch, slow, 40)
    errors: list[AmqtaskError | None] = []

    last = started(lambda: errors.append(batch.wait()))
    few = started(lambda: batch.room(10))
    many = started(lambda: fill(batch, slow, 1))
    assert all(map(waits, (last, few, many)))
    slow.confirm(20)
    assert not waits(many)
    assert waits(few)
    slow.confirm(16)
    assert not waits(few)
    assert waits(last)
    slow.confirm(5, Unroutable("nowhere"))
    assert not waits(last)
    (error,) = errors
    assert "5 of 41" in str(error)


def test_many_threads_make_room_for_each_other(slow: Slow) -> None:
    batch = Batch(100)

    def sender(most: int) -> None:
        for _ in range(200):
            batch.room(most)
            fill(batch, slow, 1)

    threads = [started(lambda most=most: sender(most)) for most in (7, 20, 1000)]  # type: ignore[misc]  # mypy cannot infer a lambda with a default

    def confirm_all() -> bool:
        slow.confirm(len(slow.sent))
        return not any(thread.is_alive() for thread in threads)

    eventually(confirm_all, 20, interval=0.001)
    slow.confirm(len(slow.sent))
    assert batch.wait() is None
