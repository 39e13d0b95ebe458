"""Chords on a real broker: concluded exactly once, whoever dies, whatever comes twice, wherever a connection breaks."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any
from unittest import mock

import pika
import pika.exceptions
import pytest

from amqtask.amqp.threaded.drain import Drain, Gone, Interrupted, Result
from amqtask.amqp.threaded.join import MOST_DRAINS
from amqtask.core import codec
from amqtask.core.barrier import (
    ADDED,
    Ending,
    Unable,
    more_message,
    part_message,
    plan_message,
    queue_name,
)
from amqtask.core.outcome import PartSent, Send, Sequel
from amqtask.core.result import SUCCESS
from amqtask.core.workflow import Barrier, More, Part
from amqtask.errors import ConnectionLost, Unroutable
from amqtask.testing import Proxy
from tests.amqp.threaded.barriers import (
    Bodies,
    Holding,
    Site,
    Stage,
    kinds,
    message,
    part,
    parts_of,
    squares,
)
from tests.brokers import Broker
from tests.waiting import eventually

both_codecs = pytest.mark.parametrize("fast", [True, False], ids=["frames", "pika"])


@kinds
@both_codecs
def test_the_last_part_brings_the_results_in_order(
    stage: Stage, sites: Callable[..., Site], kind: str, fast: bool
) -> None:
    group = stage.barrier(20, kind)
    site = sites(fast=fast)
    parts = parts_of(group, 20)
    random.shuffle(parts)

    told = site.end_parts(parts)

    assert told == [None] * 20
    assert stage.bodies() == [squares(20)]
    assert not stage.there(group)


@kinds
def test_a_failed_part_ends_the_chord_at_once(
    stage: Stage, sites: Callable[..., Site], kind: str
) -> None:
    group = stage.barrier(3, kind)
    site = sites()

    told = site.end_parts([part(group, 1, 3, {"exc_type": "E"}, "FAILURE")])
    late = site.end_parts([part(group, 0, 3), part(group, 2, 3)])

    assert told + late == [None] * 3
    assert stage.bodies() == ["failed 1"]
    assert not stage.there(group)


def test_a_success_of_the_same_part_beats_the_failure(
    stage: Stage, sites: Callable[..., Site]
) -> None:
    group = stage.barrier(2)
    stage.put(part_message(part(group, 0, 2, "well")))

    site = sites()
    site.end_parts([part(group, 0, 2, {"exc_type": "E"}, "FAILURE")])
    assert stage.bodies() == []
    site.end_parts([part(group, 1, 2, "good")])

    assert stage.bodies() == [["well", "good"]]


@kinds
def test_duplicates_neither_complete_nor_stop_it(
    stage: Stage, sites: Callable[..., Site], kind: str
) -> None:
    group = stage.barrier(3, kind)
    site = sites()

    site.end_parts([part(group, 0, 3, 0), part(group, 1, 3, 1)] * 4)
    assert stage.bodies() == []
    site.end_parts([part(group, 2, 3, 4)])

    assert stage.bodies() == [squares(3)]
    assert not stage.there(group)


def test_parts_added_while_it_runs_are_waited_for(stage: Stage, sites: Callable[..., Site]) -> None:
    group = stage.barrier(2)
    stage.put(more_message(More(group, "new")))
    site = sites()

    site.end_parts(parts_of(group, 2))
    assert stage.bodies() == []
    site.end_parts(
        [Part(group=group, index=ADDED, size=2, task_id="new", state=SUCCESS, result="added")]
    )

    assert stage.bodies() == [[0, 1, "added"]]


def test_a_chord_that_is_over_holds_nobody(stage: Stage, sites: Callable[..., Site]) -> None:
    site = sites()
    told: list[Exception | None] = []

    for again in (False, True):
        site.io.post(
            lambda again=again: site.joiner.look(uuid.uuid4().hex, 3, True, told.append, again)  # type: ignore[misc]  # mypy has no type for a default
        )
    site.io.post(lambda: site.joiner.look("x" * 300, 3, True, told.append))

    eventually(lambda: told == [None] * 3)


def test_a_chord_in_a_chord_is_a_part_of_it(stage: Stage, sites: Callable[..., Site]) -> None:
    outer = stage.barrier(1)
    inner = stage.barrier(2, outer=outer)

    sites().end_parts(parts_of(inner, 2))

    assert sorted(map(str, stage.bodies())) == ["[0, 1]", "[[0, 1]]"]
    assert not stage.there(inner)
    assert not stage.there(outer)


def test_a_body_that_no_queue_takes_fails(
    stage: Stage, sites: Callable[..., Site], queue_name: str
) -> None:
    bodies = Bodies(queue_name)
    group = stage.barrier(2, queue=f"{queue_name}.missing")

    told = sites(bodies).end_parts(parts_of(group, 2))

    assert told == [None] * 2
    assert [type(each) for each in bodies.refusals] == [Unroutable]
    assert stage.bodies() == ["refused the body"]
    assert not stage.there(group)


def test_a_body_that_the_broker_refuses_fails(stage: Stage, sites: Callable[..., Site]) -> None:
    group = stage.barrier(2, exchange="amqtask-test-missing")

    told = sites().end_parts(parts_of(group, 2))

    assert told == [None] * 2
    assert stage.bodies() == ["unable OperationRefused"]
    assert not stage.there(group)


def test_a_body_whose_queue_is_full_goes_when_there_is_room(
    stage: Stage, sites: Callable[..., Site], queue_name: str
) -> None:
    full = f"{queue_name}.full"
    limits = {"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"}
    stage.channel.queue_declare(full, durable=True, arguments=limits)
    stage.put(message(full, "in the way"))
    outer = stage.barrier(1)
    group = stage.barrier(2, queue=full, outer=outer)
    site = sites()
    told: list[Exception | None] = []
    for each in parts_of(group, 2):
        site.io.post(lambda each=each: site.end_part(each, told.append, False))  # type: ignore[misc]  # mypy has no type for a default

    try:
        eventually(lambda: stage.count(outer) == 3)  # the part was sent again with the body
        assert told == []
        stage.channel.queue_purge(full)
        eventually(lambda: len(told) == 2)
        _, _, body = stage.channel.basic_get(full, auto_ack=True)
    finally:
        stage.channel.queue_delete(full)

    assert body == b"[0, 1]"
    assert told == [None] * 2
    assert stage.bodies() == [[[0, 1]]]
    assert not stage.there(group)
    assert not stage.there(outer)


def test_what_follows_a_body_that_a_full_queue_delays_is_carried_out(
    stage: Stage, sites: Callable[..., Site], queue_name: str
) -> None:
    """Plans before the rest, parts with a look, and a plan whose queue differs is refused for good."""
    outer = stage.barrier(1)
    differs = stage.barrier(1, expires=77)

    class Several(Bodies):
        def conclude(self, ending: Ending) -> Sequel:
            if "torn" not in ending.plan:
                return super().conclude(ending)
            missing = message(f"{queue_name}.missing", None, "lost")
            return Sequel(
                sends=(Send(message(full, "body")), Send(missing, None, "no queue")),
            )

        def refused(self, started: object, error: Exception) -> Sequel:
            rest = super().refused(started, error)
            if started != "no queue":
                return rest
            plan = plan_message(Barrier(differs, 1, {}))
            failed = part(outer, 0, 1, {"exc_type": "E"}, "FAILURE")
            sent = (PartSent(part_message(failed), failed),)
            return rest + Sequel(plans=(Send(plan, plan.routing_key, "plan"),), parts=sent)

    with stage.full() as full:
        group = stage.barrier(1, torn=True)
        site = sites(Several(queue_name))
        told: list[Exception | None] = []
        site.io.post(lambda: site.end_part(part(group, 0, 1), told.append, False))
        eventually(lambda: stage.count(outer) == 2)
        stage.channel.queue_purge(full)
        eventually(lambda: told == [None])

    assert sorted(stage.bodies()) == ["failed 0", "refused no queue", "refused plan"]
    assert not stage.there(group)


def test_a_plan_that_is_refused_once_is_sent_again(
    stage: Stage, sites: Callable[..., Site], queue_name: str
) -> None:
    class Planning(Bodies):
        def conclude(self, ending: Ending) -> Sequel:
            return Sequel(plans=(Send(message(full, "plan"), None, "plan"),)) + super().conclude(
                ending
            )

    with stage.full() as full:
        bodies = Planning(queue_name)
        group = stage.barrier(1)
        site = sites(bodies)
        told: list[Exception | None] = []
        site.io.post(lambda: site.end_part(part(group, 0, 1, 0), told.append, False))
        eventually(lambda: bool(bodies.endings))
        site.end_parts(parts_of(stage.barrier(2), 1))  # the broker has said no meanwhile
        assert stage.bodies() == []
        stage.channel.queue_purge(full)
        eventually(lambda: told == [None])

    assert bodies.refusals == []
    assert stage.bodies() == [[0]]
    assert not stage.there(group)


def test_a_drain_whose_channel_closes_while_it_looks_outside_makes_room_once(
    stage: Stage, sites: Callable[..., Site], broker: Broker
) -> None:
    outer = stage.barrier(1)
    inner = stage.barrier(1, outer=outer)
    holder = broker.connect()
    held: list[Any] = []
    holder.channel().basic_consume(queue_name(outer), lambda *args: held.append(args))

    def holds_both() -> bool:
        holder.process_data_events(0.02)
        return len(held) == 2

    site = sites()
    told: list[Exception | None] = []
    site.io.post(lambda: site.end_part(part(inner, 0, 1, 0), told.append, False))
    eventually(holds_both)
    chords = site.joiner._chords
    eventually(lambda: outer in chords and chords[outer].drain is not None)
    drain: Any = chords[inner].drain
    site.io.post(lambda: drain._channel.queue_declare(uuid.uuid4().hex, passive=True))
    eventually(lambda: drain.over)
    holder.close()
    eventually(lambda: told == [None])

    assert site.joiner._draining == 0
    assert stage.bodies() == [[0], [[0]]]


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("NOT_FOUND - no queue 'q' in vhost '/'", Gone),
        ("NOT_FOUND - home node 'a' of durable queue 'q' in vhost '/' is down", Interrupted),
    ],
)
def test_a_queue_whose_node_is_down_has_not_been_concluded(text: str, ending: type[Result]) -> None:
    channel = mock.Mock(is_open=False)
    context = mock.Mock(io=mock.Mock(), connection=mock.Mock(connected=True))
    context.connection.raw.channel.return_value = channel
    ends: list[Result] = []
    Drain(context, "g", 2, peek=False, on_end=ends.append).begin()

    closed = channel.add_on_close_callback.call_args.args[0]
    closed(channel, pika.exceptions.ChannelClosedByBroker(404, text))

    assert [type(each) for each in ends] == [ending]


def test_results_too_large_for_one_message_fail_the_body(
    stage: Stage, sites: Callable[..., Site]
) -> None:
    group = stage.barrier(4)
    site = sites(limits=codec.Limits(message_max_bytes=20_000))

    site.end_parts([part(group, i, 4, "x" * 9_000) for i in range(4)])

    assert stage.bodies() == ["unable PayloadTooLarge"]
    assert not stage.there(group)


def test_what_cannot_be_concluded_ends_all_the_same(
    stage: Stage, sites: Callable[..., Site], queue_name: str
) -> None:
    class Raising(Bodies):
        def conclude(self, ending: Ending) -> Sequel:
            if not isinstance(ending, Unable):
                raise ValueError("no body of this")
            return super().conclude(ending)

    group = stage.barrier(1)

    sites(Raising(queue_name)).end_parts(parts_of(group, 1))

    assert stage.bodies() == ["unable ValueError"]


def test_nobody_is_told_that_it_is_safe_when_we_close(
    stage: Stage, sites: Callable[..., Site], broker: Broker
) -> None:
    with Proxy.before(broker.url) as proxy:
        site = sites(url=proxy.url)
        site.end_parts(parts_of(stage.barrier(2), 1))
        proxy.freeze()
        told: list[Exception | None] = []
        site.io.post(lambda: site.joiner.look(uuid.uuid4().hex, 1, False, told.append))
        closed = threading.Event()
        site.joiner.close(closed.set)

        assert closed.wait(10)
        assert [type(each) for each in told] == [ConnectionLost]
        late: list[Exception | None] = []
        site.io.post(lambda: site.joiner.look("g", 1, False, late.append))
        eventually(lambda: [type(each) for each in late] == [ConnectionLost])


@kinds
def test_a_part_that_comes_again_waits_for_who_holds_the_others(
    stage: Stage, sites: Callable[..., Site], broker: Broker, kind: str
) -> None:
    group = stage.barrier(2, kind)
    for each in parts_of(group, 2):
        stage.put(part_message(each))
    frozen = broker.connect()  # drained all, and does nothing more
    held: list[Any] = []
    frozen.channel().basic_consume(queue_name(group), lambda *args: held.append(args))

    def holds_all() -> bool:
        frozen.process_data_events(0.05)
        return len(held) == 3

    eventually(holds_all)
    site = sites()
    told: list[Exception | None] = []

    site.io.post(lambda: site.end_part(part(group, 1, 2, 1), told.append, True))
    # its question is answered: there is one message more, and the task is not let go for it
    site.end_parts([part(uuid.uuid4().hex, 0, 1)])
    assert told == []
    frozen.close()

    eventually(lambda: told == [None])
    assert stage.bodies() == [squares(2)]
    assert not stage.there(group)


def test_the_queue_of_a_chord_that_is_over_goes_with_a_part_that_comes_again(
    stage: Stage, sites: Callable[..., Site]
) -> None:
    group = stage.barrier(2)
    stage.channel.queue_purge(queue_name(group))  # concluded, but for the end

    told = sites().end_parts([part(group, 0, 2)], again=True)

    assert told == [None]
    assert stage.bodies() == []
    assert not stage.there(group)


def test_an_abandoned_barrier_goes_by_itself(stage: Stage, sites: Callable[..., Site]) -> None:
    group = stage.barrier(2, expires=0.5)
    sites().end_parts([part(group, 0, 2)])

    eventually(lambda: group not in barriers(stage.broker), timeout=10, interval=0.2)


def barriers(broker: Broker) -> set[str]:
    """The groups whose barriers are there: asked of the management, as a passive declare would renew them."""
    return {
        str(queue["name"]).removeprefix("amqtask.join.")
        for queue in broker.queues()
        if str(queue["name"]).startswith("amqtask.join.")
    }


@pytest.mark.parametrize(("kind", "seed"), [("classic", 0), ("quorum", 1)])
def test_whatever_breaks_the_body_comes_exactly_once(
    stage: Stage, sites: Callable[..., Site], broker: Broker, kind: str, seed: int
) -> None:
    """Several children end parts, some of them twice, while their connections are cut again and again."""
    rng = random.Random(seed)
    size = 30
    groups = [stage.barrier(size, kind) for _ in range(4)]
    work = [each for group in groups for each in parts_of(group, size)]
    work += rng.choices(work, k=20)
    rng.shuffle(work)
    over = threading.Event()

    def cut(proxy: Proxy, pauses: random.Random) -> None:
        for _ in range(4):
            over.wait(pauses.uniform(0.1, 0.5))
            proxy.cut()
            proxy.cut_after(to_server=pauses.randrange(700, 3000))

    with contextlib.ExitStack() as stack:
        proxies = [stack.enter_context(Proxy.before(broker.url)) for _ in range(3)]
        made = [sites(url=proxy.url) for proxy in proxies]
        threads = [
            threading.Thread(target=cut, args=(proxy, random.Random(rng.random())))
            for proxy in proxies
        ]
        for thread in threads:
            thread.start()
        told: list[Exception | None] = []

        def end(each: Part, site: Site) -> None:
            """As a task does: again, when it was not told that it is safe."""
            site.io.post(lambda: site.end_part(each, told.append, rng.random() < 0.1))

        for index, each in enumerate(work):
            end(each, made[index % 3])
            if index % 10 == 9:
                over.wait(0.02)
        for thread in threads:
            thread.join()
        eventually(lambda: len(told) == len(work), timeout=30)

    assert told == [None] * len(work)
    assert stage.bodies() == [squares(size)] * len(groups)
    assert [group for group in groups if stage.there(group)] == []


def test_a_drain_survives_a_cut_that_its_channel_is_told_of_first(
    stage: Stage, sites: Callable[..., Site], queue_name: str
) -> None:
    """pika tells channels of the end of their connection in the order in which they were opened."""
    bodies = Holding(queue_name)
    group = stage.barrier(1)
    with Proxy.before(stage.broker.url) as proxy:
        site = sites(bodies, url=proxy.url)
        told: list[Exception | None] = []
        site.io.post(lambda: site.end_part(part(group, 0, 1, 0), told.append, False))
        eventually(lambda: bool(bodies.endings))
        # what asks about a chord that is not there is answered by the end of the channel for questions, which is opened anew
        gone: list[Exception | None] = []
        site.io.post(lambda: site.joiner.look(uuid.uuid4().hex, 1, False, gone.append))
        eventually(lambda: gone == [None] and site.joiner.connection.channel is not None)
        proxy.cut()
        bodies.go.set()
        eventually(lambda: told == [None])

    assert stage.bodies() == [[0]]
    assert not stage.there(group)


def test_chords_that_wait_for_their_turn_survive_a_cut(
    stage: Stage, sites: Callable[..., Site], queue_name: str
) -> None:
    bodies = Holding(queue_name)
    groups = stage.filled(300)  # deep enough, if one began in the end of the other
    with Proxy.before(stage.broker.url) as proxy:
        site = sites(bodies, url=proxy.url)
        told: list[Exception | None] = []
        for group in groups:
            site.io.post(lambda group=group: site.joiner.look(group, 1, False, told.append))  # type: ignore[misc]  # mypy has no type for a default
        eventually(lambda: len(site.joiner._full) == len(groups) - MOST_DRAINS)
        proxy.cut()
        bodies.go.set()
        eventually(lambda: len(told) == len(groups))

    assert set(told) == {None}
    assert len(stage.bodies()) == len(groups)


# A process that ends the last part of a chord and is killed at a certain point of concluding it.
DIES = """
import os, signal, sys
from amqtask.amqp.threaded.drain import Drain
from tests.amqp.threaded.barriers import Bodies, Site, part

