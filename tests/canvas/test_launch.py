"""What a signature comes to: calls, barriers and the result's form."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from amqtask.call import Call, message_of
from amqtask.canvas.chord_end import shaped
from amqtask.canvas.launch import Launch, launch, stream
from amqtask.core import codec
from amqtask.core.workflow import Barrier

Sig = dict[str, Any]


def task(name: str, *args: object, immutable: bool = False, **options: Any) -> Sig:
    return {
        "task": name,
        "args": args,
        "kwargs": {},
        "options": options,
        "subtask_type": None,
        "immutable": immutable,
    }


def chain(*tasks: Sig, **options: Any) -> Sig:
    return task("celery.chain", **options) | {"kwargs": {"tasks": tasks}, "subtask_type": "chain"}


def group(*tasks: Sig, **options: Any) -> Sig:
    return task("celery.group", **options) | {"kwargs": {"tasks": tasks}, "subtask_type": "group"}


def chord(header: Any, body: Sig, **options: Any) -> Sig:
    kwargs = {"header": header, "body": body, "kwargs": {}}
    return task("celery.chord", **options) | {"kwargs": kwargs, "subtask_type": "chord"}


def numbered() -> Any:
    numbers = itertools.count(1)
    return lambda: f"id{next(numbers)}"


def launched(sig: Sig, *args: object, **more: Any) -> Launch:
    return launch(sig, args, ids=numbered(), **more)


def names(calls: Any) -> list[str]:
    return [call.task for call in calls]


def embed(call: Call) -> Any:
    """What the call's message carries of what follows."""
    return json.loads(body_of(call))[2]


def body_of(call: Call) -> bytes:
    message = message_of(
        call,
        reply_to=None,
        priority=0,
        serializer="json",
        compression=None,
        origin="here",
        parent=None,
        eta=None,
        expires=None,
    )
    return codec.encode(message).body


# ---------------------------------------------------------------- tasks and chains


def test_a_task_is_one_call_with_partial_arguments_before_its_own() -> None:
    made = launch(
        {**task("add", 2), "kwargs": {"a": 1}}, (1,), {"b": 2}, {"queue": "q"}, ids=numbered()
    )
    (call,) = made.calls
    assert (call.task, call.args, call.kwargs, call.queue) == ("add", (1, 2), {"a": 1, "b": 2}, "q")
    assert call.workflow is None
    assert made.result == (("id1", None), None)
    assert not made.barriers


@pytest.mark.parametrize(
    "workflow",
    [
        task("a", cuntdown=1),
        chain(task("a"), task("b", cuntdown=1)),
        chord([task("a")], task("b", cuntdown=1)),
        chord([chain(task("a"), task("b", cuntdown=1))], task("c")),
        task("a", link=[task("b", cuntdown=1)]),
        group(task("a"), task("b", link_error=[task("c", cuntdown=1)])),
    ],
)
def test_an_option_that_nobody_knows_is_refused_wherever_it_is(workflow: Sig) -> None:
    with pytest.raises(TypeError, match=r"'cuntdown'\. Did you mean 'countdown'\?"):
        launched(workflow, strict=True)
    launched(workflow)  # what comes by message is taken as it is


def test_a_callback_is_a_signature() -> None:
    with pytest.raises(
        TypeError, match="A link of the signature 'a' is a signature, not int: write"
    ):
        launched(task("a", link=[5]), strict=True)


def test_an_immutable_task_ignores_partial_arguments() -> None:
    (call,) = launched(task("add", 2, immutable=True), 1).calls
    assert call.args == (2,)


def test_a_frozen_signature_keeps_its_ids() -> None:
    made = launched(chain(task("a", task_id="A"), task("b", task_id="B", reply_to="there")))
    assert made.result == (("B", (("A", None), None)), None)
    assert made.calls[0].id == "A"
    assert embed(made.calls[0])["chain"][0]["options"] == {"task_id": "B", "reply_to": "there"}


