"""What the broker drops by itself is told: to the caller, the tail of the chain, the body of the chord, and error callbacks."""

from __future__ import annotations

import json
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amqtask.app import App
from amqtask.canvas import primitives
from amqtask.canvas.signature import Signature
from amqtask.core.barrier import queue_name
from amqtask.errors import ChordError, PublishNacked, Reject, TaskRevokedError, WorkerLostError
from amqtask.topology.dropped import DROPPED
from tests.acceptance.nodes import Place
from tests.brokers import Broker, limited_user, own_vhost
from tests.waiting import eventually

TASKS = Path(__file__).with_name("canvas.py")
Places = Callable[..., Place]
chain: Any = primitives.chain  # what comes of them is looked at without types here
chord: Any = primitives.chord
group: Any = primitives.group
MORE = ("quiet", "short", "old", "full", "shut")
SOON = 20.0  # seconds within which a result comes on a busy machine


class Canvas:
    """A place whose node works on one queue; nobody works on the others, from which the broker drops.

    Attributes:
        quiet: a quorum queue.
        short: one whose messages get 0.2 seconds old.
        old: a classic queue like it.
        full: a classic queue that holds one message and drops the oldest.
        shut: one that holds one message, refuses others, and makes dead letters of them.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.app = place.app
        self.work, self.quiet, self.short, self.old, self.full, self.shut = place.queues

    def declare(self) -> None:
        """Write and declare the topology."""
        shape = {
            self.work: {"delivery_limit": 2},
            self.quiet: {},
            self.short: {"message_ttl": "200ms"},
            self.old: {"type": "classic", "message_ttl": "200ms"},
            self.full: {"type": "classic", "max_length": 1},
            self.shut: {"type": "classic", "max_length": 1, "overflow": "reject-publish-dlx"},
        }
        topology = {"version": 1, "queues": shape}
        (self.place.path / "topology.yaml").write_text(json.dumps(topology))
        self.place.declare()

    def s(self, name: str, *args: Any, **options: Any) -> Any:
        """A signature of one of the tasks."""
        return Signature(f"canvas.{name}", args, app=self.app).set(**options)

    def rejects(self, queue: str) -> None:
        """Take a message from a queue and reject it, as a consumer that is none of ours."""
        with self.place.broker.channel() as channel:

            def taken() -> Any:
                return channel.basic_get(queue)[0]

            channel.basic_reject(eventually(taken, 5).delivery_tag, requeue=False)

    def told(self) -> None:
        """Wait until everything dropped has been told."""
        eventually(lambda: self.place.depth(DROPPED) == 0, 10)


def value(result: Any) -> Any:
    return result.get(timeout=SOON)


def own(result: Any, timeout: float = SOON) -> Any:
    """The end of a task itself, not of what came before it."""
    return result.get(timeout=timeout, follow_parents=False)


@pytest.fixture(scope="module")
def vhost(broker: Broker) -> Iterator[Broker]:
    """A virtual host in which nobody else tells of what is dropped."""
    with own_vhost(broker) as alone:
        yield alone


@pytest.fixture(scope="module")
def canvas(tmp_path_factory: pytest.TempPathFactory, vhost: Broker) -> Iterator[Canvas]:
    folder = tmp_path_factory.mktemp("dropped")
    with Place(folder, vhost, tasks=TASKS, more=MORE) as place:
        found = Canvas(place)
        found.declare()
        node = place.node("-c2", "-Q", found.work)
        yield found
        assert node.stop() == 0
        assert not node.records("a callback on the I/O thread failed"), node.output
        assert not node.records("what became of a dropped message could not be told"), node.output


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_what_expires_in_its_queue_is_told(canvas: Canvas, kind: str) -> None:
    s = canvas.s
    dropped = s("same", 1, queue=canvas.short if kind == "quorum" else canvas.old)
    plain = dropped.clone().apply_async(link_error=s("old_errback"))
    tail = (dropped.clone() | s("same") | s("same")).delay()
    body = chord(
        [dropped.clone() | s("same"), s("same", 1)], s("total").on_error(s("old_errback"))
    ).delay()
    outer = chord([chord([dropped.clone(), s("same", 2)], s("total")), s("same", 4)], s("same"))
    nested = outer.delay()
    members = group(dropped.clone(), s("same", 3)).delay()

    for each in (plain, tail, tail.parent, members[0]):
        with pytest.raises(TaskRevokedError, match="expired"):
            own(each)
    assert value(members[1]) == 3
    for each in (body, nested):
        with pytest.raises(ChordError, match="expired"):
            own(each)
    canvas.place.saw("end", f"old {body.id}")
    assert canvas.place.count("end")[f"old {plain.id}"] == 0  # a revoked task calls none


def test_the_oldest_of_a_full_queue_is_told(canvas: Canvas) -> None:
    s = canvas.s
    plain = s("same", 1, queue=canvas.full).apply_async(link_error=s("old_errback"))
    tail = (s("same", 1, queue=canvas.full) | s("same")).delay()
    body = chord([s("same", 1, queue=canvas.full), s("same", 1)], s("total")).delay()
    s("same", 2, queue=canvas.full).delay(ignore_result=True)

    for each in (plain, tail):
        with pytest.raises(WorkerLostError, match="full"):
            own(each)
    with pytest.raises(ChordError, match="full"):
        own(body)
    canvas.place.saw("end", f"old {plain.id}")


def test_what_another_consumer_rejects_is_told(canvas: Canvas) -> None:
    s = canvas.s
    tail = (s("same", 1, queue=canvas.quiet) | s("same")).delay()
    canvas.rejects(canvas.quiet)
    with pytest.raises(Reject, match="consumer"):
        own(tail)
    body = chord([s("same", 1, queue=canvas.quiet), s("same", 1)], s("total")).delay()
    canvas.rejects(canvas.quiet)
    with pytest.raises(ChordError):
        own(body)


def test_what_a_publisher_was_refused_is_not_told(canvas: Canvas) -> None:
    s = canvas.s
    canvas.place.put(b"[[1],{},{}]", canvas.shut)
    with pytest.raises(PublishNacked):
        s("note", "never", queue=canvas.shut).delay()
    dead = f"{canvas.shut}.dead"
    assert canvas.place.depth(dead) > 0
    canvas.told()
    assert not canvas.place.count("end")["never"]


def test_a_task_that_nobody_knows_is_told_to_whoever_asked(canvas: Canvas) -> None:
    """As a Celery client sends it."""
    place, answers, task_id = canvas.place, f"{canvas.work}-answers", str(uuid.uuid4())
    with place.broker.channel() as channel:
        channel.queue_declare(answers)
    try:
        place.put(
            json.dumps([[1], {}, {"chord": None}]).encode(),
            canvas.old,
            headers={"lang": "py", "task": "theirs.add", "id": task_id, "root_id": task_id},
            content_type="application/json",
            content_encoding="utf-8",
            correlation_id=task_id,
            reply_to=answers,
        )
        properties, body = place.take_one(answers)
    finally:
        with place.broker.channel() as channel:
            channel.queue_delete(answers)
    assert properties.correlation_id == task_id
    answer = json.loads(body)
    assert (answer["task_id"], answer["status"]) == (task_id, "REVOKED")


def test_what_is_no_task_is_left_alone(canvas: Canvas) -> None:
    place, answers = canvas.place, f"{canvas.work}-nothing"
    with place.broker.channel() as channel:
        channel.queue_declare(answers)
        place.put(b"\xff", canvas.old, reply_to=answers, correlation_id="x")
        place.put(b"\xff", canvas.old, headers={"task": 5, "id": "x"}, reply_to=answers)
        place.put(b"\xff", DROPPED)
        with pytest.raises(TaskRevokedError):
            own(canvas.s("same", 1, queue=canvas.old).delay())
        canvas.told()
        assert channel.queue_declare(answers, passive=True).method.message_count == 0
        channel.queue_delete(answers)


@pytest.mark.exact("counts dead letters, of which a cut may make two")
def test_the_dead_letter_is_there_as_before_and_goes_back(canvas: Canvas) -> None:
    place, s = canvas.place, canvas.s
    place.command("dead", "discard", canvas.quiet, "--yes")
    result = s("same", 5, queue=canvas.quiet, expires=0.2).delay()
    with pytest.raises(TaskRevokedError):
        own(result)
    (line,) = json.loads(place.command("dead", "list", canvas.quiet, "--json").stdout)
    assert (line["count"], line["reason"]) == (1, "expired")
    moved = place.command("dead", "retry", canvas.quiet, "--queue", canvas.work)
    assert moved.returncode == 0, moved.stdout + moved.stderr
    eventually(lambda: place.depth(f"{canvas.quiet}.dead") == 0, 10)
    canvas.told()


# ---------------------------------------------------------------- with nodes of their own


def test_what_was_dropped_while_no_worker_ran_is_told_when_one_starts(
    tmp_path: Path, broker: Broker
) -> None:
    with (
        own_vhost(broker) as vhost,
        Place(tmp_path, vhost, tasks=TASKS, more=MORE) as place,
    ):
        canvas = Canvas(place)
        canvas.declare()
        tail = (canvas.s("same", 1, queue=canvas.short) | canvas.s("same")).delay()
        eventually(lambda: place.depth(DROPPED) == 1, 10)
        node = place.node("-c1", "-Q", canvas.work, "--no-declare")
        with pytest.raises(TaskRevokedError, match="expired"):
            own(tail)
        assert node.stop() == 0


@pytest.mark.exact("each cut counts towards the limit of deliveries")
def test_a_task_that_takes_every_worker_with_it_is_told(tmp_path: Path, broker: Broker) -> None:
    with (
        own_vhost(broker) as vhost,
        Place(tmp_path, vhost, tasks=TASKS, more=MORE) as place,
    ):
        canvas = Canvas(place)
        canvas.declare()
        s = canvas.s
        body = chord(
            [s("steer", "die", "x") | s("same"), s("same", 1, queue=canvas.quiet)], s("total")
        ).delay()
        for count in (1, 2, 3):
            node = place.node("--pool", "solo", "-Q", canvas.work, ready=False)
            eventually(lambda count=count: place.count("start")["x"] == count, 30)  # type: ignore[misc]  # bound now
            assert node.process.wait(20) == -signal.SIGKILL
        node = place.node("--pool", "solo", "-Q", canvas.work)
        with pytest.raises(ChordError, match="handed out 3 times"):
            own(body)
        assert node.stop() == 0


@pytest.mark.exact("cuts the connection itself, at a moment of its own")
def test_a_task_that_runs_on_answers_for_its_message(place: Places) -> None:
    """Its connection breaks when it has expired: the broker drops the message, and whoever runs it tells how it ends."""
    at = place(type="quorum")
    at.declare()
    one = at.node("-c1", "-n", "one@here", "-Q", at.queue)
    result = at.send("hold", "x", "go", expires=1.0)
    late = time.time() + 3.3  # times of death are whole seconds
    at.saw("start", "x")
    two = at.node("-c2", "-n", "two@here", "-Q", at.queue)
    eventually(lambda: time.time() > late)
    at.broker.close_connection("one@here/0")
    one.says("dropped by the broker, but runs in this node")
    at.release("go")
    assert result.get(timeout=SOON) == "x"
    properties, _ = at.dead_letter()
    assert properties.headers["x-death"][0]["reason"] == "expired"
    eventually(lambda: at.depth(DROPPED) == 0, 10)
    assert (one.stop(), two.stop()) == (0, 0)
    assert at.count("start") == {"x": 1}
    assert not two.records("task did not succeed")
    assert not one.records("task did not succeed")


@pytest.mark.exact("counts what is said once for each connection")
def test_users_with_few_rights_go_on(tmp_path: Path, broker: Broker) -> None:
    with (
        own_vhost(broker) as vhost,
        Place(tmp_path, vhost, tasks=TASKS, more=MORE) as place,
    ):
        canvas = Canvas(place)
        canvas.declare()
        others = r"^(?!amqtask\.dropped$).*"
        forbidden = "what the broker drops may not be declared; it is told as far as others have declared it"
        unread = "this process cannot tell of tasks that the broker drops; others may"
        try:
            with limited_user(vhost, configure=others) as place.broker:
                node = place.node("-c1", "-Q", canvas.work)
                with pytest.raises(TaskRevokedError):
                    own(canvas.s("same", 1, queue=canvas.old).delay())
                assert node.stop() == 0
                assert len(node.records(forbidden)) == 1
            with limited_user(vhost, read=others) as place.broker:
                node = place.node("-c1", "-Q", canvas.work, "--no-declare")
                assert value(canvas.s("same", 7).delay()) == 7
                (told,) = node.says(unread)
                assert "rabbitmqctl set_permissions -p" in told["reason"]
                assert node.stop() == 0
        finally:
            place.broker = vhost


def test_a_chord_fails_in_time_where_no_queue_has_dead_letters(
    tmp_path: Path, broker: Broker
) -> None:
    with (
        own_vhost(broker) as vhost,
        Place(tmp_path, vhost, tasks=TASKS, more=("quiet",)) as place,
    ):
        plain = {"type": "classic", "dead_letter": False}
        shape = {"version": 1, "queues": dict.fromkeys(place.queues, plain)}
        (place.path / "topology.yaml").write_text(json.dumps(shape))
        work, quiet = place.queues
        with limited_user(vhost, configure=r"^(?!amqtask\.dropped$).*") as place.broker:
            node = place.node("-c1", "-Q", work)  # which may not declare it, and loses nothing
            assert node.stop() == 0
        place.broker = vhost
        node = place.node("-c1", "-Q", work)
        with App(
            "canvas",
            topology=place.path / "topology.yaml",
            broker_url=vhost.url,
            task_default_queue=work,
            result_chord_expires=1.0,
        ) as app:

            def s(name: str, *args: Any) -> Any:
                return Signature(f"canvas.{name}", args, app=app)

            with pytest.raises(ChordError, match="did not end in the time"):
                own(chord([s("same", 1).set(queue=quiet), s("same", 2)], s("total")).delay())
        assert node.stop() == 0


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_chord_that_does_not_end_in_time_fails(canvas: Canvas, kind: str) -> None:
    place = canvas.place
    with App(
        "canvas",
        topology=place.path / "topology.yaml",
        broker_url=place.broker.url,
        task_default_queue=canvas.work,
        result_chord_expires=1.0,
        chord_queue_type=kind,
    ) as app:

        def s(name: str, *args: Any, **options: Any) -> Any:
            return Signature(f"canvas.{name}", args, app=app).set(**options)

        waits = s("same", 1, queue=canvas.quiet)
        body = chord([waits.clone(), s("same", 2)], s("total").on_error(s("old_errback"))).delay()
        tail = (chord([waits.clone(), s("same", 2)], s("total")) | s("same")).delay()
        inner = chord([waits.clone(), s("same", 2)], s("total"))
        outer = chord([inner, s("same", 4)], s("same")).delay()
        sent = time.monotonic()
        later = chord([waits.clone(), s("same", 2)], s("total")).apply_async(countdown=1)

        for each in (body, tail, outer):
            with pytest.raises(ChordError, match="did not end in the time"):
                own(each)
        with pytest.raises(ChordError, match="did not end in the time"):
            own(later)
        assert time.monotonic() - sent > 1.9  # its parts were put off
    with place.broker.channel() as channel:
        channel.queue_purge(canvas.quiet)  # others want what they put there
    place.saw("end", f"old {body.id}")
    groups = {queue_name(each.parent.id) for each in (body, later)}
    eventually(lambda: not groups & {each["name"] for each in place.broker.queues()}, 20, 0.2)
