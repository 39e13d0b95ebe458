"""Workflows run in place by Celery and by amqtask, and computed by plain function calls: the same values."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import celery
from hypothesis import given, settings
from hypothesis import strategies as st

import amqtask

PEER = celery.Celery("peer", broker="memory://", backend="cache+memory://", set_as_current=False)
OWN = amqtask.App("own")


def flat(values: Any) -> int:
    """The sum of all numbers in nested lists."""
    return sum(map(flat, values)) if isinstance(values, (list, tuple)) else int(values)


def total(*values: Any) -> int:
    return flat(values)


def twice(*values: Any) -> int:
    return 2 * flat(values)


def pair(*values: Any) -> list[int]:
    return [flat(values), 1]


FUNCTIONS = {"t.total": total, "t.twice": twice, "t.pair": pair}
for name, function in FUNCTIONS.items():
    PEER.task(function, name=name)
    OWN.task(name=name)(function)

THEIRS = SimpleNamespace(
    app=PEER, signature=celery.signature, chain=celery.chain, group=celery.group, chord=celery.chord
)
OURS = SimpleNamespace(
    app=OWN,
    signature=amqtask.signature,
    chain=amqtask.chain,
    group=amqtask.group,
    chord=amqtask.chord,
)

Plan = tuple[Any, ...]
TASKS = st.tuples(
    st.just("task"),
    st.sampled_from(sorted(FUNCTIONS)),
    st.lists(st.integers(0, 9), max_size=2),
    st.booleans(),
)


def more(parts: st.SearchStrategy[Plan]) -> st.SearchStrategy[Plan]:
    # Of one alone ``|`` makes something else: what that is, Celery says in test_signature_celery.
    several = st.lists(parts, min_size=2, max_size=3)
    return st.one_of(
        st.tuples(st.just("chain"), several),
        st.tuples(st.just("group"), several, st.booleans()),
        st.tuples(st.just("chord"), several, parts),
    )


PLANS = st.recursive(TASKS, more, max_leaves=8)


def built(lib: Any, plan: Plan) -> Any:
    match plan:
        case ("task", name, args, immutable):
            return lib.signature(name, tuple(args), immutable=immutable, app=lib.app)
        case ("chain", parts):
            return lib.chain([built(lib, part) for part in parts])
        case ("group", parts, lazy):
            made = [built(lib, part) for part in parts]
            return lib.group(iter(made) if lazy else made)
        case ("chord", parts, body):
            return lib.chord([built(lib, part) for part in parts], built(lib, body))
    raise AssertionError(plan)


def computed(plan: Plan, *args: Any) -> Any:
    """What the plan comes to by a plain reading."""
    match plan:
        case ("task", name, own, immutable):
            return FUNCTIONS[name](*(() if immutable else args), *own)
        case ("chain", parts):
            value: Any = computed(parts[0], *args)
            for part in parts[1:]:
                value = computed(part, value)
            return value
        case ("group", parts, _):
            return members(parts, *args)
        case ("chord", parts, body):
            return computed(body, members(parts, *args))
    raise AssertionError(plan)


def members(parts: list[Plan], *args: Any) -> list[Any]:
    """The values of a group's members, those of a group directly inside it in its place."""
    values: list[Any] = []
    for part in parts:
        value = computed(part, *args)
        values += value if part[0] == "group" else [value]
    return values


@settings(max_examples=150, deadline=None)
@given(PLANS, st.lists(st.integers(0, 9), max_size=1))
def test_the_values_are_those_of_function_calls(plan: Plan, args: list[int]) -> None:
    result = built(OURS, plan).apply(args)

    assert result.get() == computed(plan, *args)


@settings(max_examples=100, deadline=None)
@given(PLANS)
def test_the_values_are_celerys(plan: Plan) -> None:
    assert built(OURS, plan).apply().get() == built(THEIRS, plan).apply().get()


@settings(max_examples=60, deadline=None)
@given(PLANS)
def test_each_runs_what_the_other_wrote(plan: Plan) -> None:
    ours, theirs = built(OURS, plan), built(THEIRS, plan)
    read_by_us = amqtask.signature(json.loads(json.dumps(theirs)), app=OWN)
    read_by_them = celery.signature(json.loads(json.dumps(ours)), app=PEER)

    assert read_by_us.apply().get() == theirs.apply().get() == read_by_them.apply().get()
