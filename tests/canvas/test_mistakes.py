"""What a user gets wrong with signatures: one sentence, at the call that is wrong."""

# mypy: disable-error-code="arg-type,operator,index"
# What a type checker says first is said here as well.

from __future__ import annotations

import copy
import json
import linecache
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqtask import App, Signature, chain, chord, chunks, group, signature, xmap
from amqtask.canvas.launch import stream
from amqtask.core.workflow import plain
from amqtask.errors import ConfigurationError
from tests.brokers import Broker

app = App("mistakes")


@app.task(name="shop.add")
def add(*values: Any) -> Any:
    """Gives its arguments back."""
    return values


@app.task(name="shop.bound", bind=True)
def bound(self: Any, sig: Any) -> Any:
    """Asks for something that only a worker can do."""
    return self.add_to_chord(sig)


def sent(sig: Any, **options: Any) -> int:
    """How many messages a client would send."""
    return len(list(stream(sig, (), {}, options, strict=True).steps))


def linked_to_itself() -> None:
    sig = add.s()
    sig.link(sig)


def linked_to_each_other() -> None:
    one, other = add.s(), add.s()
    one.link_error(other)
    other.link(chain.of([add.s(), one]))


def header_of_itself() -> None:
    sig = chord([add.s()], add.s())
    sig.body = sig


@pytest.fixture(autouse=True, scope="module")
def no_connection() -> Iterator[None]:
    """What was started to send is over."""
    yield
    app.close()


LOOPS: list[Callable[[], Any]] = [linked_to_itself, linked_to_each_other, header_of_itself]


