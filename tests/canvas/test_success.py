"""What follows from a success, a replacement and an added part, as values."""

from __future__ import annotations

from amqtask.canvas.success import added, after_replacement, after_success
from amqtask.core.barrier import ADDED
from tests.canvas.following import Launcher, after, sig, stub


def test_success_starts_callbacks_then_the_next_link_and_tells_the_chord() -> None:
    start = Launcher()
    before = after(
        callbacks=[sig("c1"), sig("c2")],
        chain=[sig("last"), sig("next")],
        chord=stub("g"),
        group="g",
        group_index=1,
    )
    follows = after_success(before, 7, start)
    assert start.asked == [
        ("c1", (7,), {}),
        ("c2", (7,), {}),
        ("next", (7,), {"chain": [sig("last")]}),
    ]
    assert set(start.ids) == {"root<me>replies"}
    (part,) = follows.parts
    assert (part.group, part.index, part.size, part.state, part.result) == ("g", 1, 2, "SUCCESS", 7)
    assert len(follows.children) == 3


def test_a_replacement_takes_id_chain_and_chord() -> None:
    start = Launcher()
    before = after(chain=[sig("next")], chord=stub("g"), group="g", group_index=1)
    after_replacement(before, sig("other"), "parent", 1, start)
    assert start.asked == [
        (
            "other",
            (),
            {
                "task_id": "me",
                "replaced_task_nesting": 1,
                "chain": [sig("next")],
                "chord": stub("g"),
                "group_id": "g",
                "group_index": 1,
            },
        )
    ]
    assert start.ids == ["root<parent>replies"]


def test_an_added_part_is_announced_once_and_known_by_its_id() -> None:
    start = Launcher()
    own = {**stub("g"), "options": {"barrier": "g", "added": True}}
    part = sig("more", task_id="new", chord=own, group_id="g")
    follows = added(
        after(chord=stub("g"), group="g", group_index=0), [part], ["new", "lazy"], start
    )
    assert [(each.group, each.task_id) for each in follows.more] == [("g", "new"), ("g", "lazy")]
    assert start.asked == [("more", (), {"task_id": "new", "chord": own, "group_id": "g"})]
    ended = after_success(after(chord=own, group="g"), 1, start)
    assert ended.parts[0].index == ADDED
