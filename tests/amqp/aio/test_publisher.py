"""The asyncio publisher on a real broker: what is confirmed is there, and every fault has its error."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import amqp  # type: ignore[import-untyped]  # py-amqp has no annotations
import pytest

from amqtask.amqp.address import Address
from amqtask.amqp.aio.publisher import AioPublisher
from amqtask.amqp.reach import Reach
from amqtask.core.confirms import InFlight
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.errors import (
    BrokerError,
    ConfirmTimeout,
    ConnectFailed,
    ConnectionLost,
    EncodeError,
    LoginRefused,
    OperationRefused,
    PayloadTooLarge,
    PublishBlocked,
    PublishNacked,
    Unroutable,
)
from tests.brokers import Broker, OwnBroker
from tests.silence import Unanswered
from tests.waiting import aeventually

DOUBLES = [0.1, 1 / 3, 1e300, -5e-324, 2.5]


def publication(
    queue: str, number: int = 0, *, exchange: str = "", body: bytes = b"{}", **more: Any
) -> Publication:
    properties = Properties(
        delivery_mode=2, message_id=f"m-{number}", correlation_id=f"c-{number}", **more
    )
    return Publication(exchange, queue, Envelope(body, properties))


def publisher(broker: Broker, *, heartbeat: int = 10, **more: Any) -> AioPublisher:
    name = f"aio-test-{uuid.uuid4().hex[:8]}"
    return AioPublisher(Reach((Address.parse(broker.url),), heartbeat, 5), name=name, **more)


def run(publisher: AioPublisher, scenario: Callable[[AioPublisher], Awaitable[None]]) -> None:
    """Run the scenario in a loop of its own, close the publisher, and see that no task is left."""

    async def main() -> None:
        try:
            await scenario(publisher)
        finally:
            await publisher.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def declare(broker: Broker, queue: str, **arguments: object) -> None:
    with broker.channel() as channel:
        channel.queue_declare(queue, durable=True, arguments=arguments)


def drain(broker: Broker, queue: str) -> list[Any]:
    """All messages of a queue, read by py-amqp: a client that has no code in common with ours."""
    address = Address.parse(broker.url)
    connection = amqp.Connection(
        host=address.endpoint,
        userid=address.user,
        password=address.password,
        virtual_host=address.vhost,
    )
    connection.connect()
    try:
        channel = connection.channel()
        found = []
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            found.append(message)
        return found
    finally:
        connection.close()


def test_a_thousand_concurrent_publishes_arrive_once_and_in_order(
    broker: Broker, queue_name: str
) -> None:
    declare(broker, queue_name)

    async def scenario(publisher: AioPublisher) -> None:
        await asyncio.gather(
            *(publisher.publish(publication(queue_name, number), 30) for number in range(1000))
        )

    run(publisher(broker, window=100), scenario)
    assert [f"m-{number}" for number in range(1000)] == [
        message.properties["message_id"] for message in drain(broker, queue_name)
    ]


def test_a_large_call_is_pipelined_through_a_small_buffer(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)

    async def scenario(publisher: AioPublisher) -> None:
        await publisher.publish_many([publication(queue_name, n) for n in range(500)], 30)
        await publisher.publish_many([], 30)

    run(publisher(broker, window=20, buffer=50), scenario)
    assert len(drain(broker, queue_name)) == 500


def test_headers_arrive_as_they_were_sent(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    headers = {"doubles": DOUBLES, "limit": 0.5, "none": None, "nested": {"x": [True, 2**40, "é"]}}

    async def scenario(publisher: AioPublisher) -> None:
        await publisher.publish(
            publication(queue_name, 7, headers=headers, priority=3, reply_to="me", type="t"), 30
        )

    run(publisher(broker), scenario)
    (message,) = drain(broker, queue_name)
    assert headers == message.headers
    assert message.properties["priority"] == 3
    assert message.properties["reply_to"] == "me"
    assert message.properties["correlation_id"] == "c-7"


def test_no_message_id_is_invented(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)

    async def scenario(publisher: AioPublisher) -> None:
        await publisher.publish(Publication("", queue_name, Envelope(b"", Properties())), 30)
        with pytest.raises(Unroutable):
            await publisher.publish(
                Publication("", f"{queue_name}.no", Envelope(b"", Properties())), 30
            )

    run(publisher(broker), scenario)
    (message,) = drain(broker, queue_name)
    assert "message_id" not in message.properties


def test_a_body_of_many_frames_arrives(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    body = bytes(range(256)) * 20_000

    async def scenario(publisher: AioPublisher) -> None:
        await asyncio.gather(
            *(publisher.publish(publication(queue_name, n, body=body), 60) for n in range(4))
        )
        with pytest.raises(Unroutable):
            await publisher.publish(publication(f"{queue_name}.no", body=body), 30)

    run(publisher(broker), scenario)
    for message in drain(broker, queue_name):
        assert body == message.body


def test_only_the_unroutable_ones_fail(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)

    async def scenario(publisher: AioPublisher) -> None:
        outcomes = await asyncio.gather(
            *(
                publisher.publish(publication(queue_name + ".no" * (n % 7 == 0), n), 30)
                for n in range(100)
            ),
            return_exceptions=True,
        )
        for number, outcome in enumerate(outcomes):
            assert isinstance(outcome, Unroutable) == (number % 7 == 0), outcome
        with pytest.raises(Unroutable, match=r"exchange '' for routing key .*\.no"):
            await publisher.publish_many(
                [publication(queue_name, 0), publication(f"{queue_name}.no", 1)], 30
            )

    run(publisher(broker), scenario)
    assert len(drain(broker, queue_name)) == 85 + 1


def test_a_missing_exchange_fails_its_own_messages_only(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)

    async def scenario(publisher: AioPublisher) -> None:
        outcomes = await asyncio.gather(
            *(
                publisher.publish(
                    publication(queue_name, n, exchange="no-such-exchange" * (n % 20 == 5)), 60
                )
                for n in range(60)
            ),
            return_exceptions=True,
        )
        for number, outcome in enumerate(outcomes):
            assert isinstance(outcome, Unroutable) == (number % 20 == 5), outcome

    run(publisher(broker), scenario)
    assert {f"m-{n}" for n in range(60) if n % 20 != 5} == {
        message.properties["message_id"] for message in drain(broker, queue_name)
    }


def test_a_refused_publish_names_the_reason(broker: Broker, queue_name: str) -> None:
    async def scenario(publisher: AioPublisher) -> None:
        with pytest.raises(OperationRefused, match="expiration") as caught:
            await publisher.publish(publication(queue_name, expiration="soon"), 30)
        assert caught.value.code == 406

    run(publisher(broker), scenario)


def test_a_full_queue_is_a_nack(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name, **{"x-max-length": 1, "x-overflow": "reject-publish"})

    async def scenario(publisher: AioPublisher) -> None:
        await publisher.publish(publication(queue_name, 0), 30)
        with pytest.raises(PublishNacked, match="full"):
            await publisher.publish(publication(queue_name, 1), 30)

    run(publisher(broker), scenario)


def test_a_queue_that_refuses_for_a_moment(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name, **{"x-max-length": 1, "x-overflow": "reject-publish"})

    async def scenario(publisher: AioPublisher) -> None:
        await publisher.publish(publication(queue_name, 0), 30)
        late = asyncio.create_task(publisher.publish(publication(queue_name, 1), 30))
        with pytest.raises(PublishNacked):  # refused until the caller's time is over
            await publisher.publish(publication(queue_name, 2), 0.3)
        assert not late.done()
        with broker.channel() as channel:
            channel.basic_get(queue_name, auto_ack=True)
        await late

    run(publisher(broker), scenario)


def test_a_full_queue_beside_a_silent_one_stops_nobody(
    broker: Broker, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amqtask.core.refusals.BELIEVED", 1.0)
    full, silent = f"{queue_name}-full", f"{queue_name}-silent"
    declare(broker, queue_name)
    declare(broker, silent)
    declare(broker, full, **{"x-max-length": 1, "x-overflow": "reject-publish"})

    async def scenario(publisher: AioPublisher) -> None:
        publisher._outgoing.in_flight = Unanswered(silent)
        await publisher.publish(publication(full, 0), 30)
        unanswered = asyncio.create_task(publisher.publish(publication(silent, 1), 30))
        await aeventually(lambda: len(publisher._outgoing.in_flight))
        refused = asyncio.create_task(publisher.publish(publication(full, 2), 30))
        await aeventually(lambda: publisher._outgoing.renewing)
        await publisher.publish(publication(queue_name, 3), 2.5)  # held up for a second at most
        with pytest.raises(PublishNacked):
            await refused
        unanswered.cancel()

    run(publisher(broker), scenario)
    assert len(drain(broker, silent)) == 1
    with broker.channel() as channel:
        for queue in (full, silent):
            channel.queue_delete(queue)


def test_what_is_never_confirmed_is_sent_again_on_a_new_channel(
    broker: Broker, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amqtask.core.outgoing.STALLED", 0.3)
    declare(broker, queue_name)
    losses: list[BrokerError] = []

    async def scenario(publisher: AioPublisher) -> None:
        on_lost = publisher._connection._on_lost

        def lost(error: BrokerError) -> None:
            losses.append(error)
            on_lost(error)
            publisher._outgoing.in_flight = InFlight()  # the next channel is answered

        publisher._connection._on_lost = lost
        publisher._outgoing.in_flight = Unanswered(queue_name)
        await publisher.publish_many([publication(queue_name, n) for n in range(3)], 10)

    run(publisher(broker), scenario)
    assert [type(error) for error in losses] == [ConnectionLost]
    assert "renewed" in str(losses[0])
    arrived = [message.properties["message_id"] for message in drain(broker, queue_name)]
    assert arrived == ["m-0", "m-1", "m-2"] * 2


def test_what_cannot_be_framed_is_refused_and_harms_nobody(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)

    async def scenario(publisher: AioPublisher) -> None:
        good = publication(queue_name)
        with pytest.raises(EncodeError):
            await publisher.publish_many(
                [good, publication(queue_name, headers={"x": object()})], 30
            )
        with pytest.raises(PayloadTooLarge):
            await publisher.publish_many(
                [good, publication(queue_name, headers={"x": "a" * 200_000}), good], 30
            )

    run(publisher(broker), scenario)
    assert len(drain(broker, queue_name)) == 2


def test_a_killed_connection_loses_nothing(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)

    async def scenario(publisher: AioPublisher) -> None:
        await publisher.publish(publication(queue_name, 0), 30)
        sent = 1
        killing = asyncio.create_task(asyncio.to_thread(broker.close_connection, publisher.name))
        while not killing.done():
            await publisher.publish_many(
                [publication(queue_name, number) for number in range(sent, sent + 200)], 30
            )
            sent += 200
        await killing
        await publisher.publish(publication(queue_name, sent), 30)
        expected.update(f"m-{number}" for number in range(sent + 1))

    expected: set[str] = set()
    run(publisher(broker, window=50), scenario)
    assert expected == {message.properties["message_id"] for message in drain(broker, queue_name)}


def test_a_cancelled_caller_leaves_the_publisher_usable(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)

    async def scenario(publisher: AioPublisher) -> None:
        for turns in range(6):  # before it is sent, while it is sent, while the confirm is awaited
            many = [publication(queue_name, n) for n in range(30)]
            task = asyncio.create_task(publisher.publish_many(many, 30))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await publisher.publish(publication(queue_name, 1000 + turns), 30)

    run(publisher(broker, window=10, buffer=20), scenario)
    arrived = {message.properties["message_id"] for message in drain(broker, queue_name)}
    assert {f"m-{1000 + turns}" for turns in range(6)} <= arrived


def test_confirms_alone_keep_the_connection_alive(broker: Broker, queue_name: str) -> None:
    """aiormq sees none of the confirms, and must not take the connection for a dead one."""
    declare(broker, queue_name)

    async def scenario(publisher: AioPublisher) -> None:
        await publisher.publish(publication(queue_name), 30)
        link = publisher._connection.link
        loop = asyncio.get_running_loop()
        end = loop.time() + 6  # the grace is twice (heartbeat + 1) seconds
        while loop.time() < end:
            await publisher.publish(publication(queue_name), 30)
        assert publisher._connection.link is link

    run(publisher(broker, heartbeat=1), scenario)


def test_one_publisher_serves_one_loop_after_the_other(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    shared = publisher(broker)

    async def without_close() -> None:
        await shared.publish(publication(queue_name), 30)

    asyncio.run(without_close())
    asyncio.run(without_close())

    async def scenario(publisher: AioPublisher) -> None:
        await publisher.publish(publication(queue_name), 30)

        def elsewhere() -> None:
            with pytest.raises(RuntimeError, match="one event loop"):
                asyncio.run(publisher.publish(publication(queue_name), 30))

        await asyncio.to_thread(elsewhere)

    run(shared, scenario)
    assert len(drain(broker, queue_name)) == 3


def test_a_closed_publisher_says_so(broker: Broker, queue_name: str) -> None:
    async def scenario(publisher: AioPublisher) -> None:
        await publisher.close()
        await publisher.close()
        with pytest.raises(ConnectionLost, match="closed"):
            await publisher.publish(publication(queue_name), 30)

    run(publisher(broker), scenario)


def test_close_waits_for_what_was_handed_over(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)

    async def scenario(publisher: AioPublisher) -> None:
        many = [publication(queue_name, n) for n in range(300)]
        task = asyncio.create_task(publisher.publish_many(many, 30))
        await asyncio.sleep(0)
        await publisher.close(30)
        await task

    run(publisher(broker), scenario)
    assert len(drain(broker, queue_name)) == 300


@pytest.mark.parametrize("change", ["password", "vhost"])
def test_a_refused_login_is_told_at_once(broker: Broker, queue_name: str, change: str) -> None:
    address = Address.parse(broker.url)
    wrong = dataclasses.replace(address, **{change: "s3cr3t"})  # type: ignore[arg-type]  # both are text

    async def scenario(publisher: AioPublisher) -> None:
        async with asyncio.timeout(15):
            with pytest.raises(LoginRefused) as caught:
                await publisher.publish(publication(queue_name), 60)
        assert address.endpoint in str(caught.value)
        assert change == "vhost" or "s3cr3t" not in str(caught.value)

    run(AioPublisher(Reach((wrong,), 10, 5), name="aio-test"), scenario)


def test_nobody_there_is_connect_failed() -> None:
    nobody = Address(host="127.0.0.1", port=1, password="s3cr3t")

    async def scenario(publisher: AioPublisher) -> None:
        with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:1 ") as caught:
            await publisher.publish(publication("q"), 0.5)
        assert "s3cr3t" not in str(caught.value)

    run(AioPublisher(Reach((nobody,), 10, 5), name="aio-test"), scenario)


def test_the_next_address_is_tried(broker: Broker, queue_name: str) -> None:
    declare(broker, queue_name)
    nobody = Address(host="127.0.0.1", port=1)

    async def scenario(publisher: AioPublisher) -> None:
        await publisher.publish(publication(queue_name), 30)

    run(AioPublisher(Reach((nobody, Address.parse(broker.url)), 10, 5), name="aio-test"), scenario)
    assert len(drain(broker, queue_name)) == 1


def test_a_server_that_never_answers_is_connect_failed() -> None:
    async def scenario() -> None:
        silent: set[asyncio.StreamWriter] = set()
        server = await asyncio.start_server(lambda _, writer: silent.add(writer), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        publisher = AioPublisher(
            Reach((Address(host="127.0.0.1", port=port),), 10, 0.2), name="aio-test"
        )
        with pytest.raises(ConnectFailed, match=r"no answer within 0\.2 s"):
            await publisher.publish(publication("q"), 1)
        await publisher.close()
        for writer in silent:
            writer.close()
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())


def test_a_server_that_speaks_no_amqp_is_connect_failed() -> None:
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        publisher = AioPublisher(
            Reach((Address(host="127.0.0.1", port=port),), 10, 5), name="aio-test"
        )
        with pytest.raises(ConnectFailed, match="no AMQP"):
            await publisher.publish(publication("q"), 1)
        await publisher.close()
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())


def test_an_alarm_ends_in_publish_blocked(
    private_node: Callable[..., OwnBroker],
) -> None:
    node = private_node("vm_memory_high_watermark.absolute = 1MB")

    async def scenario(publisher: AioPublisher) -> None:
        declare(node, "q")
        with pytest.raises(PublishBlocked, match="memory"):
            await publisher.publish(publication("q"), 3)
        with pytest.raises(PublishBlocked, match="memory"):
            await publisher.publish(publication("q"), 0.2)

    run(publisher(node), scenario)


def test_a_frozen_broker_ends_in_confirm_timeout_and_a_restart_in_success(
    fresh_broker: OwnBroker,
) -> None:
    declare(fresh_broker, "q")

    async def scenario(publisher: AioPublisher) -> None:
        await publisher.publish(publication("q", 0), 30)
        fresh_broker.pause()
        try:
            with pytest.raises(ConfirmTimeout):
                await publisher.publish(publication("q", 1), 0.5)
        finally:
            fresh_broker.resume()
        await publisher.publish(publication("q", 2), 30)
        fresh_broker.kill()
        late = asyncio.create_task(publisher.publish(publication("q", 3), 90))
        with pytest.raises(ConnectFailed):
            await publisher.publish(publication("q", 4), 0.5)
        await asyncio.to_thread(fresh_broker.start)
        await late

    run(publisher(fresh_broker, heartbeat=5), scenario)
    arrived = {message.properties["message_id"] for message in drain(fresh_broker, "q")}
    assert {"m-0", "m-2", "m-3"} <= arrived
