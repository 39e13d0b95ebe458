"""What a task carries of what comes after it."""

from __future__ import annotations

from amqtask.call import Call
from amqtask.canvas.continuation import (
    continuation,
    continuation_of_call,
    ids_of,
)
from amqtask.canvas.success import after_success
from amqtask.core.codec import Head
from amqtask.core.workflow import Workflow
from tests.canvas.following import Launcher, after, sig, stub


def test_a_task_without_a_workflow_has_nothing_after_it() -> None:
    head = Head(id="me", task="t", correlation_id="me", root_id="me")
    assert not continuation(head, {})
    assert not continuation(head, {"callbacks": None, "chain": [], "chord": None})
    assert continuation(head, {"chain": [sig("b")]})


def test_a_call_that_was_never_received_has_the_same_continuation() -> None:
    call = Call(
        id="me",
        task="t",
        reply_to="replies",
        workflow=Workflow(
            root_id="root", chain=[sig("b")], chord=stub("g"), group="g", group_index=1
        ),
    )
    assert continuation_of_call(call) == after(
        chain=[sig("b")], chord=stub("g"), group="g", group_index=1
    )
    assert not continuation_of_call(Call(id="x", task="t"))


def test_what_is_started_has_the_same_ids_each_time() -> None:
    def ids() -> list[str]:
        follows = after_success(after(callbacks=[sig("a"), sig("a")]), 1, Launcher())
        return [call.id for started in follows.started for call in started.calls]

    assert ids() == ids()
    assert len(set(ids())) == 2
    made = ids_of("me", "chain")
    assert made() != made()
