"""The private names of pika that the frame codec hooks into: there, or refused in one sentence. No broker."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest

from amqtask.amqp.address import Address
from amqtask.amqp.threaded.connection import Connection
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.seams import missing_seams, require_seams
from amqtask.errors import BrokerError, ConnectFailed
from tests.waiting import eventually

PUBLISHER = """
from amqtask.amqp.address import Address
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.errors import Unsupported

def make(fast):
    return ThreadedPublisher(
        IoThread("io"), [Address()], name="x", heartbeat=10, connect_timeout=1, window=1, buffer=1, fast=fast
    )

make(fast=False)
try:
    make(fast=True)
except Unsupported as error:
    print(error)
"""


def test_this_pika_has_all_seams() -> None:
    assert missing_seams() == ()
    require_seams()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            "from pika.connection import Connection as C; del C._on_data_available",
            "Connection._on_data_available",
        ),
        (
            "from pika.adapters.base_connection import BaseConnection as B; B._adapter_emit_data = lambda self, x: 0",
            "BaseConnection._adapter_emit_data",
        ),
        (
            "from pika.adapters.utils.io_services_utils import _AsyncTransportBase as T; del T._MAX_RECV_BYTES",
            "_AsyncTransportBase._MAX_RECV_BYTES",
        ),
        ("import pika.frame; pika.frame.decode_frame = lambda data: None", "decode_frame"),
    ],
    ids=["gone", "another signature", "no read size", "another function"],
)
def test_a_pika_whose_seams_moved_is_refused_with_the_remedy(change: str, named: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{change}\n{PUBLISHER}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.count("\n") == 1
    assert named in done.stdout
    assert "pika>=1.4.4,<1.5" in done.stdout
    assert "broker_fast_frames" in done.stdout


@pytest.mark.parametrize("fast", [True, False], ids=["frames", "pika"])
@pytest.mark.parametrize(
    "answer",
    [b"AMQP\x00\x01\x00\x00", b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    ids=["AMQP 1.0", "HTTP"],
)
def test_a_server_of_another_protocol_is_a_failed_connection(answer: bytes, fast: bool) -> None:
    lost: list[BrokerError] = []
    io = IoThread("test-io")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(8)
                    connection.sendall(answer)
                    connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        connection = Connection(
            io,
            [Address(host="127.0.0.1", port=server.getsockname()[1])],
            name="test",
            heartbeat=10,
            connect_timeout=2,
            fast=fast,
            on_open=print,
            on_lost=lost.append,
        )
        connection.open()
        eventually(lambda: lost)
        closed = threading.Event()
        connection.close(closed.set)
        assert closed.wait(10)
        io.stop()
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)

    assert isinstance(lost[0], ConnectFailed)
