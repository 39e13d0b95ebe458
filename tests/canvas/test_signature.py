"""Signatures as values: changed, copied, combined, frozen, stamped, and run in place."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import operator
import pickle
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import amqtask
from amqtask import (
    App,
    Signature,
    chain,
    chord,
    chunks,
    group,
    maybe_signature,
    signature,
    xmap,
    xstarmap,
)
from amqtask.canvas.launch import launch
from amqtask.canvas.lazy import Lazy
from amqtask.errors import ConfigurationError, NotRegistered

app = App("own")
seen: list[Any] = []


@app.task(name="t.add")
def add(*numbers: int) -> int:
    return sum(numbers)


@app.task(name="t.total")
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="t.note")
def note(*args: Any, **kwargs: Any) -> None:
    seen.append((*args, *kwargs.items()))


@app.task(name="t.fail")
def fail(*_args: Any) -> None:
    raise ValueError("broken")


@app.task(name="t.told")
def told(request: Any, error: BaseException, traceback: str) -> None:
    seen.append((request.id, error, "broken" in traceback))


@app.task(name="t.told_id")
def told_id(task_id: str) -> None:
    seen.append(task_id)


@app.task(name="t.ignored")
def ignored(*_args: Any) -> None:
    raise amqtask.Ignore


@app.task(name="t.whoami", bind=True)
def whoami(self: Any, *_args: Any) -> tuple[Any, ...]:
    request = self.request
    return request.root_id, request.parent_id, request.group, request.group_index, request.stamps


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    seen.clear()
    yield
    seen.clear()


def ids() -> Callable[[], str]:
    count = itertools.count()
    return lambda: f"id{next(count)}"


def counted(length: int) -> tuple[Iterator[Signature[Any]], list[int]]:
    """A generator of signatures, and which of them it has made."""
    made: list[int] = []

    def generate() -> Iterator[Signature[Any]]:
        for index in range(length):
            made.append(index)
            yield add.s(index)

    return generate(), made


# ---------------------------------------------------------------- one signature


def test_partial_arguments_come_first_and_keywords_instead() -> None:
    sig = note.s(2, key="own").clone((1,), {"key": "given", "more": 3})

    sig(0)

    assert seen == [(0, 1, 2, ("key", "given"), ("more", 3))]


def test_an_immutable_signature_ignores_partial_arguments_and_takes_options() -> None:
    sig = note.si(2).clone((1,), {"key": 1}, queue="q")

    assert (sig.args, sig.kwargs, sig.options) == ((2,), {}, {"queue": "q"})
    assert sig.reprcall(1) == "t.note(1, 2)"


def test_the_group_and_the_stamps_stay_what_they_are() -> None:
    sig = add.signature(group_id="g", user=1, stamped_headers=["user"], queue="a")

    merged = sig.clone(group_id="other", user=2, stamped_headers=[], queue="b").options

    assert merged == {"group_id": "g", "user": 1, "stamped_headers": ["user"], "queue": "b"}


def test_a_copy_is_changed_alone() -> None:
    sig = add.s(1).on_error(note.s())
    for made in (sig.clone(), copy.copy(sig), copy.deepcopy(sig), sig.partial(), signature(sig)):
        made.set(queue="q").link(note.s())
        made.kwargs["x"] = 1
        made.options["link_error"][0].set(priority=1)

        assert type(made) is Signature
        assert made.app is app
        assert sig == add.s(1).on_error(note.s())


def test_members_are_copied_with_their_group_chain_and_chord() -> None:
    for sig in (group(add.s(1), add.s(2)), chain(add.s(1), add.s(2)), chord([add.s(1)], add.s(2))):
        before = json.dumps(sig)
        made = sig.clone()
        made.tasks[0].set(queue="q")
        made.link(note.s())
        made.link_error(note.s())

        assert json.dumps(sig) == before


def test_a_signature_travels_as_pickle_and_as_json() -> None:
    sig = add.s(1) | group(add.s(i) for i in range(2)) | total.s()

    for made in (pickle.loads(pickle.dumps(sig)), signature(json.loads(json.dumps(sig)))):
        assert type(made) is type(sig)
        assert json.dumps(made) == json.dumps(sig)
        assert maybe_signature(made, app=app).apply().get() == 3


def test_replace_takes_other_arguments_and_options() -> None:
    sig = add.signature((1,), queue="q")

    made = sig.replace(args=(5,), options={"priority": 1})

    assert (made.args, made.options, sig.args) == ((5,), {"priority": 1}, (1,))


def test_links_are_there_once_and_errbacks_return_what_they_were_given_to() -> None:
    callback = note.s()
    sig = add.s(1)

    assert sig.link(callback) is callback
    sig.link(note.s())
    assert sig.on_error(callback) is sig

    assert sig.options == {"link": [callback], "link_error": [callback]}
    assert sig.flatten_links() == [sig, callback]


def test_what_is_no_signature_is_said_in_a_sentence() -> None:
    with pytest.raises(TypeError, match="made of a task or its name, not 5"):
        signature(5)
    with pytest.raises(TypeError, match="as a tuple or a list, not int; for one argument write"):
        add.signature(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="made of signatures, not of int"):
        group(add.s(), 5)
    with pytest.raises(TypeError, match=r"not of the task 't.add' itself: write add.s"):
        chain(add, add.s())
    with pytest.raises(ValueError, match="no signatures of the kind 'knot'"):
        signature({"task": "x", "subtask_type": "knot"})
    with pytest.raises(TypeError):
        add.s() | 5  # type: ignore[operator]


def test_a_signature_without_an_app_says_so() -> None:
    with pytest.raises(ConfigurationError, match="belongs to no app: make it"):
        signature("t.add").delay()
    with pytest.raises(NotRegistered):
        app.signature("t.unknown").apply()
    assert group(signature("t.add"), add.s()).app is app
    assert chord([signature("t.add")], chain(signature("x"), add.s())).app is app


def test_parts_without_an_app_have_that_of_the_others() -> None:
    nested = chord(
        [signature("t.add", (1,)), group(signature("t.add", (2,)))], signature("t.total")
    )

    assert chain(add.s(5), {"task": "t.add", "args": [1]}).apply().get() == 6
    assert group({"task": "t.add", "args": [1]}, add.s(2)).apply().get() == [1, 2]
    assert chain(nested, add.s(3)).apply().get() == 6


def test_a_dictionary_that_names_only_its_task_is_completed() -> None:
    assert signature({"task": "t.add"}) == signature("t.add")


# ---------------------------------------------------------------- sending


class Recorder:
    """An app that writes down what it is to launch."""

    def launch(self, *call: Any) -> Any:
        seen.append(call)
        return "handle"

    async def alaunch(self, *call: Any) -> Any:
        seen.append(call)
        return "handle"


def test_every_way_of_sending_goes_to_the_app() -> None:
    sig = signature("x", (1,), app=Recorder())

    assert sig.delay(2, key=3) == "handle"
    assert sig.apply_async((2,), queue="q") == "handle"
    assert asyncio.run(sig.adelay(2)) == "handle"
    assert asyncio.run(sig.aapply_async(kwargs={"key": 3})) == "handle"

    assert seen == [
        (sig, (2,), {"key": 3}, {}),
        (sig, (2,), {}, {"queue": "q"}),
        (sig, (2,), {}, {}),
        (sig, (), {"key": 3}, {}),
    ]


def test_several_are_called_to_be_sent() -> None:
    recorder: Any = Recorder()
    made = chain(add.s(1), add.s(2), app=recorder)
    parts = group(add.s(1), app=recorder)
    joined = chord([add.s(1)], app=recorder)

    made(5)
    parts(5, queue="q")
    joined(total.s())
    asyncio.run(joined.aapply_async(kwargs={"body": total.s()}))

    assert seen[0] == (made, (5,), {}, {})
    assert seen[1] == (parts, (5,), {}, {"queue": "q"})
    assert [call[0].body for call in seen[2:]] == [total.s(), total.s()]
    assert joined.body is None
    assert chain()() is asyncio.run(chain().adelay()) is None
    assert group().delay().get() == asyncio.run(group(iter(())).adelay()).get() == []
    with pytest.raises(TypeError, match="use a chord"):
        parts.apply_async(link=note.s())
    with pytest.raises(TypeError, match="link it to the members"):
        asyncio.run(parts.aapply_async(link_error=note.s()))


def test_chunks_are_sent_as_their_group() -> None:
    made = chunks(add.s(), ((n, n) for n in range(5)), 2, app=Recorder(), queue="q")

    made()

    sent = seen[0][0]
    assert [part.kwargs["it"] for part in sent.tasks] == [
        [(0, 0), (1, 1)],
        [(2, 2), (3, 3)],
        [(4, 4)],
    ]
    assert sent.options == {"queue": "q"}
    with pytest.raises(ValueError, match="whole number from 1"):
        add.chunks([], 0)


# ---------------------------------------------------------------- generators


def test_a_generator_is_not_asked_before_it_is_needed() -> None:
    items, made = counted(1000)

    sig = group(items)
    sig.set(queue="q")
    sig.set_immutable(True)
    sig.link_error(note.s())
    sig.stamp(user=1)
    copied = sig.clone((1,))
    copied.skew()
    frozen = copied.freeze(ids=ids())

    assert made == []
    assert frozen.children is not None
    assert frozen.children[1].id == "id2"
    assert made == [0, 1]
    assert copied.tasks[1].options["user"] == 1
    assert copied.tasks[1].options["countdown"] == 2.0
    assert copied.tasks[1].immutable
    assert made == [0, 1]


def test_a_chord_of_a_generator_asks_for_two_at_most() -> None:
    items, made = counted(1000)

    sig = add.s(1) | group(items) | total.s()
    chord((add.s(n) for n in itertools.count()), total.s()).clone().freeze()
    sig.clone().freeze()
    repr(sig)

    assert len(made) <= 2


def test_a_lazy_list_is_a_list_once_it_is_asked() -> None:
    def lazy() -> Lazy[int]:
        return Lazy(iter(range(3)))

    assert list(lazy()) == lazy() == [0, 1, 2]
    assert (len(lazy()), lazy()[-1], lazy()[1:], 2 in lazy()) == (3, 2, [1, 2], True)
    assert operator.add([5], lazy()) == [5, 0, 1, 2]
    assert operator.add(lazy(), [5]) == [0, 1, 2, 5]
    assert json.dumps(lazy()) == "[0, 1, 2]"
    assert pickle.loads(pickle.dumps(lazy())) == [0, 1, 2]
    assert list(copy.deepcopy(lazy())) == list(copy.copy(lazy())) == [0, 1, 2]
    assert (bool(lazy()), bool(Lazy(iter(())))) == (True, False)
    part = lazy()
    assert (part.peek(2), part.complete, repr(part)) == (2, False, "[0, 1, …]")
    part.append(9)
    assert (part, part.complete) == ([0, 1, 2, 9], True)
    with pytest.raises(IndexError):
        lazy()[3]


def test_two_readers_of_a_lazy_list_see_all_of_it() -> None:
    lazy = Lazy(iter(range(4)))
    first = iter(lazy)

    assert next(first) == 0
    assert len(lazy) == 4
    assert list(first) == [1, 2, 3]


def test_a_generator_that_has_raised_makes_no_shorter_workflow() -> None:
    def items() -> Iterator[Signature[int]]:
        yield add.s(1, 1)
        raise TypeError(
            "no more of these"
        )  # the error that list() takes for an answer when it asks for a length

    for sig in (group(items()), chord(items(), total.s()), chord(group(items()), total.s())):
        for _ in range(2):
            with pytest.raises(TypeError, match="no more of these"):
                sig.clone().apply()
            with pytest.raises(TypeError, match="no more of these"):
                launch(sig)
    with pytest.raises(TypeError, match="not of int"):
        launch(chord(iter([add.s(1, 1), 5]), total.s()))


# ---------------------------------------------------------------- together


def test_what_follows_is_put_together_as_it_reads() -> None:
    a, b, c = add.s(1), add.s(2), add.s(3)

    assert repr(a | b | c) == "t.add(1) | add(2) | add(3)"
    assert repr(a | group(b, c)) == "t.add(1) | group([add(2), add(3)])"
    assert repr(group(a, b) | c) == "%t.add([add(1), add(2)], 3)"
    assert repr(chord([a], b) | c) == "%(t.add([add(1)], 2) | add(3))"
    assert repr(a | group(b) | c) == "t.add(1) | add(2) | add(3)"
    assert repr(chain(a, group(), b)) == "t.add(1) | add(2)"
    assert repr(chord([a]) | b) == "%t.add([add(1)], 2)"
    assert repr(chord([a])) == "<chord without body: [t.add(1)]>"
    assert repr(chain()) == "<chain: empty>"
    assert repr(group()) == "group(<empty>)"
    assert repr(add.map(range(3))) == "[t.add(x) for x in […]]"
    assert repr(add.starmap([(1, 2)] * 40)).endswith("(1, 2),...]")


def test_an_empty_group_in_a_chain_changes_nothing() -> None:
    assert repr(add.s(1) | group() | add.s(2)) == "t.add(1) | add(2)"
    assert (add.s(1) | group() | group(add.s(2), add.s(3))).apply().get() == [3, 4]
    assert chain(group(), group(), add.s(1)).apply((5,)).get() == 6
    assert chain(group()).apply().get() == []


def test_other_values_are_not_joined() -> None:
    for sig in (add.s(1), chain(add.s(1)), group(add.s(1)), chord([add.s(1)], total.s())):
        with pytest.raises(TypeError):
            operator.or_(sig, 5)
        with pytest.raises(TypeError):
            operator.or_(5, sig)


def test_a_group_of_a_group_and_a_header_of_one_task() -> None:
    assert group(group(add.s(1), add.s(2))).apply().get() == [1, 2]
    assert chord(add.s(1), total.s()).apply().get() == 1
    assert chord(group(add.s(1), add.s(2)), total.s()).apply().get() == 3
    with pytest.raises(TypeError, match="not of int"):
        chord(5, total.s())
    with pytest.raises(TypeError, match="not of str"):
        group("t.add")


def test_a_repeated_module_is_left_out_only_where_a_name_begins() -> None:
    sigs = [signature(f"{module}.tasks.a") for module in ("app", "webapp", "my-app", "app")]
    assert repr(group(sigs)) == "group([app.tasks.a(), webapp.tasks.a(), my-app.tasks.a(), a()])"


def test_a_chord_takes_tasks_themselves_for_parts() -> None:
    assert chord([add, add.s(1)], add.s()) == chord([add.s(), add.s(1)], add.s())
    with pytest.raises(TypeError, match=r"write add\.s"):
        chord([add.s()], add)


def test_immutability_and_partial_keywords_of_a_chord_are_its_parts() -> None:
    sig = chord([note.s(1), note.s(2)], note.s())
    sig.clone(kwargs={"key": 1}).apply()
    sig.set(immutable=True).apply((9,))

    assert seen == [(1, ("key", 1)), (2, ("key", 1)), ([None, None],), (1,), (2,), ([None, None],)]


def test_the_errback_of_a_chord_is_also_one_of_each_part_where_that_is_set() -> None:
    other = App("other", task_allow_error_cb_on_chord_header=True)
    sig = chord([other.signature("t.a"), other.signature("t.b")], other.signature("t.c"))

    sig.link_error(told_id.s())

    assert [part.options["link_error"] for part in sig.tasks] == [[told_id.si()], [told_id.si()]]
    assert sig.body.options["link_error"] == [told_id.s()]


def test_sending_and_waiting_in_one() -> None:
    assert ~group(app=app) == []


def test_in_place_or_is_a_chain_not_a_union() -> None:
    sig: Any = add.s(1)
    sig |= add.s(2)

    assert type(sig) is chain
    assert sig.apply().get() == 3


def test_callbacks_of_a_chain_are_its_last_links_and_errbacks_every_ones() -> None:
    sig = chain(add.s(1), add.s(2))
    sig.link(note.s())
    sig.link_error(told_id.s())

    first, last = sig.unchain_tasks()

    assert first.options == {"link_error": [told_id.s()]}
    assert last.options == {"link": [note.s()], "link_error": [told_id.s()]}


def test_callbacks_of_a_group_and_a_chord() -> None:
    parts = group(add.s(1), add.s(2))
    joined = chord([add.s(1), chord([add.s(2)], add.s(3))], total.s())
    for sig in (parts, joined):
        sig.link(note.s(1))
        sig.link_error(told_id.s())

    assert parts.tasks[0].options == {"link": [note.si(1)], "link_error": [told_id.s()]}
    assert parts.tasks[1].options == {"link_error": [told_id.s()]}
    assert joined.body.options == {"link": [note.s(1)], "link_error": [told_id.s()]}
    assert joined.tasks[0].options == {}
    assert joined.tasks[1].body.options == {"link_error": [told_id.s()]}


def test_delays_of_a_group_grow_up_to_the_last() -> None:
    sig = group(add.s(n) for n in range(4)).skew(start=1, stop=2, step=0.5)

    assert [task.options["countdown"] for task in sig.tasks] == [1.0, 1.5, 2.0, 2.0]


def test_partial_arguments_of_several_are_those_of_what_runs_first() -> None:
    assert chain(group(), add.s(1), add.s(2)).clone((9,)).apply().get() == 12
    assert group(add.s(1), add.si(2)).clone((9,)).apply().get() == [10, 2]
    assert chord([add.s(1), add.s(2)], total.s()).clone((9,)).apply().get() == 21
    assert (add.map([1, 2]).clone((9,))).apply().get() == [1, 2]


# ---------------------------------------------------------------- ids


def test_the_same_ids_freeze_the_same() -> None:
    def build() -> Signature[Any]:
        return (
            add.s(1) | group(add.s(2), add.s(3) | group(add.s(4), add.s(5))) | total.s() | add.s(6)
        )

    one, other = build(), build()

    assert one.freeze(ids=ids()).as_tuple() == other.freeze(ids=ids()).as_tuple()
    assert json.dumps(one) == json.dumps(other)


def test_freezing_again_changes_nothing() -> None:
    sig = group(add.s(1), add.s(2)) | total.s()
    first = sig.freeze().as_tuple()

    assert sig.freeze().as_tuple() == first


def test_members_of_inner_groups_are_frozen_in_their_place() -> None:
    sig = group(add.s(1), group(add.s(2), add.s(3)), chain(), add.chunks([(4,), (5,)], 1), add.s(6))

    frozen = sig.freeze()

    assert [task.options["group_index"] for task in sig.tasks] == [0, 1, 2, 3, 4, 5]
    assert [task.args for task in sig.tasks] == [(1,), (2,), (3,), (), (), (6,)]
    assert [child.id for child in frozen.children or ()] == [task.id for task in sig.tasks]


def test_a_chain_of_thousands_is_built_frozen_and_told() -> None:
    sig = chain(add.s(1) for _ in range(5000))

    frozen = sig.freeze(ids=ids())

    form: Any = frozen.as_tuple()
    length = 0
    while form is not None:
        (_, form), length = form[0], length + 1
    assert length == 5000
    assert len(json.dumps(sig)) < 5000 * 200
    with pytest.raises(ValueError, match="empty chain"):
        chain().freeze()


def test_chords_after_chords_are_frozen_and_copied_without_a_copy_for_each_part() -> None:
    sig: Any = total.s()
    for _ in range(30):
        sig = chord([add.s(n) for n in range(5)], total.s()) | sig
    sig.freeze()

    copied = sig.clone()

    assert copied.freeze().as_tuple() == sig.freeze().as_tuple()
    first: Any = copied.tasks[0] if isinstance(copied, chain) else copied
    bodies = [part.options["chord"] for part in first.header.tasks]
    assert all(body is bodies[0] for body in bodies)


# ---------------------------------------------------------------- in place


def test_callbacks_run_in_place_and_are_the_results_children() -> None:
    sig = add.s(1)
    sig.link(note.s("a"))
    sig.link(chain(add.s(2), note.s("b")))

    result = sig.apply()

    assert seen == [(1, "a"), (3, "b")]
    assert [child.get() for child in result.children] == [None, None]


def test_errbacks_run_in_place_with_what_they_take() -> None:
    result = fail.s().on_error(told.s()).on_error(told_id.s()).apply()

    assert seen == [(result.id, result.result, True), result.id]
    assert result.state == "FAILURE"


def test_an_errback_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    broken = app.signature("t.told", ("too", "many", "arguments", "for", "it"))
    result = fail.s().on_error(broken).on_error(told_id.s()).apply()

    assert seen == [result.id]
    assert isinstance(result.result, ValueError)
    assert "An error callback has raised" in caplog.text


def test_a_failing_link_ends_a_chain_with_its_error() -> None:
    with pytest.raises(ValueError, match="broken"):
        chain(fail.s(), note.s()).apply()

    assert seen == []
    assert chain(add.s(1), fail.s()).apply().failed()


def test_an_ignored_link_is_the_last() -> None:
    result = chain(add.s(1), ignored.s(), note.s()).apply()

    assert (result.state, result.get(), seen) == ("IGNORED", None, [])


def test_a_failed_part_ends_a_chord_or_is_given_to_its_body() -> None:
    joined = chord([add.s(1), fail.s()], note.s())
    with pytest.raises(ValueError, match="broken"):
        joined.apply()

    joined.apply(propagate=False)

    assert [type(value) for value in seen[0][0]] == [int, ValueError]
    with pytest.raises(ValueError, match="no body"):
        chord([add.s(1)]).apply()


def test_results_in_place_know_what_came_before() -> None:
    result = chain(add.s(1), group(add.s(2), add.s(3)), total.s(), add.s(4)).apply()

    line = [result, *result.ancestors()]

    assert [one.get() for one in line] == [11, 7, [3, 4], 1]


def test_a_task_in_place_knows_its_workflow() -> None:
    result = chain(add.s(1), whoami.s()).set(task_id="last").apply(root_id="root")
    members = group(whoami.s(), whoami.s()).set(task_id="g").apply()
    stamped = whoami.s()
    stamped.stamp(user=7)

    assert result.id == "last"
    assert result.get() == ("root", result.parent.id, None, None, None)
    assert [value[2:4] for value in members.get()] == [("g", 0), ("g", 1)]
    assert stamped.apply().get()[4] == {"user": 7}


def test_series_run_in_place() -> None:
    assert add.map(iter([1, 2])).apply().get() == [1, 2]
    assert add.starmap([(1, 2), (3, 4)]).apply().get() == [3, 7]
    assert add.chunks([(1, 2), (3, 4), (5, 6)], 2).apply().get() == [[3, 7], [11]]
    assert (add.chunks([(1,), (2,), (3,)], 2) | note.s()).apply().get() is None
    assert seen == [([[1, 2], [3]],)]
    assert xmap(add.s(), [1]).app is xstarmap(add.s(), []).app is app


def test_callbacks_of_a_whole_run_once_at_its_end() -> None:
    for sig in (chain(add.s(1), add.s(2)), chord([add.s(1), add.s(2)], total.s())):
        sig.apply(link=note.s())

    assert seen == [(3,), (3,)]


# ---------------------------------------------------------------- stamps


class ByName(amqtask.StampingVisitor):
    def on_signature(self, sig: Signature[Any], **headers: Any) -> dict[str, Any]:
        return {"called": sig.task}


def test_stamps_reach_every_part_and_every_callback() -> None:
    sig: Any = add.s(1) | group(add.s(2), add.s(3)) | total.s()
    sig.tasks[0].link(note.s())

    sig.stamp(ByName(), user=7)

    parts = [
        sig.tasks[0],
        sig.tasks[0].options["link"][0],
        *sig.tasks[1].header.tasks,
        sig.tasks[1].body,
    ]
    assert [part.options["called"] for part in parts] == [
        "t.add",
        "t.note",
        "t.add",
        "t.add",
        "t.total",
    ]
    assert all(sorted(part.options["stamped_headers"]) == ["called", "user"] for part in parts)


def test_callbacks_in_dictionary_form_are_stamped_too() -> None:
    sig = add.s(1)
    sig.link(json.loads(json.dumps(chain(note.s(1), note.s(2)))))

    sig.stamp(user=7)

    assert [task.options["user"] for task in sig.options["link"][0].tasks] == [7, 7]


def test_a_chord_is_stamped_with_its_body() -> None:
    sig: Any = group(add.s(1, 2), add.s(3, 4)) | add.s(5)
    sig.stamp(order="A9")
    assert [part.options["order"] for part in (*sig.tasks, sig.body)] == ["A9"] * 3


def test_stamps_that_are_there_are_kept_or_gathered() -> None:
    one, both = add.s(), add.s()
    for sig, gathered in ((one, False), (both, True)):
        sig.stamp(user=1)
        sig.stamp(append_stamps=gathered, user=2)

    assert one.options["user"] == 2
    assert both.options["user"] == [2, 1]


def test_kinds_can_be_added() -> None:
    @Signature.register_type("knot")
    class Knot(Signature[Any]):
        @classmethod
        def from_dict(cls, d: Any, app: Any = None) -> Any:
            return cls(d, app=app)

    try:
        assert type(signature(SimpleNamespace(name="x"), subtask_type="knot").clone()) is Knot
    finally:
        del Signature.TYPES["knot"]