url, body_queue, group, point = sys.argv[1:]

def die(*_args, **_named):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(Bodies if point == "conclude" else Drain, point, die)
Site(url, Bodies(body_queue)).end_parts([part(group, 2, 3, 4)])
"""


@pytest.mark.parametrize(
    ("point", "published", "kind"),
    [
        ("conclude", 0, "classic"),
        ("_commit", 0, "quorum"),
        ("_finish", 1, "classic"),
        ("_delete", 2, "classic"),
    ],
)
def test_a_drainer_that_is_killed_has_done_nothing_or_everything(
    stage: Stage, sites: Callable[..., Site], kind: str, point: str, published: int
) -> None:
    outer = stage.barrier(1, kind)
    group = stage.barrier(3, kind, outer=outer)
    stage.put(part_message(part(group, 0, 3, 0)))
    stage.put(part_message(part(group, 1, 3, 1)))

    died = subprocess.run(
        [sys.executable, "-c", DIES, stage.broker.url, stage.body_queue, group, point],
        timeout=30,
        check=False,
        capture_output=True,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    bodies = [squares(3), [squares(3)]]  # of the chord, and of the one around it
    assert stage.bodies() == bodies[:published]
    # its task was not acked: it comes again
    told = sites().end_parts([part(group, 2, 3, 4)], again=True)

    assert told == [None]
    assert stage.bodies() == bodies[published:]
    assert not stage.there(group)
    assert not stage.there(outer)


def test_ten_thousand_parts(stage: Stage, sites: Callable[..., Site]) -> None:
    size = 10_000
    group = stage.barrier(size)
    site = sites()
    began = time.monotonic()

    site.end_parts(parts_of(group, size), timeout=60)

    assert stage.bodies() == [squares(size)]
    assert not stage.there(group)
    assert time.monotonic() - began < 30
