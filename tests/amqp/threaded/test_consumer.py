"""The threaded consumer on a real broker: batches, acks, epochs, and everything rebuilt after each kind of loss."""

from __future__ import annotations

import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest

from amqtask.amqp.address import Address
from amqtask.amqp.delivery import Delivery
from amqtask.amqp.reach import Reach
from amqtask.amqp.session import Session
from amqtask.amqp.threaded.consumer import ThreadedConsumer
from amqtask.amqp.threaded.lane import Lane
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.core.outcome import Verdict
from amqtask.errors import BrokerError, OperationRefused
from amqtask.topology.plan import BindExchange, BindQueue, DeclareExchange, DeclareQueue
from tests.brokers import Broker, OwnBroker
from tests.waiting import eventually

ACK_FRAME = 21  # bytes
both_codecs = pytest.mark.parametrize("fast", [True, False], ids=["frames", "pika"])


class Reader:
    """A consumer with what it has received, and ways to wait for more."""

    def __init__(self, io: IoThread, broker: Broker, queue: str, **more: Any) -> None:
        self.io = io
        self.batches: list[list[Delivery]] = []
        self.losses: list[BrokerError] = []
        self.ready = threading.Event()
        options: dict[str, Any] = {
            "name": f"threaded-test-{uuid.uuid4().hex[:8]}",
            "queues": [queue],
            "prefetch": 100,
            "declarations": [DeclareQueue(queue)],
            **more,
        }
        reach = Reach((Address.parse(broker.url),), 10, 5, options.pop("fast", True))
        self.name: str = options["name"]
        self.consumer = ThreadedConsumer(
            io,
            reach,
            on_batch=self.batches.append,
            on_lost=self._lost,
            on_ready=self.ready.set,
            **options,
        )

    def _lost(self, error: BrokerError) -> None:
        self.ready.clear()
        self.losses.append(error)

    @property
    def lane(self) -> Lane:
        """That of its only queue."""
        (lane,) = self.consumer._lanes.values()
        return lane

    @property
    def deliveries(self) -> list[Delivery]:
        return [delivery for batch in list(self.batches) for delivery in batch]

    def received(self, count: int) -> list[Delivery]:
        """Wait until so many deliveries are here; hand them out and forget them."""
        eventually(lambda: len(self.deliveries) >= count, 30)
        found = self.deliveries
        self.batches.clear()
        return found

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self.consumer.settle(delivery, Verdict.ACK)

    def close(self) -> None:
        closed = threading.Event()
        self.consumer.close(closed.set)
        assert closed.wait(10)

    def stop(self) -> None:
        stopped = threading.Event()
        self.consumer.stop(stopped.set)
        assert stopped.wait(10)

    def on_io(self, look: Callable[[], object]) -> Any:
        """What ``look`` returns on the I/O thread."""
        found: list[object] = []
        done = threading.Event()

        def run() -> None:
            found.append(look())
            done.set()

        self.io.post(run)
        assert done.wait(10)
        return found[0]


@contextmanager
def reading(broker: Broker, queue: str, *, ready: bool = True, **more: Any) -> Iterator[Reader]:
    """A started consumer on an I/O thread of its own, closed at the end."""
    io = IoThread("test-io")
    reader = Reader(io, broker, queue, **more)
    reader.consumer.start()
    try:
        if ready:
            assert reader.ready.wait(30)
        yield reader
    finally:
        reader.close()
        io.stop()


def send(broker: Broker, queue: str, *bodies: bytes, exchange: str = "") -> None:
    with broker.channel() as channel:
        for body in bodies:
            channel.basic_publish(exchange, queue, body)


def send_envelope(broker: Broker, queue: str, envelope: Envelope) -> None:
    """Publish through our own codec, which writes floats in headers exactly."""
    io = IoThread("test-sender")
    publisher = ThreadedPublisher(
        io,
        Reach((Address.parse(broker.url),), 10, 5),
        name="test sender",
        window=10,
        buffer=10,
    )
    try:
        publisher.publish(Publication("", queue, envelope), 20)
    finally:
        publisher.close()
        io.stop()


def ready_messages(broker: Broker, queue: str) -> int:
    with broker.channel() as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


