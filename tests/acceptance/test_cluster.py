"""Three nodes on loopback and quorum queues: one may go at any moment, two leave nobody waiting for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from amqtask import App
from amqtask.amqp.probe import probe
from amqtask.broker.cluster import PrivateCluster
from amqtask.broker.node import PrivateNode
from amqtask.errors import BrokerError
from tests.acceptance.nodes import Node, Place, background
from tests.brokers import Broker, OwnBroker, own_cluster
from tests.waiting import eventually

Places = Callable[..., Place]

QUEUE = {"arguments": {"x-quorum-initial-group-size": 3}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[PrivateCluster]:
    with own_cluster() as found:
        yield found


@pytest.fixture
def whole(cluster: PrivateCluster) -> Iterator[PrivateCluster]:
    """The cluster with all of its nodes, also afterwards."""
    cluster.start()
    yield cluster
    cluster.start()


def at_all(cluster: PrivateCluster) -> Broker:
    """The cluster as one broker with several addresses."""
    first = cluster.nodes[0]
    return OwnBroker(first, cluster.url, first.management_url, probe(first.url).release)


def app_of(at: Place, urls: str, timeout: float) -> App:
    return App(
        "caller",
        topology=at.path / "topology.yaml",
        broker_url=urls,
        settings={
            "task_default_queue": at.queue,
            "publish_timeout": timeout,
            "result_queue_type": "quorum",
        },
    )


def working(place: Places, cluster: PrivateCluster) -> tuple[Place, Node, PrivateNode]:
    """A node at work, and who leads its queue."""
    at = place(on=at_all(cluster), type="quorum", queue=QUEUE)
    node = at.node("-c2", "-b", cluster.url, "-Q", at.queue)
    leader = eventually(lambda: cluster.leader(at.queue), 20, interval=0.2)
    assert leader is not None
    return at, node, leader


@pytest.mark.timeout(180)
def test_a_leader_dies_under_load(place: Places, whole: PrivateCluster) -> None:
    at, node, leader = working(place, whole)
    app = app_of(at, whole.url, 20.0)
    stop, sent, longest = threading.Event(), list[str](), 0.0

    def publish() -> None:
        nonlocal longest
        while not stop.is_set():
            began = time.monotonic()
            app.send_task("work.note", (f"n{len(sent)}", 0.001), ignore_result=True)
            longest = max(longest, time.monotonic() - began)
            sent.append(f"n{len(sent)}")

    try:
        assert app.send_task("work.add", (1, 2)).get(timeout=20) == 3
        with background(publish):
            try:
                eventually(lambda: len(sent) > 200, 20)
                leader.kill()
                killed = len(sent)
                eventually(lambda: len(sent) > killed + 200, 20)
            finally:
                stop.set()
        at.everything_done(sent)
        assert app.send_task("work.add", (3, 4)).get(timeout=20) == 7
    finally:
        app.close()
    assert longest < 8, longest
    again = sum(at.count("start").values()) - len(sent)
    assert again <= 2 * 64 + 1, again  # what two children held, and the message without its confirm
    assert node.stop() == 0


@pytest.mark.timeout(180)
def test_a_lost_majority_is_an_error_in_time_and_heals(
    place: Places, whole: PrivateCluster
) -> None:
    at, node, leader = working(place, whole)
    app = app_of(at, whole.url, 3.0)
    others = [each for each in whole.nodes if each is not leader]
    try:
        assert app.send_task("work.add", (1, 2)).get(timeout=20) == 3
        for each in others:
            each.kill()
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(BrokerError):
                app.send_task("work.note", ("unknown",), ignore_result=True)
            assert time.monotonic() - began < 4
        whole.start()
        began = time.monotonic()
        eventually(lambda: _sent(app), 30, interval=0.1)
        at.saw("end", "healed", 20)
        assert time.monotonic() - began < 15
    finally:
        app.close()
    assert node.stop() == 0


def _sent(app: App) -> bool:
    try:
        app.send_task("work.note", ("healed",), ignore_result=True)
    except BrokerError:
        return False
    return True
