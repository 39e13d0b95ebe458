"""``amqtask worker --reload``: a process that watches the app's source files and tells the supervisor to reload.

A process of its own, because watching needs a thread, and the supervisor forks and therefore has none.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

from amqtask.worker.forking.lineage import die_with, signals_blocked


def start(folders: Sequence[str], let_go: Callable[[], None]) -> int:
    """Fork the process and return its pid; kill it with SIGKILL when it is not wanted any more.

    Each burst of changes below ``folders`` sends one SIGHUP to this process. ``let_go`` closes, in the new process, what is
    this process's own.
    """
    supervisor = os.getpid()
    with signals_blocked():
        pid = os.fork()
        if pid == 0:
            try:
                let_go()
                _watch(supervisor, folders)
            finally:
                os._exit(0)
    return pid


def _watch(supervisor: int, folders: Sequence[str]) -> None:
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    die_with(supervisor)
    # imported here: it takes a tenth of a second that no worker without --reload should pay
    import watchfiles

    wanted = watchfiles.PythonFilter(extra_extensions=(".yaml", ".yml", ".toml"))
    for changes in watchfiles.watch(
        *folders, watch_filter=wanted, debounce=500, rust_timeout=1000, yield_on_timeout=True
    ):
        if os.getppid() != supervisor:
            return
        if changes:
            os.kill(supervisor, signal.SIGHUP)
