"""The supervisor: the process a user starts with ``amqtask worker``. The shell of ``core/fleet``; no task, no AMQP, no thread.

It waits on five things: signals, the links to the fork servers, the pipe its children write to, the mailbox of its agent, and
the clock. Whatever arrives becomes an event of the fleet machine, and the machine's commands are carried out; but verdicts go
to the docket, and from there to the board where the children see them.

What it does about a signal:

=====  ====================================================================================
TERM   warm stop: children give back what has not started and finish what they run, within the shutdown timeout if there is one;
       a second makes it cold
INT    warm stop; the second one makes it cold, a third kills
QUIT   cold stop: children give everything back, after the soft shutdown timeout if there is one; what is left 5 s later is
       killed
HUP    reload: import the app anew in a new generation, and replace the children when it works;
       the HUP of a closing terminal is a warm stop
USR1   dump the stacks of all processes to standard error
=====  ====================================================================================

Exit codes: 0 after a warm stop and after a cold one in which every child left by itself, 1 when a working child had to be killed at a stop,
the failure's own (1) when the app cannot be prepared at start.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import selectors
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import assert_never

from amqtask.core import fleet, verdicts
from amqtask.core.verdicts import Record
from amqtask.log import get_logger
from amqtask.worker import forkserver, link, reloader
from amqtask.worker.board import Board, ChildState, Ending, Running, Slot, stored
from amqtask.worker.docket import Docket
from amqtask.worker.lineage import ASK_SIGNAL, Wakeup, kill_group, run_exit_handlers
from amqtask.worker.options import WorkerOptions
from amqtask.worker.prepared import ChildContext, ChildExit, Prepare
from amqtask.worker.scaling import Scaling

log = get_logger("amqtask.supervisor")

HARD_GRACE = 0.8  # s past its hard deadline after which a task's child is killed; until then the child settles it itself
LOOK = 0.5  # s between two looks at the slots
ASK_GRACE = 1.0  # s a child has to end a revoked task itself, before it is killed
STOPS_WITHIN = 0.05  # s to wait for a process to stop before it is killed
KILL_GRACE = 0.25  # s: the same, when the order was to kill
ORDER_STANDS = 2.0  # s in which a task that is to be terminated is looked for
ORDER_LOOK = 0.1  # s between two such looks
THREADS_END_WITHIN = 0.5  # s in which the threads of a solo worker end that have nothing to do
REPLAY_WITHIN = 30.0  # s the children wait for the verdicts of the others before they go on without; a broker may be away
SEATS = 3  # seats per child there may be: those that work, those that follow, and those that still drain from the reload before

_NAMES: dict[int, fleet.SignalName] = {
    signal.SIGTERM: "TERM",
    signal.SIGINT: "INT",
    signal.SIGQUIT: "QUIT",
    signal.SIGHUP: "HUP",
    signal.SIGUSR1: "USR1",
}
_NUMBERS = {name: number for number, name in _NAMES.items()}

OnReady = Callable[[Mapping[str, object]], None]


def run(options: WorkerOptions, prepare: Prepare, on_ready: OnReady = lambda info: None) -> int:
    """Run a worker node until it is told to stop; return its exit code. The main thread only, and the only thread.

    Args:
        options: how many children, and their limits.
        prepare: imports and checks the app. Runs in a fresh process for every generation: what this process has imported
            before is not imported anew by a reload, so it should not have imported the app.
        on_ready: called once with ``Prepared.info`` when the app is imported and before the first child is forked.
    """
    if options.in_process:
        return _run_solo(options, prepare, on_ready)
    shell = _Shell(options, prepare, on_ready)
    try:
        return shell.loop()
    finally:
        shell.close()


class _ServerProcess:
    """A fork server as the supervisor holds it."""

    def __init__(self, pid: int, connection: link.Link[link.FromServer]) -> None:
        self.pid = pid
        self.link = connection
        self.watched = True  # registered with the selector


class _Order:
    """Revoked tasks that are to be ended where they run: by id, or, as far as children find them, by their headers."""

    def __init__(
        self, ids: frozenset[str], by_header: bool, number: signal.Signals, until: float
    ) -> None:
        self.ids = ids
        self.by_header = by_header
        self.number = number
        self.until = until
        self.given: set[tuple[int, int, int, int]] = set()  # runs that it was given to


class _Shell:
    """Carries out what the fleet machine decides. One thread owns all of it."""

    def __init__(self, options: WorkerOptions, prepare: Prepare, on_ready: OnReady) -> None:
        self._options = options
        self._prepare = prepare
        self._on_ready: OnReady | None = on_ready
        self._log = log.bind(node=options.node)
        config = fleet.Config(
            children=options.children,
            seats=options.most_children * SEATS,
            most=None if options.autoscale is None else options.most_children,
            shutdown_timeout=options.warm_timeout,
            soft_timeout=options.soft_shutdown_timeout,
            agent=True,
        )
        self._state, self._commands = fleet.begin(config)
        self._board = Board(
            config.seats,
            options.slots,
            executions=options.remembered,
            max_age=options.verdict_max_age,
        )
        self._scaling: Scaling | None = None
        if options.autoscale is not None:
            self._scaling = Scaling(options, self._board)
        self._notify_read, self._notify_write = os.pipe()
        os.set_blocking(self._notify_read, False)
        self._notify = link.Reader[link.FromChild](link.FromChild)
        self._mailbox, self._agents_end = link.Mailbox.pair()
        self._docket = Docket(options.node, self._board, options.verdict_max_age)
        self._release_at: float | None = None  # when the children have waited long enough
        self._node = forkserver.Node(
            name=options.node,
            slots=options.slots,
            board=self._board,
            notify=self._notify_write,
            mailbox=self._agents_end,
            watched=options.reload,
        )
        self._servers: dict[int, _ServerProcess] = {}
        self._reloader = 0
        self._watched: list[str] = []
        self._next_look = 0.0
        self._stopped_since: dict[int, float] = {}
        self._orders: list[_Order] = []
        # runs that were asked to end: pid, seat, slot and number of each, and when its child is killed
        self._asked: dict[tuple[int, int, int, int], float] = {}
        self._exit: int | None = None
        self._terminal = os.isatty(0)
        # SIGCHLD among them: a fork server's death
        self._wakeup = Wakeup(*_NAMES_AS_SIGNALS, signal.SIGCHLD)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._signals)
        self._selector.register(self._notify_read, selectors.EVENT_READ, self._children_say)
        self._selector.register(self._mailbox, selectors.EVENT_READ, self._agent_says)

    # ------------------------------------------------------------ the loop

    def loop(self) -> int:
        """Carry out, wait, look, decide; until the machine says to exit."""
        self._carry_out(self._commands)
        while self._exit is None:
            for key, _ in self._selector.select(self._timeout()):
                for event in key.data():
                    self._feed(event)
            for event in self._look():
                self._feed(event)
            self._feed(fleet.Tick())
        if self._on_ready is None:
            self._log.info("stopped", exit_code=self._exit)
        return self._exit

    def _feed(self, event: fleet.Event) -> None:
        events = deque([event])
        while events:
            self._state, commands = fleet.step(self._state, events.popleft(), time.monotonic())
            events += self._carry_out(commands)

    def _timeout(self) -> float:
        due = fleet.deadline(self._state)
        times = [self._next_look] if self._state.children or self._state.agent else []
        if due is not None:
            times.append(due)
        # never a busy loop, whatever the times say
        return max(0.005, min(times) - time.monotonic()) if times else 3600.0

    # ------------------------------------------------------------ what happens

    def _signals(self) -> Iterator[fleet.Event]:
        numbers = self._wakeup.arrived()
        for number in numbers:
            if number not in _NAMES:
                continue
            if number == signal.SIGUSR1:
                _head(f"supervisor, pid {os.getpid()}")
                faulthandler.dump_traceback(file=2)
            if number == signal.SIGHUP and self._terminal and not os.isatty(0):
                # not somebody's wish for a reload: the terminal was closed, and its programs are to end
                number = signal.SIGTERM
            yield fleet.SignalArrived(_NAMES[number])
        if signal.SIGCHLD in numbers:
            yield from self._buried()

    def _dead(self) -> Iterator[tuple[int, int]]:
        """Reap what died: our own processes, and, as process 1 of a container, anybody's orphans."""
        if os.getpid() == 1:
            wanted = [-1]
        else:
            # not -1: whoever called ``run`` may wait for processes of its own
            wanted = [server.pid for server in self._servers.values()]
            wanted += [self._reloader] if self._reloader else []
        for which in wanted:
            pid = which
            while pid:
                try:
                    pid, status = os.waitpid(which, os.WNOHANG)
                except ChildProcessError:
                    break
                if pid:
                    yield pid, status

    def _buried(self) -> Iterator[fleet.Event]:
        """Tell of the processes that died."""
        for pid, status in self._dead():
            if pid == self._reloader:
                self._reloader = 0
                self._log.warning("the reloader ended: changes are not noticed any more")
            for generation, server in list(self._servers.items()):
                if server.pid != pid:
                    continue
                # what it said before it died comes first
                yield from self._server_says(generation)
                if server.watched:
                    self._selector.unregister(server.link)
                server.link.close()
                del self._servers[generation]
                code = os.waitstatus_to_exitcode(status)
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                yield fleet.ServerExited(generation, how)
                self._bury(generation)

    def _bury(self, generation: int) -> None:
        """Clear the seats of children that died with their fork server."""
        for index in range(self._board.seats):
            record = self._board.child(index)
            if record.read().generation == generation:
                self._board.journal.seat(index).bury()
                record.clear()

    def _server_says(self, generation: int) -> Iterator[fleet.Event]:
        server = self._servers.get(generation)
        if server is None:
            return
        for frame in server.link.receive():
            match frame:
                case link.ServerIsReady():
                    if self._on_ready is not None:
                        self._on_ready(frame.info)
                        self._on_ready = None
                    self._watch(frame.sources)
                    yield fleet.ServerReady(generation)
                case link.ServerCannot():
                    if frame.traceback:
                        self._log.debug("import failed", traceback=frame.traceback)
                    yield fleet.ServerFailed(generation, frame.reason, frame.code)
                case link.Spawned():
                    yield fleet.ChildStarted(frame.index, frame.pid, generation)
                case link.NotSpawned():
                    yield fleet.SpawnFailed(frame.index, generation, frame.reason)
                case link.Exited(index=fleet.AGENT):
                    yield fleet.ChildExited(frame.index, frame.pid, frame.code, frame.signal)
                    server.link.send(link.ReapChild(frame.pid))
                case link.Exited():
                    # a frame of the dying child may still be in the pipe, and comes first
                    yield from self._children_say()
                    record = self._board.child(frame.index)
                    running = tuple(
                        fleet.Task(task.task_id, task.name) for task in record.running()
                    )
                    self._board.journal.seat(frame.index).bury()
                    self._stopped_since.pop(frame.pid, None)
                    yield fleet.ChildExited(
                        frame.index, frame.pid, frame.code, frame.signal, running
                    )
                    # After the verdict, which whoever waits for this run to end must find. Unless the seat was taken anew.
                    if record.read().pid == frame.pid:
                        record.clear()
                    server.link.send(link.ReapChild(frame.pid))
                case _:
                    assert_never(frame)
        if server.link.closed and server.watched:
            # its death arrives as SIGCHLD; until then the closed socket would wake the loop for nothing
            self._selector.unregister(server.link)
            server.watched = False

    def _children_say(self) -> Iterator[fleet.Event]:
        try:
            data = os.read(self._notify_read, 65536)
        except BlockingIOError:
            return
        for frame in self._notify.feed(data):
            match frame:
                case link.ChildReady():
                    yield fleet.ChildReady(frame.index, frame.pid, frame.generation)
                case link.ChildRetiring():
                    yield fleet.ChildRetiring(frame.index, frame.pid, frame.generation)
                case _:
                    assert_never(frame)

    def _terminate(self, record: Record) -> None:
        """Order the end of revoked tasks that run here now. That they are revoked is on the board already.

        The order stands for a moment: a task may have been looked up just before the record came, and be about to start.
        """
        self._orders.append(
            _Order(
                frozenset(map(stored, record.ids)),
                bool(record.headers),
                _signal(record.signal),
                time.monotonic() + ORDER_STANDS,
            )
        )
        self._next_look = 0.0

    def _carry_out_orders(self, now: float) -> None:
        self._orders = [order for order in self._orders if now < order.until]
        if not self._orders:
            return
        self._next_look = min(self._next_look, now + ORDER_LOOK)
        for child in self._state.children.values():
            if child.pid == 0:
                continue
            for place, slot in enumerate(self._board.child(child.index).slots):
                task = slot.read()
                if task is None:
                    continue
                run = (child.pid, child.index, place, task.sequence)
                for order in self._orders:
                    if (task.task_id in order.ids or order.by_header) and run not in order.given:
                        order.given.add(run)
                        self._end_run(slot, run, task, order, now)

    def _end_run(
        self, slot: Slot, run: tuple[int, int, int, int], task: Running, order: _Order, now: float
    ) -> None:
        """End one run: USR1 raises an exception in it; else the child settles it, or is killed, after KILL soon."""
        pid, index, _, sequence = run
        named = task.task_id in order.ids
        if not named and any(
            task.task_id in each.ids for each in self._orders if run in each.given
        ):
            return  # it was asked already, and without a condition
        if named:
            self._log.info(
                "ending a revoked task",
                task_id=task.task_id,
                task_name=task.name,
                index=index,
                pid=pid,
                signal=order.number.name,
            )
        softly = order.number == signal.SIGUSR1
        if named and not softly:
            # asked first even so: what had ended before in this child is settled, and not run once more
            self._asked[run] = now + (KILL_GRACE if order.number == signal.SIGKILL else ASK_GRACE)
        # which headers a task has only its child knows, so that one looks for itself
        slot.ask(sequence, Ending.ASKED if softly else Ending.NOW, by_header=not named)
        # the pid is the child's until we acknowledge its death
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, ASK_SIGNAL)

    def _overdue(self, now: float) -> Iterator[fleet.Event]:
        """Find children that did not end what they were asked to end."""
        for run, due in list(self._asked.items()):
            pid, index, place, sequence = run
            task = self._board.child(index).slots[place].read()
            child = self._state.children.get(index)
            if child is None or child.pid != pid or task is None or task.sequence != sequence:
                del self._asked[run]  # it has ended: what runs there now is another
            elif self._board.child(index).slots[place].declined(sequence):
                del self._asked[
                    run
                ]  # it was sent back from the dead letters since: another life of the task was meant
            elif now >= due:
                del self._asked[run]
                if _caught(pid, self._board.child(index).slots[place], sequence):
                    # nothing to record: that it was revoked is known already, and settles its redelivery
                    yield fleet.ChildStuck(index, pid, "its task was revoked")
            else:
                self._next_look = min(self._next_look, due)

    def _agent_says(self) -> Iterator[fleet.Event]:
        for frame in self._mailbox.receive():
            match frame:
                case link.AgentListens():
                    for record in self._docket.unconfirmed:
                        self._mailbox.offer(link.PublishRecord(record))
                case link.AgentRead():
                    self._docket.read(frame.offset, frame.records)
                    for record in frame.records:
                        # What a node reads of the past before it lets its children begin ends nothing that runs. An order of then
                        # by header, which every task is asked about, would meet a task that is asked to end in another way now.
                        if record.terminate and self._board.released:
                            self._terminate(record)
                case link.AgentReplayed():
                    self._board.release()
                case link.AgentConfirmed():
                    self._docket.confirmed(frame.event)
                case link.AgentCannot():
                    self._log.warning(
                        "the stream of verdicts cannot be used; what other nodes know of crashes and revokes may be missing here",
                        stream=verdicts.STREAM,
                        reason=frame.reason,
                    )
                    self._board.release()
                case link.AgentMeasured():
                    if self._scaling is not None:
                        yield from self._scaling.look(frame.waiting, self._state, time.monotonic())
                case _:
                    assert_never(frame)

    def _look(self) -> Iterator[fleet.Event]:
        """Look for tasks past their hard limit, revoked ones that go on, and for frozen children."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK
        self._carry_out_orders(now)
        yield from self._overdue(now)
        if not self._board.released:
            if self._release_at is None:
                self._release_at = now + REPLAY_WITHIN
            elif now >= self._release_at:
                self._log.warning(
                    "the verdicts of other nodes are not known yet; going on without them",
                    seconds=REPLAY_WITHIN,
                )
                self._board.release()
        agent = self._state.agent
        if agent is not None and agent.pid and (reason := self._frozen(agent.pid, now)):
            yield fleet.ChildStuck(fleet.AGENT, agent.pid, reason)
        for child in list(self._state.children.values()):
            if child.pid == 0:
                continue
            if child.phase is fleet.Phase.DRAINING:
                self._remind(child)
            for slot in self._board.child(child.index).slots:
                task = slot.read()
                if task is None or task.hard_deadline is None:
                    continue
                due = task.hard_deadline + HARD_GRACE
                if now < due:
                    self._next_look = min(self._next_look, due)
                elif _caught(child.pid, slot, task.sequence):
                    limit = task.hard_deadline - task.started
                    yield fleet.ChildStuck(
                        child.index,
                        child.pid,
                        f"hard time limit of {limit:g} s",
                        fleet.Task(task.task_id, task.name),
                    )
            if reason := self._frozen(child.pid, now):
                yield fleet.ChildStuck(child.index, child.pid, reason)

    def _frozen(self, pid: int, now: float) -> str | None:
        """Why a process counts as frozen, None when it does not."""
        frozen = self._options.frozen_timeout
        if not _is_stopped(pid):
            self._stopped_since.pop(pid, None)
        elif now - self._stopped_since.setdefault(pid, now) >= frozen:
            return f"stopped by a signal for {frozen:g} s"
        return None

    def _remind(self, child: fleet.Child) -> None:
        """Send TERM again to a child that has not taken notice: its task may have ignored the first."""
        if self._board.child(child.index).read().state is ChildState.READY:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGTERM)

    # ------------------------------------------------------------ what to do

    def _carry_out(self, commands: tuple[fleet.Command, ...]) -> list[fleet.Event]:
        """Carry out commands in order; return the events that came of them at once."""
        events: list[fleet.Event] = []
        for command in commands:
            match command:
                case fleet.StartServer():
                    events += self._start_server(command.generation)
                case fleet.RetireServer():
                    self._send(command.generation, link.Retire())
                case fleet.KillServer():
                    if command.generation in self._servers:
                        kill_group(self._servers[command.generation].pid)
                case fleet.Spawn(index=fleet.AGENT):
                    self._send(command.generation, link.SpawnChild(fleet.AGENT))
                case fleet.Spawn():
                    # whoever sat there is dead; when its fork server died with it, nobody has cleared up
                    self._board.journal.seat(command.index).bury()
                    self._board.child(command.index).clear()
                    self._send(command.generation, link.SpawnChild(command.index))
                case fleet.SignalChild(signal="USR1"):
                    name = "agent" if command.index == fleet.AGENT else f"child {command.index}"
                    _head(f"{name}, pid {command.pid}")
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(command.pid, signal.SIGUSR1)
                    # the child writes its stacks in many pieces: a moment each keeps them apart for the reader
                    time.sleep(0.02)
                case fleet.SignalChild():
                    # the pid is the child's until we acknowledge its death
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(command.pid, _NUMBERS[command.signal])
                case fleet.KillChild():
                    kill_group(command.pid)
                case fleet.Charge():
                    self._charge(command)
                case fleet.Say(level="error") if self._on_ready is not None:
                    _tell(command.event)
                case fleet.Say():
                    getattr(self._log, command.level)(command.event, **_readable(command.fields))
                case fleet.Exit():
                    self._exit = command.code
                case _:
                    assert_never(command)
        return events

    def _charge(self, command: fleet.Charge) -> None:
        """Record what a task did: on the board at once, and through the agent for all other nodes."""
        fields = _readable(command.fields)
        record, standing = self._docket.charge(
            _KINDS[command.kind], command.task.id, command.task.name, _cause(command.fields)
        )
        # one that finds no room, or no agent, is sent when an agent listens again
        self._mailbox.offer(link.PublishRecord(record))
        self._log.error(
            command.event,
            **fields,
            task_id=command.task.id,
            task_name=command.task.name,
            verdict=command.kind.name.lower(),
            count=standing.crashes if command.kind is fleet.VerdictKind.CRASHED else 1,
        )

    def _start_server(self, generation: int) -> list[fleet.Event]:
        try:
            pid, connection = forkserver.start(generation, self._node, self._prepare, self._let_go)
        except OSError as error:
            return [fleet.ServerExited(generation, f"fork failed: {error.strerror}")]
        self._servers[generation] = _ServerProcess(pid, connection)
        self._selector.register(
            connection, selectors.EVENT_READ, lambda: self._server_says(generation)
        )
        return []

    def _send(self, generation: int, frame: link.ToServer) -> None:
        server = self._servers.get(generation)
        if server is not None:
            # False means that it is dead, which its SIGCHLD tells
            server.link.send(frame)

    def _watch(self, folders: list[str]) -> None:
        if not self._options.reload or folders == self._watched or not folders:
            return
        self._stop_reloader()
        self._watched = folders
        self._reloader = reloader.start(folders, self._let_go)
        self._log.info("watching for changes", folders=folders)

    def _stop_reloader(self) -> None:
        if self._reloader:
            os.kill(self._reloader, signal.SIGKILL)
            os.waitpid(self._reloader, 0)
            self._reloader = 0

    def _let_go(self) -> None:
        """Close, in a process just forked, what belongs to the supervisor: a copy would hide its death from the others."""
        self._wakeup.drop()
        self._selector.close()
        os.close(self._notify_read)
        self._mailbox.close()
        for server in self._servers.values():
            server.link.close()

    def close(self) -> None:
        """End every process that is left and give back what this process holds."""
        self._stop_reloader()
        for server in self._servers.values():
            # closing the link ends a server and all below it, should the loop have ended by an exception
            server.link.close()
        self._selector.close()
        self._wakeup.restore()
        self._mailbox.close()
        self._agents_end.close()
        os.close(self._notify_read)
        os.close(self._notify_write)


_NAMES_AS_SIGNALS = tuple(signal.Signals(number) for number in _NAMES)


def _head(text: str) -> None:
    """Write a heading for a dump of stacks, past Python's buffer as the dump itself."""
    os.write(2, f"--- {text}\n".encode())


