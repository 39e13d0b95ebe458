"""What becomes of a chord when its drain is interrupted: at each point it is known what has been published, and what is not."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from amqtask.amqp.threaded import drain, join, paver
from amqtask.amqp.threaded.drain import Drain
from amqtask.amqp.threaded.join import MOST_DRAINS
from amqtask.core.barrier import Ending, part_message
from amqtask.core.outcome import Send, Sequel
from amqtask.core.workflow import Part
from amqtask.testing import Proxy
from tests.amqp.threaded.barriers import Bodies, Site, Stage, kinds, message, part, parts_of
from tests.brokers import Broker, limited_user
from tests.waiting import eventually


def begin(site: Site, each: Part) -> list[Exception | None]:
    """Have a part end; what it will be told."""
    told: list[Exception | None] = []
    site.io.post(partial(site.end_part, each, told.append, False))
    return told


def once(
    monkeypatch: pytest.MonkeyPatch, method: str, instead: Callable[[Drain], None]
) -> list[Drain]:
    """Have the first drain that comes to a point do something else; the drain."""
    met: list[Drain] = []
    before = getattr(Drain, method)

    def first(self: Drain, *args: Any) -> None:
        if met:
            before(self, *args)
        else:
            met.append(self)
            instead(self)

    monkeypatch.setattr(Drain, method, first)
    return met


def closed_by_broker(met: Drain) -> None:
    met._channel.queue_declare(uuid.uuid4().hex, passive=True)


def cut(met: Drain) -> None:
    met._context.connection.drop()


ends = pytest.mark.parametrize("end", [closed_by_broker, cut])


@ends
@kinds
def test_a_commit_without_an_answer_fails_no_body(
    stage: Stage,
    sites: Callable[..., Site],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    end: Callable[[Drain], None],
) -> None:
    """A classic barrier was told in the same transaction; of a quorum one the body comes again, with the same id."""
    group = stage.barrier(1, kind)
    met = once(monkeypatch, "_committed", end)
    site = sites(classic=kind == "classic")

    told = begin(site, part(group, 0, 1, 0))
    eventually(lambda: told == [None])

    assert len(met) == 1
    assert stage.bodies() == [[0]] * (1 if kind == "classic" else 2)
    assert not stage.there(group)


@ends
@kinds
def test_what_is_known_to_be_committed_is_not_done_again(
    stage: Stage,
    sites: Callable[..., Site],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    end: Callable[[Drain], None],
) -> None:
    outer = stage.barrier(1, kind)
    group = stage.barrier(1, kind, outer=outer)
    met = once(monkeypatch, "_finish", end)
    site = sites(classic=kind == "classic")

    told = begin(site, part(group, 0, 1, 0))
    eventually(lambda: told == [None])

    assert len(met) == 1
    assert stage.bodies() == [[0], [[0]]]
    assert not stage.there(group)
    assert not stage.there(outer)


@ends
def test_the_failure_of_a_body_that_no_queue_takes_is_told_whatever_breaks(
    stage: Stage,
    sites: Callable[..., Site],
    monkeypatch: pytest.MonkeyPatch,
    queue_name: str,
    end: Callable[[Drain], None],
) -> None:
    """Between the transaction that cannot be taken back and the second one."""
    bodies = Bodies(queue_name)
    group = stage.barrier(1, queue=f"{queue_name}.missing")
    site = sites(bodies)
    prepare = Drain._prepare

    def interrupted(self: Drain, sequel: Sequel) -> None:
        prepare(self, sequel)
        if self._published:
            end(self)

    monkeypatch.setattr(Drain, "_prepare", interrupted)
    told = begin(site, part(group, 0, 1, 0))
    eventually(lambda: told == [None])

    assert len(bodies.refusals) == 1
    assert set(stage.bodies()) == {"refused the body"}  # perhaps twice, with one id
    assert not stage.there(group)


def test_a_channel_that_is_closed_before_the_commit_has_published_nothing(
    stage: Stage, sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a broker closes one on which a message was held for longer than it lets anybody."""
    group = stage.barrier(1, "quorum")
    once(monkeypatch, "_prepare", closed_by_broker)

    told = begin(sites(classic=False), part(group, 0, 1, 0))
    eventually(lambda: told == [None])

    assert stage.bodies() == [[0]]
    assert not stage.there(group)