def test_a_chain_travels_with_its_first_task_last_first() -> None:
    made = launched(chain(task("a"), task("b"), task("c", 5)), 1, reply_to="mine")
    (call,) = made.calls
    assert (call.task, call.args, call.reply_to) == ("a", (1,), "mine")
    rest = embed(call)["chain"]
    assert [each["task"] for each in rest] == ["c", "b"]
    assert all(each["options"]["reply_to"] == "mine" for each in rest)
    last, middle = (each["options"]["task_id"] for each in rest)
    assert made.result == ((last, ((middle, ((call.id, None), None)), None)), None)
    assert set(rest[0]) == {"task", "args", "kwargs", "options", "subtask_type", "immutable"}


def test_chains_in_chains_are_one_chain_and_empty_groups_are_left_out() -> None:
    made = launched(chain(group(), chain(task("a"), chain(task("b"))), group(), task("c")), 7)
    assert names(made.calls) == ["a"]
    assert made.calls[0].args == (7,)
    assert [each["task"] for each in embed(made.calls[0])["chain"]] == ["c", "b"]


def test_options_of_a_chain_go_to_its_first_task_links_to_its_last_and_errbacks_to_all() -> None:
    sig = chain(task("a"), task("b"), queue="q", link=[task("done")], link_error=task("failed"))
    (call,) = launched(sig).calls
    (last,) = embed(call)["chain"]
    assert call.queue == "q"
    assert "queue" not in last["options"]
    assert "callbacks" not in embed(call)
    assert [each["task"] for each in last["options"]["link"]] == ["done"]
    for errbacks in (embed(call)["errbacks"], last["options"]["link_error"]):
        assert [each["task"] for each in errbacks] == ["failed"]


def test_the_id_given_for_a_chain_is_that_of_its_last_task() -> None:
    made = launched(chain(task("a"), task("b")), options={"task_id": "mine"})
    assert made.result[0][0] == "mine"
    assert made.calls[0].id != "mine"


def test_what_follows_from_outside_comes_after_the_signature() -> None:
    follows = [task("z", task_id="Z")]
    (call,) = launched(chain(task("a"), task("b")), options={"chain": follows}).calls
    assert [each["task"] for each in embed(call)["chain"]] == ["z", "b"]


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to run"):
        launched(chain())


def test_the_signature_is_left_as_it_was() -> None:
    sig = chord([task("a"), chain(task("b"), task("c"))], task("d"), link_error=task("e"))
    before = json.dumps(sig)
    launched(chain(task("x"), sig, task("y")), 1)
    launched(sig, 1)
    assert json.dumps(sig) == before


# ---------------------------------------------------------------- groups


def test_a_group_is_its_members_flattened() -> None:
    made = launched(group(task("a"), group(task("b"), group()), chain(), task("c")), 1)
    assert names(made.calls) == ["a", "b", "c"]
    assert [call.args for call in made.calls] == [(1,), (1,), (1,)]
    assert [call.workflow and call.workflow.group_index for call in made.calls] == [0, 1, 2]
    assert {call.workflow and call.workflow.group for call in made.calls} == {"id1"}
    assert made.result == (("id1", None), [((call.id, None), None) for call in made.calls])


def test_options_of_a_group_come_before_those_of_its_members() -> None:
    calls = launched(group(task("a", queue="own"), task("b"), queue="group")).calls
    assert [call.queue for call in calls] == ["group", "group"]
    calls = launched(group(task("a")), options={"priority": 3, "task_id": "G"}).calls
    assert (calls[0].priority, calls[0].workflow and calls[0].workflow.group) == (3, "G")
    assert calls[0].id != "G"


def test_a_group_of_a_generator_is_made_while_it_is_sent() -> None:
    asked: list[int] = []

    def members() -> Iterator[Sig]:
        for number in range(1000):
            asked.append(number)
            yield task("a", number)

    sig = group() | {"kwargs": {"tasks": members()}}
    made = stream(sig, ids=numbered())
    assert asked == []
    next(made.steps)
    next(made.steps)
    assert len(asked) == 2
    assert len(list(made.steps)) == 998
    assert made.result[1] is not None
    assert len(made.result[1]) == 1000


