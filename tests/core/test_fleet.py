"""The supervisor's machine, without a process: single stories, and a state machine that plays any order of events."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from amqtask.core.fleet import (
    AGENT,
    MOVES,
    SIGNALS,
    Charge,
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
    Mode,
    Phase,
    Rescale,
    RetireServer,
    Say,
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
    begin,
    deadline,
    step,
)

CONFIG = Config(children=2, seats=6)
TASK = Task("id-1", "shop.add")


class Node:
    """A fleet that is told what happens, with a clock; gives the commands without the log lines."""

    def __init__(self, config: Config = CONFIG) -> None:
        self.now = 100.0
        self.pids = 1000
        self.said: list[Say] = []
        self.state, commands = begin(config)
        self.first = commands

    def tell(self, event: Event, after: float = 0.0) -> list[Command]:
        self.now += after
        self.state, commands = step(self.state, event, self.now)
        self.said += [c for c in commands if isinstance(c, Say)]
        return [c for c in commands if not isinstance(c, Say)]

    def fork(self, spawn: Command) -> int:
        """Answer a Spawn as the fork server does; return the pid."""
        assert isinstance(spawn, Spawn)
        self.pids += 1
        self.tell(ChildStarted(spawn.index, self.pids, spawn.generation))
        return self.pids

    def up(self, spawns: list[Command]) -> list[Command]:
        """Fork and make ready everything that was asked for; return what followed."""
        followed: list[Command] = []
        for spawn in [command for command in spawns if isinstance(command, Spawn)]:
            followed += self.tell(ChildReady(spawn.index, self.fork(spawn), spawn.generation))
        return followed

    def pid(self, index: int) -> int:
        return self.state.children[index].pid


def running(config: Config = CONFIG) -> Node:
    """A node whose children are all ready."""
    node = Node(config)
    node.up(node.tell(ServerReady(1)))
    assert node.state.mode is Mode.RUNNING
    return node


def test_start_imports_first_and_forks_the_wanted_number() -> None:
    node = Node()

    assert node.first == (StartServer(1),)
    assert node.tell(ServerReady(1)) == [Spawn(0, 1), Spawn(1, 1)]


def test_ready_is_said_once_when_all_are() -> None:
    node = running()

    assert [say.event for say in node.said] == ["ready"]


def test_failed_import_at_start_ends_with_its_code_and_its_sentence() -> None:
    node = Node()

    node.tell(ServerFailed(1, "No module named 'shop'.", 3))
    commands = node.tell(ServerExited(1, "exit code 1"))

    assert commands == [Exit(3)]
    assert node.said == [Say("error", "No module named 'shop'.")]


def test_import_that_kills_its_process_ends_with_1() -> None:
    node = Node()

    assert node.tell(ServerExited(1, "SIGSEGV")) == [Exit(1)]
    assert "SIGSEGV" in node.said[0].event


def test_crashed_child_is_replaced_at_once_and_its_task_charged() -> None:
    node = running()

    commands = node.tell(ChildExited(0, node.pid(0), 0, 9, (TASK,)))

    assert commands == [
        Charge(
            TASK,
            VerdictKind.CRASHED,
            "child crashed",
            {"index": 0, "pid": 1001, "signal": 9},
        ),
        Spawn(0, 1),
    ]


def test_exit_code_0_in_the_middle_of_a_task_is_a_crash() -> None:
    node = running()

    commands = node.tell(ChildExited(0, node.pid(0), 0, 0, (TASK,)))

    assert isinstance(commands[0], Charge)
    assert commands[1] == Spawn(0, 1)


def test_children_that_die_before_ready_back_off_in_doubling_rounds() -> None:
    node = Node(Config(children=2, seats=6, backoff_base=0.5, backoff_cap=4.0))
    spawns = node.tell(ServerReady(1))
    waits = []
    for _ in range(6):
        for spawn in spawns:
            assert isinstance(spawn, Spawn)
            pid = node.fork(spawn)
            assert node.tell(ChildExited(spawn.index, pid, 1)) == []  # held back
        due = deadline(node.state)
        assert due is not None
        waits.append(due - node.now)
        assert node.tell(Tick(), after=(due - node.now) / 2) == []
        spawns = node.tell(Tick(), after=due - node.now)
        assert len(spawns) == 2

    assert waits == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert sum(say.event == "crash loop, backing off" for say in node.said) == 6


def test_five_crashes_in_ten_seconds_are_a_loop_and_a_quiet_time_ends_it() -> None:
    node = running()
    for number in range(4):
        task = Task(f"id-{number}", "shop.add")
        node.up(node.tell(ChildExited(0, node.pid(0), 0, 11, (task,)), after=1.0))
        assert node.state.children[0].phase is Phase.READY

    assert not any(isinstance(c, Spawn) for c in node.tell(ChildExited(0, node.pid(0), 0, 11)))
    node.up(node.tell(Tick(), after=0.5))
    spawns = node.tell(ChildExited(0, node.pid(0), 0, 11), after=30.0)

    assert spawns == [Spawn(0, 1)]


def test_one_task_that_kills_child_after_child_holds_nobody_up() -> None:
    """Its verdicts end it; until then its neighbours must find a place to run."""
    node = running()
    for _ in range(20):
        spawns = node.tell(ChildExited(0, node.pid(0), 0, 11, (TASK,)), after=0.1)
        assert [c for c in spawns if isinstance(c, Spawn)] == [Spawn(0, 1)]
        node.up(spawns)


# ---------------------------------------------------------------- the agent

WITH_AGENT = Config(children=2, seats=6, agent=True)


def attended() -> tuple[Node, int]:
    """A node whose children and agent are up, and the agent's pid."""
    node = Node(WITH_AGENT)
    spawns = node.tell(ServerReady(1))
    assert spawns == [Spawn(AGENT, 1), Spawn(0, 1), Spawn(1, 1)]
    pid = node.fork(spawns[0])
    node.up(spawns[1:])
    return node, pid


