"""The private names of pika that the frame codec hooks into: there, or refused in one sentence. No broker."""

from __future__ import annotations

import subprocess
import sys

import pytest

from amqtask.amqp.threaded.seams import missing_seams, require_seams

PUBLISHER = """
from amqtask.amqp.address import Address
from amqtask.amqp.reach import Reach
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.errors import Unsupported

def make(fast):
    return ThreadedPublisher(
        IoThread("io"), Reach((Address(),), 10, 1, fast), name="x", window=1, buffer=1
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
