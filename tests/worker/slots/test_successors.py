"""From ends of tasks to messages: records, parts, errbacks, bodies."""

from __future__ import annotations

import contextlib
import json
import pickle
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqtask import App, ChordError
from amqtask.canvas import primitives
from amqtask.canvas.continuation import continuation
from amqtask.canvas.failure import ERRBACK
from amqtask.canvas.launch import launch
from amqtask.core import codec, serialization
from amqtask.core.barrier import Broken, Complete, Unable
from amqtask.core.codec import Head
from amqtask.core.message import Properties, Publication
from amqtask.core.outcome import Failed, Ignored, Rejected, Revoked, Sequel
from amqtask.core.result import decode_result, exception_from_wire
from amqtask.core.workflow import LEAF, Part, leaf_of
from amqtask.errors import PayloadTooLarge, Unroutable
from amqtask.request import DeliveryInfo, Request
from amqtask.worker.slots.successors import Run, Successors, foreign_chord, request_of

app = App("successors", task_default_queue="q")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
async def later(x: int) -> int:
    return x + 1


@app.task
def old(task_id: str) -> None: ...


@app.task
def new(request: Any, error: Any, traceback: Any) -> None: ...


@app.task
def stars(*args: Any) -> None: ...


@app.task(bind=True)
def bound(self: Any, request: Any, error: Any, traceback: Any) -> None: ...


@app.task(ignore_result=True)
def quiet(x: int) -> None: ...


chain: Any = primitives.chain
chord: Any = primitives.chord
successors = Successors(app, app.settings, "node", serialization.accepted(["json"]), codec.LIMITS)


def body_of(publication: Publication) -> Any:
    return json.loads(publication.envelope.body)


def records(sequel: Sequel) -> dict[str, str]:
    found = [decode_result(p.envelope.properties, p.envelope.body) for p in sequel.results]
    return {each.task_id: each.status for each in found}


def run_of(sig: Any, **head: Any) -> tuple[Run, list[str]]:
    """A run of the first task of a signature, and the ids of all tasks in it."""
    first = launch(
        sig, reply_to="replies", defaults=lambda name: app.tasks[name].call_defaults
    ).calls[0]
    flow: Any = first.workflow
    embed = {"chain": flow.chain, "errbacks": flow.errbacks, "chord": flow.chord}
    made = Head(
        id=first.id, task=first.task, correlation_id=first.id, root_id=first.id, reply_to="replies",
        group=flow.group, group_index=flow.group_index, **head,
    )  # fmt: skip
    following = [each["options"]["task_id"] for each in flow.chain or ()]
    request = Request(id=first.id, task=first.task, args=[1, 2], root_id=first.id)
    return Run(continuation(made, embed), request), following


def test_success_sends_the_next_link_and_tells_of_it() -> None:
    run, (following,) = run_of(chain(add.s(1, 2), add.s(3)))
    sequel, children = successors.succeeded(run, 3)
    (send,) = sequel.sends
    assert (send.publication.routing_key, body_of(send.publication)[0]) == ("q", [3, 3])
    assert children == [((following, None), None)]
    headers: Any = send.publication.envelope.properties.headers
    assert (headers["root_id"], headers["parent_id"]) == (run.after.id, run.after.id)
    assert send.publication.envelope.properties.reply_to == "replies"


@pytest.mark.parametrize(("inherits", "priority"), [(True, 7), (False, 0)])
def test_what_follows_has_its_priority_where_the_setting_says_so(
    inherits: bool, priority: int
) -> None:
    settings = app.settings.replace(task_inherit_parent_priority=inherits)
    accept = serialization.accepted(["json"])
    made = Successors(app, settings, "node", accept, codec.LIMITS)
    run, _ = run_of(chain(add.s(1, 2), add.s(3)))
    info = DeliveryInfo(priority=7)
    run = Run(run.after, msgspec.structs.replace(run.request, delivery_info=info))
    (send,) = made.succeeded(run, 3)[0].sends
    assert send.publication.envelope.properties.priority == priority


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Failed(ValueError("no"), None, "failure"), "FAILURE"),
        (Revoked("revoked"), "REVOKED"),
        (Revoked("expired", expired=True), "REVOKED"),
        (Rejected("no", requeue=False), "FAILURE"),
        (Ignored(), "FAILURE"),
    ],
)
def test_every_end_is_told_to_all_that_was_to_come(outcome: Any, state: str) -> None:
    run, following = run_of(chain(add.s(1, 2), add.s(3), quiet.s()))
    sequel = successors.failed(run, outcome, "json")
    told = {task_id for task_id in following if task_id in records(sequel)}
    assert set(records(sequel).values()) == {state}
    assert len(told) == 1, "a task whose result is ignored is not told of"
    assert not sequel.sends


