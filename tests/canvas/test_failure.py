"""What follows from a failure, as values."""

from __future__ import annotations

from amqtask.call import Call
from amqtask.canvas.continuation import (
    continuation,
)
from amqtask.canvas.failure import ERRBACK, after_failure, bare_errback, unreached
from amqtask.core.codec import Head
from tests.canvas.following import FAILED, Launcher, after, sig, stub


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