@both_codecs
def test_deliveries_come_in_order_with_all_they_carry(
    broker: Broker, queue_name: str, fast: bool
) -> None:
    with reading(broker, queue_name, fast=fast) as reader:
        send(broker, queue_name, *(b"%d" % number for number in range(300)))
        found: list[Delivery] = []
        while len(found) < 300:
            found += (more := reader.received(1))
            reader.acknowledge(more)

        assert [delivery.body for delivery in found] == [b"%d" % number for number in range(300)]
        first = found[0]
        assert (first.exchange, first.routing_key, first.queue) == ("", queue_name, queue_name)
        assert not first.redelivered
    assert ready_messages(broker, queue_name) == 0


def test_one_read_is_one_batch(broker: Broker, queue_name: str) -> None:
    with broker.channel() as channel:
        channel.queue_declare(queue_name, durable=True)
    send(broker, queue_name, *[b"x"] * 100)
    with reading(broker, queue_name) as reader:
        eventually(lambda: len(reader.deliveries) == 100, 30)

        assert len(reader.batches) < 50


def test_acks_are_sent_together(broker: Broker, queue_name: str) -> None:
    with reading(broker, queue_name) as reader:
        send(broker, queue_name, *[b"x"] * 100)
        deliveries = reader.received(100)
        raw = reader.consumer._connection.raw
        before = reader.on_io(lambda: raw.bytes_sent)
        reader.acknowledge(deliveries)
        eventually(lambda: reader.on_io(lambda: reader.consumer.unsettled) == 0)
        sent = reader.on_io(lambda: raw.bytes_sent) - before

        assert sent < 30 * ACK_FRAME
    assert ready_messages(broker, queue_name) == 0


@both_codecs
def test_verdicts_reach_the_broker(broker: Broker, queue_name: str, fast: bool) -> None:
    dead = f"{queue_name}.dead"
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    declarations = [DeclareQueue(dead), DeclareQueue(queue_name, arguments=arguments)]
    with reading(broker, queue_name, declarations=declarations, fast=fast) as reader:
        send(broker, queue_name, b"0", b"1", b"2", b"3", b"4")
        deliveries = reader.received(5)
        order = [Verdict.ACK, Verdict.REJECT, Verdict.REJECT_REQUEUE, Verdict.GIVE_BACK]
        for delivery, verdict in zip(deliveries, order, strict=False):
            reader.consumer.settle(delivery, verdict)
            reader.consumer.settle(delivery, Verdict.ACK)  # decided already: nothing is sent
        again = reader.received(2)

        assert {b"2", b"3"} == {delivery.body for delivery in again}
        assert all(delivery.redelivered for delivery in again)
        reader.acknowledge(again)
    assert ready_messages(broker, dead) == 1
    assert ready_messages(broker, queue_name) == 1  # the one without a verdict


@both_codecs
def test_no_more_than_the_prefetch_is_held(broker: Broker, queue_name: str, fast: bool) -> None:
    with reading(broker, queue_name, prefetch=3, fast=fast) as reader:
        send(broker, queue_name, *[b"x"] * 10)
        eventually(lambda: ready_messages(broker, queue_name) == 7)
        held = reader.received(3)
        reader.acknowledge(held[:1])
        more = reader.received(1)

        assert (len(held), len(more)) == (3, 1)
        assert ready_messages(broker, queue_name) == 6


def test_the_prefetch_can_change_while_consuming(broker: Broker, queue_name: str) -> None:
    with reading(broker, queue_name, prefetch=2) as reader:
        send(broker, queue_name, *[b"x"] * 20)
        eventually(lambda: len(reader.deliveries) == 2)
        reader.io.post(lambda: reader.consumer.set_prefetch(8))
        # the two that the old consumer holds stay ours beside the eight of the new one
        eventually(lambda: len(reader.deliveries) == 10)

        assert ready_messages(broker, queue_name) == 10
        assert not any(delivery.redelivered for delivery in reader.deliveries)
        reader.acknowledge(reader.received(10))
        reader.acknowledge(reader.received(8))
    assert ready_messages(broker, queue_name) == 2


def test_a_pause_gives_back_and_a_resume_goes_on(broker: Broker, queue_name: str) -> None:
    with reading(broker, queue_name, prefetch=2) as reader:
        send(broker, queue_name, *[b"x"] * 6)
        kept, returned = reader.received(2)
        reader.io.post(reader.consumer.pause)
        reader.consumer.settle(returned, Verdict.GIVE_BACK)
        eventually(lambda: ready_messages(broker, queue_name) == 5)
        reader.on_io(lambda: None)
        assert not reader.deliveries  # it was given back while nothing is consumed
        reader.acknowledge([kept])
        reader.io.post(reader.consumer.resume)
        more = reader.received(2)

        assert sum(delivery.redelivered for delivery in more) == 1
        reader.acknowledge(more)
        reader.acknowledge(reader.received(2))
        for _ in range(3):  # without waiting for the broker in between
            reader.io.post(reader.consumer.pause)
            reader.io.post(reader.consumer.resume)
        reader.acknowledge(reader.received(1))
        send(broker, queue_name, b"last")
        reader.acknowledge(reader.received(1))
    assert ready_messages(broker, queue_name) == 0


