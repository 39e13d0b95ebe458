from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import machine

pytestmark = pytest.mark.process

# holds 30 MiB of its own in a child of its own
PARENT = """
import subprocess, sys
held = bytearray(b"x") * (30 << 20)
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=sys.stdin)
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def parent() -> Iterator[tuple[int, int]]:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.communicate()


def test_a_tree_is_a_process_and_all_below_it(parent: tuple[int, int]) -> None:
    above, below = parent
    assert sorted(machine.tree([above])) == sorted([above, below])
    assert machine.leaves([above, below]) == [below]
    assert {above, below} <= set(machine.tree([os.getpid()]))


def test_memory_is_what_processes_hold(parent: tuple[int, int]) -> None:
    above, below = parent
    both, one = machine.memory([above, below]), machine.memory([below])
    assert both.uss > one.uss + 29
    assert both.pss >= both.uss > 0


def test_a_process_that_is_gone_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert machine.memory([process.pid]) == (0.0, 0.0)
    assert machine.cpu(process.pid) == 0.0
    assert machine.tree([process.pid]) == []


def test_cpu_is_counted() -> None:
    before = machine.cpu(os.getpid())
    spent = 0
    while machine.cpu(os.getpid()) - before < 0.02:
        spent += 1
    assert spent > 0


def test_who_listens_on_a_port_is_found() -> None:
    name = Path("/proc/self/comm").read_text()[:3]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert machine.listener(port, name) == os.getpid()
        assert machine.listener(port, "beam") is None
    assert machine.listener(port, name) is None