def test_the_agent_is_started_first_and_leaves_last() -> None:
    node, agent = attended()

    node.tell(SignalArrived("TERM"))
    assert node.tell(ChildExited(0, node.pid(0), 0)) == []
    assert node.tell(ChildExited(1, node.pid(1), 0)) == [SignalChild(AGENT, agent, "TERM")]
    assert node.tell(ChildExited(AGENT, agent, 0)) == [RetireServer(1)]
    assert node.tell(ServerExited(1, "exit code 0")) == [Exit(0)]


def test_an_agent_that_does_not_end_is_killed_and_costs_no_more_than_its_grace() -> None:
    node, agent = attended()
    for index in (0, 1):
        node.tell(ChildExited(index, node.pid(index), 0, 9))
    node.tell(SignalArrived("QUIT"))
    for index in list(node.state.children):
        node.tell(ChildExited(index, node.pid(index), 0))

    due = deadline(node.state)
    assert due == node.now + WITH_AGENT.agent_grace
    assert node.tell(Tick(), after=WITH_AGENT.agent_grace) == [KillChild(AGENT, agent)]
    assert node.tell(ChildExited(AGENT, agent, 0, 9)) == [RetireServer(1)]
    assert node.tell(ServerExited(1, "exit code 0")) == [Exit(0)]


def test_a_dead_agent_is_replaced_later_each_time_and_charges_nobody() -> None:
    node, agent = attended()
    waits = []
    for _ in range(4):
        assert node.tell(ChildExited(AGENT, agent, 0, 9)) == []
        due = deadline(node.state)
        assert due is not None
        waits.append(round(due - node.now, 3))
        spawns = node.tell(Tick(), after=due - node.now)
        assert spawns == [Spawn(AGENT, 1)]
        agent = node.fork(spawns[0])
    assert waits == [0.5, 1.0, 2.0, 4.0]

    node.tell(Tick(), after=WITH_AGENT.agent_steady)
    node.tell(ChildExited(AGENT, agent, 0, 9))
    assert deadline(node.state) == node.now + 0.5  # it had worked for long: this is something new


def test_the_agent_follows_the_generation() -> None:
    node, agent = attended()
    node.tell(SignalArrived("HUP"))
    spawns = node.tell(ServerReady(2))
    assert spawns == [Spawn(2, 2), Spawn(3, 2)]
    commands = node.up(spawns)
    node.tell(Tick())
    # told when the new children are all there, and replaced when it is gone
    assert node.state.agent is not None
    assert node.state.agent.told
    assert SignalChild(0, 1002, "TERM") in commands
    assert node.tell(ChildExited(AGENT, agent, 0)) == [Spawn(AGENT, 2)]


def test_an_agent_whose_server_died_is_forgotten_with_it() -> None:
    node, _ = attended()
    node.tell(ServerExited(1, "SIGKILL"))
    assert node.state.agent is None


def test_a_frozen_agent_is_killed() -> None:
    node, agent = attended()
    assert node.tell(ChildStuck(AGENT, agent, "stopped")) == [KillChild(AGENT, agent)]


