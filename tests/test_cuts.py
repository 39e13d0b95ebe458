"""Clients whose connection is cut at every stage: after each so many bytes, one way and the other.

Nothing of it may reach the caller: what was asked for is done when the call returns, on the connection that follows. What was
not confirmed may be done twice.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import pytest

from amqtask import App
from amqtask.amqp import frames
from amqtask.amqp.address import Address
from amqtask.amqp.declare import carry_out
from amqtask.amqp.session import Session
from amqtask.amqp.transfer import Raw, Transfer
from amqtask.core.letters import Filter
from amqtask.core.message import Properties, Publication
from amqtask.dead.actions import Retry
from amqtask.dead.mover import Mover
from amqtask.dead.tally import Stopped, Tally
from amqtask.testing import Proxy
from amqtask.topology import parse
from tests.answering import answering, total
from tests.brokers import Broker
from tests.waiting import eventually

STAGES = 4  # cuts in each direction

pytestmark = pytest.mark.exact("cuts its connections itself, each at its byte")

Act = Callable[[str], AbstractContextManager[None]]


def at_every_stage(broker: Broker, act: Act, connections: int = 1) -> int:
    """Do it in peace, to see how long the conversation is, then once for each place to cut; how often it was done.

    Args:
        broker: where.
        act: given a URL, does it and keeps its connections open in its block.
        connections: how many it opens; all of them are cut.
    """
    with Proxy.before(broker.url) as proxy:
        with act(proxy.url):
            up = max(link.to_server for link in proxy.links)
            down = max(link.to_client for link in proxy.links)
        for stage in range(STAGES):
            for _ in range(connections):
                proxy.cut_after(to_client=down * stage // STAGES)
            with act(proxy.url):
                pass
            for _ in range(connections):
                proxy.cut_after(to_server=up * (stage + 1) // (STAGES + 1))
            with act(proxy.url):
                pass
    return 1 + 2 * STAGES


@contextmanager
def app_on(url: str, queue: str) -> Iterator[App]:
    with App("cuts", broker_url=url, task_default_queue=queue, publish_timeout=30) as app:
        yield app


def ids_in(broker: Broker, queue: str) -> set[str]:
    """Take everything out of a queue."""
    found: set[str] = set()
    with broker.channel() as channel:
        while True:
            method, properties, _ = channel.basic_get(queue, auto_ack=True)
            if method is None or properties is None:
                return found
            found.add(str((properties.headers or {})["id"]))


def depth(broker: Broker, queue: str) -> int:
    with broker.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


@pytest.fixture
def queue(broker: Broker, queue_name: str) -> str:
    with broker.channel() as channel:
        channel.queue_declare(queue_name, durable=True)
    return queue_name


@pytest.mark.parametrize("how", ["threads", "asyncio"])
def test_a_task_is_sent(broker: Broker, queue: str, how: str) -> None:
    sent = []

    @contextmanager
    def act(url: str) -> Iterator[None]:
        with app_on(url, queue) as app:
            sent.append(app.send_task("shop.note", ignore_result=True).id)
            yield

    @contextmanager
    def act_in_a_loop(url: str) -> Iterator[None]:
        with app_on(url, queue) as app, asyncio.Runner() as runner:
            result = runner.run(app.asend_task("shop.note", ignore_result=True))
            sent.append(result.id)
            yield
            runner.run(app.aclose())

    times = at_every_stage(broker, act if how == "threads" else act_in_a_loop)

    assert len(sent) == times
    assert ids_in(broker, queue) == set(sent)


def test_a_batch_is_sent(broker: Broker, queue: str) -> None:
    sent: list[str] = []

    @contextmanager
    def act(url: str) -> Iterator[None]:
        with app_on(url, queue) as app:
            with app.batch():
                results = [app.send_task("shop.note", ignore_result=True) for _ in range(30)]
            sent.extend(result.id for result in results)
            yield

    at_every_stage(broker, act)

    assert ids_in(broker, queue) == set(sent)


@pytest.mark.parametrize("how", ["threads", "asyncio"])
def test_a_result_comes_back(broker: Broker, queue: str, how: str) -> None:
    results: list[object] = []

    @contextmanager
    def act(url: str) -> Iterator[None]:
        with app_on(url, queue) as app:
            results.append(app.send_task("shop.add", (20, 22)).get(timeout=30))
            yield

    async def ask(app: App) -> object:
        return await (await app.asend_task("shop.add", (20, 22))).aget(timeout=30)

    @contextmanager
    def act_in_a_loop(url: str) -> Iterator[None]:
        with app_on(url, queue) as app, asyncio.Runner() as runner:
            results.append(runner.run(ask(app)))
            yield
            runner.run(app.aclose())

    with answering(broker, queue, total):
        chosen = act if how == "threads" else act_in_a_loop
        times = at_every_stage(broker, chosen, connections=2)

    assert results == [42] * times


def test_closing_does_not_wait_for_an_answer_that_was_cut(broker: Broker, queue: str) -> None:
    with Proxy.before(broker.url) as proxy, answering(broker, queue, total):

        def close() -> tuple[float, list[int]]:
            """How long it took, and how much had been said on each connection before."""
            with app_on(proxy.url, queue) as app:
                assert app.send_task("shop.add", (20, 22)).get(timeout=30) == 42
                said = [link.to_server for link in proxy.links]
                began = time.monotonic()
                app.close()
            return time.monotonic() - began, said

        _, said = close()
        for more in range(5, 150, 20):  # cancelled, then deleted, then closed
            for before in said:
                proxy.cut_after(to_server=before + more)
            took, _ = close()
            assert took < 5, f"{took:.1f} s when cut {more} bytes into the end"


def test_a_revoke_is_said(broker: Broker, queue: str) -> None:
    said = 0

    @contextmanager
    def act(url: str) -> Iterator[None]:
        nonlocal said
        with app_on(url, queue) as app:
            app.control.revoke("nobody")
            said += 1
            yield

    assert at_every_stage(broker, act) == said


def test_a_topology_is_applied(broker: Broker, queue_name: str) -> None:
    text = f"{{version: 1, queues: {{{queue_name}: {{type: classic, dead_letter: true}}}}}}"
    topology = parse.parse(text, "test")

    @contextmanager
    def act(url: str) -> Iterator[None]:
        with Session((Address.parse(url),), patience=20) as session:
            steps = [step.text for step in carry_out(session, topology)]
            assert len(steps) > 1
            yield
            session.delete_queue(queue_name)
            assert session.queue(queue_name) is None

    at_every_stage(broker, act)


# ---------------------------------------------------------------- dead letters


class Unlucky(Transfer):
    """Loses its connection when it is to write down that a queue refused."""

    proxy: Proxy
    cuts = 0

    def publish_all(self, publications: Sequence[Publication | Raw]) -> None:
        bodies = [each.body for each in publications if isinstance(each, Raw)]
        failed = any(b"failed" in body for body in bodies)
        if failed and type(self).cuts:
            type(self).cuts -= 1
            self.proxy.cut()
        super().publish_all(publications)


def test_a_letter_that_no_queue_takes_stays(broker: Broker, queue_name: str) -> None:
    """The journal says that it was sent, and this process alone knows that it was refused when the connection is cut, twice."""
    dead = f"{queue_name}.dead"
    with broker.channel() as channel:
        channel.queue_declare(dead, durable=True)
        channel.queue_declare(
            queue_name,
            durable=True,
            arguments={"x-max-length": 0, "x-overflow": "reject-publish"},
        )
    header = frames.encode_properties(
        Properties(
            headers={
                "lang": "py",
                "task": "shop.note",
                "id": "x",
                "amqtask-dead-queue": queue_name,
            },
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
        )
    )
    with Proxy.before(broker.url) as proxy:
        Unlucky.proxy = proxy

        def connect() -> Transfer:
            return Unlucky((Address.parse(proxy.url),), patience=20)

        with connect() as transfer:
            transfer.publish_all([Raw("", dead, header, json.dumps([[], {}, {}]).encode())])
        Unlucky.cuts = 2
        tally = Tally()
        Mover(connect).run(dead, Filter(), Retry(), tally=tally)

    assert Unlucky.cuts == 0
    assert (tally.done, tally.kept, tally.stopped) == (0, 1, Stopped.FULL)
    assert ids_in(broker, dead) == {"x"}


def test_a_command_that_is_cut_goes_on(broker: Broker, queue: str) -> None:
    with Proxy.before(broker.url) as proxy:
        cut = iter([False, False, True])

        def stop() -> bool:
            if next(cut, False):
                proxy.cut()
            return False

        dead = f"{queue}.dead"
        with broker.channel() as channel:
            channel.queue_declare(dead, durable=True)
        address = Address.parse(proxy.url)
        header = frames.encode_properties(
            Properties(headers={"id": "x", "amqtask-dead-queue": queue})
        )
        with Transfer((address,)) as transfer:
            transfer.publish_all([Raw("", dead, header, b"[[], {}, {}]")] * 3)
        tally = Tally()
        Mover(lambda: Transfer((address,))).run(dead, Filter(), Retry(), tally=tally, stop=stop)

    assert (tally.done, tally.doubtful, tally.stopped) == (3, 0, None)
    eventually(lambda: (depth(broker, dead), depth(broker, queue)) == (0, 3))
