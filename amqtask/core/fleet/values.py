"""What the fleet machine speaks of: its vocabulary, the events it is told, the commands it gives, and the state in between."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Literal

import msgspec

# ---------------------------------------------------------------- vocabulary


class ChildExit(enum.IntEnum):
    """Exit codes of a child that mean something to the supervisor; any other is a crash."""

    DONE = 0  # stopped as it was told
    RECYCLE = 79  # reached its limit of tasks or memory: replaced at once, never a crash
    LIMIT = 80  # settled a task at its hard limit and ended itself: replaced at once, never a crash
    REVOKED = 81  # settled a task that was revoked while it ran, and ended itself: the same
    SOFTWARE = 70  # an exception escaped the child's main function


AGENT = -1  # the seat of the node's agent


class VerdictKind(enum.Enum):
    """What a task did to the child that ran it."""

    CRASHED = 1
    HARD_LIMIT = 2


class Task(msgspec.Struct, frozen=True):
    """A task that was running in a child."""

    id: str
    name: str


SignalName = Literal["TERM", "INT", "QUIT", "HUP", "USR1"]


class Mode(enum.Enum):
    """Where the node is in its life."""

    BOOTING = "booting"  # the first generation is being imported
    RUNNING = "running"
    WARM = "warm"  # stopping: children finish what they run
    COLD = "cold"  # stopping: children give everything back
    CLOSING = "closing"  # no child is left, fork servers end
    GONE = "gone"


class Phase(enum.Enum):
    """Where a child is in its life."""

    ASKED = "asked"  # the fork server was told to fork it
    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"  # works until its replacement is ready
    DRAINING = "draining"  # was told TERM
    QUITTING = "quitting"  # was told QUIT
    KILLED = "killed"  # was sent SIGKILL


class Life(enum.Enum):
    """Where a fork server is in its life."""

    IMPORTING = "importing"
    SERVING = "serving"
    RETIRING = "retiring"


# What a signal makes of the node. A pair that is not here changes nothing: HUP while stopping.
SIGNALS: Mapping[tuple[Mode, SignalName], Mode] = {
    (Mode.BOOTING, "TERM"): Mode.WARM,
    (Mode.BOOTING, "INT"): Mode.WARM,
    (Mode.BOOTING, "QUIT"): Mode.COLD,
    (Mode.RUNNING, "TERM"): Mode.WARM,
    (Mode.RUNNING, "INT"): Mode.WARM,
    (Mode.RUNNING, "QUIT"): Mode.COLD,
    (Mode.WARM, "TERM"): Mode.COLD,
    (Mode.WARM, "INT"): Mode.COLD,
    (Mode.WARM, "QUIT"): Mode.COLD,
}

# How a child moves. A pair that is not here is ignored: a frame that crossed a command.
MOVES: Mapping[tuple[Phase, str], Phase] = {
    (Phase.ASKED, "started"): Phase.STARTING,
    (Phase.STARTING, "ready"): Phase.READY,
    (Phase.READY, "retire"): Phase.RETIRING,
    (Phase.STARTING, "drain"): Phase.DRAINING,
    (Phase.READY, "drain"): Phase.DRAINING,
    (Phase.RETIRING, "drain"): Phase.DRAINING,
    (Phase.STARTING, "quit"): Phase.QUITTING,
    (Phase.READY, "quit"): Phase.QUITTING,
    (Phase.RETIRING, "quit"): Phase.QUITTING,
    (Phase.DRAINING, "quit"): Phase.QUITTING,
    (Phase.STARTING, "kill"): Phase.KILLED,
    (Phase.READY, "kill"): Phase.KILLED,
    (Phase.RETIRING, "kill"): Phase.KILLED,
    (Phase.DRAINING, "kill"): Phase.KILLED,
    (Phase.QUITTING, "kill"): Phase.KILLED,
}

MEMBERS = frozenset(
    {Phase.ASKED, Phase.STARTING, Phase.READY}
)  # those that count towards the wanted number
WORKING = frozenset({Phase.READY, Phase.RETIRING})
STARTED = frozenset({Phase.STARTING, Phase.READY})  # members that can be told to go


class Config(msgspec.Struct, frozen=True):
    """What does not change while the node lives. Times are seconds."""

    children: int  # with ``most``: those to begin with
    seats: int
    most: int | None = None  # children there may be at most; None: their number stays as it is
    shutdown_timeout: float | None = None  # TERM becomes QUIT after this
    soft_timeout: float = 0.0  # what runs is given so long before a QUIT
    cold_grace: float = 5.0  # QUIT becomes SIGKILL after this
    server_grace: float = 2.0  # a fork server told to end is killed after this
    crash_limit: int = 5  # so many crashes …
    crash_window: float = 10.0  # … in so many seconds are a loop
    backoff_base: float = 0.5
    backoff_cap: float = 30.0
    agent: bool = False  # whether the node keeps an agent
    agent_grace: float = 4.0  # an agent told to end is killed after this
    agent_steady: float = 60.0  # one that lived so long died of something new: no backing off


# ---------------------------------------------------------------- events


class ServerReady(msgspec.Struct, frozen=True):
    """The fork server of a generation has imported the app."""

    generation: int


class ServerFailed(msgspec.Struct, frozen=True):
    """The app cannot be prepared: one sentence and the exit code it asks for. The server ends by itself."""

    generation: int
    reason: str
    code: int = 1


class ServerExited(msgspec.Struct, frozen=True):
    """A fork server is dead; ``how`` tells of what, for people."""

    generation: int
    how: str


class ChildStarted(msgspec.Struct, frozen=True):
    """A child was forked."""

    index: int
    pid: int
    generation: int


class SpawnFailed(msgspec.Struct, frozen=True):
    """A child could not be forked."""

    index: int
    generation: int
    reason: str


class ChildReady(msgspec.Struct, frozen=True):
    """A child works. It says so itself, and may be faster than its fork server with ``ChildStarted``."""

    index: int
    pid: int
    generation: int


class ChildRetiring(msgspec.Struct, frozen=True):
    """A child has reached a limit and asks for its replacement."""

    index: int
    pid: int
    generation: int


class ChildStuck(msgspec.Struct, frozen=True):
    """A child must be killed: ``task`` ran past its hard limit, or, without one, for another reason."""

    index: int
    pid: int
    reason: str
    task: Task | None = None


class ChildExited(msgspec.Struct, frozen=True):
    """A child is dead. ``signal`` 0: it exited with ``code``. ``running`` are the tasks its slots held."""

    index: int
    pid: int
    code: int
    signal: int = 0
    running: tuple[Task, ...] = ()


class Rescale(msgspec.Struct, frozen=True):
    """There should be another number of children. Ignored while stopping, and by a node whose number is fixed.

    Args:
        children: how many.
        order: seats in the order in which children are let go, when there are too many. Others come last.
        waiting: messages in the queues, for the log.
        busy: slots that run a task, for the log.
    """

    children: int
    order: tuple[int, ...] = ()
    waiting: int = 0
    busy: int = 0


class SignalArrived(msgspec.Struct, frozen=True):
    """The supervisor received a signal."""

    name: SignalName


class Tick(msgspec.Struct, frozen=True):
    """Time passed. Send one at ``deadline(state)``; more do no harm."""


Event = (
    ServerReady
    | ServerFailed
    | ServerExited
    | ChildStarted
    | SpawnFailed
    | ChildReady
    | ChildRetiring
    | ChildStuck
    | ChildExited
    | Rescale
    | SignalArrived
    | Tick
)

# ---------------------------------------------------------------- commands


class StartServer(msgspec.Struct, frozen=True):
    """Fork a fork server that imports the app anew."""

    generation: int


class RetireServer(msgspec.Struct, frozen=True):
    """Tell a fork server to end."""

    generation: int


class KillServer(msgspec.Struct, frozen=True):
    """SIGKILL a fork server."""

    generation: int


class Spawn(msgspec.Struct, frozen=True):
    """Let the fork server of a generation fork a child into a seat."""

    index: int
    generation: int


class SignalChild(msgspec.Struct, frozen=True):
    """Send a signal to a child."""

    index: int
    pid: int
    signal: SignalName


class KillChild(msgspec.Struct, frozen=True):
    """SIGKILL a child's process group."""

    index: int
    pid: int


