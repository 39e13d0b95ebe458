"""A Redis of a job's own: on loopback, in memory only, gone with the job."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator

from benchmarks.environments import Missing

START = 10.0  # seconds for it to listen
STOP = 10.0  # seconds for it to end after TERM


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """A server for the block; its URL.

    Raises:
        Missing: there is no redis-server here, or it does not start.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("there is no redis-server (on Debian: apt-get install redis-server)")
    with tempfile.TemporaryDirectory(prefix="amqtask-redis-") as folder:
        port = _free_port()
        command = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", folder]
        command += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _await(port, process)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            try:
                process.wait(STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise Missing(f"redis-server does not listen on port {port}")
