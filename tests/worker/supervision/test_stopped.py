"""Processes stopped by a signal: one caught in its run, and one that stays stopped."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from amqtask.worker.memory.board import Board
from amqtask.worker.supervision.stopped import Frozen, caught, is_stopped
from tests.waiting import eventually

pytestmark = pytest.mark.process


def test_only_the_run_that_was_meant_is_caught() -> None:
    board = Board(seats=1, slots=1)
    slot = board.child(0).slots[0]
    meant = slot.begin("id", "task", 0.0)
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert caught(process.pid, slot, meant)
            assert is_stopped(process.pid)

            slot.end()
            slot.begin("next", "task", 0.0)

            assert not caught(process.pid, slot, meant)
            eventually(lambda: not is_stopped(process.pid))
        finally:
            process.kill()
    assert not caught(process.pid, slot, meant)
    board.close()


def test_frozen_is_what_was_stopped_at_every_look_for_so_long() -> None:
    frozen = Frozen(timeout=10)
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            assert frozen.why(process.pid, 0) is None
            os.kill(process.pid, signal.SIGSTOP)
            eventually(lambda: is_stopped(process.pid))
            assert frozen.why(process.pid, 100) is None
            assert frozen.why(process.pid, 110) == "stopped by a signal for 10 s"

            os.kill(process.pid, signal.SIGCONT)
            eventually(lambda: not is_stopped(process.pid))
            assert frozen.why(process.pid, 120) is None
        finally:
            process.kill()