def test_a_way_that_is_not_made_in_time_is_made_another_time(
    stage: Stage,
    sites: Callable[..., Site],
    monkeypatch: pytest.MonkeyPatch,
    queue_name: str,
) -> None:
    monkeypatch.setattr(paver, "PAVE_TIMEOUT", 0.2)

    class Delayed(Bodies):
        def conclude(self, ending: Ending) -> Sequel:
            if not self.endings:
                proxy.freeze()
            (send,) = super().conclude(ending).sends
            return Sequel(sends=(Send(send.publication, self.queue, send.started),))

    bodies = Delayed(queue_name)
    group = stage.barrier(1)
    with Proxy.before(stage.broker.url) as proxy:
        site = sites(bodies, url=proxy.url)
        told = begin(site, part(group, 0, 1, 0))
        interrupted = site.joiner._chords
        eventually(lambda: group in interrupted and interrupted[group].troubles > 0)
        monkeypatch.setattr(paver, "PAVE_TIMEOUT", 20.0)
        proxy.thaw()
        eventually(lambda: told == [None])

    assert bodies.refusals == []
    assert stage.bodies() == [[0]]


def test_chords_whose_plans_are_refused_let_the_others_go_on(
    stage: Stage, sites: Callable[..., Site], queue_name: str
) -> None:
    class Planning(Bodies):
        def conclude(self, ending: Ending) -> Sequel:
            plan = Send(message(full, "plan"), None, "plan")
            plans = (plan,) if "planned" in ending.plan else ()
            return Sequel(plans=plans) + super().conclude(ending)

    with stage.full() as full:
        site = sites(Planning(queue_name))
        groups = [stage.barrier(1, planned=True) for _ in range(MOST_DRAINS)]
        told = [begin(site, part(group, 0, 1, "late")) for group in groups]
        chords = site.joiner._chords
        eventually(lambda: all(group in chords and chords[group].troubles for group in groups))

        site.end_parts(parts_of(stage.barrier(1), 1))
        assert stage.bodies() == [[0]]
        stage.channel.queue_delete(full)
        stage.channel.queue_declare(full, durable=True)
        eventually(lambda: told == [[None]] * len(groups))

    assert stage.bodies() == [["late"]] * len(groups)


def test_a_broker_that_holds_publishers_back_is_waited_for(
    stage: Stage, sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It carries out what it has not read yet when it goes on, though the connection was given up: all would be done again."""
    for module, name in ((drain, "COMMIT_WITHIN"), (drain, "ANSWER_WITHIN"), (join, "LOOK_WITHIN")):
        monkeypatch.setattr(module, name, 0.1)
    group, other = stage.barrier(1, "quorum"), stage.barrier(2)
    with Proxy.before(stage.broker.url) as proxy:
        site = sites(url=proxy.url, classic=False)
        site.end_parts(parts_of(other, 1))
        dropped: list[str] = []
        monkeypatch.setattr(site.joiner.connection, "drop", lambda: dropped.append(group))
        commit = Drain._commit

        def blocked(self: Drain, sequel: Sequel) -> None:
            site.joiner._hold("low on memory")
            proxy.freeze()
            commit(self, sequel)

        monkeypatch.setattr(Drain, "_commit", blocked)
        told = begin(site, part(group, 0, 1, 0))
        ticks: list[float] = []
        eventually(lambda: site.joiner.blocked)
        for _ in range(4):  # longer than anybody is given
            site.io.call_later(0.1, lambda: ticks.append(0))
            eventually(lambda: ticks.pop() == 0 if ticks else False)
        assert told == []
        proxy.thaw()
        site.io.post(lambda: site.joiner._hold(None))
        eventually(lambda: told == [None])

    assert dropped == []
    assert stage.bodies() == [[0]]
    assert not stage.there(group)


@kinds
def test_a_chord_is_over_though_its_queue_may_not_be_deleted(
    stage: Stage, sites: Callable[..., Site], broker: Broker, kind: str
) -> None:
    group = stage.barrier(1, kind)
    with limited_user(broker, configure="^$") as limited:
        site = sites(url=limited.url, classic=kind == "classic")

        assert site.end_parts([part(group, 0, 1, 0)]) == [None]

    assert stage.bodies() == [[0]]
    assert stage.there(group)  # until its time is over


def test_a_quorum_queue_that_is_said_to_be_empty_is_looked_into(
    stage: Stage, sites: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker says so, too, while the queue has no leader. The part that is looked for is confirmed."""
    group = stage.barrier(2, "quorum")
    stage.put(part_message(part(group, 0, 2, 0)))
    found = join.Joiner._found
    asked: list[int] = []

    def without_leader(self: join.Joiner, chord: Any, ready: int) -> None:
        asked.append(ready)
        found(self, chord, ready if len(asked) > 1 else 0)

    monkeypatch.setattr(join.Joiner, "_found", without_leader)
    assert sites(classic=False).end_parts([part(group, 1, 2, 1)]) == [None]

    assert asked == [3]
    assert stage.bodies() == [[0, 1]]
    assert not stage.there(group)