class Charge(msgspec.Struct, frozen=True):
    """Record a verdict against a task, and log ``event`` with ``fields``, the task and how often it did so."""

    task: Task
    kind: VerdictKind
    event: str
    fields: dict[str, object] = {}


class Say(msgspec.Struct, frozen=True):
    """Log a line."""

    level: Literal["debug", "info", "warning", "error"]
    event: str
    fields: dict[str, object] = {}


class Exit(msgspec.Struct, frozen=True):
    """End the supervisor with this exit code. Always the last command."""

    code: int


Command = (
    StartServer | RetireServer | KillServer | Spawn | SignalChild | KillChild | Charge | Say | Exit
)

# ---------------------------------------------------------------- state


class Child(msgspec.Struct, frozen=True):
    """One child the supervisor counts on. ``pid`` 0 before the fork server answered."""

    index: int
    generation: int
    phase: Phase
    pid: int = 0
    was_ready: bool = False
    quit_at: float | None = None  # a warm stop turns cold
    kill_at: float | None = None
    expected: bool = False  # its death is our doing: no crash, no verdict


class Agent(msgspec.Struct, frozen=True):
    """The node's agent. ``pid`` 0 before the fork server answered."""

    generation: int
    pid: int = 0
    since: float = 0.0
    told: bool = False  # to end: its death is our doing
    kill_at: float | None = None


class Server(msgspec.Struct, frozen=True):
    """One fork server."""

    generation: int
    life: Life
    kill_at: float | None = None


class State(msgspec.Struct, frozen=True):
    """Everything the supervisor knows. Make the first with ``begin``."""

    config: Config
    wanted: int  # children of each generation
    mode: Mode = Mode.BOOTING
    servers: dict[int, Server] = {}
    children: dict[int, Child] = {}
    current: int = 0  # the generation that works; 0 before the first
    incoming: int = 0  # the generation that is to follow it; 0 when there is none
    newest: int = 0  # the highest generation number given so far
    crashes: tuple[tuple[float, str], ...] = ()  # those within the window, and the task's id
    streak: int = 0  # rounds of backing off without a quiet window
    hold_until: float = 0.0  # nothing is spawned before
    server_at: float | None = None  # when to import again after the only fork server was lost
    soft: bool = False  # a cold stop was asked for, and waits for what runs
    announced: bool = False  # the full number was reached once in this generation
    killed: bool = False  # a child had to be killed at a stop
    failure: int | None = None  # exit code of a failed boot
    agent: Agent | None = None
    agent_at: float = 0.0  # no agent is spawned before
    agent_streak: int = 0  # agents that died one after another