def test_errbacks_are_called_for_failures_alone() -> None:
    run, _ = run_of(add.s(1, 2).on_error(old.s()).on_error(new.s()))
    assert not successors.failed(run, Revoked("revoked"), "json").sends
    sequel = successors.failed(run, Failed(ValueError("no"), "text", "failure"), "json")
    first, second = (send.publication for send in sequel.sends)
    assert body_of(first)[0] == [run.after.id]
    (request, error, traceback), headers = body_of(second)[0], second.envelope.properties.headers
    assert (request_of(request).id, request["args"], traceback) == (run.after.id, [1, 2], "text")
    assert repr(exception_from_wire(error)) == "ValueError('no')"
    assert (headers or {})[ERRBACK] == 1


def test_an_errback_goes_without_arguments_that_have_no_form_in_its_serializer() -> None:
    run, _ = run_of(add.s(1, 2).on_error(new.s()))
    run = Run(run.after, msgspec.structs.replace(run.request, args=[object()]))
    (send,) = successors.failed(run, Failed(ValueError("no"), None, "failure"), "json").sends
    assert body_of(send.publication)[0][0]["args"] == []


@pytest.mark.parametrize(
    ("errback", "details"),
    [
        (old.s(), False),
        (new.s(), True),
        (stars.s(), True),
        (bound.s(), False),
        (new.s(1, 2), False),
        (new.s(traceback=1), True),
        (new.si(1, 2, 3), True),
        ({"task": "somewhere.else"}, False),
    ],
)
def test_errbacks_are_told_apart_as_celery_does(errback: Any, details: bool) -> None:
    assert successors.takes_details(errback) is details


def header_of(sig: Any) -> Any:
    return launch(sig, reply_to="replies", defaults=lambda name: app.tasks[name].call_defaults)


def test_a_chord_comes_to_its_body_or_to_its_failure() -> None:
    made = header_of(chord([add.s(1, 2), add.s(3, 4)], add.s(1).on_error(old.s())))
    (barrier,) = made.barriers
    body = barrier.plan["body"]["options"]["task_id"]
    (send,) = successors.conclude(Complete(barrier.group, barrier.plan, (3, 7))).sends
    assert body_of(send.publication)[0] == [[3, 7], 1]

    wire = {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}
    part = Part(group=barrier.group, index=0, size=2, task_id="p", state="FAILURE", result=wire)
    sequel = successors.conclude(Broken(barrier.group, barrier.plan, part))
    assert records(sequel) == {body: "FAILURE"}
    record = decode_result(sequel.results[0].envelope.properties, sequel.results[0].envelope.body)
    error = exception_from_wire(record.result)
    assert isinstance(error, ChordError)
    assert str(error) == "Dependency p raised ValueError('no')"
    assert body_of(sequel.sends[0].publication)[0] == [body]

    sequel = successors.conclude(Unable(barrier.group, barrier.plan, Unroutable("nowhere")))
    assert records(sequel) == {body: "FAILURE"}
    assert successors.refused(barrier, PayloadTooLarge("much")).results


def test_a_body_that_is_too_large_fails_and_says_so() -> None:
    small = Successors(
        app,
        app.settings,
        "node",
        serialization.accepted(["json"]),
        codec.Limits(message_max_bytes=2000),
    )
    tight = App("tight", task_default_queue="q", message_max_bytes=2000)
    small._app = tight  # the app whose limit it is
    (barrier,) = header_of(chord([add.s(1, 2)], add.s(1))).barriers
    sequel = small.conclude(Complete(barrier.group, barrier.plan, ("x" * 3000,)))
    (publication,) = sequel.results
    said = decode_result(publication.envelope.properties, publication.envelope.body)
    assert "message_max_bytes" in str(exception_from_wire(said.result))


