"""What an application's own code does wrong around a task: the node goes on, and no message comes again for ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from amqtask.errors import ResultTimeout, WorkerLostError
from tests.acceptance.nodes import Place

Places = Callable[..., Place]

BAD_FILTER = """

import logging

class Raising(logging.Filter):
    def filter(self, record):
        raise RuntimeError("a filter of the application")

for logger in ("amqtask.worker", "amqtask.amqp"):
    logging.getLogger(logger).addFilter(Raising())
"""

BAD_RESULT = """

class Stop:
    def __json__(self):
        raise KeyboardInterrupt

@app.task(name="work.stop")
def stop():
    return Stop()

class Silent(Exception):
    def __str__(self):
        raise SystemExit(3)

@app.task(name="work.silent")
def silent():
    raise Silent
"""

DAEMON = """

@app.task(name="work.close_all")
def close_all(what, seconds):
    log("start", what)
    os.closerange(3, 4096)
    time.sleep(seconds)
"""


def _with(at: Place, code: str) -> Place:
    file = at.path / "work.py"
    file.write_text(file.read_text() + code)
    return at


def test_a_log_filter_that_raises_ends_no_child(place: Places) -> None:
    at = _with(place(), BAD_FILTER)
    node = at.node("-c1", "-Q", at.queue)
    before = node.children()
    with pytest.raises(Exception, match="x"):
        at.send("fail", "x").get(timeout=10)
    assert at.send("note", "after").get(timeout=10) == "after"
    assert node.children() == before
    assert node.stop() == 0
    assert at.depth() == 0
    assert at.depth(at.dead) == 1


def test_what_a_result_raises_while_it_is_written_fails_the_task_only(place: Places) -> None:
    at = _with(place(), BAD_RESULT)
    node = at.node("-c1", "-Q", at.queue)
    before = node.children()
    with pytest.raises(Exception, match="KeyboardInterrupt"):
        at.send("stop").get(timeout=10)
    # its text cannot be had at all, so there is nothing to tell the caller; the message goes to the dead letters
    with pytest.raises(ResultTimeout):
        at.send("silent").get(timeout=1)
    assert at.send("note", "after").get(timeout=10) == "after"
    assert node.children() == before
    assert node.stop() == 0
    assert at.depth() == 0
    assert at.depth(at.dead) == 2


def test_a_hard_limit_does_not_end_a_solo_node(place: Places) -> None:
    at = place()
    node = at.node("-Psolo", "-Q", at.queue)
    assert at.send("note", "x", 0.6, time_limit=0.2).get(timeout=10) == "x"
    assert at.send("note", "after").get(timeout=10) == "after"
    assert node.stop() == 0


@pytest.mark.parametrize(
    ("seconds", "crashes"), [(0.0, 2), (30.0, 1)], ids=["and ends", "and goes on"]
)
def test_a_task_that_closes_all_descriptors_is_given_up(
    place: Places, seconds: float, crashes: int
) -> None:
    at = _with(place(queue={"max_crashes": crashes}), DAEMON)
    node = at.node("-c1", "--prefetch-multiplier", "4", "-Q", at.queue)
    hostile = at.send("close_all", "x", seconds)
    neighbours = at.send_notes(3)
    with pytest.raises(WorkerLostError, match="exit code 70"):
        hostile.get(timeout=20)
    at.everything_done(neighbours)
    assert node.stop() == 0
    assert {record["task_id"] for record in node.records("child crashed")} == {hostile.id}
    assert at.count("start") == {"x": crashes, **dict.fromkeys(neighbours, 1)}
    assert node.output.count("the I/O loop failed") <= 2 * crashes
