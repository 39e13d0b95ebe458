"""Who dies with whom, one process at a time; whole nodes are in test_supervisor."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from amqtask.worker.forking.lineage import Wakeup, die_with, ignore, kill_group, signals_blocked
from tests.waiting import eventually

pytestmark = pytest.mark.process


def fork(main: Callable[[], None]) -> int:
    """Run ``main`` in a forked process that ends after it."""
    pid = os.fork()
    if pid == 0:
        try:
            main()
        finally:
            os._exit(99)
    return pid


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    wakeup = Wakeup(signal.SIGUSR1, signal.SIGUSR2)
    yield wakeup
    wakeup.restore()


def test_process_whose_parent_is_gone_already_ends() -> None:
    def main() -> None:
        die_with(1_000_000_000)

    pid = fork(main)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_killing_a_group_takes_its_members() -> None:
    read, write = os.pipe()

    def leader() -> None:
        os.setpgid(0, 0)
        if os.fork() == 0:
            os.write(write, b"x")
        signal.pause()

    pid = fork(leader)
    os.close(write)
    assert os.read(read, 1) == b"x"

    kill_group(pid)

    assert os.read(read, 1) == b""  # nobody holds the other end any more
    os.waitpid(pid, 0)
    kill_group(pid)  # nobody is left: no error
    os.close(read)


def test_signals_arrive_as_bytes_in_order(wakeup: Wakeup) -> None:
    assert wakeup.arrived() == []

    signal.raise_signal(signal.SIGUSR2)
    signal.raise_signal(signal.SIGUSR1)

    assert wakeup.arrived() == [signal.SIGUSR2, signal.SIGUSR1]


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    wakeup = Wakeup(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) != before

    wakeup.restore()

    assert signal.getsignal(signal.SIGUSR1) == before


def test_blocked_signals_arrive_afterwards(wakeup: Wakeup) -> None:
    with signals_blocked():
        signal.raise_signal(signal.SIGUSR1)
        assert wakeup.arrived() == []

    assert eventually(wakeup.arrived) == [signal.SIGUSR1]


def test_ignored_signals_are_not_ignored_by_programs() -> None:
    """SIG_IGN would be inherited through exec: a program a task starts could not be ended by TERM."""

    def main() -> None:
        ignore(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # no effect
        os.execvp("sleep", ["sleep", "60"])

    pid = fork(main)

    def ended() -> int:
        os.kill(pid, signal.SIGTERM)
        return os.waitpid(pid, os.WNOHANG)[1]

    # sent until the program runs
    assert os.waitstatus_to_exitcode(eventually(ended)) == -signal.SIGTERM