def test_a_next_link_too_large_for_a_message_fails_itself_and_what_follows_it() -> None:
    tight = App("tight", task_default_queue="q", message_max_bytes=2000)
    accept = serialization.accepted(["json"])
    made = Successors(tight, tight.settings, "node", accept, codec.Limits(message_max_bytes=2000))
    run, following = run_of(chain(add.s(1, 2), add.s("x" * 1500), add.s(3)))
    sequel, _ = made.succeeded(run, "y" * 1500)
    assert records(sequel) == dict.fromkeys(following, "FAILURE")
    assert not sequel.sends


def test_what_could_not_be_started_has_failed_with_all_that_follows_it() -> None:
    made = header_of(chain(add.s(1, 2).on_error(old.s()), add.s(3)))
    (call,) = made.calls
    sequel = successors.refused(call, Unroutable("no queue"))
    assert len(records(sequel)) == 2
    assert call.id in records(sequel)
    assert len(sequel.sends) == 1
    assert not successors.refused(None, Unroutable("no queue"))


def test_a_chord_of_celerys_is_refused_in_a_sentence() -> None:
    head = Head(id="me", task="t", correlation_id="me", root_id="me")
    assert foreign_chord(head, {"chord": None}) is None
    assert foreign_chord(head, {"chord": {"options": {"barrier": "g"}}}) is None
    said = foreign_chord(head, {"chord": {"task": "b", "options": {"task_id": "b"}}})
    assert said is not None
    assert "part of a chord that a Celery client began" in said


def test_a_damaged_request_is_still_one() -> None:
    assert request_of(None).id is None
    made = request_of({"id": "x", "timelimit": [1, None], "nonsense": 1})
    assert (made.id, made.timelimit) == ("x", (1, None))


def test_a_header_that_cannot_be_read_may_still_name_a_chord() -> None:
    (part,) = successors.missed("g", 1, "me", ValueError("no")).parts
    assert (part.part.group, part.part.index, part.publication.routing_key) == (
        "g",
        1,
        "amqtask.join.g",
    )
    for group, index in ((None, 1), ("", 1), ("g", None), ("g", -1), ("g", "1"), (3, 1)):
        assert not successors.missed(group, index, "me", ValueError("no"))


def test_builtin_tasks_do_what_celerys_do() -> None:
    tasks = app.builtins
    assert tasks["celery.map"].run(dict(later.s()), [1, 2]) == [2, 3]
    assert tasks["celery.starmap"].run(dict(add.s()), [(1, 2), (3, 4)]) == [3, 7]
    assert tasks["celery.accumulate"].run([1, 2], index=0) == [1, 2]
    assert tasks["celery.accumulate"].run(1, 2) == (1, 2)


def test_a_body_nobody_read_is_read_when_the_task_ends() -> None:
    head = Head(id="me", task="t", correlation_id="me", root_id="me", group="g", group_index=0)

    def delivery(body: bytes, kind: str = "application/json") -> Any:
        encoding = "utf-8" if kind == "application/json" else "binary"
        properties = Properties(content_type=kind, content_encoding=encoding)
        return SimpleNamespace(properties=properties, body=body)

    assert successors.read(delivery(b"[[],{},{}]"), head) is None
    run = successors.read(delivery(b'[[1],{},{"chain":[{"task":"b"}]}]'), head)
    assert run is not None
    assert (run.request.args, len(run.after.chain)) == ([1], 1)
    damaged = successors.read(delivery(b"nonsense"), head)
    assert damaged is not None
    assert damaged.after.chord == {"options": {"barrier": "g"}}
    pickled = delivery(pickle.dumps([[1], {}, {}]), "application/x-python-serialize")
    trusting = Successors(
        app, app.settings, "node", serialization.accepted(["json", "pickle"]), codec.LIMITS
    )
    assert trusting.read(pickled, head) is None
    deadly = trusting.read(pickled, head, deadly=True)
    assert deadly is not None
    assert deadly.request.args == ()