def test_chunks_are_a_group_of_starmaps_routed_as_the_task_they_run() -> None:
    kwargs = {"task": task("add"), "it": iter([(1, 2), (3, 4), (5, 6)]), "n": 2}
    sig = task("celery.chunks", immutable=True) | {"kwargs": kwargs}
    made = launch(
        sig, defaults=lambda name: {"queue": "sums", "time_limit": 3} if name == "add" else {}
    )
    assert names(made.calls) == ["celery.starmap"] * 2
    assert [call.kwargs["it"] for call in made.calls] == [[(1, 2), (3, 4)], [(5, 6)]]
    first = made.calls[0]
    assert (first.route_name, first.queue, first.time_limit) == ("add", "sums", None)


def test_a_group_at_the_end_of_a_chain_is_its_result() -> None:
    made = launched(chain(task("a"), group(task("b"), task("c"))))
    ((group_id, parent), children) = made.result
    assert parent == ((made.calls[0].id, None), None)
    (last,) = embed(made.calls[0])["chain"]
    assert last["subtask_type"] == "group"
    assert last["options"]["task_id"] == group_id
    members = [each["options"]["task_id"] for each in last["kwargs"]["tasks"]]
    assert children == [((each, None), None) for each in members]


def test_a_group_of_one_chain_that_ends_in_a_group_is_that_group() -> None:
    made = launched(group(chain(task("a"), group(task("b"), task("c"), task_id="G"))))
    assert made.result[0][0] == "G"


# ---------------------------------------------------------------- chords


def plan_of(barrier: Barrier) -> Any:
    return json.loads(json.dumps(barrier.plan))


def test_a_chord_is_a_barrier_and_its_header() -> None:
    made = launched(
        chord([task("a", 1), task("b", 2)], task("sum", task_id="S")), 0, reply_to="mine"
    )
    (barrier,) = made.barriers
    assert names(made.calls) == ["a", "b"]
    assert barrier.size == 2
    plan = plan_of(barrier)
    assert plan["body"]["task"] == "sum"
    assert plan["body"]["options"] == {"task_id": "S", "reply_to": "mine"}
    assert (plan["chain"], plan["shape"]) == ([], None)
    assert (plan["root_id"], plan["parent_id"]) == (made.calls[0].id, made.calls[1].id)
    for index, call in enumerate(made.calls):
        assert call.workflow is not None
        assert (call.workflow.group, call.workflow.group_index) == (barrier.group, index)
        assert call.args[0] == 0
        assert embed(call)["chord"] == {
            "task": "sum",
            "args": [],
            "kwargs": {},
            "options": {"task_id": "S", "reply_to": "mine", "barrier": barrier.group},
            "subtask_type": None,
            "immutable": False,
            "chord_size": 2,
        }
    header = ((barrier.group, None), [((call.id, None), None) for call in made.calls])
    assert made.result == (("S", header), None)


@pytest.mark.parametrize("nest", [chain, lambda *tasks: chord(tasks[0], tasks[1])])
def test_a_group_that_something_follows_is_a_chord(nest: Any) -> None:
    made = launched(nest(group(task("a"), task("b")), task("c")))
    assert names(made.calls) == ["a", "b"]
    assert plan_of(made.barriers[0])["body"]["task"] == "c"


def test_what_follows_a_chord_waits_in_its_barrier_once() -> None:
    sig = chain(group(task("a"), task("b")), task("c"), task("d"), chord([task("e")], task("f")))
    made = launched(sig)
    plan = plan_of(made.barriers[0])
    assert plan["body"]["task"] == "c"
    assert [each["task"] for each in plan["chain"]] == ["celery.chord", "d"]
    assert all("chain" not in embed(call) for call in made.calls)


