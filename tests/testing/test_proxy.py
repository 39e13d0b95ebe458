"""The proxy carries bytes whole and in order, and does to connections what it is told, when it is told."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator

import pika
import pytest

from amqtask.errors import ConfigurationError
from amqtask.testing import Proxy
from tests.brokers import Broker
from tests.waiting import eventually

pytestmark = pytest.mark.process


class Echo:
    """A server that sends everything back, until the client has said its last."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self.resets = 0
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,))
            thread.start()
            self._threads.append(thread)

    def _serve(self, sock: socket.socket) -> None:
        try:
            while data := sock.recv(65536):
                sock.sendall(data)
        except OSError:
            self.resets += 1
        sock.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", echo.port) as proxy:
        yield proxy


@contextlib.contextmanager
def connected(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as sock:
        yield sock


def ask(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    return receive(sock, len(data))


def receive(sock: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        data = sock.recv(count - len(found))
        if not data:
            break
        found += data
    return found


def until_reset(sock: socket.socket) -> int:
    """How many bytes come before the connection is reset."""
    count = 0
    while True:
        try:
            count += len(sock.recv(1))
        except ConnectionResetError:
            return count


def silent(sock: socket.socket, seconds: float) -> bool:
    sock.settimeout(seconds)
    try:
        return sock.recv(1) is None
    except TimeoutError:
        return True
    finally:
        sock.settimeout(10)


def test_carries_many_connections_whole(proxy: Proxy) -> None:
    rng = random.Random(1)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connected(proxy)) for _ in range(40)]
        sent = [rng.randbytes(rng.choice((1, 1000, 100_000))) for _ in socks]

        assert [ask(sock, data) for sock, data in zip(socks, sent, strict=True)] == sent
        assert [link.to_client for link in proxy.links] == [len(data) for data in sent]
    eventually(lambda: not proxy.links)


def test_passes_on_the_end_of_one_direction(proxy: Proxy) -> None:
    data = random.Random(2).randbytes(3_000_000)  # more than all buffers on the way hold
    with connected(proxy) as sock:

        def send() -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert receive(sock, len(data)) == data
        sender.join()
        assert sock.recv(1) == b""
    eventually(lambda: not proxy.links)


def test_cut_resets_both_sides(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as first, connected(proxy) as second:
        assert ask(first, b"x") + ask(second, b"y") == b"xy"

        assert proxy.cut(proxy.links[0].number) == 1
        with pytest.raises(ConnectionResetError):
            first.recv(1)
        eventually(lambda: echo.resets == 1)
        assert ask(second, b"z") == b"z"
        assert proxy.cut() == 1
        assert proxy.cut() == 0


def test_cut_after_so_many_bytes(proxy: Proxy) -> None:
    proxy.cut_after(to_client=5)
    proxy.cut_after(to_server=3, to_client=100)
    for most in (5, 3):
        with connected(proxy) as sock:
            sock.sendall(b"0123456789")
            assert until_reset(sock) <= most
    with connected(proxy) as sock:
        assert ask(sock, b"0123456789") == b"0123456789"


def test_hang_up_ends_in_good_order(proxy: Proxy) -> None:
    with connected(proxy) as sock:
        assert ask(sock, b"x") == b"x"
        proxy.hang_up()
        assert sock.recv(1) == b""


def test_frozen_nothing_passes_and_nothing_is_lost(proxy: Proxy) -> None:
    with connected(proxy) as old:
        assert ask(old, b"x") == b"x"
        assert proxy.freeze() == 1
        old.sendall(b"later")
        with connected(proxy) as new:  # the kernel's queue takes it; nobody answers
            new.sendall(b"newer")
            assert silent(old, 0.1)
            assert silent(new, 0.1)
            assert [link.frozen for link in proxy.links] == [True]

            proxy.thaw()
            assert receive(old, 5) == b"later"
            assert receive(new, 5) == b"newer"


def test_freezes_one_connection_alone(proxy: Proxy) -> None:
    with connected(proxy) as first, connected(proxy) as second:
        assert ask(first, b"x") + ask(second, b"y") == b"xy"
        proxy.freeze(proxy.links[0].number)
        first.sendall(b"z")
        assert ask(second, b"y") == b"y"
        assert silent(first, 0.1)
        proxy.cut()  # frozen ones too
        with pytest.raises(ConnectionResetError):
            first.recv(1)


def test_latency_and_rate(proxy: Proxy) -> None:
    with connected(proxy) as sock:
        proxy.slow(latency=0.1)
        began = time.monotonic()
        assert ask(sock, b"x" * 1000) == b"x" * 1000
        assert time.monotonic() - began >= 0.2

        proxy.slow(rate=100_000)
        began = time.monotonic()
        data = random.Random(3).randbytes(30_000)
        assert ask(sock, data) == data
        assert time.monotonic() - began >= 0.25  # 0.3 s, but for the first portion

        sock.sendall(data)
        proxy.slow()
        began = time.monotonic()
        assert receive(sock, len(data)) == data
        assert time.monotonic() - began < 0.25


def test_refuses_and_accepts_again(proxy: Proxy) -> None:
    with connected(proxy) as sock:
        assert ask(sock, b"x") == b"x"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
        assert ask(sock, b"y") == b"y"
    proxy.accept()
    with connected(proxy) as sock:
        assert ask(sock, b"z") == b"z"


def test_a_server_that_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Proxy("127.0.0.1", port) as proxy:
        for _ in range(3):
            with contextlib.suppress(ConnectionResetError), connected(proxy) as sock:
                assert sock.recv(1) == b""
        eventually(lambda: not proxy.links)


def test_does_not_run_after_close(echo: Echo) -> None:
    proxy = Proxy("127.0.0.1", echo.port).start()
    proxy.close()
    proxy.close()
    with pytest.raises(ConfigurationError, match="not running"):
        proxy.cut()
    with pytest.raises(ConfigurationError, match="before"):
        _ = proxy.url


def test_a_broker_through_it(broker: Broker) -> None:
    with (
        Proxy.before(broker.url) as proxy,
        Broker(proxy.url, broker.management_url, broker.version).channel() as channel,
    ):
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.basic_publish("", queue, b"hello")
        assert eventually(lambda: channel.basic_get(queue, auto_ack=True)[2]) == b"hello"

        proxy.cut()
        with pytest.raises(pika.exceptions.AMQPError):
            channel.queue_declare(queue, passive=True)
