"""Ending a run from outside: the soft signal on the main thread, and whose the settlement is."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from amqtask.amqp.threaded.loop import IoThread
from amqtask.errors import SoftTimeLimitExceeded
from amqtask.worker.limits import SOFT_SIGNAL, MainThreadLimits


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