def test_recycled_child_is_replaced_at_once_however_often() -> None:
    node = running()

    for _ in range(50):
        spawns = node.tell(ChildExited(0, node.pid(0), ChildExit.RECYCLE))
        assert spawns == [Spawn(0, 1)]
        node.up(spawns)

    assert all(say.level == "info" for say in node.said)


def test_child_that_settled_its_hard_limit_itself_is_no_crash() -> None:
    node = running()

    commands = node.tell(ChildExited(0, node.pid(0), ChildExit.LIMIT, 0, (TASK,)))

    assert commands == [Spawn(0, 1)]


def test_retiring_child_works_until_its_replacement_is_ready() -> None:
    node = running()
    old = node.pid(0)

    spawns = node.tell(ChildRetiring(0, old, 1))
    assert spawns == [Spawn(2, 1)]
    assert node.up(spawns) == [SignalChild(0, old, "TERM")]

    assert node.tell(ChildExited(0, old, ChildExit.DONE)) == []


def test_hard_limit_is_charged_before_the_kill_and_replaced_without_penalty() -> None:
    node = running()
    pid = node.pid(1)

    commands = node.tell(ChildStuck(1, pid, "hard time limit of 3 s", TASK))
    charge = Charge(
        TASK,
        VerdictKind.HARD_LIMIT,
        "child killed",
        {"index": 1, "pid": pid, "reason": "hard time limit of 3 s"},
    )
    assert commands == [charge, KillChild(1, pid), Spawn(2, 1)]

    assert node.tell(ChildExited(1, pid, 0, 9, (TASK,))) == []


def test_term_is_warm_and_waits_for_ever() -> None:
    node = running()

    commands = node.tell(SignalArrived("TERM"))
    assert commands == [SignalChild(0, 1001, "TERM"), SignalChild(1, 1002, "TERM")]
    assert deadline(node.state) is None  # no limit on what runs

    assert node.tell(ChildExited(0, 1001, 0)) == []
    assert node.tell(ChildExited(1, 1002, 0)) == [RetireServer(1)]
    assert node.tell(ServerExited(1, "exit code 0")) == [Exit(0)]


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_asked_twice_it_is_cold_and_a_third_time_kills(name: SignalName) -> None:
    node = running()

    node.tell(SignalArrived(name))
    commands = node.tell(SignalArrived(name))
    assert commands == [SignalChild(0, 1001, "QUIT"), SignalChild(1, 1002, "QUIT")]
    assert (
        node.tell(SignalArrived("TERM")) == []
    )  # a process manager that repeats itself is in no such hurry
    assert node.tell(SignalArrived("INT")) == [KillChild(0, 1001), KillChild(1, 1002)]

    node.tell(ChildExited(0, 1001, 0, 9, (TASK,)))
    node.tell(ChildExited(1, 1002, 0, 9))
    assert node.tell(ServerExited(1, "exit code 0")) == [Exit(1)]


def test_a_soft_timeout_comes_before_a_cold_stop() -> None:
    node = running(Config(children=2, seats=6, soft_timeout=4.0))

    commands = node.tell(SignalArrived("QUIT"))
    assert commands == [SignalChild(0, 1001, "TERM"), SignalChild(1, 1002, "TERM")]
    assert deadline(node.state) == node.now + 4.0
    assert node.tell(ChildExited(0, 1001, 0)) == []
    assert node.tell(Tick(), after=4.0) == [SignalChild(1, 1002, "QUIT")]


def test_who_asks_again_does_not_wait_for_the_soft_timeout() -> None:
    node = running(Config(children=2, seats=6, soft_timeout=4.0))

    node.tell(SignalArrived("QUIT"))

    commands = node.tell(SignalArrived("QUIT"))
    assert commands == [SignalChild(0, 1001, "QUIT"), SignalChild(1, 1002, "QUIT")]


def test_a_soft_timeout_shortens_a_longer_warm_stop() -> None:
    node = running(Config(children=2, seats=6, shutdown_timeout=60.0, soft_timeout=4.0))

    node.tell(SignalArrived("TERM"))
    assert deadline(node.state) == node.now + 60.0
    assert node.tell(SignalArrived("INT")) == []

    assert deadline(node.state) == node.now + 4.0


def test_cold_stop_in_time_exits_with_0() -> None:
    node = running()

    node.tell(SignalArrived("QUIT"))
    node.tell(ChildExited(0, 1001, 0))
    node.tell(ChildExited(1, 1002, 0))

    assert node.tell(ServerExited(1, "exit code 0")) == [Exit(0)]