def test_a_chain_as_body_is_its_first_task_and_what_follows_that() -> None:
    made = launched(chain(task("x"), chord([task("a")], chain(task("b"), task("c"))), task("d")))
    rest = embed(made.calls[0])["chain"]
    assert [each["task"] for each in rest] == ["d", "c", "celery.chord"]
    assert rest[-1]["kwargs"]["body"]["task"] == "b"
    again = launch(rest[-1], (5,), options={"chain": rest[:-1]}, root_id="r", parent_id="p")
    plan = plan_of(again.barriers[0])
    assert plan["root_id"] == "r"
    assert [each["task"] for each in plan["chain"]] == ["d", "c"]
    assert again.calls[0].args == (5,)
    assert again.calls[0].workflow is not None
    assert (again.calls[0].workflow.root_id, again.calls[0].workflow.parent_id) == ("r", "p")


def test_a_chain_in_a_header_is_a_part_by_its_last_task() -> None:
    made = launched(chord([chain(task("a"), task("b")), task("c")], task("d")))
    first = embed(made.calls[0])
    assert "chord" not in first
    (last,) = first["chain"]
    assert last["options"]["chord"]["chord_size"] == 2
    assert (last["options"]["group_id"], last["options"]["group_index"]) == (
        made.barriers[0].group,
        0,
    )


def test_a_group_at_the_end_of_a_part_is_as_many_parts_put_together_by_the_shape() -> None:
    part = chain(task("a"), group(task("b"), chain(task("x"), group(task("c"), task("d")))))
    made = launched(chord([part, task("e")], task("f")))
    (barrier,) = made.barriers
    assert barrier.size == 4
    assert plan_of(barrier)["shape"] == [[0, [1, 2]], 3]
    assert shaped(barrier.plan["shape"], ["b", "c", "d", "e"]) == [["b", ["c", "d"]], "e"]
    assert shaped(barrier.plan["shape"], [1, 2, 3, 4, 5]) == [[1, [2, 3]], 4, 5]
    (inner,) = embed(made.calls[0])["chain"]
    again = launch(inner, (1,), parent_id=made.calls[0].id)
    assert names(again.calls) == ["b", "x"]
    assert not again.barriers
    assert again.calls[0].workflow is not None
    assert again.calls[0].workflow.group == barrier.group
    assert again.calls[0].workflow.group_index == 0
    (last,) = embed(again.calls[1])["chain"]
    indices = [each["options"]["group_index"] for each in last["kwargs"]["tasks"]]
    assert indices == [1, 2]


def test_a_chord_in_a_header_is_one_part_by_its_body() -> None:
    made = launched(chord([chord([task("a"), task("b")], task("c")), task("d")], task("e")))
    assert names(made.calls) == ["a", "b", "d"]
    outer, inner = made.barriers
    assert (outer.size, inner.size) == (2, 2)
    body = plan_of(inner)["body"]
    assert body["options"]["chord"]["options"]["barrier"] == outer.group
    assert (body["options"]["group_id"], body["options"]["group_index"]) == (outer.group, 0)
    again = launch(body, ([1, 2],))
    assert embed(again.calls[0])["chord"]["task"] == "e"


def test_arguments_that_a_chord_or_a_chain_was_given_before_are_its_first_tasks() -> None:
    sig = chord([task("a", 3), chain(task("b", 3), task("c"))], task("d"))
    sig |= {"args": (2,), "kwargs": {**sig["kwargs"], "kwargs": {"key": 4}}}
    made = launched(sig, 1)
    assert [(call.args, call.kwargs) for call in made.calls] == [((1, 2, 3), {"key": 4})] * 2
    made = launched(chain(sig, task("e")) | {"immutable": True}, 1)
    assert [call.args for call in made.calls] == [(2, 3), (2, 3)]
    assert made.calls[0].kwargs == {"key": 4}


def test_an_empty_header_runs_the_body_with_an_empty_list() -> None:
    made = launched(chord([], chain(task("a"), task("b"))), 1)
    assert not made.barriers
    (call,) = made.calls
    assert (call.task, call.args) == ("a", ([],))
    assert [each["task"] for each in embed(call)["chain"]] == ["b"]


