"""The threaded connection, opening and failing to open. The broker's own part is in the tests of publisher and consumer."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from pika.channel import Channel

from amqtask.amqp.address import Address
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.connection import Connection, connection_parameters
from amqtask.amqp.threaded.loop import IoThread
from amqtask.errors import BrokerError, ConfigurationError, ConnectFailed, ConnectionLost
from amqtask.testing import Proxy
from tests.brokers import Broker
from tests.waiting import eventually

MISSING = "/nowhere/ca.pem"


@pytest.fixture
def io() -> Iterator[IoThread]:
    thread = IoThread("test-io")
    yield thread
    thread.stop()


def connection(
    io: IoThread,
    address: Address,
    lost: list[BrokerError],
    *,
    fast: bool = True,
    within: float = 20,
) -> Connection:
    return Connection(
        io,
        Reach((address,), 10, within, fast),
        name="test",
        on_open=lambda channel: None,
        on_lost=lost.append,
    )


def close(connection: Connection) -> float:
    """Close it; seconds that took."""
    closed = threading.Event()
    began = time.monotonic()
    connection.close(closed.set)
    assert closed.wait(30)
    return time.monotonic() - began


@pytest.mark.parametrize("fast", [True, False], ids=["frames", "pika"])
@pytest.mark.parametrize(
    "answer",
    [b"AMQP\x00\x01\x00\x00", b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    ids=["AMQP 1.0", "HTTP"],
)
def test_a_server_of_another_protocol_is_a_failed_connection(
    io: IoThread, answer: bytes, fast: bool
) -> None:
    lost: list[BrokerError] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(8)
                    peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        opening = connection(
            io, Address(host="127.0.0.1", port=server.getsockname()[1]), lost, fast=fast
        )
        opening.open()
        try:
            eventually(lambda: lost)
        finally:
            close(opening)
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)

    assert isinstance(lost[0], ConnectFailed)
    assert not fast or "AMQP" in str(lost[0])  # pika alone only sees the connection close


def test_a_host_that_is_silent_is_told_in_words(io: IoThread) -> None:
    lost: list[BrokerError] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        opening = connection(io, Address(host="127.0.0.1", port=port), lost, within=0.1)
        opening.open()
        try:
            eventually(lambda: lost)
        finally:
            close(opening)

    assert isinstance(lost[0], ConnectFailed)
    assert str(lost[0]) == (
        f"What listens at 127.0.0.1:{port} does not answer as RabbitMQ does: is it a broker that hangs, or the port of "
        "something else (AMQP's is 5672, with TLS 5671)?"
    )


def test_closing_while_the_host_is_silent_ends_at_once(
    io: IoThread, caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[BrokerError] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address(host="127.0.0.1", port=server.getsockname()[1])
        opening = connection(io, address, lost)
        opening.open()
        peer, _ = server.accept()
        with peer:
            assert peer.recv(8)[:4] == b"AMQP"

            assert close(opening) < 2

    assert not lost
    assert "Assertion" not in caplog.text


def test_closing_while_the_host_takes_no_connection_ends_at_once(
    io: IoThread, caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[BrokerError] = []
    with ExitStack() as stack, socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):  # more than wait in line there: the next one gets no answer at all
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        opening = connection(io, Address(host="127.0.0.1", port=server.getsockname()[1]), lost)
        opening.open()

        assert close(opening) < 2

    assert not lost
    assert "Assertion" not in caplog.text


def test_closing_what_was_never_opened_ends_at_once(io: IoThread) -> None:
    assert close(connection(io, Address(), [])) < 2


def test_a_connection_whose_end_raises_is_replaced(io: IoThread, broker: Broker) -> None:
    """pika tells nobody of the end of a connection when who was told of the end of a channel has raised."""
    opened: list[Channel] = []
    lost: list[BrokerError] = []

    def fail(_channel: Channel, _reason: BaseException) -> None:
        raise RuntimeError("the end of a channel")

    def on_open(channel: Channel) -> None:
        opened.append(channel)
        if len(opened) == 1:
            channel.add_on_close_callback(fail)

    with Proxy.before(broker.url) as proxy:
        kept = Connection(
            io,
            Reach((Address.parse(proxy.url),), 10, 4, True),
            name="test",
            on_open=on_open,
            on_lost=lost.append,
        )
        kept.open()
        eventually(lambda: len(opened) == 1)
        proxy.cut()
        eventually(lambda: len(opened) == 2)
        close(kept)

    assert [type(each) for each in lost] == [ConnectionLost]


def test_a_certificate_file_that_is_not_there_is_a_failed_attempt(io: IoThread) -> None:
    lost: list[BrokerError] = []
    opening = connection(io, Address(tls=True, cacertfile=MISSING), lost)
    opening.open()
    eventually(lambda: len(lost) >= 2)  # and tried again: the file may come
    close(opening)

    assert isinstance(lost[0], ConnectFailed)
    assert "certificate file" in str(lost[0])


def test_what_the_url_says_wins_over_the_settings() -> None:
    address = Address(heartbeat=3, connection_timeout=1.5, tls=True, server_name="rabbit.internal")
    parameters = connection_parameters(address, "test", heartbeat=10, connect_timeout=5)

    assert parameters.heartbeat == 3
    assert parameters.socket_timeout == 1.5
    assert parameters.ssl_options is not None
    assert parameters.ssl_options.server_hostname == "rabbit.internal"


def test_the_settings_hold_where_the_url_says_nothing() -> None:
    parameters = connection_parameters(Address(), "test", heartbeat=10, connect_timeout=5)

    assert (parameters.heartbeat, parameters.socket_timeout) == (10, 5)
    with pytest.raises(ConfigurationError):
        connection_parameters(Address(tls=True, cacertfile=MISSING), "test", 10, 5)


class Spoken:
    """A connection that is open, as far as the watch over its heartbeats sees it."""

    is_open = True
    params = SimpleNamespace(heartbeat=10)

    def __init__(self) -> None:
        self.bytes_received = 500
        self.aborted = ""

    def abort(self, reason: str) -> None:
        self.aborted = reason


def test_a_silent_broker_is_given_up_after_two_heartbeats(
    io: IoThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Callable[[], None]] = []
    subject = connection(io, Address(), [])
    spoken: Any = Spoken()
    subject._pika = spoken
    monkeypatch.setattr(io, "call_later", lambda delay, look: looks.append(look))

    def looked(times: int) -> None:
        for _ in range(times):
            looks.pop()()

    subject._listen(spoken, -1, 0)
    looked(3)
    assert not spoken.aborted
    spoken.bytes_received += 8
    looked(1 + 3)  # the byte, and one and a half heartbeats of silence
    assert not spoken.aborted
    looked(1)
    assert spoken.aborted == "no heartbeat"
    assert not looks
    subject._pika = None