def test_cold_stop_kills_after_the_grace_and_exits_with_1_without_a_verdict() -> None:
    node = running()
    node.tell(SignalArrived("QUIT"))
    node.tell(ChildExited(0, 1001, 0))

    assert node.tell(Tick(), after=4.9) == []
    assert node.tell(Tick(), after=0.2) == [KillChild(1, 1002)]
    assert node.tell(ChildExited(1, 1002, 0, 9, (TASK,))) == [RetireServer(1)]
    assert node.tell(ServerExited(1, "exit code 0")) == [Exit(1)]


def test_shutdown_timeout_turns_warm_into_cold() -> None:
    node = running(Config(children=2, seats=6, shutdown_timeout=30.0))
    node.tell(SignalArrived("TERM"))

    assert deadline(node.state) == node.now + 30.0
    commands = node.tell(Tick(), after=30.0)

    assert commands == [SignalChild(0, 1001, "QUIT"), SignalChild(1, 1002, "QUIT")]
    assert node.state.mode is Mode.COLD


def test_signal_while_importing_ends_at_once_with_0() -> None:
    for name in ("TERM", "INT", "QUIT"):
        node = Node()
        assert node.tell(SignalArrived(name)) == [KillServer(1)]
        assert node.tell(ServerExited(1, "SIGKILL")) == [Exit(0)]


def test_child_that_starts_during_a_stop_is_told_and_may_not_delay_it() -> None:
    node = Node()
    spawns = node.tell(ServerReady(1))
    node.tell(SignalArrived("TERM"))

    assert node.tell(ChildStarted(0, 1001, 1)) == [SignalChild(0, 1001, "TERM")]
    assert node.tell(SpawnFailed(1, 1, "Resource temporarily unavailable")) == []
    assert node.tell(Tick(), after=5.0) == [KillChild(0, 1001)]
    assert node.tell(ChildExited(0, 1001, 0, 9)) == [RetireServer(1)]
    assert node.tell(ServerExited(1, "exit code 0")) == [Exit(0)]
    assert len(spawns) == 2


def test_hup_brings_up_the_new_before_it_drains_the_old() -> None:
    node = running()

    assert node.tell(SignalArrived("HUP")) == [StartServer(2)]
    spawns = node.tell(ServerReady(2))
    assert spawns == [Spawn(2, 2), Spawn(3, 2)]
    assert node.up(spawns[:1]) == []  # not all are ready yet
    assert node.up(spawns[1:]) == [
        SignalChild(0, 1001, "TERM"),
        SignalChild(1, 1002, "TERM"),
    ]
    assert node.tell(ChildExited(0, 1001, 0)) == []
    assert node.tell(ChildExited(1, 1002, 0)) == [RetireServer(1)]
    assert node.tell(ServerExited(1, "exit code 0")) == []
    assert node.state.current == 2


def test_hup_with_a_broken_app_keeps_the_old_and_says_one_line() -> None:
    node = running()
    node.said.clear()
    node.tell(SignalArrived("HUP"))

    assert node.tell(ServerFailed(2, "No module named 'x'.")) == []
    assert node.tell(ServerExited(2, "exit code 1")) == []

    assert [say.event for say in node.said if say.level == "error"] == [
        "reload failed, the old code goes on"
    ]
    assert node.tell(ChildExited(0, 1001, 0, 9))[-1] == Spawn(0, 1)


def test_second_hup_gives_up_the_import_on_its_way() -> None:
    node = running()
    node.tell(SignalArrived("HUP"))

    assert node.tell(SignalArrived("HUP")) == [KillServer(2), StartServer(3)]
    assert node.tell(ServerExited(2, "SIGKILL")) == []
    assert node.tell(ServerReady(3)) == [Spawn(2, 3), Spawn(3, 3)]


def test_old_children_are_still_replaced_while_the_new_ones_come_up() -> None:
    node = running()
    node.tell(SignalArrived("HUP"))
    node.tell(ServerReady(2))

    assert node.tell(ChildExited(0, 1001, 0, 9, (TASK,)))[-1] == Spawn(0, 1)


def test_lost_fork_server_is_started_again_after_a_pause() -> None:
    node = running()

    commands = node.tell(ServerExited(1, "SIGKILL"))
    assert commands == [KillChild(0, 1001), KillChild(1, 1002)]
    due = deadline(node.state)
    assert due is not None
    assert node.tell(Tick(), after=due - node.now) == [StartServer(2)]
    assert node.tell(ServerReady(2)) == [Spawn(0, 2), Spawn(1, 2)]


