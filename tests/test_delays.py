"""Sending tasks for later: which queues they come to and when, what is declared for it, and how that fails."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from amqtask import App
from amqtask.amqp.session import Session
from amqtask.errors import (
    BrokerError,
    ConfigurationError,
    OperationRefused,
    TopologyConflict,
    Unroutable,
)
from amqtask.testing.proxy import Proxy
from amqtask.topology import plan
from amqtask.topology.ladder import STEPS
from amqtask.topology.model import Binding, Queue, Topology
from amqtask.topology.plan import DeclareQueue
from tests import weather
from tests.brokers import Broker
from tests.cli.running import Folder
from tests.waiting import eventually


@pytest.fixture
def app(broker: Broker, queue_name: str) -> Iterator[App]:
    """An app whose only queue is there."""
    with app_of(broker, "delays", queue_name) as made:
        apply(made)
        yield made


@pytest.fixture
def alone(broker: Broker, queue_name: str) -> Iterator[App]:
    """The same, with a ladder that no other test uses."""
    with app_of(broker, f"delays-{uuid.uuid4().hex[:8]}", queue_name) as made:
        apply(made)
        yield made
        delete_ladder(made)


def app_of(broker: Broker, name: str, queue: str) -> App:
    return App(
        name,
        broker_url=broker.url,
        task_default_queue=queue,
        task_ignore_result=True,
        publish_timeout=30.0,  # a ladder whose declaration is cut is begun again
    )


def apply(app: App) -> None:
    with Session(app.addresses, patience=20) as session:
        session.apply(plan.declarations(app.topology))


def delete_ladder(app: App, *, exchanges: bool = True, queues: bool = True) -> None:
    ladder = app.ladder
    with Session(app.addresses, patience=20) as session:
        for name in (ladder.unroutable, *map(ladder.step, range(STEPS))):
            if queues:
                session.delete_queue(name)
            if exchanges:
                session.delete_exchange(name)
        if exchanges:
            session.delete_exchange(ladder.delivery)


def take(broker: Broker, queue: str) -> tuple[Any, Any] | None:
    with broker.channel() as channel:
        method, properties, _ = channel.basic_get(queue, auto_ack=True)
    return None if method is None else (method, properties)


def depth(broker: Broker, queue: str) -> int:
    with broker.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


@pytest.mark.exact("a spell on the way can be longer than the delay, which then goes another way")
def test_a_delayed_task_waits_in_the_broker_and_arrives_as_it_was_sent(
    app: App, broker: Broker, queue_name: str
) -> None:
    before = datetime.now(UTC)
    app.send_task(
        "t",
        (1,),
        countdown=0.7,
        priority=5,
        expires=3600,
        headers={"tenant": "a", "CC": [queue_name]},
    )
    assert depth(broker, queue_name) == 0
    arrived = eventually(lambda: take(broker, queue_name), 10, interval=0.01)
    after = datetime.now(UTC)

    assert arrived is not None
    method, properties = arrived
    assert (after - before).total_seconds() >= 0.7
    # it left the last step it waited in, for the exchange of the one below
    assert method.exchange in {app.ladder.delivery, *map(app.ladder.step, range(3))}
    assert properties.priority == 5
    assert properties.expiration is None  # it would have left a step early
    headers = properties.headers
    assert headers["tenant"] == "a"
    assert "CC" not in headers
    due = datetime.fromisoformat(headers["eta"])
    assert abs((due - before).total_seconds() - 0.7) < 0.5
    # from the call, not from when it is due
    assert 3590 < (datetime.fromisoformat(headers["expires"]) - before).total_seconds() < 3601
    assert (headers["amqtask-exchange"], headers["amqtask-routing-key"]) == ("", queue_name)
    assert take(broker, queue_name) is None


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 0},
        {"countdown": -3},
        {"countdown": timedelta(0)},
        {"eta": datetime.now(UTC) - timedelta(seconds=5)},
        {"eta": datetime(2020, 1, 1)},  # noqa: DTZ001  # without a zone it is UTC
    ],
)
def test_what_is_due_goes_at_once(
    app: App, broker: Broker, queue_name: str, options: dict[str, Any]
) -> None:
    app.send_task("t", (), **options)

    arrived = take(broker, queue_name)
    assert arrived is not None
    assert arrived[0].exchange == ""
    assert ("eta" in arrived[1].headers) == ("eta" in options)


def test_only_the_first_declares(alone: App, broker: Broker, queue_name: str) -> None:
    times = []
    for _ in range(5):
        before = time.monotonic()
        alone.send_task("t", (), countdown=0.1)
        times.append(time.monotonic() - before)

    assert min(times[1:]) < 0.05 < times[0]
    eventually(lambda: weather.all_of(depth(broker, queue_name), 5), 10)


def test_batches_and_coroutines(app: App, broker: Broker, queue_name: str) -> None:
    task = app.task(name="t")(len)

    async def send() -> None:
        async with app.abatch():
            for _ in range(50):
                await task.aapply_async(("a",), countdown=0.3)
        await task.aapply_async(("b",), eta=datetime.now(UTC) + timedelta(seconds=0.3))
        await app.asend_task("t", ("c",), countdown=0.3)
        await app.aclose()

    with app.batch():
        for _ in range(50):
            task.apply_async(("a",), countdown=0.3)
    asyncio.run(send())

    eventually(lambda: weather.all_of(depth(broker, queue_name), 102), 10)


def test_a_fan_out_comes_to_each_queue_once(broker: Broker, tmp_path: Path) -> None:
    tag = uuid.uuid4().hex[:8]
    one, two, third = (f"{name}.{tag}" for name in ("one", "two", "third"))
    (tmp_path / "delays.yaml").write_text(
        f"""
        version: 1
        exchanges:
          in-{tag}: {{type: topic, alternate_exchange: rest-{tag}}}
          by-{tag}: {{type: headers, bindings: [{{exchange: in-{tag}, routing_key: "h.#"}}]}}
          rest-{tag}: {{type: fanout}}
        queues:
          {one}: {{bindings: [{{exchange: in-{tag}, routing_key: "a.#"}}]}}
          {two}: {{bindings: [{{exchange: in-{tag}, routing_key: "#.b"}}, {{exchange: rest-{tag}}}]}}
          {third}: {{bindings: [{{exchange: by-{tag}, arguments: {{kind: x}}}}]}}
        """
    )
    app = App(
        "fan",
        topology=tmp_path / "delays.yaml",
        broker_url=broker.url,
        task_ignore_result=True,
        publish_timeout=30.0,
    )
    with app:
        apply(app)

        def reached(key: str, **headers: str) -> list[str]:
            app.send_task(
                "t", (), exchange=f"in-{tag}", routing_key=key, countdown=0.1, headers=headers
            )
            found: list[str] = []

            def look() -> bool:
                for queue in (one, two, third):
                    arrived = take(broker, queue)
                    if arrived is not None:
                        found.append(queue)
                        assert arrived[1].headers["amqtask-exchange"] == f"in-{tag}"
                        assert arrived[1].headers["amqtask-routing-key"] == key
                return bool(found)

            eventually(look, 10, interval=0.2)
            look()
            return sorted(found)

        try:
            assert reached("a.x") == [one]
            assert reached("a.b") == sorted([one, two])
            assert reached("zzz") == [two]
            assert reached("h.i", kind="x") == [third]
            with pytest.raises(Unroutable, match="binds no queue"):
                app.send_task("t", (), exchange=f"in-{tag}", routing_key="h.i", countdown=1)
            with pytest.raises(ConfigurationError, match=r"no exchange 'other'.*sent for later"):
                app.send_task("t", (), exchange="other", routing_key="a", countdown=1)
        finally:
            with broker.channel() as channel:
                for queue in (one, two, third):
                    channel.queue_delete(queue)
                    channel.queue_delete(f"{queue}.dead")
                for kind in ("in", "by", "rest"):
                    channel.exchange_delete(f"{kind}-{tag}")


def test_a_queue_that_is_not_there(app: App) -> None:
    with pytest.raises(Unroutable, match="no queue 'nowhere' to deliver a delayed task to"):
        app.send_task("t", (), queue="nowhere", countdown=5)

    def send_three() -> None:
        with app.batch():
            for queue in ("nowhere", "nowhere", None):
                app.send_task("t", (), queue=queue, countdown=0.1)

    with pytest.raises(Unroutable, match=r"2 of 3 tasks could not be sent.*'nowhere'"):
        send_three()

    async def send() -> None:
        await app.asend_task("t", (), queue="nowhere", countdown=5)

    with pytest.raises(Unroutable, match="no queue 'nowhere' to deliver a delayed task to"):
        asyncio.run(send())


@pytest.mark.parametrize("how", ["threads", "asyncio"])
def test_a_deleted_ladder_is_made_again(
    alone: App, broker: Broker, queue_name: str, how: str
) -> None:
    def send(count: int) -> None:
        with alone.batch():
            for _ in range(count):
                alone.send_task("t", (), countdown=0.2)

    async def asend() -> None:
        async def some(count: int) -> None:
            async with alone.abatch():
                for _ in range(count):
                    await alone.asend_task("t", (), countdown=0.2)

        await some(20)
        arrived(20)
        for what in ({"exchanges": False}, {}):
            await asyncio.to_thread(delete_ladder, alone, **what)
            await some(20)
            arrived(20)
        await alone.aclose()

    def arrived(count: int) -> None:
        eventually(lambda: weather.all_of(depth(broker, queue_name), count), 10)
        with broker.channel() as channel:
            channel.queue_purge(queue_name)

    if how == "asyncio":
        asyncio.run(asend())
        return
    send(20)
    arrived(20)
    delete_ladder(alone, exchanges=False)  # unroutable in its steps
    send(20)
    arrived(20)
    delete_ladder(alone)  # 404
    send(300)
    arrived(300)


@pytest.mark.parametrize("without", ["x-overflow", "x-dead-letter-strategy"])
def test_a_ladder_that_differs_is_named(alone: App, broker: Broker, without: str) -> None:
    """Without one of these the broker moves messages at most once, and says so to nobody."""
    step = alone.ladder.step(5)
    (declared,) = (
        each
        for each in alone.ladder.declarations()
        if isinstance(each, DeclareQueue) and each.name == step
    )
    arguments = {name: value for name, value in declared.arguments.items() if name != without}
    with broker.channel() as channel:
        channel.queue_declare(step, durable=True, arguments=arguments)

    with pytest.raises(TopologyConflict, match=step):
        alone.send_task("t", (), countdown=1)

    async def send() -> None:
        await alone.asend_task("t", (), countdown=1)

    with pytest.raises(TopologyConflict, match=step):
        asyncio.run(send())


def test_two_apps_with_one_name_do_not_disturb_each_other(
    alone: App, broker: Broker, queue_name: str
) -> None:
    with app_of(broker, alone.name, queue_name) as other:
        for each in (alone, other, alone):
            each.send_task("t", (), countdown=0.1)

    eventually(lambda: weather.all_of(depth(broker, queue_name), 3), 10)


def test_a_user_without_configure_permission(alone: App, broker: Broker, queue_name: str) -> None:
    user = f"sender-{uuid.uuid4().hex[:8]}"
    vhost = broker.vhost
    broker.api("PUT", f"/api/users/{user}", {"password": "x", "tags": ""})
    try:
        broker.api(
            "PUT",
            f"/api/permissions/{quote(vhost, safe='')}/{user}",
            {"configure": "^$", "write": ".*", "read": ".*"},
        )
        parts = urlsplit(broker.url)
        url = parts._replace(netloc=f"{user}:x@{parts.hostname}:{parts.port}").geturl()
        sender = App(
            alone.name, broker_url=url, task_default_queue=queue_name, task_ignore_result=True
        )

        async def send() -> None:
            await sender.asend_task("t", (), countdown=0.1)
            await sender.aclose()

        with sender:
            with pytest.raises(OperationRefused, match="may not declare it: run `amqtask topology"):
                sender.send_task("t", (), countdown=0.1)
            with pytest.raises(OperationRefused, match="may not declare it: run `amqtask topology"):
                asyncio.run(send())
            alone.send_task("t", (), countdown=0.1)  # as `topology apply` would
            sender.send_task("t", (), countdown=0.1)
            asyncio.run(send())
        eventually(lambda: weather.all_of(depth(broker, queue_name), 3), 10)
    finally:
        broker.api("DELETE", f"/api/users/{user}")


@pytest.mark.exact("asserts how late they are, and refuses connections itself")
@pytest.mark.parametrize("how", ["threads", "asyncio"])
def test_what_waits_for_the_broker_is_due_no_later(
    alone: App, broker: Broker, queue_name: str, how: str
) -> None:
    """The broker comes a second after the tasks were sent, and has no ladder yet."""
    with (
        Proxy.before(broker.url) as way,
        App(
            alone.name,
            broker_url=way.url,
            task_default_queue=queue_name,
            task_ignore_result=True,
            publish_window=20,
        ) as app,
    ):
        way.refuse()
        opening = threading.Timer(1.0, way.accept)

        async def send() -> None:
            async with app.abatch():
                for _ in range(10):
                    await app.asend_task("t", (), countdown=2.0)
            await app.aclose()

        began = time.monotonic()
        opening.start()
        if how == "threads":
            with app.batch():
                for _ in range(10):
                    app.send_task("t", (), countdown=2.0)
        else:
            asyncio.run(send())
        opening.join()
        eventually(lambda: depth(broker, queue_name) == 10, 20, interval=0.02)
        assert time.monotonic() - began >= 2.0

    for _ in range(10):
        arrived = take(broker, queue_name)
        assert arrived is not None
        held = int(arrived[0].routing_key[: 2 * STEPS].replace(".", ""), 2)
        assert held <= 11  # ticks of the twenty: they were a second late at least


@pytest.mark.exact("asserts how late they are, and refuses connections itself")
@pytest.mark.parametrize("how", ["threads", "asyncio"])
def test_what_waits_for_the_broker_is_due_no_later_in_any_queue(
    alone: App, broker: Broker, queue_name: str, how: str
) -> None:
    """One task to three queues, each of which needs a way of its own; the broker comes a second later."""
    queues = [queue_name, f"{queue_name}.2", f"{queue_name}.3"]
    bindings = (Binding("amq.fanout"),)
    topology = Topology(queues={name: Queue(name=name, bindings=bindings) for name in queues})
    with (
        Proxy.before(broker.url) as way,
        App(alone.name, topology=topology, broker_url=way.url, task_ignore_result=True) as app,
    ):
        with Session(alone.addresses, patience=20) as session:
            for name in queues[1:]:
                session.declare(plan.declare_queue(Queue(name=name)))
        way.refuse()
        opening = threading.Timer(1.0, way.accept)

        async def send() -> None:
            await app.asend_task("t", (), exchange="amq.fanout", routing_key="", countdown=2.0)
            await app.aclose()

        opening.start()
        if how == "threads":
            app.send_task("t", (), exchange="amq.fanout", routing_key="", countdown=2.0)
        else:
            asyncio.run(send())
        opening.join()
    try:
        for name in queues:
            arrived = eventually(partial(take, broker, name), 20, interval=0.05)
            assert arrived is not None
            held = int(arrived[0].routing_key[: 2 * STEPS].replace(".", ""), 2)
            assert held <= 11  # ticks of the twenty
    finally:
        with broker.channel() as channel:
            for name in queues[1:]:
                channel.queue_delete(name)


def test_without_a_broker(queue_name: str) -> None:
    app = App("shop", broker_url="amqp://localhost:1//", publish_timeout=0.5)

    with app, pytest.raises(BrokerError):
        app.send_task("t", (), countdown=1, ignore_result=True)


@pytest.mark.exact("counts what a command moves, and a command that is cut is run again by hand")
def test_a_target_that_is_gone_when_they_are_due(
    alone: App, broker: Broker, queue_name: str, tmp_path: Path
) -> None:
    """Thirty-two of these stop a ladder that has no other place for them."""
    ladder = alone.ladder
    doomed = f"doomed-{uuid.uuid4().hex[:8]}"
    with Session(alone.addresses, patience=20) as session:
        session.declare(DeclareQueue(doomed))
        alone.send_task("t", (), queue=doomed, countdown=0.1)  # makes the way
        eventually(lambda: depth(broker, doomed) == 1, 40)
        with alone.batch():
            for _ in range(40):
                alone.send_task("t", (), queue=doomed, countdown=2.0)
        session.delete_queue(doomed)
        eventually(lambda: depth(broker, ladder.unroutable) == 40, 40)

        # and through steps in which forty wait for nothing: without that other place for three minutes at a time
        with alone.batch():
            for number in range(10):
                alone.send_task("t", (), countdown=0.3 + number / 20)
        eventually(lambda: depth(broker, queue_name) == 10, 40, interval=0.02)
        assert depth(broker, ladder.unroutable) == 40

        # where somebody finds them, and sends them where they should have gone
        shell = Folder(tmp_path, broker.url)
        listed = shell.run("dead", "list", ladder.unroutable, "--json")
        assert listed.stdout.count("no queue when due") >= 1, listed.stderr
        session.declare(DeclareQueue(doomed))
        sent = shell.run("dead", "retry", ladder.unroutable)
        assert f"{doomed} 40" in sent.stdout, sent.stderr
        assert depth(broker, doomed) == 40
        session.delete_queue(doomed)
