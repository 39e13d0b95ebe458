"""Waiting until another thread says so: gates, and what is made of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from amqtask.amqp import waits
from amqtask.amqp.waits import Condition, Flag, Gate, closed_gate
from tests.waiting import eventually


class Counted:
    """A plain gate, of a make of its own."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self._lock = threading.Lock()
        self._lock.acquire()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()


@pytest.fixture(params=[None, Counted], ids=["plain", "installed"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[], Gate] | None]:
    Counted.made = 0
    waits.use(request.param)
    yield request.param
    waits.use(None)


def test_a_gate_opens_once_and_only_when_it_is_told(make: Callable[[], Gate] | None) -> None:
    gate = closed_gate()
    assert gate.acquire(timeout=0.01) is False
    gate.release()
    assert gate.acquire(timeout=5) is True
    assert gate.acquire(timeout=0.01) is False
    assert Counted.made == (0 if make is None else 1)


def test_a_condition_wakes_all_who_wait(make: Callable[[], Gate] | None) -> None:
    condition = Condition()
    woken: list[bool] = []
    waiting = 0

    def wait() -> None:
        nonlocal waiting
        with condition:
            waiting += 1
            woken.append(condition.wait(5))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: waiting == 3)
    with condition:  # the third has let go of it, so all three wait
        condition.notify_all()
    for thread in threads:
        thread.join(5)
    assert woken == [True, True, True]


def test_who_waited_too_long_for_a_condition_holds_its_lock_again() -> None:
    condition = Condition()
    with condition:
        assert condition.wait(0.01) is False
        condition.notify_all()  # nobody is left at the gate that was given up
    with condition:
        assert condition.wait(0.01) is False


def test_a_flag_is_waited_for_until_it_is_set_and_can_be_taken_back() -> None:
    flag = Flag()
    assert not flag.wait(0.01)
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(flag.wait(5)))
    thread.start()
    flag.set()
    thread.join(5)
    assert seen == [True]
    assert flag.is_set()
    flag.clear()
    assert not flag.is_set()
    assert not flag.wait(0.0)
