"""Long tasks among short ones: what waits behind one is given to others, and is not worn out by being passed around."""

from __future__ import annotations

from collections.abc import Callable

from tests.acceptance.nodes import Place

Places = Callable[..., Place]


def test_what_waits_behind_a_long_task_is_not_used_up(place: Places) -> None:
    at = place(type="quorum", queue={"delivery_limit": 5})
    at.declare()
    long = at.send("note", "long", 4.0)
    waiting = at.send_notes(6)
    node = at.node("-c1", "-Q", at.queue)

    at.everything_done([*waiting, "long"])
    assert long.get(timeout=10) == "long"
    assert node.stop() == 0
    at.all_settled()
    assert at.depth(at.dead) == 0


def test_another_child_takes_what_waits_behind_a_long_task(place: Places) -> None:
    at = place(type="quorum")
    node = at.node("-c2", "-Q", at.queue)
    long = at.send("hold", "long", "go")
    at.saw("start", "long")
    waiting = at.send_notes(20)

    at.everything_done(waiting, 20)
    assert at.count("end")["long"] == 0
    at.release("go")
    assert long.get(timeout=10) == "long"
    at.everything_done(at.send_notes(20, prefix="after"))
    assert node.stop() == 0
