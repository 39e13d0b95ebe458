"""Three nodes on loopback and quorum queues: one may go at any moment, two leave nobody waiting for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from amqtask import App
from amqtask.amqp.address import parse_addresses
from amqtask.amqp.management import Management
from amqtask.amqp.probe import probe
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.broker.cluster import PrivateCluster
from amqtask.broker.node import PrivateNode
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.errors import BrokerError
from amqtask.topology.model import Queue, Topology
from amqtask.weakness import weakened_queues
from tests.acceptance.nodes import Place, background
from tests.brokers import Broker, OwnBroker, own_cluster
from tests.waiting import eventually

Places = Callable[..., Place]

REPLICATED = {"x-quorum-initial-group-size": 3}
# RabbitMQ 4.3 waits so long until it hands out again what consumers held whose node is gone; a minute if nobody says anything.
SOON_AGAIN = {"x-consumer-disconnected-timeout": 3000}
SAYS_WHEN = (4, 3)
TIMEOUT = 3.0  # seconds a call gets for its confirm
HOLDINGS = (
    "messages_ready", "messages_unacknowledged", "consumers", "leader", "members", "online", "consumer_details",
)  # fmt: skip


@pytest.fixture
def cluster() -> Iterator[PrivateCluster]:
    with own_cluster() as found:
        yield found


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


def led_by(cluster: PrivateCluster, queue: str) -> PrivateNode:
    """The running node that leads a queue."""

    def look() -> PrivateNode | None:
        found = cluster.leader(queue)
        return found if found is not None and found.status().running else None

    found = eventually(look, 30, interval=0.2)
    assert found is not None
    return found


@pytest.mark.timeout(300)
def test_nodes_die_one_after_the_other(place: Places, cluster: PrivateCluster) -> None:
    broker = at_all(cluster)
    if broker.version >= SAYS_WHEN:
        at = place(on=broker, type="quorum", queue={"arguments": REPLICATED | SOON_AGAIN})
    else:  # what was handed out before a consumer was cancelled waits for its node: let none be cancelled
        at = place(
            on=broker, type="quorum", queue={"arguments": REPLICATED}, worker_prefetch_multiplier=16
        )
    urls = cluster.url
    node = at.node("-c2", "-b", urls, "-Q", at.queue)
    app, hasty = app_of(at, urls, 20.0), app_of(at, urls, TIMEOUT)
    try:
        assert app.send_task("work.add", (1, 2)).get(timeout=20) == 3
        dead = led_by(cluster, at.queue)
        home_of_a_classic_queue(dead, "classic")
        the_leader_dies_under_load(at, app, cluster, dead)
        assert app.send_task("work.add", (3, 4)).get(timeout=20) == 7

        assert "has 2 of 3 members" in weakness(at, cluster)
        refused_in_time(urls, "classic")  # it lives on the dead node alone
        second = led_by(cluster, at.queue)
        second.kill()  # and now two of three are gone
        began = time.monotonic()
        with pytest.raises(BrokerError):
            hasty.send_task("work.note", ("unknown",), ignore_result=True)
        assert time.monotonic() - began < TIMEOUT + 1

        second.start()
        began = time.monotonic()
        eventually(lambda: sent(hasty), 30, interval=0.1)
        at.saw("end", "healed", 20)
        assert time.monotonic() - began < 15
    finally:
        app.close()
        hasty.close()
    assert node.stop() == 0


def the_leader_dies_under_load(
    at: Place, app: App, cluster: PrivateCluster, leader: PrivateNode
) -> None:
    """No call fails and none waits long, each task runs, and few run twice."""
    stop, done, longest = threading.Event(), list[str](), 0.0

    def publish() -> None:
        nonlocal longest
        while not stop.is_set():
            began = time.monotonic()
            app.send_task("work.note", (f"n{len(done)}", 0.001), ignore_result=True)
            longest = max(longest, time.monotonic() - began)
            done.append(f"n{len(done)}")

    with background(publish):
        try:
            eventually(lambda: len(done) > 50, 20)
            leader.kill()
            killed = len(done)
            eventually(lambda: len(done) > killed + 50, 20)
        finally:
            stop.set()
    try:
        at.everything_done(done)
    except AssertionError as error:
        error.add_note(holdings(cluster, at.queue))
        raise
    assert longest < 8, longest
    again = sum(at.count("start").values()) - len(done)
    assert again <= 2 * 64 + 1, again  # what two children held, and the message without its confirm


def home_of_a_classic_queue(node: PrivateNode, queue: str) -> None:
    """Declare a classic queue that lives on this node."""
    broker = OwnBroker(node, node.url, node.management_url, (0,))
    with broker.channel() as channel:
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "classic"})


def refused_in_time(urls: str, queue: str) -> None:
    """Publish to a queue that cannot take it."""
    io = IoThread("test-io")
    publisher = ThreadedPublisher(
        io,
        Reach(parse_addresses(urls), 10, 4),
        name="test",
        window=1,
        buffer=1,
    )
    began = time.monotonic()
    try:
        with pytest.raises(BrokerError):
            publisher.publish(Publication("", queue, Envelope(b"{}", Properties())), TIMEOUT)
        assert time.monotonic() - began < TIMEOUT + 1
    finally:
        publisher.close()
        io.stop()


def holdings(cluster: PrivateCluster, queue: str) -> str:
    """What a queue holds and who has it, as a running node sees it."""
    found = management_of(cluster).get("queues", "/")
    mine = [
        {name: each.get(name) for name in HOLDINGS} for each in found if each.get("name") == queue
    ]
    return f"The broker says: {mine}."


def management_of(cluster: PrivateCluster) -> Management:
    """The management of a running node."""
    status = next(status for node in cluster.nodes if (status := node.status()).url is not None)
    assert status.url is not None
    return Management.of(parse_addresses(status.url)[0], status.management_url)


def weakness(at: Place, cluster: PrivateCluster) -> str:
    """What the doctor has to say of the place's queues."""
    management = management_of(cluster)
    topology = Topology(queues={at.queue: Queue(name=at.queue)})
    queues, nodes = management.get("queues", "/"), management.get("nodes")
    return "; ".join(found.text for found in weakened_queues(topology, queues, nodes))


def sent(app: App) -> bool:
    """Whether a task can be sent now."""
    try:
        app.send_task("work.note", ("healed",), ignore_result=True)
    except BrokerError:
        return False
    return True
