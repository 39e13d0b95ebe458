"""The machine itself: ``begin``, ``step`` and ``deadline``. Values in, values out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, assert_never

import msgspec

from amqtask.core.fleet.values import (
    AGENT,
    MEMBERS,
    MOVES,
    SIGNALS,
    STARTED,
    WORKING,
    Agent,
    Charge,
    Child,
    ChildExit,
    ChildExited,
    ChildReady,
    ChildRetiring,
    ChildStarted,
    ChildStuck,
    Command,
    Config,
    Event,
    Exit,
    KillChild,
    KillServer,
    Life,
    Mode,
    Phase,
    Rescale,
    RetireServer,
    Say,
    Server,
    ServerExited,
    ServerFailed,
    ServerReady,
    SignalArrived,
    SignalChild,
    SignalName,
    Spawn,
    SpawnFailed,
    StartServer,
    State,
    Tick,
    VerdictKind,
)

Step = tuple[State, tuple[Command, ...]]


def begin(config: Config) -> Step:
    """Return the first state and the commands that start the node."""
    state = State(
        config, config.children, servers={1: Server(1, Life.IMPORTING)}, incoming=1, newest=1
    )
    return state, (StartServer(1),)


def deadline(state: State) -> float | None:
    """Return when the next ``Tick`` is due, None when nothing waits for time to pass."""
    times = [child.quit_at for child in state.children.values()]
    times += [child.kill_at for child in state.children.values()]
    times += [server.kill_at for server in state.servers.values()]
    times.append(state.server_at)
    if state.agent is not None:
        times.append(state.agent.kill_at)
    elif _lacks_agent(state):
        times.append(state.agent_at)
    if state.mode is Mode.RUNNING and _missing(state) and len(state.children) < state.config.seats:
        times.append(state.hold_until)
    return min((at for at in times if at is not None), default=None)


def step(state: State, event: Event, now: float) -> Step:
    """Return what follows from an event: the next state and the commands, in the order to carry them out."""
    if state.mode is Mode.GONE:
        return state, ()
    work = _Work(state, now)
    match event:
        case ServerReady():
            work.server_ready(event)
        case ServerFailed():
            work.server_failed(event)
        case ServerExited():
            work.server_exited(event)
        case ChildStarted():
            work.child_started(event)
        case SpawnFailed():
            work.spawn_failed(event)
        case ChildReady():
            work.child_ready(event)
        case ChildRetiring():
            work.child_retiring(event)
        case ChildStuck():
            work.child_stuck(event)
        case ChildExited():
            work.child_exited(event)
        case Rescale():
            work.rescale(event)
        case SignalArrived():
            work.signal_arrived(event)
        case Tick():
            pass
        case _:
            assert_never(event)
    work.overdue()
    work.attend()
    work.balance()
    work.finish()
    return work.state, tuple(work.commands)


def _missing(state: State) -> bool:
    """Tell whether a generation that can spawn lacks children."""
    return any(_wanted(state, generation) > 0 for generation in (state.current, state.incoming))


def _wanted(state: State, generation: int) -> int:
    """Return how many children a generation lacks; 0 unless its server serves."""
    server = state.servers.get(generation)
    if server is None or server.life is not Life.SERVING:
        return 0
    return state.wanted - _count(state.children.values(), generation, MEMBERS)


def _lacks_agent(state: State) -> bool:
    """Tell whether an agent should be spawned, now or when its time comes."""
    server = state.servers.get(state.current)
    return (
        state.config.agent
        and state.mode is Mode.RUNNING
        and state.agent is None
        and server is not None
        and server.life is Life.SERVING
    )


def _count(children: Iterable[Child], generation: int, phases: frozenset[Phase]) -> int:
    return sum(1 for c in children if c.generation == generation and c.phase in phases)


SIGTERM = 15  # POSIX fixes the number; the core imports no signal module
STOPPING = frozenset({Mode.WARM, Mode.COLD, Mode.CLOSING})


class _Work:
    """One step under way: the state so far and the commands so far. Lives for one call of ``step``."""

    def __init__(self, state: State, now: float) -> None:
        self.state = state
        self.now = now
        self.commands: list[Command] = []
        self.order: tuple[int, ...] = ()  # of seats, in which children are let go

    # ------------------------------------------------------------ fork servers

    def server_ready(self, event: ServerReady) -> None:
        server = self.state.servers.get(event.generation)
        if server is None or server.life is not Life.IMPORTING:
            return
        self._server(msgspec.structs.replace(server, life=Life.SERVING))
        if self.state.mode is Mode.BOOTING:
            self._set(mode=Mode.RUNNING)
        if self.state.current == 0:
            self._set(current=event.generation, incoming=0, announced=False)

    def server_failed(self, event: ServerFailed) -> None:
        server = self.state.servers.get(event.generation)
        if server is None or server.life is Life.RETIRING:
            return
        self._server(
            msgspec.structs.replace(
                server, life=Life.RETIRING, kill_at=self.now + self.state.config.server_grace
            )
        )
        if event.generation == self.state.incoming:
            self._set(incoming=0)
        self._generation_failed(event.reason, event.code)

    def server_exited(self, event: ServerExited) -> None:
        server = self.state.servers.get(event.generation)
        if server is None:
            return
        servers = dict(self.state.servers)
        del servers[event.generation]
        self._set(servers=servers)
        orphans = [c for c in self.state.children.values() if c.generation == event.generation]
        if self.state.agent is not None and self.state.agent.generation == event.generation:
            self._set(agent=None)
        for child in orphans:
            # they die with their server; nobody is left to report it, and nobody to charge
            if child.pid:
                self._do(KillChild(child.index, child.pid))
            self._forget(child)
        worked = event.generation == self.state.current
        if worked:
            self._set(current=0)
        if event.generation == self.state.incoming:
            self._set(incoming=0)
        if server.life is Life.RETIRING:
            return
        if server.life is Life.IMPORTING:
            self._generation_failed(f"The process that imports the app died ({event.how}).", 1)
            return
        self._say(
            "error",
            "fork server lost",
            generation=event.generation,
            how=event.how,
            children=len(orphans),
        )
        if not worked or self.state.mode is not Mode.RUNNING:
            return
        following = self.state.servers.get(self.state.incoming)
        if following is None:
            self._import_again()
        elif following.life is Life.SERVING:
            # the next generation is on its way already: it takes over at once
            self._set(current=following.generation, incoming=0, announced=False)

    def _generation_failed(self, reason: str, code: int) -> None:
        """Go on without the generation that could not be imported; it is no longer the incoming one."""
        if self.state.mode in STOPPING:
            return
        if self.state.mode is Mode.BOOTING:
            self._say("error", reason)
            self._set(mode=Mode.CLOSING, failure=code or 1)
            self._retire_servers()
        elif self.state.current:
            self._say("error", "reload failed, the old code goes on", reason=reason)
        else:
            self._say("error", "the app cannot be imported again", reason=reason)
            self._import_again()

    def _import_again(self) -> None:
        delay = self._crash(True)
        self._set(server_at=self.now + delay)

    def _new_generation(self) -> None:
        generation = self.state.newest + 1
        self._set(newest=generation, incoming=generation, server_at=None)
        self._server(Server(generation, Life.IMPORTING))
        self._do(StartServer(generation))

    def _retire(self, server: Server) -> None:
        if server.life is Life.RETIRING:
            return
        # a server that still imports runs the user's code and cannot listen
        self._do(
            KillServer(server.generation)
            if server.life is Life.IMPORTING
            else RetireServer(server.generation)
        )
        grace = self.state.config.server_grace
        self._server(msgspec.structs.replace(server, life=Life.RETIRING, kill_at=self.now + grace))

    def _retire_servers(self) -> None:
        for server in list(self.state.servers.values()):
            self._retire(server)

    # ------------------------------------------------------------ children

    def child_started(self, event: ChildStarted) -> None:
        if event.index == AGENT:
            self._agent_started(event)
            return
        child = self.state.children.get(event.index)
        if child is None or child.generation != event.generation or child.phase is not Phase.ASKED:
            return
        child = msgspec.structs.replace(child, pid=event.pid, phase=Phase.STARTING)
        self._child(child)
        if self.state.mode in STOPPING or child.generation not in (
            self.state.current,
            self.state.incoming,
        ):
            # it was asked for before the node began to stop, or its generation was given up
            self._drain(child)

    def spawn_failed(self, event: SpawnFailed) -> None:
        if event.index == AGENT:
            self._agent_lost(event.reason)
            return
        child = self.state.children.get(event.index)
        if child is None or child.generation != event.generation or child.phase is not Phase.ASKED:
            return
        self._forget(child)
        self._say("error", "no child could be forked", reason=event.reason)
        self._crash(True)

    def child_ready(self, event: ChildReady) -> None:
        self.child_started(ChildStarted(event.index, event.pid, event.generation))
        child = self._find(event.index, event.pid)
        if child is None:
            return
        # a child that was told to drain while it started holds work now: only the shutdown timeout may end it
        kill_at = child.kill_at if child.phase is not Phase.DRAINING else None
        phase = MOVES.get((child.phase, "ready"), child.phase)
        self._child(msgspec.structs.replace(child, phase=phase, was_ready=True, kill_at=kill_at))

    def child_retiring(self, event: ChildRetiring) -> None:
        self.child_started(ChildStarted(event.index, event.pid, event.generation))
        child = self._find(event.index, event.pid)
        if child is not None and (child.phase, "retire") in MOVES:
            self._child(msgspec.structs.replace(child, phase=MOVES[child.phase, "retire"]))

    def child_stuck(self, event: ChildStuck) -> None:
        if event.index == AGENT:
            if self.state.agent is not None and self.state.agent.pid == event.pid:
                self._do(KillChild(AGENT, event.pid))
            return
        child = self._find(event.index, event.pid)
        if child is None or (child.phase, "kill") not in MOVES:
            return
        fields: dict[str, object] = {"index": child.index, "pid": child.pid, "reason": event.reason}
        if event.task is not None:
            # before the kill, so that whoever gets the message next finds the verdict
            self._do(Charge(event.task, VerdictKind.HARD_LIMIT, "child killed", fields))
        else:
            self._say("error", "child killed", **fields)
        self._kill(child)

    def child_exited(self, event: ChildExited) -> None:
        if event.index == AGENT:
            if self.state.agent is not None and self.state.agent.pid == event.pid:
                self._agent_lost(
                    f"signal {event.signal}" if event.signal else f"exit code {event.code}"
                )
            return
        child = self._find(event.index, event.pid)
        if child is None:
            return
        self._forget(child)
        if child.expected:
            return
        told = child.phase in (Phase.DRAINING, Phase.QUITTING)
        if event.signal == 0 and event.code == ChildExit.DONE and told:
            return
        if event.signal == 0 and event.code == ChildExit.RECYCLE and child.was_ready:
            self._say("info", "child recycled", index=child.index, pid=child.pid)
            return
        if event.signal == 0 and event.code == ChildExit.LIMIT:
            self._say("warning", "child ended at a hard limit", index=child.index, pid=child.pid)
            return
        if event.signal == 0 and event.code == ChildExit.REVOKED:
            self._say("info", "child ended with a revoked task", index=child.index, pid=child.pid)
            return
        if child.phase is Phase.QUITTING or (
            told and (event.signal == SIGTERM or not event.running)
        ):
            # it died of our own signal, or while it let go as it was told: nobody is to blame
            return
        if event.signal == 0 and event.code == ChildExit.DONE and not event.running:
            # somebody else sent it TERM; replaced like any other, and a loop of it is a loop
            self._say("warning", "child stopped untold", index=child.index, pid=child.pid)
            if self.state.mode is Mode.RUNNING:
                self._crash(not child.was_ready)
            return
        how = {"signal": event.signal} if event.signal else {"exit_code": event.code}
        fields: dict[str, object] = {"index": child.index, "pid": child.pid, **how}
        for task in event.running:
            self._do(Charge(task, VerdictKind.CRASHED, "child crashed", fields))
        if not event.running:
            self._say("error", "child crashed", **fields, was_ready=child.was_ready)
        if self.state.mode is Mode.RUNNING and not told:
            self._crash(not child.was_ready, event.running[0].id if event.running else "")

    def _crash(self, before_ready: bool, task: str = "") -> float:
        """Count a crash; return how long from now nothing is spawned because of it.

        One task that comes back to kill one child after another counts once: its verdicts end it, and until then nobody
        else should wait for a place.
        """
        config, now = self.state.config, self.now
        recent = tuple(each for each in self.state.crashes if now - each[0] <= config.crash_window)
        if task and any(each[1] == task for each in recent):
            return max(0.0, self.state.hold_until - now)
        quiet = not recent and now - self.state.hold_until > config.crash_window
        streak = 0 if quiet else self.state.streak
        recent = (*recent[-config.crash_limit :], (now, task))
        self._set(crashes=recent, streak=streak)
        if not before_ready and len(recent) < config.crash_limit:
            return max(0.0, self.state.hold_until - now)
        if now < self.state.hold_until:
            # children that fail together are one round, not many
            return self.state.hold_until - now
        delay = min(config.backoff_cap, config.backoff_base * 2.0 ** min(streak, 30))
        self._set(streak=streak + 1, hold_until=now + delay)
        self._say(
            "warning",
            "crash loop, backing off",
            crashes=len(recent),
            seconds=delay,
            reason="before ready" if before_ready else "too many crashes",
        )
        return delay

    # ------------------------------------------------------------ the agent

    def _agent_started(self, event: ChildStarted) -> None:
        agent = self.state.agent
        if agent is None or agent.generation != event.generation or agent.pid:
            return
        self._set(agent=msgspec.structs.replace(agent, pid=event.pid, since=self.now))
        if agent.told:
            self._release_agent()

    def _agent_lost(self, how: str) -> None:
        """The agent is gone, or never was; another follows, later each time it happens again."""
        agent = self.state.agent
        if agent is None:
            return
        self._set(agent=None)
        if agent.told:
            return
        config = self.state.config
        steady = agent.pid and self.now - agent.since >= config.agent_steady
        streak = 0 if steady else self.state.agent_streak
        delay = min(config.backoff_cap, config.backoff_base * 2.0 ** min(streak, 30))
        self._set(agent_at=self.now + delay, agent_streak=streak + 1)
        self._say("warning", "the node's agent died; another follows", how=how, seconds=delay)

    def _release_agent(self) -> None:
        """Tell the agent to end; at once where it has a process, else as soon as it has one."""
        agent = self.state.agent
        if agent is None or agent.kill_at is not None:
            return
        kill_at = None
        if agent.pid:
            self._do(SignalChild(AGENT, agent.pid, "TERM"))
            kill_at = self.now + self.state.config.agent_grace
        self._set(agent=msgspec.structs.replace(agent, told=True, kill_at=kill_at))

    def attend(self) -> None:
        """See that there is an agent of the current generation."""
        agent, current = self.state.agent, self.state.current
        if _lacks_agent(self.state):
            if self.now >= self.state.agent_at:
                self._set(agent=Agent(current))
                self._do(Spawn(AGENT, current))
        elif agent is not None and current not in (0, agent.generation):
            self._release_agent()

    def _drain(self, child: Child, *, patiently: bool = False) -> None:
        """Tell a child to finish what it runs and to go, within the shutdown timeout unless ``patiently``."""
        timeout = None if patiently else self.state.config.shutdown_timeout
        quit_at = None if timeout is None else self.now + timeout
        if child.phase is Phase.DRAINING and child.quit_at is None and quit_at is not None:
            # it had all the time there is, and now somebody waits for it
            self._child(msgspec.structs.replace(child, quit_at=quit_at))
        phase = MOVES.get((child.phase, "drain"))
        if phase is None:
            return
        self._do(SignalChild(child.index, child.pid, "TERM"))
        self._child(
            msgspec.structs.replace(
                child,
                phase=phase,
                quit_at=quit_at,
                # a child that never got ready holds no work: it may not delay the stop
                kill_at=None if child.was_ready else self.now + self.state.config.cold_grace,
            )
        )

    def _quit(self, child: Child) -> None:
        phase = MOVES.get((child.phase, "quit"))
        if phase is None:
            return
        self._do(SignalChild(child.index, child.pid, "QUIT"))
        kill_at = self.now + self.state.config.cold_grace
        self._child(msgspec.structs.replace(child, phase=phase, quit_at=None, kill_at=kill_at))

    def _kill(self, child: Child) -> None:
        phase = MOVES.get((child.phase, "kill"))
        if phase is None:
            return
        self._do(KillChild(child.index, child.pid))
        self._child(
            msgspec.structs.replace(child, phase=phase, quit_at=None, kill_at=None, expected=True)
        )

    # ------------------------------------------------------------ another number of children

    def rescale(self, event: Rescale) -> None:
        most, before = self.state.config.most, self.state.wanted
        if self.state.mode is not Mode.RUNNING or most is None:
            return
        wanted = max(0, min(most, event.children))
        if wanted == before:
            return
        self._set(wanted=wanted)
        self.order = event.order
        self._say(
            "info",
            "more children" if wanted > before else "fewer children",
            children=wanted,
            before=before,
            waiting=event.waiting,
            busy=event.busy,
        )

    def _let_go(self, generation: int) -> None:
        """Drain the children of a generation that are too many: first those that hold no work yet, then by the order given.

        They may take all the time they need: nobody waits for them.
        """
        members = [
            child
            for child in self.state.children.values()
            if child.generation == generation and child.phase in STARTED
        ]
        ranks = {index: rank for rank, index in enumerate(self.order)}
        members.sort(
            key=lambda child: (child.phase is Phase.READY, ranks.get(child.index, len(ranks)))
        )
        for child in members[: max(0, len(members) - self.state.wanted)]:
            self._drain(child, patiently=True)

    # ------------------------------------------------------------ signals and time

    def signal_arrived(self, event: SignalArrived) -> None:
        mode = self.state.mode
        if event.name == "USR1":
            for child in self.state.children.values():
                if child.pid:
                    self._do(SignalChild(child.index, child.pid, "USR1"))
            if self.state.agent is not None and self.state.agent.pid:
                self._do(SignalChild(AGENT, self.state.agent.pid, "USR1"))
            return
        if event.name == "HUP":
            self._reload()
            return
        if mode is Mode.COLD and event.name in ("INT", "QUIT"):
            # who asks again does not want to wait for the grace
            self._kill_all("asked again")
            return
        following = SIGNALS.get((mode, event.name))
        if following is None:
            return
        if following is Mode.COLD and self._soften(event.name):
            return
        self._set(mode=following, server_at=None)
        self._say("info", f"{following.value} shutdown", signal=event.name)
        for child in list(self.state.children.values()):
            if following is Mode.WARM:
                self._drain(child)
            else:
                self._quit(child)

    def _soften(self, name: SignalName) -> bool:
        """Let what runs have its last seconds before a cold stop. False when it has no right to any, or had them."""
        config, mode = self.state.config, self.state.mode
        if not config.soft_timeout or self.state.soft:
            return False
        if mode is Mode.WARM and (config.shutdown_timeout or 0.0) <= config.soft_timeout:
            return False  # the warm stop gives no more than that, and who asks again will not wait for it
        self._set(mode=Mode.WARM, server_at=None, soft=True)
        self._say("info", "soft shutdown", signal=name, seconds=config.soft_timeout)
        quit_at = self.now + config.soft_timeout
        for child in list(self.state.children.values()):
            self._drain(child)
            told = self.state.children[child.index]
            if told.phase is Phase.DRAINING:
                sooner = quit_at if told.quit_at is None else min(told.quit_at, quit_at)
                self._child(msgspec.structs.replace(told, quit_at=sooner))
        return True

    def _reload(self) -> None:
        if self.state.mode is not Mode.RUNNING:
            return
        if self.state.incoming:
            # newer code is already on its way and may be stale by now: give it up
            abandoned = self.state.incoming
            self._set(incoming=0)
            for child in list(self.state.children.values()):
                if child.generation == abandoned:
                    self._drain(child)
            server = self.state.servers[abandoned]
            if server.life is Life.IMPORTING:
                self._retire(server)
        self._say("info", "reloading", generation=self.state.newest + 1)
        self._new_generation()

    def _kill_all(self, why: str) -> None:
        for child in list(self.state.children.values()):
            if child.pid and child.phase is not Phase.KILLED:
                self._say("warning", "child killed", index=child.index, pid=child.pid, reason=why)
                self._set(killed=self.state.killed or child.was_ready)
                self._kill(child)

    def overdue(self) -> None:
        """Carry out what was to happen by now."""
        now = self.now
        for child in list(self.state.children.values()):
            if child.quit_at is not None and child.quit_at <= now:
                self._say(
                    "warning", "shutdown timeout, stopping cold", index=child.index, pid=child.pid
                )
                if self.state.mode is Mode.WARM:
                    self._set(mode=Mode.COLD)
                self._quit(child)
            elif child.kill_at is not None and child.kill_at <= now:
                self._say(
                    "warning",
                    "child killed",
                    index=child.index,
                    pid=child.pid,
                    reason="it did not stop in time",
                )
                if self.state.mode in STOPPING and child.was_ready:
                    self._set(killed=True)
                self._kill(child)
        agent = self.state.agent
        if agent is not None and agent.kill_at is not None and agent.kill_at <= now:
            self._do(KillChild(AGENT, agent.pid))
            kill_at = now + self.state.config.agent_grace
            self._set(agent=msgspec.structs.replace(agent, kill_at=kill_at))
        for server in list(self.state.servers.values()):
            if server.kill_at is not None and server.kill_at <= now:
                self._do(KillServer(server.generation))
                self._server(
                    msgspec.structs.replace(server, kill_at=now + self.state.config.server_grace)
                )
        if self.state.server_at is not None and self.state.server_at <= now:
            self._new_generation()

    # ------------------------------------------------------------ what should be

    def balance(self) -> None:
        """Bring the children to the wanted number; hand over between generations; end servers nobody needs."""
        if self.state.mode is not Mode.RUNNING:
            return
        self._hand_over()
        if self.now >= self.state.hold_until:
            for generation in (self.state.current, self.state.incoming):
                self._spawn(generation)
        self._drain_retiring()
        for generation in (self.state.current, self.state.incoming):
            self._let_go(generation)
        for server in list(self.state.servers.values()):
            needed = server.generation in (self.state.current, self.state.incoming) or any(
                child.generation == server.generation for child in self.state.children.values()
            )
            if self.state.agent is not None and self.state.agent.generation == server.generation:
                needed = True
            if not needed:
                self._retire(server)

    def _spawn(self, generation: int) -> None:
        free = [
            index for index in range(self.state.config.seats) if index not in self.state.children
        ]
        for index in free[: max(0, _wanted(self.state, generation))]:
            self._child(Child(index, generation, Phase.ASKED))
            self._do(Spawn(index, generation))

    def _hand_over(self) -> None:
        full = self.state.wanted
        children = list(self.state.children.values())
        following = self.state.servers.get(self.state.incoming)
        if (
            following is not None
            and following.life is Life.SERVING
            and _count(children, self.state.incoming, WORKING) >= full
        ):
            old = self.state.current
            self._set(current=self.state.incoming, incoming=0, announced=False)
            for child in children:
                if child.generation == old:
                    self._drain(child)
        if (
            not self.state.announced
            and self.state.current
            and _count(children, self.state.current, WORKING) >= full
        ):
            self._set(announced=True)
            self._say("info", "ready", generation=self.state.current, children=full)

    def _drain_retiring(self) -> None:
        full, seats = self.state.wanted, self.state.config.seats
        for child in list(self.state.children.values()):
            if child.phase is not Phase.RETIRING:
                continue
            working = _count(self.state.children.values(), child.generation, WORKING)
            crowded = (
                len(self.state.children) >= seats and _wanted(self.state, child.generation) > 0
            )
            if working > full or crowded:
                self._drain(child)

    def finish(self) -> None:
        """End the fork servers when a stop has no child left, and the node when it has no server left."""
        if self.state.mode in (Mode.WARM, Mode.COLD) and not self.state.children:
            # the agent is the last to leave: it carries what was charged against the tasks of the others
            self._release_agent()
            if self.state.agent is not None:
                return
            self._set(mode=Mode.CLOSING)
            self._retire_servers()
        if self.state.mode is Mode.CLOSING and not self.state.servers:
            code = self.state.failure
            if code is None:
                code = 1 if self.state.killed else 0
            self._set(mode=Mode.GONE)
            self._do(Exit(code))

    # ------------------------------------------------------------ small parts

    def _find(self, index: int, pid: int) -> Child | None:
        child = self.state.children.get(index)
        return child if child is not None and child.pid == pid else None

    def _set(self, **changes: object) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)

    def _child(self, child: Child) -> None:
        self._set(children=self.state.children | {child.index: child})

    def _forget(self, child: Child) -> None:
        children = dict(self.state.children)
        del children[child.index]
        self._set(children=children)

    def _server(self, server: Server) -> None:
        self._set(servers=self.state.servers | {server.generation: server})

    def _do(self, command: Command) -> None:
        self.commands.append(command)

    def _say(
        self, level: Literal["debug", "info", "warning", "error"], event: str, **fields: object
    ) -> None:
        self._do(Say(level, event, fields))
