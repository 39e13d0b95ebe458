"""A whole node without a broker: run by test_supervisor as a program of its own.

``python toynode.py FOLDER OPTIONS`` runs the supervisor with a toy app. Its children write what happens to ``FOLDER/events``
(one JSON object a line) and take commands from ``FOLDER/<pid>.fifo``, so that tests neither sleep nor guess. The app is the
module ``toyapp`` in ``FOLDER``: its ``GREETING`` is the info, and it may fail to import in any way a test likes.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from amqtask import log
from amqtask.errors import AppNotFound
from amqtask.worker.forking import lineage, link
from amqtask.worker.forking.prepared import AgentContext, ChildContext
from amqtask.worker.start.options import WorkerOptions
from amqtask.worker.supervision import supervisor

FOLDER = Path(sys.argv[1])


def report(event: str, **fields: object) -> None:
    """Append one line to the events file; appends of one write are whole."""
    line = json.dumps({"event": event, "pid": os.getpid(), **fields}) + "\n"
    descriptor = os.open(FOLDER / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


class Toy:
    """An imported toy app."""

    def __init__(self, greeting: str) -> None:
        self.info: Mapping[str, object] = {"greeting": greeting}
        self.busy = False
        self.stubborn = False
        self.context: ChildContext

    def run(self, context: ChildContext) -> int:
        self.context = context
        signal.signal(signal.SIGTERM, self.on_term)
        signal.signal(signal.SIGQUIT, self.on_quit)
        fifo = FOLDER / f"{os.getpid()}.fifo"
        os.mkfifo(fifo)
        with open(os.open(fifo, os.O_RDWR)) as commands:  # noqa: PTH123 - both ends, or it blocks
            # reported first: what the supervisor does about it comes later in the file
            report(
                "ready",
                index=context.index,
                generation=context.generation,
                server=os.getppid(),
                greeting=self.info["greeting"],
                fds=len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - the count is all
            )
            if not (FOLDER / "never-ready").exists():
                context.ready()
            for line in commands:
                word, *arguments = line.split()
                code = self.do(word, arguments)
                if code is not None:
                    return code
        return 1

    def attend(self, context: AgentContext) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        context.mailbox.send(link.AgentReplayed())
        report("agent", server=os.getppid())
        while True:
            signal.pause()

    def do(self, word: str, arguments: list[str]) -> int | None:
        slot = self.context.record.slot(0)
        match word:
            case "begin":
                self.busy = True
                now = time.monotonic()
                limit = float(arguments[1]) if len(arguments) > 1 else None
                slot.begin(arguments[0], "toy.task", now, None, now + limit if limit else None)
                report("begun", task=arguments[0])
            case "end":
                self.busy = False
                slot.end()
                if len(arguments) == 1:
                    return int(arguments[0])
            case "exit":
                return int(arguments[0])
            case "os-exit":
                os._exit(int(arguments[0]))
            case "raise":
                raise RuntimeError("out of run")
            case "atexit":
                atexit.register(report, "child atexit")
            case "retire":
                self.context.retire()
            case "segv":
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                ctypes.string_at(0)
            case "stuck":
                report("stuck")
                # PyDLL keeps the GIL: no Python code of this process runs any more
                ctypes.PyDLL(None).sleep(600)
            case "stubborn":
                self.stubborn = True
                report("stubborn")
            case "fork":
                if os.fork() == 0:
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    report("grandchild")
                    while True:
                        signal.pause()
            case "verdict":
                standing = self.context.board.standing(arguments[0])
                report(
                    "verdict",
                    hard_limit=standing is not None and standing.hard_limit > 0,
                    crashes=standing.crashes if standing else 0,
                    cause=standing.cause if standing else "",
                )
        return None

    def on_term(self, number: int, frame: object) -> None:
        report("term")
        if not self.busy:
            raise SystemExit(0)

    def on_quit(self, number: int, frame: object) -> None:
        report("quit")
        if not self.stubborn:
            raise SystemExit(0)


def prepare() -> Toy:
    sys.path.insert(0, str(FOLDER))
    report("importing")
    import toyapp  # type: ignore[import-not-found]  # written by the test

    if toyapp.GREETING == "refuse":
        raise AppNotFound("The toy app refuses: change its greeting.")
    return Toy(toyapp.GREETING)


def main() -> int:
    log.configure("info", json=True)
    values = json.loads(sys.argv[2])
    if values.pop("without_prctl", False):
        lineage._set_parent_death_signal = None
    atexit.register(report, "supervisor atexit")
    options = WorkerOptions.parse(app="toyapp", node="toy@test", **values)
    return supervisor.run(options, prepare, lambda info: report("banner", info=dict(info)))


if __name__ == "__main__":
    sys.exit(main())
