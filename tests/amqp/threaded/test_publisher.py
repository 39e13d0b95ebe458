"""The threaded publisher on a real broker: confirmed or an error, never silence."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from amqtask.amqp.address import parse_addresses
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.errors import (
    BrokerError,
    ConfirmTimeout,
    ConnectFailed,
    ConnectionLost,
    LoginRefused,
    OperationRefused,
    PayloadTooLarge,
    PublishBlocked,
    PublishNacked,
    Unroutable,
)
from tests.brokers import Broker, OwnBroker
from tests.silence import Unanswered
from tests.waiting import eventually

PERSISTENT = Properties(content_type="application/json", delivery_mode=2)


@contextmanager
def publisher(
    url: str, *, fast: bool = True, window: int = 1000, buffer: int = 10_000
) -> Iterator[ThreadedPublisher]:
    io = IoThread("test-io")
    made = ThreadedPublisher(
        io,
        Reach(parse_addresses(url), 10, 4, fast),
        name="test",
        window=window,
        buffer=buffer,
    )
    try:
        yield made
    finally:
        made.close(5)
        io.stop()


def to_queue(queue: str, body: bytes = b"[]", **properties: object) -> Publication:
    return Publication("", queue, Envelope(body, msgspec.structs.replace(PERSISTENT, **properties)))


@contextmanager
def declared(broker: Broker, queue: str, **arguments: object) -> Iterator[Callable[[], int]]:
    with broker.channel() as channel:
        channel.queue_declare(queue, durable=True, arguments=arguments)
        yield lambda: channel.queue_declare(queue, passive=True).method.message_count


@pytest.mark.parametrize("fast", [True, False], ids=["frames", "pika"])
def test_a_confirmed_message_is_in_the_queue(broker: Broker, queue_name: str, fast: bool) -> None:
    with declared(broker, queue_name) as depth, publisher(broker.url, fast=fast) as out:
        out.publish(to_queue(queue_name), timeout=20)

        assert depth() == 1


@pytest.mark.parametrize("fast", [True, False], ids=["frames", "pika"])
def test_properties_arrive_as_they_were_sent(broker: Broker, queue_name: str, fast: bool) -> None:
    sent = Properties(
        content_type="application/json",
        content_encoding="utf-8",
        headers={"task": "a.b", "number": 7, "text": "ü", "none": None, "list": [1, "x"]},
        delivery_mode=2,
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration="60000",
        message_id="m",
        type="t",
        app_id="a",
    )
    with broker.channel() as channel, publisher(broker.url, fast=fast) as out:
        channel.queue_declare(queue_name, durable=True)
        out.publish(Publication("", queue_name, Envelope(b"body", sent)), timeout=20)

        _, properties, body = channel.basic_get(queue_name, auto_ack=True)

    assert body == b"body"
    for name in Properties.__struct_fields__:
        assert getattr(properties, name) == getattr(sent, name), name


def test_a_large_body_crosses_several_frames(broker: Broker, queue_name: str) -> None:
    body = os.urandom(3_000_000)
    with broker.channel() as channel, publisher(broker.url) as out:
        channel.queue_declare(queue_name, durable=True)
        out.publish(to_queue(queue_name, body), timeout=10)

        assert channel.basic_get(queue_name, auto_ack=True)[2] == body


def test_many_are_pipelined_and_all_confirmed(broker: Broker, queue_name: str) -> None:
    with declared(broker, queue_name) as depth, publisher(broker.url, window=50) as out:
        out.publish_many([to_queue(queue_name)] * 1234, timeout=20)

        assert depth() == 1234


def test_fifty_threads_share_one_publisher(broker: Broker, queue_name: str) -> None:
    failures: list[BaseException] = []

    def work(out: ThreadedPublisher) -> None:
        try:
            for _ in range(20):
                out.publish(to_queue(queue_name), timeout=10)
        except BaseException as error:
            failures.append(error)
            raise

    with declared(broker, queue_name) as depth, publisher(broker.url) as out:
        threads = [threading.Thread(target=work, args=(out,)) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert failures == []
        assert depth() == 1000


@pytest.mark.parametrize("fast", [True, False], ids=["frames", "pika"])
def test_a_message_no_queue_takes_is_an_error(broker: Broker, fast: bool) -> None:
    with publisher(broker.url, fast=fast) as out, pytest.raises(Unroutable, match="no-such-queue"):
        out.publish(to_queue("no-such-queue"), timeout=20)


def test_a_missing_exchange_fails_its_own_message_only(broker: Broker, queue_name: str) -> None:
    good, bad = (
        to_queue(queue_name),
        Publication("no-such-exchange", "k", Envelope(b"", PERSISTENT)),
    )
    with declared(broker, queue_name) as depth, publisher(broker.url) as out:
        with pytest.raises(Unroutable, match="no-such-exchange"):
            out.publish_many([good] * 20 + [bad] + [good] * 20, timeout=10)

        assert depth() >= 40  # neighbours may come twice, never not at all
        out.publish(good, timeout=20)


def test_a_full_queue_refuses(broker: Broker, queue_name: str) -> None:
    with (
        declared(broker, queue_name, **{"x-max-length": 1, "x-overflow": "reject-publish"}),
        publisher(broker.url) as out,
        pytest.raises(PublishNacked, match="full"),
    ):
        out.publish_many([to_queue(queue_name)] * 3, timeout=20)


def test_a_queue_that_refuses_for_a_moment(broker: Broker, queue_name: str) -> None:
    with (
        declared(broker, queue_name, **{"x-max-length": 1, "x-overflow": "reject-publish"}),
        publisher(broker.url) as out,
    ):
        out.publish(to_queue(queue_name), timeout=20)
        emptied = threading.Timer(0.4, lambda: drain_one(broker, queue_name))
        emptied.start()
        out.publish(to_queue(queue_name), timeout=20)
        emptied.join()
        with pytest.raises(PublishNacked):  # refused until the caller's time is over
            out.publish(to_queue(queue_name), timeout=0.3)


def test_a_full_queue_beside_a_silent_one_stops_nobody(
    broker: Broker, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amqtask.core.refusals.BELIEVED", 1.0)
    full, silent = to_queue(f"{queue_name}-full"), to_queue(f"{queue_name}-silent")
    limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
    ended: list[object] = []
    with (
        declared(broker, queue_name),
        declared(broker, full.routing_key, **limits),
        declared(broker, silent.routing_key) as sent,
        publisher(broker.url) as out,
    ):
        out._outgoing.in_flight = Unanswered(silent.routing_key)
        out.publish(full, timeout=20)
        out.submit(silent, lambda error: None, timeout=20)
        out.submit(full, ended.append, timeout=20)
        eventually(lambda: out._outgoing.renewing)
        out.publish(to_queue(queue_name), timeout=2.5)  # held up for a second at most
        eventually(lambda: ended, timeout=5)

        assert isinstance(ended[0], PublishNacked)
        assert sent() == 1
        out._io.post(out._give_up_all)
        with broker.channel() as channel:
            for one in (full, silent):
                channel.queue_delete(one.routing_key)


def test_refused_messages_do_not_take_the_place_of_suspects(
    broker: Broker, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "amqtask.core.refusals.SOONEST", 1.0
    )  # a second in which they are held back
    full, good = to_queue(f"{queue_name}-full"), to_queue(queue_name)
    bad = Publication("no-such-exchange", "k", Envelope(b"", PERSISTENT))
    losses: list[BrokerError] = []
    ended: list[object] = []
    limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
    with (
        declared(broker, full.routing_key, **limits),
        declared(broker, queue_name),
        publisher(broker.url) as out,
    ):
        on_lost = out._connection._on_lost

        def lost(error: BrokerError) -> None:
            losses.append(error)
            on_lost(error)

        def submit_both() -> None:  # on the I/O thread, so that they go out together
            for one in (bad, good):
                out.submit(one, ended.append, 20)

        monkeypatch.setattr(out._connection, "_on_lost", lost)
        out.publish(full, timeout=20)
        for _ in range(2):
            out.submit(full, lambda error: None, timeout=20)
        eventually(lambda: len(out._outgoing.refused) == 2)
        out._io.post(submit_both)
        eventually(lambda: len(ended) == 2)
        with broker.channel() as channel:
            channel.queue_delete(full.routing_key)

    refused = [error for error in losses if isinstance(error, OperationRefused)]
    assert len(refused) == 2  # first with its neighbour, then alone
    assert [type(error) for error in ended] == [Unroutable, type(None)]


def test_a_fan_out_to_a_full_queue_is_refused_though_the_other_has_it(
    broker: Broker, queue_name: str
) -> None:
    full, exchange = f"{queue_name}-full", f"{queue_name}-both"
    with broker.channel() as channel, declared(broker, queue_name) as depth:
        channel.queue_declare(full, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        channel.exchange_declare(exchange, "fanout")
        for queue in (queue_name, full):
            channel.queue_bind(queue, exchange)
        try:
            with publisher(broker.url) as out:
                out.publish(to_both := to_exchange(exchange), timeout=20)
                with pytest.raises(PublishNacked):
                    out.publish(to_both, timeout=1)
            # a copy for each of the few tries, all with one id: repeats, as after any failed send
            assert 2 < depth() <= 6
            ids = {properties.message_id for properties, _ in messages(broker, queue_name)}
            assert len(ids) == 1
        finally:
            channel.queue_delete(full)
            channel.exchange_delete(exchange)


def to_exchange(exchange: str) -> Publication:
    return Publication(
        exchange, "", Envelope(b"[]", msgspec.structs.replace(PERSISTENT, message_id="m"))
    )


def messages(broker: Broker, queue: str) -> list[tuple[Any, bytes | None]]:
    """Take all messages of a queue."""
    taken = []
    with broker.channel() as channel:
        while (found := channel.basic_get(queue, auto_ack=True))[0] is not None:
            taken.append((found[1], found[2]))
    return taken


def drain_one(broker: Broker, queue: str) -> None:
    with broker.channel() as channel:
        channel.basic_get(queue, auto_ack=True)


def test_a_false_user_id_is_the_senders_fault_alone(broker: Broker, queue_name: str) -> None:
    with declared(broker, queue_name), publisher(broker.url) as out:
        with pytest.raises(OperationRefused, match="user_id"):
            out.publish(to_queue(queue_name, user_id="somebody-else"), timeout=20)
        out.publish(to_queue(queue_name), timeout=20)


def test_connect_refused_names_host_and_port_not_the_password() -> None:
    with (
        publisher("amqp://user:sesame@127.0.0.1:1//") as out,
        pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1\b") as caught,
    ):
        out.publish(to_queue("q"), timeout=0.5)
    assert "sesame" not in str(caught.value)


def test_a_refused_login_is_told_at_once_without_the_password(broker: Broker) -> None:
    (address,) = parse_addresses(broker.url)
    url = f"amqp://guest:sesame@{address.host}:{address.port}/%2F"
    with publisher(url) as out, pytest.raises(LoginRefused, match="guest") as caught:
        out.publish(to_queue("q"), timeout=30)
    assert "sesame" not in str(caught.value)


def test_a_closed_publisher_refuses(broker: Broker) -> None:
    with publisher(broker.url) as out:
        out.close()
        with pytest.raises(ConnectionLost, match="closed"):
            out.publish(to_queue("q"), timeout=1)


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_what_comes_while_the_publisher_closes_is_refused(
    broker: Broker, queue_name: str, used: bool
) -> None:
    with declared(broker, queue_name), publisher(broker.url) as subject:
        if used:
            subject.publish(to_queue(queue_name), 10)

        class Late(deque[object]):
            def append(self, entry: object) -> None:  # between submit's look and its handing over
                subject.close(5)
                super().append(entry)

        subject._inbox = Late()  # type: ignore[assignment]  # entries are the publisher's own
        ended = threading.Event()
        try:
            subject.submit(to_queue(queue_name), lambda _error: ended.set(), 30)
        except ConnectionLost:
            ended.set()
        assert ended.wait(5)


@pytest.mark.parametrize("fast", [True, False], ids=["frames", "pika"])
def test_headers_above_a_frame_are_refused_and_end_no_connection(
    broker: Broker, queue_name: str, fast: bool
) -> None:
    with declared(broker, queue_name) as depth, publisher(broker.url, fast=fast) as subject:
        with pytest.raises(PayloadTooLarge):
            subject.publish(to_queue(queue_name, headers={"x": "y" * 140_000}), 5)
        subject.publish(to_queue(queue_name), 5)
        assert depth() == 1


def test_sending_again_on_a_new_channel_keeps_the_connection(
    broker: Broker, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amqtask.core.outgoing.STALLED", 0.0005)  # as if it were slow
    losses: list[object] = []
    with declared(broker, queue_name) as depth, publisher(broker.url, window=500) as subject:
        on_lost = subject._connection._on_lost

        def lost(error: BrokerError) -> None:
            losses.append(error)
            on_lost(error)

        monkeypatch.setattr(subject._connection, "_on_lost", lost)
        subject.publish_many([to_queue(queue_name)] * 5000, 60)
        assert depth() >= 5000
    assert any("renewed" in str(error) for error in losses)
    assert all("renewed" in str(error) for error in losses)


def test_what_was_held_back_goes_out_after_a_loss(broker: Broker, queue_name: str) -> None:
    """The alarm is told to be over when the connection is lost: the publisher must know of the loss by then."""
    settled: list[object] = []
    with declared(broker, queue_name) as depth, publisher(broker.url) as out:
        out.publish(to_queue(queue_name), 5)
        out._io.post(lambda: out._set_blocked("low on memory"))
        for _ in range(20):
            out.submit(to_queue(queue_name), settled.append)
        out._io.post(out._connection.drop)

        eventually(lambda: len(settled) == 20)
        assert settled == [None] * 20
        assert depth() == 21


def test_close_waits_for_what_was_handed_over(broker: Broker, queue_name: str) -> None:
    settled: list[object] = []
    with declared(broker, queue_name) as depth, publisher(broker.url) as out:
        for _ in range(500):
            out.submit(to_queue(queue_name), settled.append)
        out.close(10)

        assert settled == [None] * 500
        assert depth() == 500


def test_close_does_not_wait_on_when_the_last_has_timed_out() -> None:
    ended: list[object] = []
    with publisher("amqp://127.0.0.1:1//") as out:
        out.submit(to_queue("q"), ended.append, timeout=0.3)
        began = time.monotonic()
        out.close(10)

        assert time.monotonic() - began < 5
    assert [type(error) for error in ended] == [ConnectFailed]


def test_a_connection_closed_by_the_operator_is_made_again(broker: Broker, queue_name: str) -> None:
    failures: list[object] = []
    stop = threading.Event()
    count = 0

    def work(out: ThreadedPublisher) -> None:
        nonlocal count
        while not stop.is_set():
            try:
                out.publish(to_queue(queue_name), timeout=10)
            except Exception as error:  # noqa: BLE001  # collected for the assertion
                failures.append(error)
            else:
                count += 1

    with declared(broker, queue_name) as depth, publisher(broker.url) as out:
        thread = threading.Thread(target=work, args=(out,))
        thread.start()
        eventually(lambda: count > 10)

        broker.close_connection("test")
        after = count
        eventually(lambda: count > after + 10, timeout=15)
        stop.set()
        thread.join()

        assert failures == []
        assert depth() >= count


def test_a_killed_broker_loses_nothing_confirmed(fresh_broker: OwnBroker) -> None:
    queue = "kept"
    with fresh_broker.channel() as channel:
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    # RabbitMQ 3.10 can forget a queue that was declared just before a kill; that is not what is shown here.
    fresh_broker.restart()
    confirmed = 0
    stop = threading.Event()
    failures: list[Exception] = []

    def work(out: ThreadedPublisher) -> None:
        nonlocal confirmed
        while not stop.is_set():
            try:
                out.publish_many([to_queue(queue)] * 50, timeout=60)
            except Exception as error:  # noqa: BLE001  # collected for the assertion
                failures.append(error)
            else:
                confirmed += 50

    with publisher(fresh_broker.url) as out:
        thread = threading.Thread(target=work, args=(out,))
        thread.start()
        eventually(lambda: confirmed > 500, timeout=30)
        fresh_broker.kill()
        fresh_broker.start()
        before = confirmed
        eventually(lambda: confirmed > before + 200, timeout=30)
        stop.set()
        thread.join()

    assert failures == []
    with fresh_broker.channel() as channel:
        assert channel.queue_declare(queue, passive=True).method.message_count >= confirmed


def test_a_frozen_broker_is_an_error_within_the_timeout(fresh_broker: OwnBroker) -> None:
    with fresh_broker.channel() as channel:
        channel.queue_declare("q", durable=True)
    with publisher(fresh_broker.url) as out:
        out.publish(to_queue("q"), timeout=20)
        fresh_broker.pause()
        try:
            with pytest.raises(ConfirmTimeout, match="did not confirm"):
                out.publish(to_queue("q"), timeout=1)
        finally:
            fresh_broker.resume()


def test_a_full_buffer_makes_the_caller_wait_and_then_fail(fresh_broker: OwnBroker) -> None:
    with fresh_broker.channel() as channel:
        channel.queue_declare("q", durable=True)
    with publisher(fresh_broker.url, window=5, buffer=10) as out:
        out.publish(to_queue("q"), timeout=20)
        fresh_broker.pause()
        try:
            # five are in flight and ten wait: the sixteenth finds no room
            for _ in range(15):
                out.submit(to_queue("q"), lambda error: None)
            with pytest.raises(ConfirmTimeout):
                out.submit(to_queue("q"), lambda error: None, timeout=0.5)
        finally:
            fresh_broker.resume()


def test_an_alarm_blocks_publishers_and_says_why(
    private_node: Callable[..., OwnBroker],
) -> None:
    own = private_node(config="vm_memory_high_watermark.absolute = 1MB")
    with own.channel() as channel:
        channel.queue_declare("q", durable=True)
    with publisher(own.url) as out, pytest.raises(PublishBlocked, match="memory"):
        out.publish(to_queue("q"), timeout=2)


def test_a_forked_child_drops_the_connection_and_the_parent_keeps_it(
    broker: Broker, queue_name: str
) -> None:
    with declared(broker, queue_name) as depth, publisher(broker.url) as out:
        out.publish(to_queue(queue_name), timeout=20)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, b"%d" % open_sockets())
            os.close(writer)
            signal.pause()
        os.close(writer)
        sockets_in_child = int(os.read(reader, 16))
        os.close(reader)
        sockets_here = open_sockets()
        out.publish(to_queue(queue_name), timeout=20)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        out.publish(to_queue(queue_name), timeout=20)

        assert depth() == 3
        assert sockets_in_child < sockets_here


def open_sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            count += str(descriptor.readlink()).startswith("socket:")
        except FileNotFoundError:
            pass  # the one that listed the folder
    return count


def test_a_host_that_accepts_and_says_nothing_is_no_broker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with (
            publisher(f"amqp://127.0.0.1:{port}//") as out,
            pytest.raises(ConnectFailed, match=f"127.0.0.1:{port} .no answer yet"),
        ):
            out.publish(to_queue("q"), timeout=0.3)


def test_an_attempt_that_dies_with_the_loop_is_followed_by_another() -> None:
    def fail() -> None:
        raise ValueError("as pika does when a connection is reset while it comes about")

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(3)  # the attempt itself takes four
        port = server.getsockname()[1]
        with publisher(f"amqp://127.0.0.1:{port}//") as out:
            out.submit(to_queue("q"), lambda _error: None, timeout=0.1)
            first, _ = server.accept()
            out._io.loop.add_callback_threadsafe(fail)
            second, _ = server.accept()
            first.close()
            second.close()
