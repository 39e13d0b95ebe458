"""What launching makes of random workflows, played through in memory, is what plain calls give."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqtask import App, chain, chord, group
from amqtask.call import Call
from amqtask.canvas.chord_end import shaped
from amqtask.canvas.launch import Launch, launch
from amqtask.core.workflow import plain

app = App("meaning")

Value = Any


@app.task(name="note")
def note(*values: Value) -> Value:
    """Shows everything that it was called with."""
    return ["note", *values]


def seen(*values: Value) -> Value:
    return ["note", *values]


class Broker:
    """Runs the tasks of a workflow one after the other, as workers would, in an order that the test chooses."""

    def __init__(self, order: Sequence[int]) -> None:
        self._order = order
        self._turn = 0
        self._ready: deque[Call] = deque()
        self._plans: dict[str, Any] = {}
        self._parts: dict[str, dict[int, Value]] = {}
        self.results: dict[str, Value] = {}

    def send(self, made: Launch) -> None:
        for barrier in made.barriers:
            assert barrier.group not in self._plans
            self._plans[barrier.group] = (barrier.size, json.loads(json.dumps(barrier.plan)))
            self._parts[barrier.group] = {}
        self._ready.extend(made.calls)

    def run(self) -> None:
        while self._ready:
            self._ready.rotate(self._order[self._turn % len(self._order)])
            self._turn += 1
            self._end(self._ready.popleft())
        assert not any(self._plans.values()), "a chord waits for ever"

    def _end(self, call: Call) -> None:
        args = json.loads(json.dumps(call.args))
        value: Value
        if call.task == "celery.accumulate":
            value = args[0]
        elif call.task == "celery.starmap":
            value = [seen(*each) for each in cast("Any", call.kwargs["it"])]
        else:
            value = seen(*args)
        assert call.id not in self.results, "a task ran twice"
        self.results[call.id] = value
        flow = call.workflow
        if flow is None:
            return
        if flow.chain:
            rest: Any = json.loads(json.dumps(flow.chain))
            self.send(launch(rest[-1], (value,), options={"chain": rest[:-1]}, parent_id=call.id))
        if flow.chord:
            chord_of: Any = flow.chord
            barrier = chord_of["options"]["barrier"]
            assert barrier == flow.group
            assert flow.group_index is not None
            parts = self._parts[barrier]
            assert flow.group_index not in parts
            parts[flow.group_index] = value
            size, plan = self._plans[barrier]
            assert chord_of["chord_size"] == size
            if len(parts) == size:
                self._plans[barrier] = None
                argument = shaped(plan["shape"], [parts[index] for index in range(size)])
                self.send(launch(plan["body"], (argument,), options={"chain": plan["chain"]}))


# ---------------------------------------------------------------- plain calls

# A workflow as nested tuples: ("task", number), ("chain", parts), ("group", parts), ("chord", header, body).
Spec = Any

specs: st.SearchStrategy[Spec] = st.recursive(
    st.tuples(st.just("task"), st.integers(0, 9)),
    lambda inner: st.one_of(
        st.tuples(st.just("chain"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("group"), st.lists(inner, min_size=1, max_size=3)),
        st.tuples(st.just("chord"), st.lists(inner, min_size=0, max_size=3), inner),
    ),
    max_leaves=12,
)


def built(spec: Spec) -> Any:
    match spec:
        case ("task", number):
            return note.s(number)
        case ("chain", parts):
            return chain(*map(built, parts))
        case ("group", parts):
            return group(map(built, parts))
        case ("chord", header, body):
            return chord([built(each) for each in header], built(body))
    raise AssertionError(spec)


def members(sigs: Sequence[Any]) -> list[Any]:
    """Groups directly in groups are one group."""
    found = []
    for sig in sigs:
        found += members(sig["kwargs"]["tasks"]) if sig["subtask_type"] == "group" else [sig]
    return found


def value_of(sig: Any, *args: Value, inside: bool = False) -> Value:
    """What a signature means; ``inside``: in a chain, where a group of one is its member."""
    kwargs = sig["kwargs"]
    match sig["subtask_type"]:
        case None:
            return seen(*args, *sig["args"])
        case "chain":
            for part in kwargs["tasks"]:
                args = (value_of(part, *args, inside=True),)
            return args[0]
        case "group":
            if inside and len(kwargs["tasks"]) == 1:
                return value_of(kwargs["tasks"][0], *args, inside=True)
            return [value_of(part, *args) for part in members(kwargs["tasks"])]
        case "chord":
            header = kwargs["header"]
            tasks = header["kwargs"]["tasks"] if isinstance(header, dict) else header
            return value_of(kwargs["body"], [value_of(part, *args) for part in members(tasks)])
    raise AssertionError(sig)


def ends_in_group(sig: Any) -> bool:
    """Whether its last tasks are a group's."""
    match sig["subtask_type"]:
        case "chain":
            return ends_in_group(sig["kwargs"]["tasks"][-1])
        case "chord":
            return ends_in_group(sig["kwargs"]["body"])
        case kind:
            return bool(kind == "group")


