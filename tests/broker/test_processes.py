"""Processes are named exactly, and only those of a node are ever found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from amqtask.broker.processes import (
    MARK,
    Process,
    end_all,
    marked,
    parse_stat,
    wait_gone,
    wait_still,
)
from tests.waiting import eventually

pytestmark = pytest.mark.process

_WAIT_FOR_EVER = "import signal; signal.pause()"


@pytest.fixture
def sleeper() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    mark = uuid.uuid4().hex
    child = subprocess.Popen([sys.executable, "-c", _WAIT_FOR_EVER], env={**os.environ, MARK: mark})
    yield mark, child
    child.kill()
    child.wait()


def test_a_program_name_with_brackets_and_spaces_is_read() -> None:
    fields = " ".join(str(number) for number in range(4, 30))
    assert parse_stat(f"17 (a) (b c) S {fields}") == Process(pid=17, started=22)


@pytest.mark.parametrize("text", ["", "17 (sh) S 1 2", "not a stat file"])
def test_a_cut_text_is_an_error_and_not_a_process(text: str) -> None:
    with pytest.raises(ValueError, match="stat file"):
        parse_stat(text)


def test_this_process_is_alive_and_one_with_another_start_time_is_not() -> None:
    me = parse_stat(Path("/proc/self/stat").read_text())
    assert me.alive()
    assert not Process(me.pid, me.started + 1).alive()


def test_marked_processes_are_found_and_ended_and_no_others(
    sleeper: tuple[str, subprocess.Popen[bytes]],
) -> None:
    mark, child = sleeper
    found = eventually(lambda: marked(mark))
    assert [process.pid for process in found] == [child.pid]
    assert marked(mark[:-1]) == []
    assert end_all(mark) == []
    assert child.wait(5) == -signal.SIGKILL


def test_a_process_id_used_again_is_never_signalled(
    sleeper: tuple[str, subprocess.Popen[bytes]],
) -> None:
    mark, child = sleeper
    [process] = eventually(lambda: marked(mark))
    Process(process.pid, process.started - 1).signal(signal.SIGKILL)
    assert process.alive()
    process.signal(signal.SIGKILL)
    assert wait_gone(process, 5.0)
    assert child.wait(5) == -signal.SIGKILL
    process.signal(signal.SIGKILL)  # gone: nothing happens


_BUSY = """
import threading
def spin():
    while True: pass
for _ in range(4): threading.Thread(target=spin).start()
print(flush=True)
"""


def test_a_process_that_was_stopped_stands_still_with_all_its_threads() -> None:
    with subprocess.Popen([sys.executable, "-c", _BUSY], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            process = parse_stat(Path(f"/proc/{child.pid}/stat").read_text())
            assert not process.stands_still()
            process.signal(signal.SIGSTOP)
            wait_still(process, 5)
            assert process.stands_still()
            process.signal(signal.SIGCONT)
            eventually(lambda: not process.stands_still())
        finally:
            child.kill()
    assert process.stands_still()