@pytest.mark.parametrize("make", LOOPS)
def test_a_signature_is_not_linked_to_itself(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot have itself as .*: give it a copy"):
        make()


USES: dict[str, Callable[[Any], Any]] = {
    "clone": lambda sig: sig.clone(),
    "freeze": lambda sig: sig.freeze(),
    "apply": lambda sig: sig.apply(),
    "stamp": lambda sig: sig.stamp(customer=7),
    "join": lambda sig: sig | add.s(),
}


def containing_itself(kind: str, task: Any) -> Any:
    if kind == "chord":
        sig: Any = chord([task.s()], task.s())
        sig["kwargs"]["body"] = sig
    else:
        sig = chain(task.s(), task.s()) if kind == "chain" else group(task.s(), task.s())
        sig.tasks.append(sig)
    return sig


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", ["chain", "group", "chord"])
def test_a_workflow_that_contains_itself_is_told(kind: str, use: str) -> None:
    sig = containing_itself(kind, add)
    with pytest.raises(ConfigurationError, match="contains itself somewhere, or is nested too"):
        USES[use](sig)
    assert "…" in repr(sig)


def test_a_workflow_that_contains_itself_is_not_sent(broker: Broker) -> None:
    with App("endless", broker_url=broker.url) as here:
        task = here.task(name="endless.add")(lambda x=0: x)
        for kind in ("chain", "group", "chord"):
            with pytest.raises(ConfigurationError, match="contains itself somewhere"):
                containing_itself(kind, task).delay()


def nested(kind: str, times: int) -> Any:
    """The dictionary form of a signature as deep as that: built from the inside, which nothing walks."""
    form: dict[str, Any] = {"task": "shop.add"}
    for _ in range(times):
        inner = [form, {"task": "shop.add"}]
        given = {"header": inner, "body": form} if kind == "chord" else {"tasks": inner}
        if kind == "link":
            form = {"task": "shop.add", "options": {"link": [form]}}
        else:
            form = {"task": f"celery.{kind}", "kwargs": given, "subtask_type": kind}
    return form


READS: dict[str, Callable[[Any], Any]] = {
    "signature": lambda form: signature(form, app=app),
    "from_dict": Signature.from_dict,
    "member": lambda form: group(form),
    "link": lambda form: add.apply_async((), link=form),
}


@pytest.mark.parametrize("use", READS)
@pytest.mark.parametrize("kind", ["chain", "group", "chord"])
def test_what_is_nested_too_deeply_is_told(kind: str, use: str) -> None:
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        READS[use](nested(kind, 20_000))


@pytest.mark.parametrize("kind", ["chain", "group", "link"])
def test_nesting_as_deep_as_anybody_needs(kind: str) -> None:
    sig = signature(json.loads(json.dumps(nested(kind, 50))), app=app)
    sig.stamp(customer=7)
    assert sig.clone() == sig
    assert sent(sig) == {"chain": 1, "group": 51, "link": 1}[kind]


@pytest.mark.parametrize(
    "use", [READS["link"], lambda form: signature(form, app=app).stamp(customer=7)]
)
def test_callbacks_of_callbacks_of_callbacks_are_told(use: Callable[[Any], Any]) -> None:
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        use(nested("link", 20_000))


def test_the_same_signature_may_stand_in_several_places() -> None:
    one = add.s(1)
    inner = chain.of([one, one])
    sig = chain.of([inner, one, inner])
    sig.link(one)
    assert sig.links() == [one] * 5
    assert sent(group([one, sig, sig])) == 3


def test_looking_for_loops_costs_what_building_costs() -> None:
    callback = add.s()
    for n in range(200):  # each is linked to a longer line of callbacks
        longer = add.s(n)
        longer.link(callback)
        callback = longer
    assert len(callback.flatten_links()) == 201


WRONG: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("group of a number", lambda: group(5), TypeError, "made of signatures, not of int: write"),
    ("group of a task", lambda: group(add), TypeError, "the task 'shop.add' itself: write add.s(…)"),
    ("chain of numbers", lambda: chain(1, 2), TypeError, "not of int"),
    ("chain of a number", lambda: chain(1), TypeError, "not of int"),
    ("chain of a task", lambda: chain(add), TypeError, "write add.s(…)"),
    ("chain of nothing", lambda: chain(None), TypeError, "not of NoneType"),
    ("chord of a number", lambda: chord(5), TypeError, "not of int"),
    ("body is a number", lambda: chord([add.s()], 5), TypeError, "The body of a chord is"),
    ("body is a task", lambda: chord([add.s()], add), TypeError, "write add.s(…)"),
    ("called with it", lambda: chord([add.s()], add.s())(5), TypeError, "The body of a chord is"),
    ("three in a chord", lambda: chord([add.s()], add.s(), add.s()), TypeError, "parts in one list"),
    ("link, no body", lambda: chord([add.s()]).link(add.s()), ValueError, "has no body; write"),
    ("errback, no body", lambda: chord([add.s()]).link_error(add.s()), ValueError, "has no body"),
    ("apply, no body", lambda: chord([add.s()]).apply(), ValueError, "has no body; write"),
    ("link of a number", lambda: add.s().link(5), TypeError, "link takes a signature, not int"),
    ("link of a task", lambda: add.s().link(add), TypeError, "write add.s(…)"),
    ("link of nothing", lambda: add.s().link(None), TypeError, "not NoneType"),
    ("link of a list", lambda: add.s().link([add.s()]), TypeError, "not list"),
    ("link of a mapping", lambda: add.s().link({}), TypeError, "a mapping that names no task"),
    ("errback", lambda: add.s().on_error(5), TypeError, "link_error takes a signature, not int"),
    ("link of a group", lambda: group(add.s()).link(add), TypeError, "link takes a signature"),
    ("errback of a group", lambda: group(add.s()).link_error(5), TypeError, "link_error takes a"),
    ("link, empty group", lambda: group().link(add.s()), ValueError, "empty group has no member"),
    ("link of a chord", lambda: chord([add.s()], add.s()).link(5), TypeError, "link takes a sig"),
    ("number after", lambda: add.s() | 5, TypeError, "What | joins are signatures, not int"),
    ("number before", lambda: 5 | add.s(), TypeError, "What | joins are signatures, not int"),
    ("task after", lambda: add.s() | add, TypeError, "write add.s(…)"),
    ("mapping after", lambda: add.s() | {"task": "x"}, TypeError, "not dict"),
    ("mapping before", lambda: {"task": "x"} | add.s(), TypeError, "not dict"),
    ("after a group", lambda: group(add.s()) | 5, TypeError, "not int"),
    ("after a chain", lambda: chain(add.s()) | 5, TypeError, "not int"),
    ("after a chord", lambda: chord([add.s()], add.s()) | 5, TypeError, "not int"),
    ("clone", lambda: add.s().clone(5), TypeError, "clone() takes the task's arguments as a tuple"),
    ("clone of several", lambda: group(add.s()).clone(5), TypeError, "clone() takes the task's"),
    ("clone's keywords", lambda: add.s().clone((), 5), TypeError, "clone() takes the task's keyword"),
    ("apply", lambda: chain(add.s(), add.s()).apply(5), TypeError, "apply() takes the task's arg"),
    ("apply of a chord", lambda: chord([add.s()], add.s()).apply(5), TypeError, "apply() takes the"),
    ("set", lambda: add.s().set("fast"), TypeError, "set() takes options by name, as set(queue='…')"),
    ("replace", lambda: add.s().replace(5), TypeError, "as a tuple or a list, not int"),
    ("options", lambda: signature("x", options=5), TypeError, "options as a mapping, not int"),
    ("stamp", lambda: add.s().stamp(object()), TypeError, "stamp() takes a StampingVisitor, not"),
    ("stamp of several", lambda: group(add.s()).stamp("x"), TypeError, "stamp() takes a Stamping"),
    ("no chunk", lambda: add.chunks([(1,)], 0), ValueError, "a whole number from 1"),
    ("negative chunk", lambda: add.chunks([(1,)], -1), ValueError, "a whole number from 1"),
    ("text chunk", lambda: add.chunks([(1,)], "2"), ValueError, "a whole number from 1"),
    ("chunks of a number", lambda: add.chunks(5, 2), TypeError, "a list of arguments, one for each"),
    ("map", lambda: add.map(5), TypeError, "xmap takes a list of arguments, one for each call"),
    ("starmap", lambda: add.starmap(None), TypeError, "xstarmap takes a list of arguments"),
    ("map of a task", lambda: xmap(add, [1]), TypeError, "write add.s(…) for a call of it"),
    ("map of a name", lambda: xmap("add", [1]), TypeError, "the signature of a task, not str"),
    ("map of a mapping", lambda: xmap({}, [1]), TypeError, "a mapping that names none"),
    ("chunks of a task", lambda: chunks(add, [(1,)], 1), TypeError, "write add.s(…)"),
    ("skew", lambda: group(add.s()).skew("1"), TypeError, "skew() takes start in seconds, not '1'"),
    ("no name", lambda: signature(""), TypeError, "made of a task or its name, not ''"),
    ("no App", lambda: signature("x", app="shop").delay(), ConfigurationError, "which is no App"),
    ("topology", lambda: App("x", topology={"version": 1}), ConfigurationError, "path of a YAML file"),
    ("index", lambda: group(add.s())[0], KeyError, "what a workflow is made of is in .tasks"),
    ("outside", lambda: bound(add.s()), ValueError, "add_to_chord() is for a task that runs as"),
    ("replacing", lambda: bound.replace("x"), TypeError, "replace() takes a signature, not str"),
    ("link option", lambda: sent(chain(add.s(), add.s()), link=5), TypeError, "link takes a signa"),
    ("errback option", lambda: sent(chord([add.s()], add.s()), link_error=add), TypeError, "add.s(…)"),
    ("group id", lambda: sent(group(add.s()), task_id=5), TypeError, "task_id of a group is a text"),
    ("no time", lambda: sent(chain(add.s().set(expires="soon"), add.s())), ValueError, "not 'soon'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "kind", "said"), [row[1:] for row in WRONG], ids=[r[0] for r in WRONG]
)
def test_a_mistake_is_told_in_one_sentence(
    make: Callable[[], Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=re.escape(said)):
        make()


@pytest.mark.parametrize("sig", [chain(group()), group(chain()), group(group(), chain()), group()])
def test_groups_of_nothing_are_sent_without_an_app(sig: Any) -> None:
    assert sig.delay().get() == []


@pytest.mark.parametrize("sig", [chain(), chain(chain()), chain(group(), group())])
def test_chains_of_nothing_are_nothing(sig: Any) -> None:
    assert sig.delay() is None


# ---------------------------------------------------------------- dictionary forms

VALID = plain(
    chain(
        add.s(1).set(queue="q"),
        chord([add.s(2), chain(add.s(3), group(add.s(4), add.s(5)))], add.s(6)),
        group(add.map([1, 2]), add.chunks([(1,), (2,)], 1)),
    )
)
VALID["kwargs"]["tasks"][0]["options"]["link"] = [plain(add.s(7))]
VALID = json.loads(json.dumps(VALID))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something can be put."""
    found = [path] if path else []
    if isinstance(value, dict):
        for name in value:
            found += places(value[name], (*path, name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            found += places(each, (*path, index))
    return found


PLACES = places(VALID)
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(allow_nan=False),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
    st.just([5]),
    st.just({"task": 5}),
    st.just({"tasks": {"a": 1}}),
)


@settings(deadline=None, max_examples=200)
@given(place=st.sampled_from(PLACES), junk=st.one_of(JUNK, st.just("gone")))
def test_a_malformed_form_is_told_in_a_sentence_or_taken(place: tuple[Any, ...], junk: Any) -> None:
    form = copy.deepcopy(VALID)
    holder = form
    for name in place[:-1]:
        holder = holder[name]
    if junk == "gone" and isinstance(holder, dict):
        del holder[place[-1]]
    else:
        holder[place[-1]] = junk
    for use in (used_as_signature, used_raw):
        error = error_of(use, copy.deepcopy(form))
        if error is not None:
            assert isinstance(error, TypeError | ValueError | ConfigurationError)
            last = traceback.extract_tb(error.__traceback__)[-1]
            line = linecache.getline(last.filename, last.lineno or 0)
            assert line.strip().startswith("raise"), f"{error!r} of {last}"
            assert len(str(error)) > 25


def error_of(use: Callable[[Any], None], form: Any) -> Exception | None:
    try:
        use(form)
    except Exception as error:  # noqa: BLE001  # which one is looked at
        return error
    return None


def used_as_signature(form: Any) -> None:
    sig: Signature[Any] = app.signature(form)
    assert repr(sig)
    sent(sig.clone())
    sig.freeze()


def used_raw(form: Any) -> None:
    sent(form)