def gathered(result: Any, results: dict[str, Value]) -> Value:
    (own, _), children = result
    return results[own] if children is None else [gathered(each, results) for each in children]


@settings(deadline=None, max_examples=200)
@given(spec=specs, order=st.lists(st.integers(0, 20), min_size=1, max_size=8), frozen=st.booleans())
def test_random_workflows(spec: Spec, order: list[int], frozen: bool) -> None:
    sig = built(spec)
    meant = value_of(sig, 100)
    if ends_in_group(sig) and len(meant) == 1 and meant[0] != "note" and meant[0][0] != "note":
        (meant,) = meant  # a group of one chain that ends in a group is that group
    if frozen:
        sig.freeze()
        sig = json.loads(json.dumps(plain(sig)))
    broker = Broker(order)
    made = launch(sig, (100,))
    broker.send(made)
    broker.run()

    assert gathered(made.result, broker.results) == meant


def parts(count: int) -> Any:
    """Chunks of two calls each."""
    return note.chunks([(n,) for n in range(2 * count)], 2)


WITH_CHUNKS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda it: it,
    "last of a chain": lambda it: chain(note.s(0), it),
    "joined": lambda it: note.s(0) | it,
    "in the middle": lambda it: chain(note.s(0), it, note.s(9)),
    "joined in the middle": lambda it: note.s(0) | it | note.s(9),
    "in a group": lambda it: group(it, note.s(0)),
    "a header": lambda it: chord(it, note.s(9)),
    "in a header": lambda it: chord([it, note.s(0)], note.s(9)),
    "last of a part": lambda it: chord([chain(note.s(0), it), note.s(3)], note.s(9)),
    "joined to a part": lambda it: chord([note.s(0) | it, note.s(3)], note.s(9)),
    "a body": lambda it: chord([note.s(3)], it),
    "last of a body": lambda it: chord([note.s(3)], chain(note.s(2), it)),
    "last of a part that is sent later": lambda it: chain(
        note.s(0), group(chain(note.s(1), it), note.s(2)), note.s(9)
    ),
    "deeper": lambda it: chain(
        note.s(0),
        group(chain(note.s(1), group(chain(note.s(4), it), note.s(7))), note.s(2)),
        note.s(9),
    ),
    "last of all": lambda it: chain(note.s(0), note.s(5), group(chain(note.s(1), it), note.s(2))),
}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("place", WITH_CHUNKS)
def test_chunks_come_to_a_list_of_lists_wherever_they_are(place: str, count: int) -> None:
    build = WITH_CHUNKS[place]
    meant = build(parts(count)).apply((100,)).get()
    sig = json.loads(json.dumps(plain(build(parts(count)))))
    broker = Broker([0])
    made = launch(sig, (100,))
    broker.send(made)
    broker.run()
    assert gathered(made.result, broker.results) == meant