def test_what_expires_in_a_workflow_is_not_the_brokers_to_drop() -> None:
    def expiration(sig: Any) -> str | None:
        ((publication, _),) = app.compose(header_of(sig).calls[0])
        return publication.envelope.properties.expiration

    assert expiration(add.s(1, 2).set(expires=10)) is not None
    assert expiration(add.s(1, 2).set(expires=10) | add.s(3)) is None
    assert expiration(primitives.group([add.s(1, 2).set(expires=10)])) is None


_TEXT = st.sampled_from(
    ["", "task", "successors", "test_successors.add", "celery.chord", "x" * 300, "amq.x"]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | _TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "task",
                        "args",
                        "kwargs",
                        "options",
                        "subtask_type",
                        "immutable",
                        "tasks",
                        "header",
                        "body",
                    ),
                    *(
                        "task_id",
                        "reply_to",
                        "barrier",
                        "chord",
                        "chain",
                        "link",
                        "link_error",
                        "group_index",
                        "headers",
                    ),
                ]
            ),
            inner | st.sampled_from(["chain", "group", "chord", add.name, old.name, new.name]),
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(lists=st.lists(st.lists(_JSON, max_size=3), min_size=3, max_size=3), chord=_JSON)
def test_no_embed_breaks_what_follows_a_failure(lists: list[list[Any]], chord: Any) -> None:
    callbacks, errbacks, chain = lists
    embed = {
        "callbacks": callbacks,
        "errbacks": errbacks,
        "chain": chain,
        "chord": chord if isinstance(chord, dict) else None,
    }
    head = Head(id="me", task="t", correlation_id="me", root_id="me", reply_to="replies")
    run = Run(continuation(head, embed), Request(id="me", args=[1]))
    foreign_chord(head, embed)
    with contextlib.suppress(Exception):  # which then is how the task has failed
        successors.succeeded(run, 1)
    successors.failed(run, Failed(ValueError("no"), None, "failure"), "json")
    plan = {"body": chain[0] if chain else chord, "chain": chain, "shape": None}
    successors.conclude(Complete("g", plan, (1,)))
    part = Part(group="g", index=0, size=1, task_id="p", state="FAILURE", result=chord)
    successors.conclude(Broken("g", plan, part))


@pytest.mark.parametrize(
    ("branch", "index"),
    [
        (chain(add.s(1, 2), add.s(3), quiet.s()), 1),
        (chain(add.s(1, 2), primitives.group(add.s(3), add.s(4))), 1),
        (chain(add.s(1, 2), chord([add.s(3), add.s(4)], stars.s())), 1),
        (add.s(1, 2), 1),
    ],
    ids=["links", "a group at the end", "a chord at the end", "a task"],
)
def test_a_link_that_nobody_can_read_ends_its_chord(branch: Any, index: int) -> None:
    """Its header names the part, also where its own body would have said so only of the last link."""
    made = launch(
        chord([add.s(0, 0), branch], stars.s()),
        reply_to="replies",
        defaults=lambda name: app.tasks[name].call_defaults,
    )
    group = made.barriers[0].group
    (call,) = (each for each in made.calls if each.args == (1, 2))
    ((publication, _),) = app.compose(call)
    properties = publication.envelope.properties
    head = codec.read_header(properties, publication.envelope.body)
    damaged: Any = SimpleNamespace(
        properties=properties, body=b"no JSON", queue="q", exchange="", routing_key="q"
    )

    run = successors.read(damaged, head)
    assert run is not None
    (sent,) = successors.failed(run, Failed(ValueError("no"), None, "undecodable"), "json").parts
    assert (sent.part.group, sent.part.index, sent.part.state) == (group, index, "FAILURE")


def test_only_links_before_the_end_of_a_part_name_it() -> None:
    defaults: Any = lambda name: app.tasks[name].call_defaults  # noqa: E731  # as the others
    for sig in (add.s(1, 2), chain(add.s(1, 2), add.s(3)), chord([add.s(1, 2)], quiet.s())):
        (call,) = launch(sig, reply_to="replies", defaults=defaults).calls
        assert LEAF not in call.headers
    for damaged in ("", "x g", "1", "-1 g", "1 ", 7):
        assert leaf_of({LEAF: damaged}) is None
    assert leaf_of({LEAF: "12 the group"}) == ("the group", 12)
