"""A broker whose certificate is not to be believed is told in one sentence, by every way in, and nothing goes out to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from amqtask.amqp.address import parse_addresses
from amqtask.amqp.aio.publisher import AioPublisher
from amqtask.amqp.failures import temporary
from amqtask.amqp.reach import Reach
from amqtask.amqp.session import Session
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.core.message import Envelope, Properties, Publication
from amqtask.errors import CertificateRefused

MESSAGE = Publication("", "q", Envelope(b"{}", Properties()))


def certificate(folder: Path, host: str = "IP:127.0.0.1") -> tuple[Path, Path]:
    """Make a certificate that vouches for itself, good for a day: the files of the certificate and its key."""
    found, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-subj", "/CN=rabbit"]
    command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-addext", f"subjectAltName={host}"]
    command += ["-days", "1", "-keyout", str(key), "-out", str(found)]
    subprocess.run(command, check=True, capture_output=True)
    return found, key


def expired(folder: Path) -> tuple[Path, Path]:
    """The same, good until yesterday."""
    made, key = certificate(folder)
    found = folder / "expired.pem"
    command = ["openssl", "x509", "-in", str(made), "-signkey", str(key), "-days", "-1"]
    subprocess.run([*command, "-out", str(found)], check=True, capture_output=True)
    return found, key


class Server:
    """Offers TLS on a port and notes what it hears afterwards."""

    def __init__(self, files: tuple[Path, Path]) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*files)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.tries = 0
        self.heard = b""
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            with client:
                if self._ends(client):
                    return
                self.tries += 1
                client.settimeout(5)
                with (
                    contextlib.suppress(OSError),
                    self._context.wrap_socket(client, server_side=True) as session,
                ):
                    self.heard += session.recv(8)

    def _ends(self, client: socket.socket) -> bool:
        return bool(client.getpeername() == self._last)

    _last: object = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with socket.socket() as last:
            last.bind(("127.0.0.1", 0))
            self._last = last.getsockname()
            last.connect(("127.0.0.1", self.port))
            self._thread.join()
        self._listener.close()


@pytest.fixture(params=["unknown authority", "another host", "expired"])
def refused(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, str, str]]:
    """A server, the URL to it, and what is wrong with its certificate."""
    trusted = True
    match request.param:
        case "unknown authority":
            files, words, trusted = certificate(tmp_path), "self.signed certificate", False
        case "another host":
            files, words = certificate(tmp_path, "DNS:rabbit.example"), "IP address mismatch"
        case _:
            files, words = expired(tmp_path), "certificate has expired"
    with Server(files) as server:
        url = f"amqps://guest:sesame@127.0.0.1:{server.port}/%2F"
        yield server, url + (f"?cacertfile={files[0]}" if trusted else ""), words


def test_nobody_talks_to_it(refused: tuple[Server, str, str]) -> None:
    server, url, words = refused
    addresses = parse_addresses(url)
    io = IoThread("test-io")
    threaded = ThreadedPublisher(io, Reach(addresses, 10, 4), name="test", window=1, buffer=1)

    async def by_asyncio() -> None:
        publisher = AioPublisher(Reach(addresses, 10, 4), name="test")
        try:
            await publisher.publish(MESSAGE, 1)
        finally:
            await publisher.close()

    def by_session() -> None:
        with Session(addresses, name="test", timeout=1):
            pass

    try:
        for way in (
            by_session,
            lambda: threaded.publish(MESSAGE, 1),
            lambda: asyncio.run(by_asyncio()),
        ):
            with pytest.raises(CertificateRefused, match=words) as caught:
                way()
            assert "TLS" in str(caught.value)
            assert not temporary(caught.value)  # a worker that starts ends with it
            assert "sesame" not in str(caught.value)
    finally:
        threaded.close()
        io.stop()
    assert server.heard == b""
    assert server.tries < 40  # with pauses that grow