def test_a_body_may_be_a_group_or_a_chord() -> None:
    made = launched(chord([task("a")], group(task("b"), task("c"))))
    plan = plan_of(made.barriers[0])
    assert plan["body"]["subtask_type"] == "group"
    assert embed(made.calls[0])["chord"]["options"]["task_id"] == made.result[0][0]
    made = launched(chain(group(task("a"), task("x")), group(task("b"), task("c")), task("d")))
    plan = plan_of(made.barriers[0])
    assert (plan["body"]["subtask_type"], plan["chain"]) == ("chord", [])
    assert embed(made.calls[0])["chord"]["task"] == "d"
    again = launch(plan["body"], ([1, 2],))
    assert [(call.task, call.args) for call in again.calls] == [("b", ([1, 2],)), ("c", ([1, 2],))]


def test_options_of_a_chord_hold_for_header_and_body_but_a_delay_for_the_header() -> None:
    sig = chord(group(task("a"), priority=1), task("b"), queue="q", countdown=5, priority=2)
    made = launched(sig)
    assert [(call.queue, call.countdown, call.priority) for call in made.calls] == [("q", 5, 2)]
    body = plan_of(made.barriers[0])["body"]["options"]
    assert (body["queue"], body["priority"]) == ("q", 2)
    assert "countdown" not in body


@pytest.mark.parametrize("header", [False, True])
def test_an_errback_of_a_chord_is_its_bodys_and_by_a_setting_its_headers(header: bool) -> None:
    sig = chord([task("a")], task("b"), link_error=task("failed"), link=task("done"))
    made = launched(sig, header_errbacks=header)
    body = plan_of(made.barriers[0])["body"]["options"]
    assert [each["task"] for each in body["link_error"]] == ["failed"]
    assert [each["task"] for each in body["link"]] == ["done"]
    assert ("errbacks" in embed(made.calls[0])) is header
    if header:
        assert embed(made.calls[0])["errbacks"][0]["immutable"]


def test_a_fan_that_must_be_one_part_is_accumulated() -> None:
    chord_of = {"task": "sum", "options": {"barrier": "G"}, "chord_size": 3}
    options = {"chord": chord_of, "group_id": "G", "group_index": 2, "task_id": "T"}
    made = launched(group(task("a"), task("b")), options=options)
    body = plan_of(made.barriers[0])["body"]
    assert (body["task"], body["kwargs"]) == ("celery.accumulate", {"index": 0})
    assert body["options"]["task_id"] == "T"
    assert body["options"]["chord"] == chord_of
    assert made.result[0][0] == "T"


def test_ids_depend_on_the_signature_alone() -> None:
    sig = chain(task("a"), chord([task("b"), chain(task("c"), task("d"))], task("e")), task("f"))
    assert launched(sig).calls == launched(sig).calls
    assert launched(sig).result == launched(sig).result


# ---------------------------------------------------------------- options


def test_stamps_travel_in_their_place() -> None:
    (call,) = launched(task("a", stamped_headers=["who"], who="me", priority=4)).calls
    assert call.workflow is not None
    assert (call.workflow.stamped_headers, call.workflow.stamps) == (["who"], {"who": "me"})
    assert call.priority == 4


def test_stamps_of_a_group_are_for_members_that_have_none() -> None:
    members = (task("a", stamped_headers=["who"], who="me"), task("b"))
    calls = launched(group(*members, stamped_headers=["what"], what=1), strict=True).calls
    stamps = [
        call.workflow and (call.workflow.stamped_headers, call.workflow.stamps) for call in calls
    ]
    assert stamps == [(["who"], {"who": "me"}), (["what"], {"what": 1})]


