"""The supervisor's machine: which children there should be, and what follows from what happens to them. Pure.

``step(state, event, now)`` returns the next state and the commands to carry out, in order. ``worker/supervision/supervisor.py`` is its
shell: it forks, signals, waits and logs; it decides nothing. ``now`` is monotonic seconds.

A *generation* is one import of the app: one fork server and the children forked from it. A child sits in a *seat*, an index
below ``Config.seats``. There are more seats than children, for the overlap in which replacements become ready before those
they replace are told to drain.

How many children there should be may change while the node lives (``Rescale``). Those that are too many are told to drain and not
replaced; who tells of another number also tells who goes first. A child that was told goes, whatever comes next: when more are
wanted again meanwhile, another takes its place.

A node may keep an *agent* beside its children: a process, forked like them, that holds the node's connection to the rest of the
cluster. It sits in the seat ``AGENT``, which is not one of the board's. It is started before the children, follows the current
generation, is started again when it dies, and leaves after the last child.

Exit codes of the node: 0 after a warm stop, and after a cold stop in which every child left by itself; 1 when a child had to
be killed with SIGKILL at a stop (what it ran is redelivered elsewhere); the code of the failure, 1 unless it says otherwise,
when the app cannot be prepared at start.
"""

from __future__ import annotations

from amqtask.core.fleet.machine import begin, deadline, step
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
    Task,
    Tick,
    VerdictKind,
)

__all__ = [
    "AGENT",
    "MEMBERS",
    "MOVES",
    "SIGNALS",
    "STARTED",
    "WORKING",
    "Agent",
    "Charge",
    "Child",
    "ChildExit",
    "ChildExited",
    "ChildReady",
    "ChildRetiring",
    "ChildStarted",
    "ChildStuck",
    "Command",
    "Config",
    "Event",
    "Exit",
    "KillChild",
    "KillServer",
    "Life",
    "Mode",
    "Phase",
    "Rescale",
    "RetireServer",
    "Say",
    "Server",
    "ServerExited",
    "ServerFailed",
    "ServerReady",
    "SignalArrived",
    "SignalChild",
    "SignalName",
    "Spawn",
    "SpawnFailed",
    "StartServer",
    "State",
    "Task",
    "Tick",
    "VerdictKind",
    "begin",
    "deadline",
    "step",
]
