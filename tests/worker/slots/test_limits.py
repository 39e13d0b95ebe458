"""Ending a run from outside: the soft signal on the main thread, and whose the settlement is."""

from __future__ import annotations

import asyncio
import queue
import random
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from amqtask.amqp.threaded.loop import IoThread
from amqtask.errors import SoftTimeLimitExceeded
from amqtask.worker.slots.coroutines import SlotLoop
from amqtask.worker.slots.limits import SOFT_SIGNAL, MainThreadLimits, ThreadLimits


class Watch:
    """Limits with what they told."""

    def __init__(self) -> None:
        self.io = IoThread("test-limits")
        self.hard = threading.Event()
        self.runs: list[int] = []
        self.limits = MainThreadLimits(self.io, self.reached)

    def reached(self, run: int) -> None:
        self.runs.append(run)
        self.hard.set()


@pytest.fixture
def watch() -> Iterator[Watch]:
    before = signal.getsignal(SOFT_SIGNAL)
    watch = Watch()
    watch.limits.install()
    watch.io.start()
    yield watch
    watch.io.stop()
    signal.signal(SOFT_SIGNAL, before)


def test_the_soft_limit_is_raised(watch: Watch) -> None:
    watch.limits.begin(1, 0.05, None)
    with pytest.raises(SoftTimeLimitExceeded, match=r"0\.05 s"):
        time.sleep(5)

    assert watch.limits.end()
    assert not watch.limits.revoked(1)


def test_the_soft_limit_is_raised_whatever_handlers_and_mask_a_task_left(watch: Watch) -> None:
    signal.signal(SOFT_SIGNAL, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, (SOFT_SIGNAL,))
    watch.limits.begin(1, 0.05, None)
    with pytest.raises(SoftTimeLimitExceeded):
        time.sleep(5)

    assert watch.limits.end()


def test_the_hard_limit_is_told_of(watch: Watch) -> None:
    watch.limits.begin(1, None, 0.05)

    assert watch.hard.wait(5)
    assert watch.runs == [1]
    assert watch.limits.take(1)
    assert not watch.limits.end()


def test_a_limit_means_its_own_run_only(watch: Watch) -> None:
    watch.limits.begin(1, 0.1, 0.1)
    assert watch.limits.end()
    watch.limits.begin(2, None, None)
    passed = threading.Event()
    watch.io.post(lambda: watch.io.call_later(0.3, passed.set))
    assert passed.wait(5)

    assert not watch.hard.is_set()
    assert not watch.limits.take(1)
    assert watch.limits.end()


def test_whoever_takes_a_run_first_has_it(watch: Watch) -> None:
    watch.limits.begin(1, None, None)
    assert watch.limits.take(1)
    assert not watch.limits.take(1)
    assert not watch.limits.end()


def test_an_interruption_reaches_its_run_only(watch: Watch) -> None:
    watch.limits.begin(1, None, None)
    watch.limits.interrupt(7)
    threading.Timer(0.05, lambda: watch.limits.interrupt(1)).start()
    with pytest.raises(SoftTimeLimitExceeded, match="revoked"):
        time.sleep(5)

    assert watch.limits.revoked(1)
    assert watch.limits.end()
    watch.limits.interrupt(1)


def test_a_signal_that_was_held_back_raises_in_no_later_run(watch: Watch) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, (SOFT_SIGNAL,))
    watch.limits.begin(1, None, None)
    assert watch.limits.interrupt(1)
    assert watch.limits.end()
    watch.limits.begin(2, None, None)
    assert SOFT_SIGNAL in signal.sigpending()

    signal.pthread_sigmask(signal.SIG_UNBLOCK, (SOFT_SIGNAL,))  # it arrives here

    assert watch.limits.end()


def test_an_interruption_raises_once(watch: Watch) -> None:
    watch.limits.begin(1, None, None)
    threading.Timer(0.05, lambda: watch.limits.interrupt(1)).start()
    with pytest.raises(SoftTimeLimitExceeded):
        time.sleep(5)

    assert watch.limits.interrupt(1)
    signal.raise_signal(SOFT_SIGNAL)

    assert watch.limits.end()


def test_a_signal_that_got_lost_is_sent_again(watch: Watch) -> None:
    """One that comes between the interpreter's last look and a system call does not end that call."""
    watch.limits.begin(1, None, None)
    signal.signal(SOFT_SIGNAL, signal.SIG_IGN)
    assert watch.limits.interrupt(1)
    watch.limits.install()
    with pytest.raises(SoftTimeLimitExceeded):
        time.sleep(5)

    assert watch.limits.end()


def test_what_is_raised_while_a_coroutine_begins_in_a_thread_reaches_that_or_nobody() -> None:
    io = IoThread("test-limits")
    limits = ThreadLimits(io, lambda _run: None)
    meant: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    seen: list[str] = []
    rng = random.Random(1)

    async def leave() -> None:
        pass

    async def work() -> str:
        try:
            await asyncio.sleep(0.02)
        except SoftTimeLimitExceeded:
            return "in the coroutine"
        return "never"

    def one(loop: SlotLoop, run: int) -> str:
        limits.begin(run, None, None)
        try:
            meant.put(run)
            coroutine = work()
            try:
                result = loop.run(limits.carry(coroutine))
            finally:
                limits.carried = None
                coroutine.close()
            limits.end()
        except SoftTimeLimitExceeded:
            limits.end()
            return "outside of it"
        return str(result)

    def slot() -> None:
        limits.adopt()
        loop = SlotLoop(leave)
        seen.extend(one(loop, run) for run in range(1, 201))
        loop.close()
        meant.put(None)

    thread = threading.Thread(target=slot)
    thread.start()
    while (run := meant.get(timeout=10)) is not None:
        soon = time.perf_counter() + rng.random() * 0.0004
        while time.perf_counter() < soon:
            pass
        assert limits.interrupt(run) or limits.left(run)
    thread.join(10)
    io.stop()

    assert len(seen) == 200
    assert "in the coroutine" in seen
    assert "never" not in seen
