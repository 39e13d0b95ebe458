"""Chords whose time is over: who has their plan ends them by what is in the barrier, exactly once, and nobody waits long."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from amqtask.core.barrier import Late, done_message, part_message, plan_message, queue_name
from amqtask.core.workflow import Barrier
from amqtask.errors import ConnectionLost
from tests.amqp.threaded.barriers import Bodies, Site, Stage, kinds, part, parts_of, squares
from tests.waiting import eventually

Told = list[Exception | None]


def expired(stage: Stage, group: str, size: int, **plan: object) -> Late:
    """Take the plan out of a barrier, as the broker does."""
    stage.channel.queue_purge(queue_name(group))
    return Late(group, size, plan_message(Barrier(group, size, plan)).envelope.body)


def end(site: Site, late: Late) -> Told:
    """Bring the plan; what whoever brought it is told."""
    told: Told = []
    site.io.post(partial(site.joiner.look, late.group, late.size, False, told.append, True, late))
    return told


@kinds
def test_the_failure_names_the_parts_that_have_not_ended(
    stage: Stage, sites: Callable[..., Site], queue_name: str, kind: str
) -> None:
    bodies = Bodies(queue_name)
    group = stage.barrier(3, kind)
    late = expired(stage, group, 3)
    stage.put(part_message(part(group, 1, 3)))

    told = end(sites(bodies, classic=kind == "classic"), late)

    eventually(lambda: told == [None])
    assert stage.bodies() == ["unable ChordError"]
    assert "0 and 2 have neither succeeded nor failed" in str(bodies.endings[0].error)  # type: ignore[union-attr]  # the body says which ending it was
    assert not stage.there(group)


@kinds
def test_a_barrier_with_nothing_in_it_and_one_that_is_gone_fail_too(
    stage: Stage, sites: Callable[..., Site], kind: str
) -> None:
    there, gone = stage.barrier(1, kind), stage.barrier(1, kind)
    plans = [expired(stage, group, 1) for group in (there, gone)]
    stage.channel.queue_delete(queue_name(gone))
    site = sites(classic=kind == "classic")

    told = [end(site, each) for each in plans]

    eventually(lambda: told == [[None]] * 2)
    assert stage.bodies() == ["unable ChordError"] * 2
    assert not stage.there(there)


def test_a_part_that_failed_is_the_reason(stage: Stage, sites: Callable[..., Site]) -> None:
    group = stage.barrier(3)
    late = expired(stage, group, 3)
    stage.put(part_message(part(group, 1, 3, {"exc_type": "E"}, "FAILURE")))

    told = end(sites(), late)

    eventually(lambda: told == [None])
    assert stage.bodies() == ["failed 1"]


def test_a_body_that_has_been_started_does_not_fail(
    stage: Stage, sites: Callable[..., Site]
) -> None:
    group = stage.barrier(1)
    late = expired(stage, group, 1)
    for each in (part_message(part(group, 0, 1)), done_message(group)):
        stage.put(each)

    told = end(sites(), late)

    eventually(lambda: told == [None])
    assert stage.bodies() == []
    assert not stage.there(group)


def test_all_parts_are_enough_and_the_plan_that_comes_again_changes_nothing(
    stage: Stage, sites: Callable[..., Site]
) -> None:
    group = stage.barrier(2)
    late = expired(stage, group, 2)
    for each in parts_of(group, 2):
        stage.put(part_message(each))
    site = sites()

    first = end(site, late)
    eventually(lambda: first == [None])
    again = end(site, late)
    eventually(lambda: again == [None])

    assert stage.bodies() == [squares(2)]
    assert not stage.there(group)


@kinds
def test_a_chord_inside_another_does_not_hold_up_the_plan_of_that(
    stage: Stage, sites: Callable[..., Site], kind: str
) -> None:
    """The inner one puts its failed part into a barrier without a plan, which somebody else has or is given later."""
    outer = stage.barrier(1, kind)
    inner = stage.barrier(1, kind, outer=outer)
    plans = [expired(stage, outer, 1), expired(stage, inner, 1, outer=outer)]
    here, there = (sites(classic=kind == "classic", ghost_within=60) for _ in range(2))

    told = [end(here, plans[1])]
    eventually(lambda: stage.bodies() == ["unable ChordError"])
    told.append(end(there, plans[0]))

    eventually(lambda: told == [[None]] * 2)
    assert len(stage.bodies()) == 1
    assert not stage.there(outer)
    assert not stage.there(inner)


def test_who_ends_does_not_wait_for_a_plan(stage: Stage, sites: Callable[..., Site]) -> None:
    group = stage.barrier(2)
    expired(stage, group, 2)
    site = sites(ghost_within=60)
    told: Told = []
    site.io.post(partial(site.end_part, part(group, 0, 2), told.append, True))
    eventually(lambda: group in site.joiner._chords and site.joiner._chords[group].planless)
    asked = time.monotonic()

    site.io.post(site.joiner.hurry)

    eventually(lambda: [type(each) for each in told] == [ConnectionLost])
    assert time.monotonic() - asked < 5
