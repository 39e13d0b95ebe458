"""A worker of one process: the app runs in the one that the user started, without supervisor, fork server and children."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time

from amqtask.log import get_logger
from amqtask.worker.forking import forkserver
from amqtask.worker.forking.lineage import run_exit_handlers
from amqtask.worker.forking.prepared import ChildContext, ChildExit, OnReady, Prepare
from amqtask.worker.memory.board import Board
from amqtask.worker.start.options import WorkerOptions
from amqtask.worker.supervision import reloader
from amqtask.worker.supervision.console import tell

log = get_logger("amqtask.supervisor")

THREADS_END_WITHIN = 0.5  # s in which the threads of a solo worker end that have nothing to do


class _Leave(BaseException):
    """A signal asked the worker to stop while it was importing."""


def run(options: WorkerOptions, prepare: Prepare, on_ready: OnReady) -> int:
    """Run the app in this very process: no child, no fork, a debugger's terminal. HUP and a recycle start the program anew.

    TERM and QUIT are answered by the app's own handlers; the second INT becomes QUIT. There is nobody to kill a task that
    hangs in C.
    """
    bound = log.bind(node=options.node)

    def leave(number: int, frame: object) -> None:
        raise _Leave

    for early in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(early, leave)
    try:
        prepared = prepare()
    except _Leave:
        return 0
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's module may raise anything
        refusal = forkserver.refusal(error)
        bound.debug("import failed", traceback=refusal.traceback)
        tell(refusal.reason)
        return refusal.code
    on_ready(prepared.info)
    again = False
    interrupts = 0

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupts
        interrupts += 1
        signal.raise_signal(signal.SIGTERM if interrupts == 1 else signal.SIGQUIT)

    def hang_up(number: int, frame: object) -> None:
        nonlocal again
        again = True
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGHUP, hang_up)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    watcher = reloader.start(forkserver.source_folders(), lambda: None) if options.reload else 0
    board = Board(
        seats=1,
        slots=options.slots,
        executions=options.remembered,
        max_age=options.verdict_max_age,
    )
    board.child(0).open(os.getpid(), 1, time.monotonic())
    context = ChildContext(
        index=0, generation=1, node=options.node, slots=options.slots, board=board, notify=None
    )
    try:
        code = forkserver.run_prepared(lambda: prepared.run(context))
    finally:
        if watcher:
            os.kill(watcher, signal.SIGKILL)
            os.waitpid(watcher, 0)
    if again or code in (ChildExit.RECYCLE, ChildExit.LIMIT):
        bound.info("starting anew")
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if left := _threads_left():
        # The interpreter would wait for them, maybe for ever, and no signal would end that.
        bound.warning("the process ends with threads in it that tasks have left", threads=left)
        run_exit_handlers()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _threads_left() -> list[str]:
    """The names of the threads that would keep this process from ending, a moment after it has nothing more to do."""
    deadline = time.monotonic() + THREADS_END_WITHIN
    left = []
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                left.append(thread.name)
    return left
