"""Links on a real broker: what a connection says of itself, requests with deadlines, and options of the address."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import uuid

import pytest
import uvloop

from amqtask.amqp.address import Address
from amqtask.amqp.aio.connection import connect
from amqtask.errors import ConnectFailed, ConnectionLost, OperationRefused
from tests.brokers import Broker
from tests.waiting import eventually


def test_the_broker_shows_the_name_and_the_heartbeat(broker: Broker) -> None:
    name = f"aio-test-{uuid.uuid4().hex[:8]}"
    address = dataclasses.replace(Address.parse(broker.url), heartbeat=7)

    def shown() -> dict[str, object]:
        for connection in broker.api("GET", "/api/connections"):
            if connection.get("client_properties", {}).get("connection_name") == name:
                return dict(connection)
        return {}

    async def main() -> None:
        link = await connect(address, name=name, heartbeat=10, within=10)
        try:
            connection = await asyncio.to_thread(lambda: eventually(shown, timeout=20))
            assert connection["timeout"] == 7
            assert link.frame_max == connection["frame_max"]
        finally:
            await link.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_request_ends_with_its_deadline_its_refusal_or_the_connection(broker: Broker) -> None:
    async def main() -> None:
        link = await connect(Address.parse(broker.url), name="aio-test", heartbeat=10, within=10)
        try:
            with pytest.raises(ConnectionLost, match=r"no answer within 0\.05 s"):
                await link.call(asyncio.Event().wait(), 0.05)
            channel = await link.call(link.client.channel(), 10)
            with pytest.raises(OperationRefused, match="NOT_FOUND") as caught:
                await link.call(channel.queue_declare(uuid.uuid4().hex, passive=True), 10)
            assert caught.value.code == 404
            waiting = asyncio.create_task(link.call(asyncio.Event().wait(), 10))
            await asyncio.sleep(0)
            assert link.wire.transport is not None
            link.wire.transport.abort()
            with pytest.raises(ConnectionLost, match="socket was closed"):
                await waiting
        finally:
            await link.close()

    asyncio.run(main())


def test_a_cancelled_attempt_leaves_nothing(broker: Broker) -> None:
    async def main() -> None:
        for turns in range(12):
            attempt = asyncio.create_task(
                connect(Address.parse(broker.url), name="aio-test", heartbeat=10, within=10)
            )
            for _ in range(turns):
                await asyncio.sleep(0.001)
            attempt.cancel()
            try:
                link = await attempt
            except asyncio.CancelledError:
                continue
            await link.close()

    asyncio.run(main())


def test_unreadable_certificates_are_told_without_dialling() -> None:
    address = Address(host="127.0.0.1", port=1, tls=True, cacertfile="/nonexistent/ca.pem")

    async def main() -> None:
        with pytest.raises(ConnectFailed, match="certificate"):
            await connect(address, name="aio-test", heartbeat=10, within=1)

    asyncio.run(main())


def test_tls_to_a_plain_port_is_named(broker: Broker) -> None:
    plain = Address.parse(broker.url)
    address = dataclasses.replace(plain, tls=True, verify=False)

    async def main() -> None:
        with pytest.raises(ConnectFailed, match="TLS with"):
            await connect(address, name="aio-test", heartbeat=10, within=5)

    asyncio.run(main())


def test_what_is_written_behind_the_goodbye_goes_nowhere(broker: Broker) -> None:
    async def main() -> None:
        link = await connect(Address.parse(broker.url), name="aio-test", heartbeat=10, within=10)
        await link.close()
        link.write(b"an ack whose timer was still running")
        assert link.wire.lost.done()

    asyncio.run(main())


def test_it_connects_on_uvloop_too(broker: Broker) -> None:
    async def main() -> None:
        link = await connect(Address.parse(broker.url), name="aio-test", heartbeat=10, within=10)
        await link.call(link.client.channel(), 10)
        await link.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


CLOSED_UNDER_IT = """
import asyncio, gc, logging, sys
from amqtask import App

logging.basicConfig(level="DEBUG", format="%(name)s")
app = App("by-hand", broker_url=sys.argv[1], result_queue_expires=60)
for _ in range(2):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(app.control.arevoke("nobody"))
    loop.close()  # and nothing of what runs on it is ended before
    logging.getLogger("here").info("")
    del loop
    gc.collect()
print("used twice")
"""


def test_a_loop_that_is_closed_under_a_connection_gets_no_word_of_ours(broker: Broker) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLOSED_UNDER_IT, broker.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (0, "used twice\n")
    after = done.stderr.partition("here\n")[2].splitlines()
    assert "amqtask.amqp" not in after  # what asyncio and the client library say is theirs
    assert not [line for line in after if line.startswith("  File") and "/amqtask/amqp/" in line]
