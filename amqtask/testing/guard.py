"""Ends what a chaos run has started when the run itself is gone, however it went.

``python -m amqtask.testing.guard FOLDER`` waits for the end of its standard input, whose other end only the run holds; then it
kills every process that carries the run's folder in its environment.
"""

from __future__ import annotations

import signal
import sys

from amqtask.broker.processes import end_all
from amqtask.testing.plan import VARIABLE


def main() -> None:
    """Wait for the run's end, then kill what is left of it."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # it ends when its work is done, not before
    sys.stdin.buffer.read()
    end_all(sys.argv[1], name=VARIABLE)


if __name__ == "__main__":
    main()