def test_priority_is_inherited_by_what_names_none() -> None:
    sig = group(task("a"), task("b", priority=1), task("c"))

    def defaults(name: str) -> Mapping[str, Any]:
        return {"priority": 2} if name == "c" else {}

    calls = launched(sig, priority=7, defaults=defaults).calls
    assert [call.priority for call in calls] == [7, 1, 2]
    for body, expected in (("a", 7), ("c", None)):
        made = launched(chord([task("a")], task(body)), priority=7, defaults=defaults)
        assert plan_of(made.barriers[0])["body"]["options"].get("priority") == expected


def test_an_unknown_option_is_a_callers_mistake_and_a_foreign_message_has_its_own() -> None:
    with pytest.raises(TypeError, match=r"'prioritty'.*'priority'"):
        launched(task("a", prioritty=1), strict=True)
    assert launched(task("a", prioritty=1)).calls[0].priority is None
    assert launched(task("a", add_to_parent=False, retry=True), strict=True).calls


def test_what_is_no_signature_is_named() -> None:
    with pytest.raises(TypeError, match="a signature is expected, not a value of type int"):
        launched(chain(task("a"), 3))  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ValueError, match="no body"):
        launched(chord([task("a")], None))  # type: ignore[arg-type]  # the mistake


# ---------------------------------------------------------------- growth


def sizes(made: Launch) -> list[int]:
    plans = [len(json.dumps(barrier.plan)) for barrier in made.barriers]
    return [len(body_of(call)) for call in made.calls] + plans


def run_through(made: Launch) -> int:
    """Bytes of all messages of a workflow of chains, whose every task ends at once."""
    total, (call,) = 0, made.calls
    while True:
        body = body_of(call)
        total += len(body)
        rest = json.loads(body)[2].get("chain")
        if not rest:
            return total
        (call,) = launch(rest[-1], (1,), options={"chain": rest[:-1]}).calls


def test_the_messages_of_a_chain_grow_with_what_remains() -> None:
    short, long = (
        len(body_of(launched(chain(*[task("tasks.add", 1)] * count), reply_to="q").calls[0]))
        for count in (100, 1000)
    )
    assert 9 < long / short < 11
    assert long < 1000 * 200
    # all messages together: half of that for each link
    total = run_through(launched(chain(*[task("tasks.add", 1)] * 100), reply_to="q"))
    assert total < 100 * short * 0.6


def test_a_chord_of_chords_of_chords_says_everything_once() -> None:
    def nested(depth: int, width: int) -> Sig:
        if not depth:
            return task("tasks.add", 1, 2)
        return chord([nested(depth - 1, width) for _ in range(width)], task("tasks.total"))

    small, large = (sizes(launch(nested(3, width), reply_to="q" * 40)) for width in (5, 10))
    assert len(large) == 1000 + 111
    assert max(large) < 1000
    assert sum(large) / len(large) < 1.05 * sum(small) / len(small)


def test_a_chain_of_chords_grows_with_the_number_of_chords() -> None:
    def linked(count: int) -> Launch:
        one = chord([task("tasks.add", 1, 2)] * 10, task("tasks.total"))
        return launch(chain(*[one] * count), reply_to="q" * 40)

    ten, hundred = linked(10), linked(100)
    assert sizes(ten)[0] == sizes(hundred)[0]  # the header carries nothing of what follows
    assert 9 < sizes(hundred)[-1] / sizes(ten)[-1] < 12


def test_a_barrier_knows_for_how_long_its_parts_are_put_off() -> None:
    def delay(header: Any, **options: Any) -> float:
        made = launched(chord(header, task("body")), **options)
        return max(barrier.delay for barrier in made.barriers)

    late, later = task("a", countdown=5), task("b", countdown=timedelta(seconds=30))
    assert delay([task("a"), task("b")]) == 0
    assert delay([late, later]) == 30
    assert delay([chain(late, later), later]) == 35
    assert delay([chord([late, later], task("inner", countdown=2)), task("a")]) == 32
    assert delay([task("a")], options={"countdown": 7}) == 7
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert 3500 < delay([task("a", eta=soon), task("b", eta=soon.isoformat())]) <= 3600
