"""What a workflow publishes when it is sent from here, and the handles that come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import amqtask
from amqtask import App
from amqtask.core.barrier import PART, PLAN, STATE
from amqtask.core.barrier import queue_name as barrier_name
from amqtask.core.message import Message
from amqtask.core.result import Record
from amqtask.errors import AmqtaskError, EncodeError, ResultError, TopologyConflict, Unroutable
from amqtask.request import DeliveryInfo, Request, current
from amqtask.results.group import GroupResult
from amqtask.topology.dropped import DROPPED
from tests.answering import answering, done
from tests.brokers import Broker
from tests.waiting import eventually

Send = Callable[..., Any]

# Without their types: what comes back is looked at more closely than these say.
chain: Any = amqtask.chain
chord: Any = amqtask.chord
group: Any = amqtask.group


@contextmanager
def app_on(broker: Broker, queue: str, **settings: Any) -> Iterator[App]:
    app = App("shop", broker_url=broker.url, task_default_queue=queue, **settings)

    @app.task(name="add")
    def add(a: int, b: int = 0) -> int:
        return a + b

    @app.task(name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    @app.task(name="quiet", ignore_result=True)
    def quiet(value: int) -> None: ...

    try:
        yield app
    finally:
        app.close()


def tasks(app: App, *names: str) -> list[Any]:
    return [app.tasks[name] for name in names]


def by_threads(signature: Any, *args: Any, **options: Any) -> Any:
    return signature.apply_async(args, **options)


def by_loop(signature: Any, *args: Any, **options: Any) -> Any:
    async def send() -> Any:
        result = await signature.aapply_async(args, **options)
        await signature.app.leave_loop()
        return result

    return asyncio.run(send())


@pytest.fixture(params=[by_threads, by_loop])
def send(request: pytest.FixtureRequest) -> Send:
    chosen: Send = request.param
    return chosen


@pytest.fixture
def declared(broker: Broker, queue_name: str) -> str:
    with broker.channel() as channel:
        channel.queue_declare(queue_name, durable=True)
    return queue_name


def taken(broker: Broker, queue: str) -> list[tuple[Any, Any]]:
    """Take everything out of a queue: properties and body of each message, in order."""
    found: list[tuple[Any, Any]] = []
    with broker.channel() as channel:
        while True:
            method, properties, body = channel.basic_get(queue, auto_ack=True)
            if method is None or properties is None:
                return found
            found.append((properties, json.loads(body or b"")))


def waiting(broker: Broker, queue: str) -> int:
    with broker.channel() as channel:
        count: int = channel.queue_declare(queue, passive=True).method.message_count
        return count


@contextmanager
def barrier_of(broker: Broker, result: Any) -> Iterator[str]:
    """The queue of the chord whose header a result follows; deleted afterwards."""
    name = barrier_name(result.parent.id)
    yield name
    with broker.channel() as channel:
        channel.queue_delete(name)


def declared_again(broker: Broker, queue: str, **arguments: Any) -> None:
    """Declare a queue with these arguments: refused when it has others."""
    with broker.channel() as channel:
        channel.queue_declare(queue, durable=True, arguments=arguments)


def test_a_chain_is_one_message_that_carries_the_rest(
    broker: Broker, declared: str, send: Send
) -> None:
    with app_on(broker, declared) as app:
        (add,) = tasks(app, "add")
        result = send(chain(add.s(2), add.s(3), add.s(4)), 1)

    ((properties, (args, _, embed)),) = taken(broker, declared)
    last, middle = embed["chain"]
    assert args == [1, 2]
    assert result.id == last["options"]["task_id"]
    assert result.parent.id == middle["options"]["task_id"]
    assert result.parent.parent.id == properties.headers["id"]
    assert result.parent.parent.parent is None
    assert {each["options"]["reply_to"] for each in (last, middle)} == {properties.reply_to}


def test_a_chord_is_its_barrier_first_and_then_its_header(
    broker: Broker, declared: str, send: Send
) -> None:
    settings = {"result_chord_expires": 60.0}
    with app_on(broker, declared, **settings) as app:
        add, total = tasks(app, "add", "total")
        result = send(chord([add.s(1), add.s(2)], total.s() | add.s(5)), 10)

    header = result.parent.parent
    with barrier_of(broker, result.parent) as barrier:
        declared_again(
            broker,
            barrier,
            **{"x-queue-type": "classic", "x-expires": 120_000, "x-dead-letter-exchange": DROPPED},
        )
        ((properties, plan),) = taken(broker, barrier)
    assert properties.headers == {PLAN: 2, "CC": ["amqtask.plan"]}
    assert properties.expiration == "60000"
    assert properties.delivery_mode == 2
    assert plan["body"]["task"] == "total"
    assert plan["body"]["options"]["task_id"] == result.parent.id
    assert [each["options"]["task_id"] for each in plan["chain"]] == [result.id]
    parts = taken(broker, declared)
    assert [body[0] for _, body in parts] == [[10, 1], [10, 2]]
    for index, (properties, body) in enumerate(parts):
        assert properties.headers["group"] == header.id
        assert properties.headers["group_index"] == index
        assert body[2]["chord"]["options"]["barrier"] == header.id
        assert properties.headers["id"] == header.results[index].id


def test_a_barrier_outlasts_parts_that_are_put_off(
    broker: Broker, declared: str, send: Send
) -> None:
    with app_on(broker, declared, result_chord_expires=60.0) as app:
        add, total = tasks(app, "add", "total")
        result = send(chord([add.s(1, 1), add.s(1, 1).set(countdown=1000)], total.s()))
        with barrier_of(broker, result) as barrier:
            declared_again(
                broker,
                barrier,
                **{
                    "x-queue-type": "classic",
                    "x-expires": 1_660_000,
                    "x-dead-letter-exchange": DROPPED,
                },
            )


def test_a_quorum_barrier(broker: Broker, declared: str, send: Send) -> None:
    with app_on(broker, declared, chord_queue_type="quorum") as app:
        result = send(group(app.tasks["add"].s(1, 1)) | app.tasks["total"].s())

    with barrier_of(broker, result) as barrier:
        kinds = {queue["name"]: queue.get("type") for queue in broker.queues()}
        assert kinds[barrier] == "quorum"


def test_arguments_that_do_not_fit_are_refused_before_anything_is_sent(
    broker: Broker, queue_name: str
) -> None:
    with app_on(broker, queue_name) as app:
        add, total = tasks(app, "add", "total")
        # Nobody has declared the queue: what were sent would come back as unroutable.
        for workflow in (add.s(q=1), group(add.s(1), add.s(1, 2, 3)), chain(add.s(), total.s())):
            with pytest.raises(TypeError, match="add"):
                workflow.delay()


def test_the_result_of_the_last_task_is_awaited(
    broker: Broker, queue_name: str, send: Send
) -> None:
    def last_of(message: Message) -> list[Record]:
        chain: Any = message.chain
        last = chain[0]["options"]["task_id"]
        return [Record(task_id=last, status="SUCCESS", result=42)]

    with app_on(broker, queue_name) as app, answering(broker, queue_name, last_of):
        (add,) = tasks(app, "add")
        if send is by_loop:

            async def run() -> Any:
                result = await chain(add.s(1, 2), add.s(3)).aapply_async()
                return await result.aget(timeout=10)

            assert asyncio.run(run()) == 42
        else:
            assert chain(add.s(1, 2), add.s(3)).delay().get(timeout=10) == 42


def test_a_group_is_awaited_as_a_whole(broker: Broker, queue_name: str) -> None:
    with app_on(broker, queue_name) as app, answering(broker, queue_name, done(7)) as seen:
        result = group(app.tasks["add"].s(n) for n in range(20)).delay(1)
        assert isinstance(result, GroupResult)
        assert result.get(timeout=10) == [7] * 20
        members: Any = result.results
        assert [each.id for each in members] == [message.id for message in seen]
        assert {message.group for message in seen} == {result.id}


def test_a_task_whose_result_is_ignored_is_not_waited_for(broker: Broker, declared: str) -> None:
    with app_on(broker, declared) as app:
        assert chain(app.tasks["add"].s(1), app.tasks["quiet"].s()).delay(1).get() is None


def test_a_result_that_goes_elsewhere_is_not_waited_for(broker: Broker, declared: str) -> None:
    with app_on(broker, declared) as app:
        (add,) = tasks(app, "add")
        result = chain(add.s(1), add.s(2)).apply_async((1,), reply_to="mine")
        with pytest.raises(ResultError, match="goes to 'mine'"):
            result.get(timeout=10)

    ((properties, (_, _, embed)),) = taken(broker, declared)
    assert properties.reply_to == "mine"
    assert embed["chain"][0]["options"]["reply_to"] == "mine"


def test_what_a_lone_signature_sends_is_what_its_task_sends(
    broker: Broker, declared: str, send: Send
) -> None:
    with app_on(broker, declared) as app:
        (add,) = tasks(app, "add")
        send(add.s(2).set(priority=3), 1)
        send(add.si(2), 1)
        add.apply_async((1, 2), priority=3)
        add.delay(2)

    sent = [(p.priority, {**p.headers, "id": ""}, body) for p, body in taken(broker, declared)]
    assert sent[:2] == sent[2:]


def test_in_a_batch_the_plan_is_confirmed_before_the_header_is_sent(
    broker: Broker, declared: str
) -> None:
    with app_on(broker, declared) as app:
        add, total = tasks(app, "add", "total")
        with app.batch():
            results = [chord([add.s(n), add.s(n)], total.s()).delay(1) for n in range(5)]
            for result in results:
                with barrier_of(broker, result) as barrier, broker.channel() as channel:
                    state = channel.queue_declare(barrier, passive=True)
                    assert state.method.message_count == 1
    assert len(taken(broker, declared)) == 10


def test_nothing_is_published_of_a_chord_that_cannot_be_encoded(
    broker: Broker, declared: str, send: Send
) -> None:
    with app_on(broker, declared) as app:
        add, total = tasks(app, "add", "total")
        with pytest.raises(EncodeError):
            send(chord([add.s(1), add.s(object())], total.s()))
        with pytest.raises(TypeError, match="prioritty"):
            send(chord([add.s(1), add.s(1).set(prioritty=1)], total.s()))

    assert not taken(broker, declared)


def test_a_barrier_that_is_there_and_differs(broker: Broker, declared: str, send: Send) -> None:
    with app_on(broker, declared) as app:
        add, total = tasks(app, "add", "total")
        chords = [chord(group(add.s(1), add.s(2)), total.s()) for _ in range(4)]
        workflow = group(chords)
        names = [barrier_name(each.parent.id) for each in expected_of(workflow)]
        declared_again(broker, names[1], **{"x-max-length": 1})
        try:
            with pytest.raises(TopologyConflict, match=names[1]):
                send(workflow)
            assert not taken(broker, declared)
            assert [waiting(broker, name) for name in names] == [1, 0, 1, 1]
        finally:
            with broker.channel() as channel:
                for name in names:
                    channel.queue_delete(name)


def expected_of(workflow: Any) -> Any:
    """What the members of a group are expected to come to; freezes it."""
    return workflow.freeze().children


def test_what_could_not_be_sent_is_not_waited_for(broker: Broker, declared: str) -> None:
    with app_on(broker, declared) as app:
        add, total = tasks(app, "add", "total")
        nowhere = {"queue": "there-is-no-such-queue"}
        with pytest.raises(Unroutable, match="there-is-no-such-queue"):
            chain(add.s(1).set(**nowhere), add.s(2)).delay()
        results: list[Any] = []

        def in_a_batch() -> None:
            with app.batch():
                results.append(chain(add.s(1).set(**nowhere), add.s(2)).delay())
                header = [add.s(1).set(**nowhere), add.s(2)]
                results.append(chord(header, total.s() | add.s(1)).delay())

        with pytest.raises(AmqtaskError):
            in_a_batch()
        for result in results:
            with pytest.raises(Unroutable):
                result.get(timeout=10)
        with barrier_of(broker, results[1].parent) as barrier:
            # the chord hears of it, and fails when its other part has ended
            eventually(lambda: waiting(broker, barrier) == 2)
            plan, part = taken(broker, barrier)
            assert PLAN in plan[0].headers
            assert (part[0].headers[PART], part[0].headers[STATE]) == (0, "FAILURE")
            assert part[1]["result"]["exc_type"] == "Unroutable"


@pytest.mark.parametrize("body_queue", [None, "nor-is-there-such-a-queue"])
def test_a_task_that_fails_takes_the_place_of_parts_that_are_refused(
    broker: Broker, declared: str, send: Send, body_queue: str | None
) -> None:
    with app_on(broker, declared) as app:
        add, total = tasks(app, "add", "total")
        refused = [add.s(n).set(queue="there-is-no-such-queue") for n in range(3)]
        workflow = chord(refused, total.s().set(queue=body_queue))
        with pytest.raises(Unroutable):
            send(workflow)
        eventually(lambda: waiting(broker, declared) == 1)

    ((properties, (args, _, embed)),) = taken(broker, declared)
    with broker.channel() as channel:
        channel.queue_delete(barrier_name(embed["chord"]["options"]["barrier"]))
    assert properties.headers["task"] == "amqtask.refused"
    assert args[0]["exc_type"] == "Unroutable"
    assert properties.headers["group"] == embed["chord"]["options"]["barrier"]
    assert properties.headers["group_index"] in range(3)
    assert not properties.reply_to


def test_a_generators_group_is_sent_while_it_is_made(broker: Broker, declared: str) -> None:
    with app_on(broker, declared) as app:
        (add,) = tasks(app, "add")
        there: list[int] = []

        def members() -> Iterator[Any]:
            for number in range(1200):
                if number == 1100:
                    eventually(lambda: waiting(broker, declared) > 400)
                    there.append(waiting(broker, declared))
                yield add.s(number)

        assert len(group(members()).delay(1).results) == 1200
        assert there[0] < 1200


def test_what_a_task_sends_belongs_to_its_workflow_and_is_its_child(
    broker: Broker, declared: str, send: Send
) -> None:
    request = Request(id="here", root_id="root", task="outer")
    token = current.set(request)
    try:
        with app_on(broker, declared) as app:
            (add,) = tasks(app, "add")
            first = send(chain(add.s(1, 1), add.s(2)))
            second = send(add.s(1, 1))
            send(chain(add.s(1, 1), add.s(2)), add_to_parent=False)
            add.apply_async((1, 1), add_to_parent=False)
    finally:
        current.reset(token)

    for properties, _ in taken(broker, declared):
        assert properties.headers["root_id"] == "root"
        assert properties.headers["parent_id"] == "here"
    assert request.asked.children == [first.as_tuple(), second.as_tuple()]


@pytest.mark.parametrize(("inherits", "expected"), [(True, [7, 1, 7]), (False, [0, 1, 0])])
def test_priority_is_inherited_where_the_setting_says_so(
    broker: Broker, declared: str, inherits: bool, expected: list[int]
) -> None:
    request = Request(id="here", task="outer", delivery_info=DeliveryInfo(priority=7))
    token = current.set(request)
    try:
        with app_on(broker, declared, task_inherit_parent_priority=inherits) as app:
            (add,) = tasks(app, "add")
            group(add.s(1), add.s(1).set(priority=1)).delay()
            add.delay(1)
    finally:
        current.reset(token)

    assert [properties.priority for properties, _ in taken(broker, declared)] == expected


def test_apply_async_carries_callbacks(broker: Broker, declared: str) -> None:
    with app_on(broker, declared) as app:
        (add,) = tasks(app, "add")
        add.apply_async((1,), link=add.s(2), link_error=[add.si(3), add.si(4)])

    ((_, (_, _, embed)),) = taken(broker, declared)
    assert [each["args"] for each in embed["callbacks"]] == [[2]]
    assert [each["args"] for each in embed["errbacks"]] == [[3], [4]]


def test_maps_go_where_their_task_goes(broker: Broker, declared: str) -> None:
    routes = {"add": {"queue": declared}}
    with app_on(broker, "elsewhere", task_routes=routes) as app:
        (add,) = tasks(app, "add")
        add.map([1, 2]).delay()
        add.chunks(zip(range(4), range(4), strict=True), 2).delay()

    sent = [(p.headers["task"], body[1]["it"]) for p, body in taken(broker, declared)]
    assert sent == [
        ("celery.map", [1, 2]),
        ("celery.starmap", [[0, 0], [1, 1]]),
        ("celery.starmap", [[2, 2], [3, 3]]),
    ]
