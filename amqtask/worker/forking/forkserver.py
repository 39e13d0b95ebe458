"""The fork server: one process per generation that imports the app once and forks the children from it.

It is forked by the supervisor before any thread exists and leads its own session, so that a terminal's Ctrl-C reaches the
supervisor alone. Its children share the imported code copy-on-write and start in milliseconds. It knows no AMQP and no tasks.

Who ends what:

- A child gets its own process group. When the child is dead, however it died, its group is killed before its death is reported:
  nothing that a task forked outlives it, except what made itself a session of its own (a daemon).
- A child is killed by the kernel when the fork server dies. When the supervisor dies, the fork server (which sees the end of
  its link, and is woken by the kernel even if it was stopped) kills the groups of all its children and ends. It is not simply
  killed along, because then nobody would be left to kill the grandchildren.
- A dead child stays a zombie until the supervisor has acknowledged its death: as long as the supervisor may signal it, its
  process id cannot belong to somebody else.

``atexit``: handlers that the app registered while it was imported belong to the fork server and run when it ends in order;
handlers registered in a child run when that child's ``run`` returns; a child never runs those it inherited (as multiprocessing
has it), for they would clean up, many times, what the others still use.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from amqtask.core.fleet import AGENT
from amqtask.errors import AmqtaskError
from amqtask.log import get_logger
from amqtask.worker.forking.lineage import (
    Wakeup,
    die_with,
    die_with_pipe,
    forget_exit_handlers,
    ignore,
    kill_group,
    run_exit_handlers,
    signals_blocked,
)
from amqtask.worker.forking.link import (
    Exited,
    FromServer,
    Link,
    Mailbox,
    NotSpawned,
    ReapChild,
    Retire,
    ServerCannot,
    ServerIsReady,
    SpawnChild,
    Spawned,
    ToAgent,
    ToServer,
    encode,
)
from amqtask.worker.forking.prepared import AgentContext, ChildContext, ChildExit, Prepare, Prepared
from amqtask.worker.memory.board import Board

log = get_logger("amqtask.supervisor")

# What a process of a node takes no notice of unless it says otherwise: process managers signal whole control groups, and only
# the supervisor decides what a signal means.
_TERMINAL = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)


class Node(msgspec.Struct, frozen=True):
    """What all fork servers of a node share."""

    name: str
    slots: int
    board: Board
    notify: int  # where children write their frames to the supervisor
    mailbox: Mailbox[ToAgent]  # the agent's end
    watched: bool = (
        False  # the folders of the app's sources are wanted, for a reload when one changes
    )


def start(
    generation: int, node: Node, prepare: Prepare, let_go: Callable[[], None]
) -> tuple[int, Link[FromServer]]:
    """Fork a fork server; return its pid and the link to it. The supervisor's main thread only.

    Args:
        generation: its number, passed on to the children.
        node: what all generations share.
        prepare: runs in the new process; imports the app.
        let_go: closes, in the new process, what is the supervisor's own.

    Raises:
        OSError: the system refuses the fork.
    """
    supervisor = os.getpid()
    ours, theirs = socket.socketpair()
    _flush()
    try:
        with signals_blocked():
            pid = os.fork()
            if pid == 0:
                _end_with(
                    lambda: _serve(supervisor, generation, node, prepare, let_go, ours, theirs)
                )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return pid, Link[FromServer](ours, FromServer)


def _end_with(main: Callable[[], int]) -> NoReturn:
    """Run the main function of a forked process and end the process, whatever happens."""
    code: int = ChildExit.SOFTWARE
    try:
        code = main()
    except BaseException:  # noqa: BLE001 - the stack below belongs to the parent: nothing may unwind into it
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code & 0xFF)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed, or never there: nothing to lose


# ---------------------------------------------------------------- the server process


def _serve(
    supervisor: int,
    generation: int,
    node: Node,
    prepare: Prepare,
    let_go: Callable[[], None],
    ours: socket.socket,
    theirs: socket.socket,
) -> int:
    """Be a fork server: import, then fork and watch children until told to end. Returns the exit code."""
    ours.close()
    let_go()
    os.setsid()
    ignore(*_TERMINAL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    forget_exit_handlers()
    # an import may hang: until there are children, the kernel ends this process together with the supervisor
    die_with(supervisor)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    link = Link[ToServer](theirs, ToServer)
    try:
        importlib.invalidate_caches()
        prepared = prepare()
        # looking for the folders takes as long as forking a child
        sources = source_folders() if node.watched else []
        ready = ServerIsReady(dict(prepared.info), sources)
        encode(ready)
    except BaseException as error:  # noqa: BLE001 - SystemExit in the user's module is a failed import like any other
        link.send(refusal(error))
        return 1
    if threading.active_count() > 1:
        names = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
        log.warning(
            "the app starts threads while it is imported: they do not exist in the children",
            threads=names,
        )
    gc.collect()
    gc.freeze()  # what is imported stays shared: the children's collector does not touch it
    server = _Server(generation, node, prepared, link)
    # from here on the end of the link means the end; this signal only wakes a server that somebody stopped
    die_with(supervisor, signal.SIGCONT)
    link.send(ready)
    return server.loop()


def refusal(error: BaseException) -> ServerCannot:
    """Put into one sentence why the app cannot be prepared."""
    if isinstance(error, AmqtaskError):
        return ServerCannot(str(error), 1)
    text = "".join(traceback.format_exception(error))
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) and error.code else 1
        return ServerCannot(
            f"The app called sys.exit({error.code!r}) while it was imported{where}.", code, text
        )
    what = type(error).__name__ + (f": {error}" if str(error) else "")
    return ServerCannot(f"The app cannot be imported: {' '.join(what.split())}{where}.", 1, text)


def source_folders() -> list[str]:
    """Return the folders of the modules imported so far that are neither installed packages nor amqtask's own."""
    paths = sysconfig.get_paths()
    installed = {
        Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
    folders: set[Path] = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or name.partition(".")[0] in ("__main__", "amqtask"):
            continue
        path = Path(file).resolve()
        if path.suffix != ".py" or any(folder in path.parents for folder in installed):
            continue
        # a package is watched from its top folder, a lone module through the folder it lies in
        folders.add(
            path.parents[name.count(".")]
            if path.stem == "__init__"
            else path.parents[max(0, name.count(".") - 1)]
        )
    return sorted(str(f) for f in folders if not any(up in folders for up in f.parents))


class _Server:
    """The loop of a fork server. One thread; owns the children it forked."""

    def __init__(
        self, generation: int, node: Node, prepared: Prepared, link: Link[ToServer]
    ) -> None:
        self._generation = generation
        self._node = node
        self._prepared = prepared
        self._link = link
        self._wakeup = Wakeup(signal.SIGCHLD)
        self._lifeline = (
            os.pipe()
        )  # its end is the children's sign of our death where the kernel gives none
        self._alive: dict[int, int] = {}  # pid → seat
        self._dead: set[int] = set()  # reported, not yet acknowledged

    def loop(self) -> int:
        """Do what the supervisor says until it says to end or is gone."""
        # the handlers a module may have installed while it was imported are not for this process
        ignore(*_TERMINAL)
        with selectors.DefaultSelector() as selector:
            selector.register(self._link, selectors.EVENT_READ)
            selector.register(self._wakeup, selectors.EVENT_READ)
            while True:
                selector.select()
                self._wakeup.arrived()
                for frame in self._link.receive():
                    match frame:
                        case SpawnChild():
                            self._spawn(frame.index)
                        case ReapChild():
                            self._reap(frame.pid)
                        case Retire():
                            return self._end(in_order=True)
                if self._link.closed:
                    return self._end(in_order=False)
                self._report()

    def _spawn(self, index: int) -> None:
        server = os.getpid()
        _flush()
        try:
            with signals_blocked():
                pid = os.fork()
                if pid == 0:
                    _end_with(lambda: self._child(server, index))
        except OSError as error:
            self._link.send(NotSpawned(index, error.strerror or str(error)))
            return
        # the child does this too: whichever comes first, the group exists before anybody can kill it
        try:
            os.setpgid(pid, pid)
        except OSError:
            pass  # it was faster
        self._alive[pid] = index
        self._link.send(Spawned(index, pid))

    def _report(self) -> None:
        """Tell the supervisor of every child that died, after killing what it left behind."""
        for pid, index in list(self._alive.items()):
            info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if info is None:
                continue
            kill_group(pid)
            del self._alive[pid]
            self._dead.add(pid)
            exited = info.si_code == os.CLD_EXITED
            code, number = (info.si_status, 0) if exited else (0, info.si_status)
            self._link.send(Exited(index, pid, code, number))

    def _reap(self, pid: int) -> None:
        if pid in self._dead:
            self._dead.remove(pid)
            os.waitpid(pid, 0)

    def _end(self, *, in_order: bool) -> int:
        for pid in self._alive:
            kill_group(pid)
        for pid in (*self._alive, *self._dead):
            os.waitpid(pid, 0)
        if in_order:
            run_exit_handlers()
        return 0

    # ------------------------------------------------------------ the child process

    def _child(self, server: int, index: int) -> int:
        """Be a child. Returns the exit code."""
        os.setpgid(0, 0)
        self._wakeup.drop()
        self._link.close()
        os.close(self._lifeline[1])
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        faulthandler.enable(file=2)  # a crash in C shows where
        faulthandler.register(
            signal.SIGUSR1, file=2, all_threads=True
        )  # works under a held GIL too
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        forget_exit_handlers()
        if not die_with(server):
            die_with_pipe(self._lifeline[0])
        node = self._node
        if index == AGENT:
            agent = AgentContext(node=node.name, board=node.board, mailbox=node.mailbox)
            return run_prepared(lambda: self._prepared.attend(agent), "agent failed")
        node.board.child(index).open(os.getpid(), self._generation, time.monotonic())
        context = ChildContext(
            index=index,
            generation=self._generation,
            node=node.name,
            slots=node.slots,
            board=node.board,
            notify=node.notify,
        )
        code = run_prepared(lambda: self._prepared.run(context))
        run_exit_handlers()
        return code


def run_prepared(main: Callable[[], int], failed: str = "child failed") -> int:
    """Run the main function of a child or an agent; whatever comes out of it becomes an exit code."""
    try:
        return main()
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        log.error(failed, reason=str(stop.code))
        return 1
    except BaseException:  # the last resort of a process: logged, then its exit code says it
        log.exception(failed, pid=os.getpid())
        return ChildExit.SOFTWARE
