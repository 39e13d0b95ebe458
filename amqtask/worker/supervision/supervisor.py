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
import time
from collections import deque
from collections.abc import Iterator
from typing import assert_never

from amqtask.core import fleet, verdicts
from amqtask.log import get_logger
from amqtask.worker.agent.docket import Docket
from amqtask.worker.forking import forkserver, link
from amqtask.worker.forking.lineage import Wakeup, kill_group
from amqtask.worker.forking.prepared import OnReady, Prepare
from amqtask.worker.memory.board import Board, ChildState
from amqtask.worker.start.options import WorkerOptions
from amqtask.worker.supervision import reloader, solo
from amqtask.worker.supervision.console import head, tell
from amqtask.worker.supervision.orders import Orders
from amqtask.worker.supervision.scaling import Scaling
from amqtask.worker.supervision.signal_names import ANSWERED, NUMBERS, cause_of, readable
from amqtask.worker.supervision.stopped import Frozen, caught

log = get_logger("amqtask.supervisor")

HARD_GRACE = 0.8  # s past its hard deadline after which a task's child is killed; until then the child settles it itself
LOOK = 0.5  # s between two looks at the slots
REPLAY_WITHIN = 30.0  # s the children wait for the verdicts of the others before they go on without; a broker may be away
SEATS = 3  # seats per child there may be: those that work, those that follow, and those that still drain from the reload before


def run(options: WorkerOptions, prepare: Prepare, on_ready: OnReady = lambda info: None) -> int:
    """Run a worker node until it is told to stop; return its exit code. The main thread only, and the only thread.

    Args:
        options: how many children, and their limits.
        prepare: imports and checks the app. Runs in a fresh process for every generation: what this process has imported
            before is not imported anew by a reload, so it should not have imported the app.
        on_ready: called once with ``Prepared.info`` when the app is imported and before the first child is forked.
    """
    if options.in_process:
        return solo.run(options, prepare, on_ready)
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
        self._frozen = Frozen(options.frozen_timeout)
        self._orders = Orders(self._board, self._log)
        self._exit: int | None = None
        self._terminal = os.isatty(0)
        # SIGCHLD among them: a fork server's death
        self._wakeup = Wakeup(*map(signal.Signals, ANSWERED), signal.SIGCHLD)
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
            if number not in ANSWERED:
                continue
            if number == signal.SIGUSR1:
                head(f"supervisor, pid {os.getpid()}")
                faulthandler.dump_traceback(file=2)
            if number == signal.SIGHUP and self._terminal and not os.isatty(0):
                # not somebody's wish for a reload: the terminal was closed, and its programs are to end
                number = signal.SIGTERM
            yield fleet.SignalArrived(ANSWERED[number])
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
                    self._frozen.forget(frame.pid)
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
                            self._orders.add(record, time.monotonic())
                            self._next_look = 0.0
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
        self._orders.carry_out(self._state.children.values(), now)
        yield from self._orders.overdue(self._state.children, now)
        self._next_look = min(self._next_look, self._orders.next_look(now))
        self._wait_no_longer(now)
        agent = self._state.agent
        if agent is not None and agent.pid and (reason := self._frozen.why(agent.pid, now)):
            yield fleet.ChildStuck(fleet.AGENT, agent.pid, reason)
        for child in list(self._state.children.values()):
            if child.pid == 0:
                continue
            if child.phase is fleet.Phase.DRAINING:
                self._remind(child)
            yield from self._past_its_limit(child, now)
            if reason := self._frozen.why(child.pid, now):
                yield fleet.ChildStuck(child.index, child.pid, reason)

    def _past_its_limit(self, child: fleet.Child, now: float) -> Iterator[fleet.Event]:
        """Stop a child in each run that is past its hard limit, which the child itself has not ended."""
        for slot in self._board.child(child.index).slots:
            task = slot.read()
            if task is None or task.hard_deadline is None:
                continue
            due = task.hard_deadline + HARD_GRACE
            if now < due:
                self._next_look = min(self._next_look, due)
            elif caught(child.pid, slot, task.sequence):
                limit = task.hard_deadline - task.started
                yield fleet.ChildStuck(
                    child.index,
                    child.pid,
                    f"hard time limit of {limit:g} s",
                    fleet.Task(task.task_id, task.name),
                )

    def _wait_no_longer(self, now: float) -> None:
        """Let the children begin without the verdicts of other nodes, once they have waited long enough."""
        if self._board.released:
            return
        if self._release_at is None:
            self._release_at = now + REPLAY_WITHIN
        elif now >= self._release_at:
            self._log.warning(
                "the verdicts of other nodes are not known yet; going on without them",
                seconds=REPLAY_WITHIN,
            )
            self._board.release()

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
                    head(f"{name}, pid {command.pid}")
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(command.pid, signal.SIGUSR1)
                    # the child writes its stacks in many pieces: a moment each keeps them apart for the reader
                    time.sleep(0.02)
                case fleet.SignalChild():
                    # the pid is the child's until we acknowledge its death
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(command.pid, NUMBERS[command.signal])
                case fleet.KillChild():
                    kill_group(command.pid)
                case fleet.Charge():
                    self._charge(command)
                case fleet.Say(level="error") if self._on_ready is not None:
                    tell(command.event)
                case fleet.Say():
                    getattr(self._log, command.level)(command.event, **readable(command.fields))
                case fleet.Exit():
                    self._exit = command.code
                case _:
                    assert_never(command)
        return events

    def _charge(self, command: fleet.Charge) -> None:
        """Record what a task did: on the board at once, and through the agent for all other nodes."""
        fields = readable(command.fields)
        record, standing = self._docket.charge(
            _KINDS[command.kind], command.task.id, command.task.name, cause_of(command.fields)
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


_KINDS = {
    fleet.VerdictKind.CRASHED: verdicts.Kind.CRASHED,
    fleet.VerdictKind.HARD_LIMIT: verdicts.Kind.HARD_LIMIT,
}
