"""What a running task asks for: replacements and additions, kept until it ends."""

from __future__ import annotations

from typing import Any

import pytest

from amqtask import App, Ignore, Task
from amqtask.canvas import primitives
from amqtask.canvas.within import addition, replacement
from amqtask.errors import ConfigurationError
from amqtask.request import Asked, Request, current

app = App("within")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task(bind=True)
def changing(self: Task[..., Any]) -> Any:
    return self.replace(add.s(1, 2))


chain: Any = primitives.chain
group: Any = primitives.group
STUB = {"task": "b", "options": {"barrier": "g"}, "chord_size": 1}


def request(**fields: Any) -> Request:
    return Request(id="me", task="t", root_id="root", called_directly=False, **fields)


def test_a_replacement_has_the_tasks_callbacks_errbacks_and_stamps() -> None:
    given = add.s(1, 2)
    asked = request(
        callbacks=[dict(add.s(3))],
        errbacks=[dict(add.s(4))],
        stamps={"who": "me"},
        stamped_headers=["who"],
    )
    made = replacement(asked, given, app)
    assert [each["args"] for each in made.options["link"]] == [(3,)]
    assert [each["args"] for each in made.options["link_error"]] == [(4,)]
    assert (made.options["who"], made.options["stamped_headers"]) == ("me", ["who"])
    assert given.options == {}


@pytest.mark.parametrize(
    "many", [group([add.s(1), add.s(2)]), chain(add.s(1), group([add.s(1), add.s(2)]))]
)
def test_a_group_comes_to_one_value(many: Any) -> None:
    made: Any = replacement(request(), many, app)
    text = str(dict(made))
    assert "celery.accumulate" in text
    assert "celery.accumulate" not in str(dict(many))


def test_what_cannot_replace_a_task_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="part of a chord"):
        replacement(request(), add.s(1).set(chord={}), app)
    with pytest.raises(ConfigurationError, match="empty chain"):
        replacement(request(), chain(), app)
    with pytest.raises(TypeError, match="takes a signature, not int"):
        replacement(request(), 3, app)


def test_replace_keeps_what_was_asked_for_and_ends_the_task() -> None:
    running = Request(id="me", task=changing.name, called_directly=False)
    token = current.set(running)
    try:
        with pytest.raises(Ignore):
            changing.run()
    finally:
        current.reset(token)
    assert running.asked.changes
    assert dict(running.asked.replacement or {})["task"] == add.name


def test_an_addition_has_the_same_id_each_time_its_attempt_runs() -> None:
    asked = request(chord=STUB, group="g", group_index=0)
    first, again = addition(asked, add.s(1, 2), app), addition(asked, add.s(1, 2), app)
    assert first.id == again.id
    assert first.options["chord"]["options"] == {"barrier": "g", "added": True}
    asked.asked.add(first, str(first.id), lazy=True)
    second = addition(asked, add.s(1, 2), app)
    assert second.id != first.id
    assert (asked.asked.added, asked.asked.more) == (None, [first.id])
    with pytest.raises(ValueError, match="not part of a chord"):
        addition(request(), add.s(1, 2), app)


def test_asking_for_nothing_costs_nothing() -> None:
    asked = Asked()
    assert (asked.changes, asked.added, asked.more, asked.children) == (False, None, None, None)
