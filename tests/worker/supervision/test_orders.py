"""Orders to end what was revoked: who is asked, who is killed, and who is left alone."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from amqtask.core import fleet
from amqtask.core.verdicts import Kind, Record
from amqtask.log import get_logger
from amqtask.worker.forking.lineage import ASK_SIGNAL
from amqtask.worker.memory.board import Board, Ending, Slot
from amqtask.worker.supervision.orders import ASK_GRACE, KILL_GRACE, ORDER_STANDS, Orders
from amqtask.worker.supervision.stopped import is_stopped

pytestmark = pytest.mark.process

DEAF = f"import signal, time; signal.signal({int(ASK_SIGNAL)}, signal.SIG_IGN); print(flush=True); time.sleep(60)"


class Scene:
    """A child that does not listen, its slot on the board, and the orders of its node."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.board = Board(seats=1, slots=1)
        self.orders = Orders(self.board, get_logger("test"))
        self.child = fleet.Child(0, 1, fleet.Phase.READY, process.pid)

    @property
    def slot(self) -> Slot:
        return self.board.child(0).slots[0]

    def revoke(self, **more: Any) -> None:
        record = Record(kind=Kind.REVOKED, event="e", origin="o", time=0.0, terminate=True, **more)
        self.orders.add(record, now=0.0)

    def look(self, now: float) -> list[fleet.Event]:
        self.orders.carry_out([self.child], now)
        return list(self.orders.overdue({0: self.child}, now))


@pytest.fixture
def scene() -> Iterator[Scene]:
    with subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        scene = Scene(process)
        yield scene
        process.kill()
        scene.board.close()


@pytest.mark.parametrize(("name", "grace"), [("TERM", ASK_GRACE), ("KILL", KILL_GRACE)])
def test_who_does_not_end_its_run_is_stopped_to_be_killed(
    scene: Scene, name: str, grace: float
) -> None:
    run = scene.slot.begin("id", "task", 0.0)
    scene.revoke(ids=("id",), signal=name)

    assert scene.look(0.0) == []
    assert scene.slot.asked() == (run, Ending.NOW, False)
    assert scene.orders.next_look(0.0) <= grace
    assert scene.look(grace - 0.01) == []
    assert scene.look(grace) == [fleet.ChildStuck(0, scene.child.pid, "its task was revoked")]
    assert is_stopped(scene.child.pid)
    assert scene.look(grace + 0.1) == []  # once


def test_a_run_that_has_ended_is_nobodys_business_any_more(scene: Scene) -> None:
    scene.slot.begin("id", "task", 0.0)
    scene.revoke(ids=("id",))
    scene.look(0.0)
    scene.slot.end()
    scene.slot.begin("other", "task", 0.0)

    assert scene.look(ASK_GRACE) == []
    assert not is_stopped(scene.child.pid)


def test_an_order_stands_for_a_task_that_is_about_to_start(scene: Scene) -> None:
    scene.revoke(ids=("id",))
    scene.look(0.0)
    run = scene.slot.begin("id", "task", 1.0)
    scene.look(ORDER_STANDS - 0.01)

    assert scene.slot.asked() == (run, Ending.NOW, False)


def test_an_order_does_not_stand_for_ever(scene: Scene) -> None:
    scene.revoke(ids=("id",))
    scene.look(ORDER_STANDS)
    scene.slot.begin("id", "task", 3.0)
    scene.look(ORDER_STANDS + 1)

    assert scene.slot.asked() is None
    assert scene.orders.next_look(ORDER_STANDS + 1) == math.inf


@pytest.mark.parametrize("more", [{"signal": "USR1", "ids": ("id",)}, {"headers": {"a": ["b"]}}])
def test_who_is_asked_softly_or_by_header_is_never_killed(scene: Scene, more: dict[str, Any]) -> None:  # fmt: skip
    run = scene.slot.begin("id", "task", 0.0)
    scene.revoke(**more)
    scene.look(0.0)

    how = Ending.NOW if "headers" in more else Ending.ASKED
    assert scene.slot.asked() == (run, how, "headers" in more)
    assert scene.look(60.0) == []


def test_a_child_that_declines_is_left_alone(scene: Scene) -> None:
    run = scene.slot.begin("id", "task", 0.0)
    scene.revoke(ids=("id",), signal=signal.SIGTERM.name)
    scene.look(0.0)
    scene.slot.decline(run)

    assert scene.look(ASK_GRACE) == []
    assert not is_stopped(scene.child.pid)
