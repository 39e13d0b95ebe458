"""Frozen workflows: the same ids wherever they are frozen, written, read and sent."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

from hypothesis import example, given, settings

from amqtask import signature
from amqtask.canvas.launch import launch
from tests.canvas.test_eager_celery import OURS, PLANS, Plan, built

TASK: Plan = ("task", "t.pair", [], False)


def ids() -> Callable[[], str]:
    count = itertools.count()
    return lambda: f"id{next(count)}"


def nested(form: Any) -> Any:
    """A result in Celery's tuple form, with lists and tuples told apart no more."""
    (task_id, parent), children = form
    return (
        task_id,
        None if parent is None else nested(parent),
        None if children is None else [nested(child) for child in children],
    )


@settings(max_examples=60, deadline=None)
@given(PLANS)
@example(("chain", [TASK, ("group", [TASK, TASK], False), ("group", [TASK, TASK], False)]))
def test_what_is_sent_has_the_ids_it_was_frozen_with(plan: Plan) -> None:
    sig = built(OURS, plan)

    expected = sig.freeze()

    assert nested(launch(sig).result) == nested(expected.as_tuple())


@settings(max_examples=60, deadline=None)
@given(PLANS)
def test_the_same_source_of_ids_freezes_the_same(plan: Plan) -> None:
    one, other = built(OURS, plan), built(OURS, plan)

    assert one.freeze(ids=ids()).as_tuple() == other.freeze(ids=ids()).as_tuple()
    assert json.dumps(one) == json.dumps(other)


@settings(max_examples=60, deadline=None)
@given(PLANS)
def test_a_signature_that_was_written_and_read_is_the_same(plan: Plan) -> None:
    sig = built(OURS, plan)
    read = signature(json.loads(json.dumps(sig)), app=OURS.app)

    assert json.dumps(read) == json.dumps(sig)
    assert json.dumps(read.clone()) == json.dumps(sig)


@settings(max_examples=60, deadline=None)
@given(PLANS)
def test_a_frozen_signature_keeps_its_ids_when_it_is_copied_written_and_read(plan: Plan) -> None:
    sig = built(OURS, plan)
    form = sig.freeze(ids=ids()).as_tuple()
    written = json.dumps(sig)

    for made in (sig.clone(), signature(json.loads(written), app=OURS.app)):
        assert json.dumps(made) == written
        assert nested(launch(made).result) == nested(form)
        assert made.freeze().as_tuple() == form
