"""Runs a command with a broker: ``python -m amqtask.broker.run -- COMMAND [ARGUMENT ...]``.

The broker is found or started in the order of `amqtask.broker.choice`; the command sees it as
``AMQTASK_BROKER_URL`` (and ``AMQTASK_BROKER_MANAGEMENT_URL`` where there is a management API).
Signals are passed on to the command, its exit code is the exit code here (128 + n after signal
n), and a broker that was started for it is stopped, however it ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from amqtask.broker.choice import open_broker
from amqtask.errors import AmqtaskError

_PASSED_ON = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class _Stopped(BaseException):
    """A signal came while no command ran: while the broker was being started."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


class _Runner:
    """Owns the signal handlers; everything happens in the main thread."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.closing = False

    def on_signal(self, signum: int, _frame: FrameType | None) -> None:
        if self.child is not None:
            # The terminal has sent its keys' signals to the whole foreground group already.
            if signum in (signal.SIGINT, signal.SIGQUIT) and _in_foreground():
                return
            if self.child.returncode is None:
                self.child.send_signal(signum)
        elif not self.closing and signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            raise _Stopped(signum)

    def run(self, command: Sequence[str]) -> int:
        try:
            with open_broker() as broker:
                environment = {**os.environ, "AMQTASK_BROKER_URL": broker.url}
                if broker.management_url:
                    environment["AMQTASK_BROKER_MANAGEMENT_URL"] = broker.management_url
                try:
                    self.child = subprocess.Popen(command, env=environment)
                except OSError as exc:
                    _complain(f"{command[0]} cannot be run: {exc.strerror}.")
                    return 127
                code = self.child.wait()
                self.closing, self.child = True, None
        except _Stopped as stopped:
            return 128 + stopped.signum
        except AmqtaskError as exc:
            _complain(str(exc))
            return 1
        return code if code >= 0 else 128 - code


def _in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _complain(text: str) -> None:
    sys.stderr.write(text + "\n")


def main(arguments: Sequence[str]) -> int:
    """Run the command in ``arguments`` with a broker; return the exit code to end with."""
    command = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if not command:
        _complain("Say what to run: python -m amqtask.broker.run -- COMMAND [ARGUMENT ...].")
        return 2
    runner = _Runner()
    for signum in _PASSED_ON:
        signal.signal(signum, runner.on_signal)
    return runner.run(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