@pytest.mark.parametrize("settled", [True, False], ids=["paused", "pausing"])
def test_a_paused_consumer_stops(broker: Broker, queue_name: str, settled: bool) -> None:
    with reading(broker, queue_name, prefetch=1) as reader:
        reader.io.post(reader.consumer.pause)
        if settled:
            eventually(lambda: reader.on_io(lambda: not reader.lane.leaving))
        reader.stop()
        reader.io.post(reader.consumer.resume)
        send(broker, queue_name, b"x")
        eventually(lambda: ready_messages(broker, queue_name) == 1)


def test_a_missing_queue_stops_no_other(
    broker: Broker, queue_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    missing = f"{queue_name}-missing"
    with broker.channel() as channel:
        channel.queue_declare(queue_name, durable=True)
    with reading(broker, queue_name, declarations=(), queues=[queue_name, missing]) as reader:
        send(broker, queue_name, b"x")
        (delivery,) = reader.received(1)
        # asked for again and again, while what was delivered from the other stays ours
        eventually(lambda: reader.on_io(lambda: reader.consumer._lanes[missing].refusals) >= 4)
        assert not reader.consumer.stale(delivery)
        assert not reader.losses
        reader.acknowledge([delivery])
        with broker.channel() as channel:
            channel.queue_declare(missing, durable=True)
        send(broker, missing, b"back")
        (delivery,) = reader.received(1)

        assert (delivery.queue, delivery.redelivered) == (missing, False)
        reader.acknowledge([delivery])
        reader.stop()
        with broker.channel() as channel:
            channel.queue_delete(missing)
    assert ready_messages(broker, queue_name) == 0
    told = [record for record in caplog.records if "cannot be consumed" in record.getMessage()]
    assert len(told) == 1
    assert missing in told[0].getMessage()


def test_a_deleted_queue_costs_no_other_a_delivery(broker: Broker, queue_name: str) -> None:
    other = f"{queue_name}-other"
    declarations = [DeclareQueue(queue_name), DeclareQueue(other)]
    with reading(
        broker, queue_name, declarations=declarations, queues=[queue_name, other]
    ) as reader:
        send(broker, queue_name, b"runs")
        send(broker, other, b"lost")
        kept, gone = sorted(reader.received(2), key=lambda delivery: delivery.body, reverse=True)
        with broker.channel() as channel:
            channel.queue_delete(other)
        eventually(lambda: reader.losses)
        assert reader.ready.wait(2)
        send(broker, other, b"new")
        (new,) = reader.received(1)

        assert [reader.consumer.stale(each) for each in (kept, gone, new)] == [False, True, False]
        reader.acknowledge([kept, gone, new])
        reader.stop()
        with broker.channel() as channel:
            channel.queue_delete(other)
    assert ready_messages(broker, queue_name) == 0


def test_a_queue_that_differs_is_consumed_as_it_is(
    broker: Broker, queue_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with broker.channel() as channel:
        channel.queue_declare(queue_name, durable=True, arguments={"x-max-length": 5})
    bound = BindQueue(queue_name, "no-such-exchange")
    with reading(
        broker, queue_name, declarations=[DeclareQueue(queue_name), bound, DeclareQueue(queue_name)]
    ) as reader:
        send(broker, queue_name, b"x")
        (delivery,) = reader.received(1)
        reader.acknowledge([delivery])
    told = [
        record.getMessage() for record in caplog.records if "refused a decl" in record.getMessage()
    ]
    assert len(told) == 2  # once for the queue, and for the binding
    assert "x-max-length" in told[0]
    assert "no-such-exchange" in told[1]


def test_a_queue_that_may_not_be_read_stops_no_other(broker: Broker, queue_name: str) -> None:
    secret = f"{queue_name}-secret"
    user = f"limited-{uuid.uuid4().hex[:8]}"
    grants = f"/api/permissions/{quote(broker.vhost, safe='')}/{user}"
    readable = re.escape(queue_name) + "$"
    with broker.channel() as channel:
        channel.queue_declare(queue_name, durable=True)
        channel.queue_declare(secret, durable=True)
    broker.api("PUT", f"/api/users/{user}", {"password": "p", "tags": ""})
    broker.api("PUT", grants, {"configure": ".*", "write": ".*", "read": readable})
    limited = Broker(broker.url.replace("guest:guest@", f"{user}:p@"), None, broker.version)
    try:
        with reading(limited, queue_name, declarations=(), queues=[secret, queue_name]) as reader:
            send(broker, queue_name, b"x")
            (delivery,) = reader.received(1)
            send(broker, secret, b"y")
            broker.api("PUT", grants, {"configure": ".*", "write": ".*", "read": ".*"})
            (late,) = reader.received(1)
            assert not reader.consumer.stale(delivery)
            reader.acknowledge([delivery, late])
    finally:
        broker.api("DELETE", f"/api/users/{user}")
        with broker.channel() as channel:
            channel.queue_delete(secret)


@both_codecs
def test_a_large_body_arrives_whole(broker: Broker, queue_name: str, fast: bool) -> None:
    body = bytes(range(256)) * 20_000
    with reading(broker, queue_name, fast=fast) as reader:
        send(broker, queue_name, body, b"small")
        large, small = reader.received(2)

        assert large.body == body
        assert small.body == b"small"
        reader.acknowledge([large, small])
    assert ready_messages(broker, queue_name) == 0


@pytest.mark.parametrize("size", [0, 10, 1_000_000], ids=["empty", "one frame", "several frames"])
def test_floats_in_headers_stay_exact(broker: Broker, queue_name: str, size: int) -> None:
    headers = {"doubles": [0.1, 1e300, -2.5e-10], "nested": {"x": [None, True, "é", 0.3]}}
    properties = Properties(
        headers=headers, correlation_id="c", priority=3, content_type="application/json"
    )
    with reading(broker, queue_name) as reader:
        send_envelope(broker, queue_name, Envelope(b"b" * size, properties))
        (delivery,) = reader.received(1)

        assert delivery.properties == properties
        assert delivery.body == b"b" * size
        reader.acknowledge([delivery])


def test_pikas_codec_reads_the_other_properties(broker: Broker, queue_name: str) -> None:
    properties = Properties(headers={"n": 1, "s": "é"}, correlation_id="c", delivery_mode=2)
    with reading(broker, queue_name, fast=False) as reader:
        send_envelope(broker, queue_name, Envelope(b"", properties))
        (delivery,) = reader.received(1)

        assert delivery.properties == properties
        reader.acknowledge([delivery])


def test_all_kinds_of_declarations_are_carried_out(broker: Broker, queue_name: str) -> None:
    one, two = f"{queue_name}.one", f"{queue_name}.two"
    declarations = [
        DeclareExchange(one, "topic", auto_delete=True),
        DeclareExchange(two, "fanout", auto_delete=True),
        DeclareQueue(queue_name, arguments={"x-expires": 60_000}),
        BindExchange(two, one, "email.#"),
        BindQueue(queue_name, two),
    ]
    with reading(broker, queue_name, declarations=declarations) as reader:
        send(broker, "email.send", b"through", exchange=one)
        (delivery,) = reader.received(1)
        assert delivery.exchange == one
        reader.acknowledge([delivery])
    with broker.channel() as channel:
        channel.exchange_delete(one)
        channel.exchange_delete(two)


@both_codecs
def test_a_closed_connection_starts_a_new_epoch(
    broker: Broker, queue_name: str, fast: bool
) -> None:
    with reading(broker, queue_name, fast=fast) as reader:
        send(broker, queue_name, b"x")
        (old,) = reader.received(1)
        broker.close_connection(reader.name)
        (new,) = reader.received(1)

        assert new.redelivered
        assert new.epoch > old.epoch
        assert "lost" in str(reader.losses[0])
        reader.acknowledge([old])  # stale: must not reach the new channel
        reader.close()
        assert eventually(lambda: ready_messages(broker, queue_name) == 1)


def test_verdicts_given_while_the_connection_is_away_are_dropped(
    broker: Broker, queue_name: str
) -> None:
    with reading(broker, queue_name) as reader:
        send(broker, queue_name, *[b"x"] * 20)
        old = reader.received(20)
        reader.io.post(reader.consumer._connection.drop)
        reader.acknowledge(old)
        again = reader.received(20)

        assert all(delivery.redelivered for delivery in again)
        reader.acknowledge(again)
    assert ready_messages(broker, queue_name) == 0


@both_codecs
def test_a_deleted_queue_is_declared_and_consumed_again(
    broker: Broker, queue_name: str, fast: bool
) -> None:
    with reading(broker, queue_name, fast=fast) as reader:
        epoch = reader.consumer.epoch
        with broker.channel() as channel:
            channel.queue_delete(queue_name)
        eventually(lambda: reader.losses)
        assert reader.ready.wait(30)
        send(broker, queue_name, b"again")
        (delivery,) = reader.received(1)

        assert delivery.body == b"again"
        assert delivery.epoch > epoch
        reader.acknowledge([delivery])


def test_a_queue_that_comes_back_is_consumed_again(broker: Broker, queue_name: str) -> None:
    with broker.channel() as channel:
        channel.queue_declare(queue_name, durable=True)
    with reading(broker, queue_name, declarations=()) as reader:
        with broker.channel() as channel:
            channel.queue_delete(queue_name)
            eventually(lambda: isinstance(reader.consumer.last_error, OperationRefused))
            channel.queue_declare(queue_name, durable=True)
        assert reader.ready.wait(30)
        send(broker, queue_name, b"again")

        (delivery,) = reader.received(1)
        reader.acknowledge([delivery])
    assert ready_messages(broker, queue_name) == 0


def test_stop_ends_deliveries_and_keeps_verdicts(broker: Broker, queue_name: str) -> None:
    with reading(broker, queue_name) as reader:
        send(broker, queue_name, b"before")
        (delivery,) = reader.received(1)
        reader.stop()
        reader.stop()
        send(broker, queue_name, b"after")
        reader.acknowledge([delivery])
        reader.close()

        assert not reader.deliveries
        assert ready_messages(broker, queue_name) == 1


def test_stopping_while_the_connection_is_away_ends_at_once(
    broker: Broker, queue_name: str
) -> None:
    with reading(broker, queue_name) as reader:
        reader.io.post(reader.consumer._connection.drop)
        reader.stop()


def test_close_gives_back_what_has_no_verdict(broker: Broker, queue_name: str) -> None:
    with reading(broker, queue_name) as reader:
        send(broker, queue_name, *[b"x"] * 10)
        deliveries = reader.received(10)
        reader.acknowledge(deliveries[:4])
        open_yet = not reader.consumer.parted
    assert open_yet
    assert reader.consumer.parted
    assert eventually(lambda: ready_messages(broker, queue_name) == 6)


def test_a_connection_that_is_lost_while_it_closes_has_not_parted(
    broker: Broker, queue_name: str
) -> None:
    with reading(broker, queue_name) as reader:
        connection = reader.consumer._connection
        closed = threading.Event()
        reader.consumer.close(closed.set)
        reader.io.post(connection.drop)  # before the broker's answer is read
        assert closed.wait(10)
        assert not reader.consumer.parted


def test_acks_behind_a_burst_survive_the_close(broker: Broker, queue_name: str) -> None:
    quorum = DeclareQueue(queue_name, arguments={"x-queue-type": "quorum"})
    left = 60
    with broker.channel() as channel:
        channel.queue_declare(queue_name, durable=True, arguments={"x-queue-type": "quorum"})
    send(broker, queue_name, *[b"x"] * left)
    for _ in range(20):  # the broker loses them one time in ten
        with reading(broker, queue_name, declarations=[quorum], prefetch=left) as reader:
            eventually(lambda: len(reader.deliveries) >= left, 30)  # noqa: B023  # used in this round only
            done, others = reader.deliveries[:2], reader.deliveries[2:]
            for delivery in others:
                reader.consumer.settle(delivery, Verdict.GIVE_BACK)
            reader.consumer.stop()
            reader.acknowledge(done)
        left -= 2
        eventually(lambda: ready_messages(broker, queue_name) == left, 2)  # noqa: B023  # the same


def test_threads_that_settle_in_the_same_instant_are_both_heard(
    broker: Broker, queue_name: str
) -> None:
    class Together(deque[Any]):
        """Lets nobody go on before both have put their verdict in."""

        both = threading.Barrier(2)

        def append(self, verdict: Any) -> None:
            super().append(verdict)
            self.both.wait(10)

    with reading(broker, queue_name) as reader:
        send(broker, queue_name, b"1", b"2")
        deliveries = reader.received(2)
        reader.consumer._verdicts = Together()
        threads = [
            threading.Thread(target=reader.consumer.settle, args=(delivery, Verdict.ACK))
            for delivery in deliveries
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: reader.consumer.unsettled == 0, 10)


def test_a_queue_of_its_own_can_be_deleted(broker: Broker, queue_name: str) -> None:
    declarations = [DeclareQueue(queue_name, durable=False, exclusive=True)]
    with reading(broker, queue_name, declarations=declarations, exclusive=True) as reader:
        deleted = threading.Event()
        reader.stop()
        reader.consumer.delete(queue_name, deleted.set)
        assert deleted.wait(10)
        reader.close()
        reader.consumer.delete(queue_name, deleted.set)  # without a channel: at once


def test_a_failing_callback_stops_nothing(broker: Broker, queue_name: str) -> None:
    seen: list[bytes] = []
    io = IoThread("test-io")

    def fail(batch: list[Delivery]) -> None:
        seen.extend(delivery.body for delivery in batch)
        raise ValueError("of the caller")

    consumer = ThreadedConsumer(
        io,
        Reach((Address.parse(broker.url),), 10, 5),
        name="threaded-test",
        queues=[queue_name],
        prefetch=10,
        declarations=[DeclareQueue(queue_name)],
        on_batch=fail,
    )
    consumer.start()
    eventually(lambda: consumer.epoch)
    try:
        with broker.channel() as channel:
            channel.queue_declare(queue_name, durable=True)
        send(broker, queue_name, b"1")
        eventually(lambda: b"1" in seen, 30)
        send(broker, queue_name, b"2")
        eventually(lambda: b"2" in seen, 30)
    finally:
        closed = threading.Event()
        consumer.close(closed.set)
        assert closed.wait(10)
        io.stop()


def test_a_killed_broker_is_consumed_again(fresh_broker: OwnBroker) -> None:
    with reading(fresh_broker, "q") as reader:
        fresh_broker.kill()
        eventually(lambda: reader.losses)
        fresh_broker.start()
        assert reader.ready.wait(60)
        send(fresh_broker, "q", b"after")
        (delivery,) = reader.received(1)

        assert delivery.body == b"after"
        reader.acknowledge([delivery])


def test_what_comes_for_a_consumer_that_is_gone_is_given_back(
    broker: Broker, queue_name: str
) -> None:
    with reading(broker, queue_name, prefetch=1) as reader:
        reader.on_io(lambda: reader.consumer.forget_tag(reader.lane._tags[0]))
        send(broker, queue_name, b"x")
        eventually(lambda: reader.on_io(lambda: reader.lane.ledger.epoch and not reader.deliveries))
        reader.close()
    assert ready_messages(broker, queue_name) == 1


def test_a_consumer_that_is_not_confirmed_yet_is_cancelled_too(
    broker: Broker, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to stop between its consume and the broker's answer, it must not go on to be given messages."""
    stopped = threading.Event()
    begin = Lane._begin

    def and_stop(lane: Any, channel: Any, began: Callable[[object], None]) -> None:
        begin(lane, channel, began)
        lane._home._stop(stopped.set)

    monkeypatch.setattr(Lane, "_begin", and_stop)
    with broker.channel() as channel, reading(broker, queue_name, ready=False) as reader:
        assert stopped.wait(10)
        assert (
            channel.queue_declare(queue_name, durable=True, passive=True).method.consumer_count == 0
        )
        channel.basic_publish("", queue_name, b"[]")
        eventually(
            lambda: (
                channel.queue_declare(queue_name, durable=True, passive=True).method.message_count
                == 1
            )
        )
        assert reader.deliveries == []


def test_what_was_just_declared_waits_for_the_next_connection(
    broker: Broker, queue_name: str
) -> None:
    exchange = f"{queue_name}.exchange"
    declarations = [DeclareExchange(exchange, "fanout"), DeclareQueue(queue_name)]
    with reading(broker, queue_name):
        pass  # the queue is there, the exchange is not
    with (
        reading(broker, queue_name, declarations=declarations, declared=True) as reader,
        Session([Address.parse(broker.url)]) as session,
    ):
        left_out = not session.exchange_exists(exchange, "fanout")
        reader.io.post(reader.consumer._connection.drop)

        assert eventually(lambda: session.exchange_exists(exchange, "fanout"))
        assert left_out
        session.delete_exchange(exchange)


def test_a_queue_that_was_declared_and_is_gone_is_declared_again(
    broker: Broker, queue_name: str
) -> None:
    with reading(broker, queue_name, declared=True) as reader:
        send(broker, queue_name, b"x")
        reader.acknowledge(reader.received(1))