# ---------------------------------------------------------------- another number of children

SCALED = Config(children=1, seats=12, most=4)


def test_it_grows_and_says_so() -> None:
    node = running(SCALED)

    spawns = node.tell(Rescale(3, waiting=40, busy=1))
    assert spawns == [Spawn(1, 1), Spawn(2, 1)]
    assert node.up(spawns) == []
    assert node.said[-1] == Say(
        "info",
        "more children",
        {"children": 3, "before": 1, "waiting": 40, "busy": 1},
    )


def test_it_shrinks_in_the_order_it_is_told_and_charges_nobody() -> None:
    node = running(SCALED)
    node.up(node.tell(Rescale(4)))

    commands = node.tell(Rescale(2, order=(2, 0, 1, 3)))
    assert commands == [
        SignalChild(2, node.pid(2), "TERM"),
        SignalChild(0, node.pid(0), "TERM"),
    ]
    assert node.tell(ChildExited(2, node.pid(2), 0)) == []
    # one had begun a task in that moment, and dies of it: that is its doing, and not replaced
    dies = node.tell(ChildExited(0, node.pid(0), 0, 11, (TASK,)))
    assert [type(command) for command in dies] == [Charge]
    assert sorted(node.state.children) == [1, 3]


def test_one_that_was_told_to_go_has_all_the_time_it_needs_until_the_node_stops() -> None:
    node = running(Config(children=1, seats=12, most=4, shutdown_timeout=30.0))
    node.up(node.tell(Rescale(2)))

    node.tell(Rescale(1, order=(0,)))
    assert deadline(node.state) is None
    node.tell(SignalArrived("TERM"))
    assert deadline(node.state) == node.now + 30.0
    assert node.tell(Tick(), after=30.0) == [
        SignalChild(0, node.pid(0), "QUIT"),
        SignalChild(1, node.pid(1), "QUIT"),
    ]


def test_a_refill_turns_a_shrink_around() -> None:
    node = running(SCALED)
    node.up(node.tell(Rescale(4)))
    node.tell(Rescale(2, order=(3, 2)))

    # those that were told go; others come at once
    spawns = node.tell(Rescale(4))
    assert spawns == [Spawn(4, 1), Spawn(5, 1)]
    node.up(spawns)
    assert node.tell(ChildExited(3, node.pid(3), 0)) == []


def test_those_on_their_way_go_first() -> None:
    node = running(SCALED)
    asked = node.tell(Rescale(3))
    starting = node.fork(asked[0])

    assert node.tell(Rescale(1)) == [SignalChild(1, starting, "TERM")]
    # the fork server has yet to answer for the other
    assert isinstance(asked[1], Spawn)
    assert node.tell(ChildStarted(2, 2000, 1)) == [SignalChild(2, 2000, "TERM")]
    assert node.state.children[0].phase is Phase.READY


def test_a_stop_while_it_grows_takes_all_along() -> None:
    node = running(SCALED)
    node.tell(Rescale(3))
    ready = node.pid(0)

    assert node.tell(SignalArrived("TERM")) == [SignalChild(0, ready, "TERM")]
    assert node.tell(Rescale(4)) == []
    assert node.tell(ChildStarted(1, 2001, 1)) == [SignalChild(1, 2001, "TERM")]
    assert node.tell(ChildStarted(2, 2002, 1)) == [SignalChild(2, 2002, "TERM")]
    for index, pid in ((0, ready), (1, 2001)):
        assert node.tell(ChildExited(index, pid, 0)) == []
    # it had not learned to answer the signal yet
    assert node.tell(ChildExited(2, 2002, 0, 15)) == [RetireServer(1)]
    assert node.tell(ServerExited(1, "exit code 0")) == [Exit(0)]


def test_a_reload_brings_up_as_many_as_are_wanted_now() -> None:
    node = running(SCALED)
    node.up(node.tell(Rescale(3)))
    node.tell(SignalArrived("HUP"))
    spawns = node.tell(ServerReady(2))
    assert len(spawns) == 3
    node.up(spawns[:1])

    # wanted meanwhile: fewer of both generations
    commands = node.tell(Rescale(2, order=(0, 1, 2)))
    assert commands == [SignalChild(0, node.pid(0), "TERM")]
    followed = node.up(spawns[1:])
    assert followed == [SignalChild(1, node.pid(1), "TERM"), SignalChild(2, node.pid(2), "TERM")]
    working = [c for c in node.state.children.values() if c.phase is Phase.READY]
    assert [c.generation for c in working] == [2, 2]
    assert node.state.current == 2


