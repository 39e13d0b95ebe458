"""What follows from a task's end, as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from amqtask.call import Call
from amqtask.canvas.chord_end import after_failed_parts, after_parts, shaped
from amqtask.canvas.continuation import (
    Continuation,
    Ended,
    Started,
    continuation,
    continuation_of_call,
    ids_of,
)
from amqtask.canvas.failure import ERRBACK, after_failure, bare_errback, unreached
from amqtask.canvas.success import added, after_replacement, after_success
from amqtask.core.barrier import ADDED
from amqtask.core.codec import Head
from amqtask.core.workflow import Workflow


def sig(task: str, kind: str | None = None, **options: Any) -> dict[str, Any]:
    kwargs = {name: options.pop(name) for name in ("tasks", "header", "body") if name in options}
    return {
        "task": task,
        "args": [],
        "kwargs": kwargs,
        "options": options,
        "subtask_type": kind,
        "immutable": options.pop("immutable", False),
    }


def stub(barrier: str | None, size: int = 2) -> dict[str, Any]:
    options = {"task_id": "body"} if barrier is None else {"task_id": "body", "barrier": barrier}
    return {**sig("body"), "options": options, "chord_size": size}


class Launcher:
    """Stands where ``launch`` stands: keeps what it is asked to start."""

    def __init__(self, *, refuses: str = "") -> None:
        self.asked: list[tuple[str, tuple[object, ...], dict[str, object]]] = []
        self.ids: list[str] = []
        self._refuses = refuses

    def __call__(
        self,
        sig: Mapping[str, Any],
        args: Sequence[object],
        options: Mapping[str, object],
        *,
        root_id: str,
        parent_id: str | None,
        reply_to: str | None,
        ids: Callable[[], str],
    ) -> Started:
        if sig["task"] == self._refuses:
            raise ValueError("not this one")
        self.asked.append((sig["task"], tuple(args), dict(options)))
        self.ids.append(f"{root_id}<{parent_id}>{reply_to}")
        task_id = ids()
        return Started((), (Call(id=task_id, task=sig["task"]),), ((task_id, None), None))


def after(**fields: Any) -> Continuation:
    return Continuation(id="me", task="t", root_id="root", reply_to="replies", **fields)


FAILED = Ended(
    "FAILURE", {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}
)


def test_a_task_without_a_workflow_has_nothing_after_it() -> None:
    head = Head(id="me", task="t", correlation_id="me", root_id="me")
    assert not continuation(head, {})
    assert not continuation(head, {"callbacks": None, "chain": [], "chord": None})
    assert continuation(head, {"chain": [sig("b")]})


def test_a_header_alone_still_names_the_chord() -> None:
    head = Head(id="me", task="t", correlation_id="me", root_id="me", group="g", group_index=3)
    follows = after_failure(
        continuation(head, None),
        FAILED,
        request=None,
        takes_details=lambda _sig: False,
        start=Launcher(),
        errbacks=True,
    )
    (part,) = follows.parts
    assert (part.group, part.index, part.state, part.task_id) == ("g", 3, "FAILURE", "me")


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


def test_what_is_started_has_the_same_ids_each_time() -> None:
    def ids() -> list[str]:
        follows = after_success(after(callbacks=[sig("a"), sig("a")]), 1, Launcher())
        return [call.id for started in follows.started for call in started.calls]

    assert ids() == ids()
    assert len(set(ids())) == 2
    made = ids_of("me", "chain")
    assert made() != made()


def test_a_failure_reaches_every_task_that_was_to_come() -> None:
    chord = sig(
        "celery.chord",
        "chord",
        header=[sig("h1", task_id="h1"), sig("h2", task_id="h2", chord=stub("inner"))],
        body=sig("body", task_id="b", chord=stub("outer"), group_index=4, group_id="outer"),
        task_id="group",
    )
    group = sig("celery.group", "group", tasks=[sig("m", task_id="m"), sig("n", task_id="n")])
    chained = sig("celery.chain", "chain", tasks=[sig("x", task_id="x", reply_to="elsewhere")])
    gone, missing = unreached(
        [chord, group, chained, sig("y", task_id="y", link=[sig("l", task_id="l")])], "r"
    )
    assert {each.task_id for each in gone} == {"h1", "h2", "b", "m", "n", "x", "y", "l"}
    assert {each.task_id: each.reply_to for each in gone}["x"] == "elsewhere"
    assert missing == {"outer": (4, "b")}


def test_a_failing_link_fails_the_chord_that_its_last_link_is_part_of() -> None:
    last = sig("last", task_id="z", chord=stub("g"), group_id="g", group_index=2)
    follows = after_failure(
        after(chain=[last, sig("next", task_id="n")]),
        FAILED,
        request={"id": "me"},
        takes_details=lambda _sig: False,
        start=Launcher(),
        errbacks=True,
    )
    assert [each.task_id for each in follows.gone] == ["n", "z"]
    (part,) = follows.parts
    assert (part.group, part.index, part.task_id, part.result) == ("g", 2, "z", FAILED.error)


def test_the_body_of_a_chord_of_celerys_is_told() -> None:
    follows = after_failure(
        after(chord=stub(None)),
        FAILED,
        request={},
        takes_details=lambda _sig: False,
        start=Launcher(),
        errbacks=True,
    )
    assert ([each.task_id for each in follows.gone], follows.parts) == (["body"], ())


def test_errbacks_get_the_id_or_the_details() -> None:
    start = Launcher(refuses="broken")
    errbacks = [sig("old"), sig("new"), sig("broken"), sig("mute", immutable=True)]
    request = {"id": "me", "args": [1]}

    def ask(called: bool) -> None:
        after_failure(
            after(errbacks=errbacks),
            FAILED,
            request=request,
            takes_details=lambda each: each["task"] in ("new", "mute"),
            start=start,
            errbacks=called,
        )

    ask(False)
    assert start.asked == []
    ask(True)
    assert start.asked == [
        ("old", ("me",), {}),
        ("new", (request, FAILED.error, None), {"headers": {ERRBACK: 1}}),
        ("mute", (request, FAILED.error, None), {}),
    ]


def test_an_errback_can_go_without_its_tasks_arguments() -> None:
    request = {"id": "me", "args": [object()], "kwargs": {}}
    call = Call(id="e", task="new", args=(request, "error", None), headers={ERRBACK: 1})
    made = bare_errback(call)
    assert made is not None
    assert made.args == ({"id": "me", "args": [], "kwargs": {}}, "error", None)
    assert bare_errback(made) is None
    assert bare_errback(Call(id="o", task="old", args=("me",))) is None


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


@pytest.mark.parametrize(
    ("shape", "results", "expected"),
    [
        (None, [1, 2], [1, 2]),
        ([[0, 1], 2], [1, 2, 3], [[1, 2], 3]),
        ([[0, [1]], 2], [1, 2, 3, "more", "most"], [[1, [2]], 3, "more", "most"]),
        ([], [], []),
    ],
)
def test_results_take_the_form_of_the_header(
    shape: object, results: list[object], expected: list[object]
) -> None:
    assert shaped(shape, results) == expected


def test_a_body_gets_the_results_and_what_follows_it() -> None:
    start = Launcher()
    plan = {
        "body": sig("body", task_id="b", reply_to="r"),
        "chain": [sig("last")],
        "shape": None,
        "root_id": "root",
        "parent_id": "p",
    }
    after_parts("g", plan, [1, 2], start)
    assert start.asked == [("body", ([1, 2],), {"chain": [sig("last")]})]
    assert start.ids == ["root<p>r"]


def failed_plan(plan: Mapping[str, Any], start: Launcher) -> Any:
    cause = Ended("FAILURE", {"exc_type": "KeyError", "exc_message": ["k"]})
    return after_failed_parts(
        "g", plan, FAILED, cause, takes_details=lambda _sig: False, start=start
    )


def test_a_chord_that_failed_fails_its_body_and_all_after_it() -> None:
    start = Launcher()
    last = sig("last", task_id="z", chord=stub("outer"), group_index=1)
    body = sig("body", task_id="b", reply_to="r", link_error=[sig("eb")])
    ends = failed_plan({"body": body, "chain": [last], "root_id": "root"}, start)
    assert start.asked == [("eb", ("b",), {})]
    assert [each.task_id for _, follows in ends for each in follows.gone] == ["b", "z"]
    assert all(ended is FAILED for ended, _ in ends)
    ((_, _), (_, rest)) = ends
    assert [(part.group, part.index) for part in rest.parts] == [("outer", 1)]


def test_the_tasks_of_a_body_that_is_a_group_fail_as_the_part_did() -> None:
    start = Launcher()
    tasks = [sig("m", task_id="m", link_error=[sig("own")]), sig("n", task_id="n")]
    body = sig("celery.group", "group", tasks=tasks, task_id="group", link_error=[sig("all")])
    ((ended, follows),) = failed_plan({"body": body}, start)
    assert ended.error == {"exc_type": "KeyError", "exc_message": ["k"]}
    assert {each.task_id for each in follows.gone} == {"m", "n"}
    assert sorted((task, args) for task, args, _ in start.asked) == [
        ("all", ("m",)),
        ("all", ("n",)),
        ("own", ("m",)),
    ]


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
