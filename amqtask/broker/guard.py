"""Removes temporary nodes when the process that started them is gone, however it went.

``python -m amqtask.broker.guard FOLDER...`` waits for the end of its standard input. The starter holds
the only other end of that pipe, so a normal exit, a crash and SIGKILL all arrive here alike.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from amqtask.broker.node import PrivateNode


def main() -> None:
    """Wait for the starter's end, then kill the nodes in the folders and remove their data."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # it ends when its work is done, not before
    sys.stdin.buffer.read()
    for folder in sys.argv[1:]:
        PrivateNode(Path(folder)).discard()


if __name__ == "__main__":
    main()