def test_a_node_of_no_children_starts_reloads_and_stops() -> None:
    node = running(Config(children=0, seats=6, most=2))
    assert [say.event for say in node.said] == ["ready"]

    assert node.tell(SignalArrived("HUP")) == [StartServer(2)]
    assert node.state.current == 1  # not before it is imported
    assert node.tell(ServerReady(2)) == [RetireServer(1)]
    assert node.tell(ServerExited(1, "exit code 0")) == []
    assert node.tell(Rescale(1)) == [Spawn(0, 2)]
    node.tell(Rescale(0))
    assert node.tell(ChildStarted(0, 2000, 2)) == [SignalChild(0, 2000, "TERM")]
    assert node.tell(ChildExited(0, 2000, 0)) == []
    assert node.tell(SignalArrived("TERM")) == [RetireServer(2)]
    assert node.tell(ServerExited(2, "exit code 0")) == [Exit(0)]


def test_growth_waits_while_children_crash() -> None:
    node = running(SCALED)
    spawns = node.tell(Rescale(2))
    assert isinstance(spawns[0], Spawn)
    assert node.tell(ChildExited(spawns[0].index, node.fork(spawns[0]), 1)) == []

    assert node.tell(Rescale(4)) == []
    due = deadline(node.state)
    assert due is not None
    assert len(node.tell(Tick(), after=due - node.now)) == 3


def test_a_number_that_is_fixed_or_out_of_bounds() -> None:
    node = running()
    before = node.state
    assert node.tell(Rescale(5)) == []
    assert node.state == before

    node = running(SCALED)
    assert len(node.tell(Rescale(50))) == 3


def test_usr1_goes_to_every_child() -> None:
    node = running()

    assert node.tell(SignalArrived("USR1")) == [
        SignalChild(0, 1001, "USR1"),
        SignalChild(1, 1002, "USR1"),
    ]


def test_frames_of_a_child_that_is_gone_are_ignored() -> None:
    node = running()
    before = node.state

    for event in (
        ChildReady(0, 7, 1),
        ChildExited(0, 7, 1),
        ChildStuck(0, 7, "x", TASK),
        ChildRetiring(5, 7, 1),
        ChildStarted(0, 7, 1),
    ):
        assert node.tell(event) == []

    assert node.state == before


def test_tables_lead_somewhere() -> None:
    """No move leads back to life, and no signal takes a stop back."""
    order = list(Phase)
    assert all(order.index(after) > order.index(before) for (before, _), after in MOVES.items())
    modes = list(Mode)
    assert all(modes.index(after) > modes.index(before) for (before, _), after in SIGNALS.items())