_KINDS = {
    fleet.VerdictKind.CRASHED: verdicts.Kind.CRASHED,
    fleet.VerdictKind.HARD_LIMIT: verdicts.Kind.HARD_LIMIT,
}


def _signal(name: str) -> signal.Signals:
    """The signal somebody named, with or without ``SIG``; TERM for a name that means nothing here."""
    return getattr(signal.Signals, f"SIG{name.upper().removeprefix('SIG')}", signal.SIGTERM)


def _cause(fields: Mapping[str, object]) -> str | None:
    """What a child died of, for people: ``signal 11 (SIGSEGV)``, ``exit code 3``."""
    number = fields.get("signal")
    if isinstance(number, int):
        name = _readable(fields)["signal"]
        return f"signal {number} ({name})" if isinstance(name, str) else f"signal {number}"
    code = fields.get("exit_code")
    return None if code is None else f"exit code {code}"


def _readable(fields: Mapping[str, object]) -> dict[str, object]:
    """Name the signal in fields that hold its number."""
    number = fields.get("signal")
    if isinstance(number, int):
        try:
            return {**fields, "signal": signal.Signals(number).name}
        except ValueError:
            pass  # a real-time signal has no name: its number says it
    return dict(fields)


def _caught(pid: int, slot: Slot, sequence: int) -> bool:
    """Stop a child in a run, to be killed. False when the run has ended meanwhile: then the child goes on.

    Between a look and a kill one task can end and another begin, which is none of the kill's business.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + STOPS_WITHIN
        # one that sleeps in the kernel where no signal reaches it cannot begin another task either
        while not _is_stopped(pid) and time.monotonic() < deadline:
            time.sleep(0.0005)
        task = slot.read()
        if task is not None and task.sequence == sequence:
            return True
        os.kill(pid, signal.SIGCONT)
    return False


def _is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped by a signal; a debugger's stop does not count. False where there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rindex(b")") + 2 :].startswith(b"T")


# ---------------------------------------------------------------- solo


class _Leave(BaseException):
    """A signal asked the worker to stop while it was importing."""


def _tell(sentence: str) -> None:
    """Say to whoever started the worker why it does not start: a sentence for a person, whatever form the log has."""
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()


def _run_solo(options: WorkerOptions, prepare: Prepare, on_ready: OnReady) -> int:
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
        _tell(refusal.reason)
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