class AnyOrder(RuleBasedStateMachine):
    """A world of processes that does what the machine commands, and lets anything happen in between.

    The world knows which processes truly exist; the invariants compare what the machine does with that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.config = Config(children=2, seats=12, most=4, shutdown_timeout=20.0)
        self.told: set[int] = set()  # children that were told to end
        self.now = 0.0
        self.pids = 0
        self.servers: dict[int, str] = {}  # generation → importing | serving
        self.asked: list[Spawn] = []
        self.alive: dict[int, tuple[int, int, bool]] = {}  # pid → seat, generation, ready
        self.dying: set[int] = set()  # sent SIGKILL, must be reported dead
        self.orphans: set[int] = set()  # of a fork server that just died
        self.exit: int | None = None
        self.stopping = False
        self.blame = True  # whether what ends now may be charged
        self.state, commands = begin(self.config)
        self.obey(commands)

    def tell(self, event: Event) -> None:
        before = self.state
        self.state, commands = step(self.state, event, self.now)
        assert step(before, event, self.now) == (self.state, commands)
        self.obey(commands)

    def obey(self, commands: tuple[Command, ...]) -> None:
        for command in commands:
            assert self.exit is None, "nothing follows the exit"
            match command:
                case StartServer(generation):
                    assert not self.stopping, "no new server after a stop began"
                    assert generation not in self.servers
                    self.servers[generation] = "importing"
                case Spawn():
                    assert not self.stopping, "no spawn after a stop began"
                    assert self.servers.get(command.generation) == "serving"
                    taken = {seat for seat, _, _ in self.alive.values()}
                    taken |= {spawn.index for spawn in self.asked}
                    assert command.index not in taken, "two children in one seat"
                    self.asked.append(command)
                case SignalChild(_, pid, name):
                    assert pid in self.alive, "a signal to a process that is not there"
                    if name == "TERM":
                        assert pid not in self.told, "told twice"
                        self.told.add(pid)
                case KillChild(_, pid):
                    assert pid in self.alive or pid in self.orphans
                    if pid in self.orphans:
                        self.orphans.remove(pid)
                    else:
                        self.dying.add(pid)
                case RetireServer(generation) | KillServer(generation):
                    assert self.servers.get(generation), "ends a server that is not there"
                    self.servers[generation] = "ending"
                case Exit(code):
                    self.exit = code
                case Charge(task):
                    assert task.id.startswith("task-")
                    assert self.blame, "charged for an exit as it was told"
                case Say():
                    pass
        assert sum(isinstance(c, Exit) for c in commands) <= 1

    def bury_server(self, generation: int, how: str) -> None:
        del self.servers[generation]
        self.asked = [spawn for spawn in self.asked if spawn.generation != generation]
        orphans = {pid for pid, (_, of, _) in self.alive.items() if of == generation}
        # as good as dead, but for the SIGKILL that the machine has to send
        for pid in orphans:
            del self.alive[pid]
            self.dying.discard(pid)
        self.orphans = set(orphans)
        self.tell(ServerExited(generation, how))
        assert not self.orphans, "an orphan is left alive"

    # ---- what may happen

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 6.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Tick())

    @precondition(lambda self: "importing" in self.servers.values())
    @rule(data=st.data(), works=st.sampled_from([True, True, True, False]))
    def import_ends(self, data: st.DataObject, works: bool) -> None:
        importing = [g for g, life in self.servers.items() if life == "importing"]
        generation = data.draw(st.sampled_from(importing))
        if works:
            self.servers[generation] = "serving"
            self.tell(ServerReady(generation))
        else:
            self.servers[generation] = "ending"
            booting = self.state.mode is Mode.BOOTING
            self.tell(ServerFailed(generation, "broken"))
            self.stopping |= booting

    @precondition(lambda self: "ending" in self.servers.values())
    @rule()
    def server_ends(self) -> None:
        self.bury_server(next(g for g, life in self.servers.items() if life == "ending"), "exit")

    @precondition(lambda self: self.servers)
    @rule(data=st.data())
    def server_is_killed(self, data: st.DataObject) -> None:
        booting = self.state.mode is Mode.BOOTING
        self.bury_server(data.draw(st.sampled_from(sorted(self.servers))), "SIGKILL")
        self.stopping |= booting

    @precondition(lambda self: self.asked)
    @rule(works=st.sampled_from([True, True, True, True, False]), hasty=st.booleans())
    def fork_answers(self, works: bool, hasty: bool) -> None:
        spawn = self.asked.pop(0)
        if works:
            self.pids += 1
            self.alive[self.pids] = (spawn.index, spawn.generation, False)
            if hasty:
                # the child was faster than its fork server
                self.tell(ChildReady(spawn.index, self.pids, spawn.generation))
            self.tell(ChildStarted(spawn.index, self.pids, spawn.generation))
        else:
            self.tell(SpawnFailed(spawn.index, spawn.generation, "EAGAIN"))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def child_gets_ready(self, data: st.DataObject) -> None:
        pid = data.draw(st.sampled_from(sorted(self.alive)))
        seat, generation, _ = self.alive[pid]
        self.alive[pid] = (seat, generation, True)
        self.tell(ChildReady(seat, pid, generation))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def child_retires(self, data: st.DataObject) -> None:
        pid = data.draw(st.sampled_from(sorted(self.alive)))
        seat, generation, _ = self.alive[pid]
        self.tell(ChildRetiring(seat, pid, generation))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def task_runs_over(self, data: st.DataObject) -> None:
        pid = data.draw(st.sampled_from(sorted(self.alive)))
        self.tell(ChildStuck(self.alive[pid][0], pid, "limit", Task(f"task-{pid}", "t")))

    @precondition(lambda self: self.alive)
    @rule(
        data=st.data(),
        how=st.sampled_from([(0, 0), (79, 0), (80, 0), (70, 0), (0, 9), (0, 11), (0, 15)]),
        busy=st.booleans(),
    )
    def child_ends(self, data: st.DataObject, how: tuple[int, int], busy: bool) -> None:
        pid = data.draw(st.sampled_from(sorted(self.alive)))
        seat, _, _ = self.alive.pop(pid)
        self.dying.discard(pid)
        tasks = (Task(f"task-{pid}", "t"),) if busy else ()
        self.blame = not (pid in self.told and how in ((0, 0), (0, 15)))
        self.tell(ChildExited(seat, pid, how[0], how[1], tasks))
        self.blame = True

    @rule(data=st.data(), number=st.integers(0, 5))
    def another_number(self, data: st.DataObject, number: int) -> None:
        order = data.draw(st.permutations(range(self.config.seats)))
        before = self.state
        self.tell(Rescale(number, tuple(order)))
        if self.state.wanted == before.wanted:
            return
        ready = {
            index
            for index, child in before.children.items()
            if child.phase is Phase.READY and child.generation == before.current
        }
        kept = {i for i in ready if self.state.children[i].phase is Phase.READY}
        if self.state.current == before.current and kept != ready:
            assert len(kept) >= min(len(ready), self.state.wanted) or self.state.incoming
            last_kept = min((order.index(index) for index in kept), default=len(order))
            assert all(order.index(index) < last_kept for index in ready - kept)

    @rule(name=st.sampled_from(["HUP", "USR1", "HUP"]))
    def signal(self, name: SignalName) -> None:
        self.tell(SignalArrived(name))

    # rarer, so that most runs see life before the stop
    @precondition(lambda self: self.pids > 4)
    @rule(name=st.sampled_from(["TERM", "INT", "QUIT"]))
    def stop(self, name: SignalName) -> None:
        self.stopping = True
        self.tell(SignalArrived(name))

    # ---- what always holds

    @invariant()
    def bounded(self) -> None:
        generations = {g for _, g, _ in self.alive.values()} | {s.generation for s in self.asked}
        for generation in generations:
            members = [
                child
                for child in self.state.children.values()
                if child.generation == generation
                and child.phase in (Phase.ASKED, Phase.STARTING, Phase.READY)
            ]
            assert len(members) <= 4
            if self.state.mode is Mode.RUNNING:
                # one that was asked for cannot be told before it is there
                started = [child for child in members if child.phase is not Phase.ASKED]
                assert len(started) <= self.state.wanted
        assert len(self.alive) + len(self.asked) <= self.config.seats

    @invariant()
    def knows_what_lives(self) -> None:
        known = {child.pid for child in self.state.children.values() if child.pid}
        assert known == set(self.alive)
        assert set(self.state.servers) == set(self.servers)

    @invariant()
    def nothing_overdue(self) -> None:
        """After a step nothing is due any more: the shell never spins."""
        due = deadline(self.state)
        assert due is None or due > self.now

    @invariant()
    def full_or_held_back(self) -> None:
        """A running node has, or has asked for, all its children, or says when it will ask for them."""
        if self.state.mode is not Mode.RUNNING or len(self.state.children) == self.config.seats:
            return
        current = self.state.current
        serving = self.servers.get(current) == "serving"
        members = sum(
            child.generation == current
            and child.phase in (Phase.ASKED, Phase.STARTING, Phase.READY)
            for child in self.state.children.values()
        )
        if serving and members < self.state.wanted:
            assert self.state.hold_until > self.now
        if not current and not self.state.incoming:
            assert self.state.server_at is not None

    def teardown(self) -> None:
        """A stop ends, whatever state it finds: every process does what it must, no more."""
        if self.exit is None:
            self.stopping = True
            self.tell(SignalArrived("TERM"))
        for _ in range(200):
            if self.exit is not None:
                break
            # the slowest world: children obey SIGKILL only, servers obey
            for spawn in list(self.asked):
                self.asked.remove(spawn)
                self.pids += 1
                self.alive[self.pids] = (spawn.index, spawn.generation, False)
                self.tell(ChildStarted(spawn.index, self.pids, spawn.generation))
            for pid in sorted(self.dying & set(self.alive)):
                seat, _, _ = self.alive.pop(pid)
                self.dying.discard(pid)
                self.tell(ChildExited(seat, pid, 0, 9))
            for generation in [g for g, life in self.servers.items() if life == "ending"]:
                self.bury_server(generation, "exit code 0")
            due = deadline(self.state)
            if due is not None:
                self.now = max(self.now, due)
                self.tell(Tick())
        assert self.exit in (0, 1), msgspec.structs.asdict(self.state)


AnyOrder.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestAnyOrder = AnyOrder.TestCase


def test_state_is_a_value() -> None:
    first, _ = begin(CONFIG)
    after, _ = step(first, ServerReady(1), 0.0)

    assert first == begin(CONFIG)[0]
    assert isinstance(after, State)
