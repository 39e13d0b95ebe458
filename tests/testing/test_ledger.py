"""The ledger: what is done, dead, pending, lost, unexpected and recovered; which duplicates the faults explain."""

from __future__ import annotations

import random
from collections.abc import Iterable

from amqtask.testing.history import Event, parse
from amqtask.testing.kinds import TaskKind
from amqtask.testing.ledger import FOLLOWED, UNSETTLED, Incident, Ledger, Verdict

KINDS = {
    "short": TaskKind("short", 1),
    "failing": TaskKind("failing", 1, end="dead"),
    "crashing": TaskKind("crashing", 1, end="dead", crashes=3),
    "delayed": TaskKind("delayed", 1, later=True),
}
PUBLISHER, CHILD, OTHER = 1, 2, 3


def events(*lines: str) -> list[Event]:
    return [parse(line) for line in lines]


def judge(
    lines: Iterable[str],
    *incidents: Incident,
    living: Iterable[int] = (),
    within: float | None = None,
) -> Verdict:
    ledger = Ledger(KINDS)
    found = events(*lines)
    random.Random(4).shuffle(found)  # files are read one after the other
    ledger.add(found)
    return ledger.judge(incidents, living=living, within=within)


def sent(task: str, kind: str = "short", at: float = 1.0) -> list[str]:
    return [
        f"{at} {PUBLISHER} attempted {task} {kind}",
        f"{at + 0.1} {PUBLISHER} acknowledged {task}",
    ]


def ran(task: str, at: float, pid: int = CHILD, retries: int = 0) -> list[str]:
    return [f"{at} {pid} started {task} {retries}", f"{at + 0.1} {pid} finished {task} {retries}"]


def kill(at: float, pid: int = CHILD) -> Incident:
    return Incident(number=1, kind="kill-child", began=at, ended=at, broke=at, pids=(pid,), back=at)


def test_accounts_for_every_task() -> None:
    verdict = judge(
        [
            *sent("a"),
            *ran("a", 2),
            *sent("b", "failing"),
            "2 2 started b 0",
            "2.1 2 raised b 0",
            "9 9 dead b failure",
            *sent("c"),
            "9 9 pending c work",
            *sent("d"),
            "1 1 attempted e short",
            *ran("e", 3),
            "1 1 attempted f short",
        ]
    )

    assert (verdict.attempted, verdict.acknowledged) == (6, 4)
    assert (verdict.done, verdict.dead, verdict.pending, verdict.lost) == (1, 1, 1, 1)
    assert (verdict.recovered, verdict.stuck, verdict.unexpected) == (1, 1, 0)
    assert verdict.failures == ("1 lost", "1 stuck")
    assert [(finding.id, finding.why) for finding in verdict.findings] == [
        ("d", "lost"),
        ("c", "stuck"),
    ]
    assert "acknowledged" in verdict.findings[0].lines[1]


def test_all_is_well() -> None:
    verdict = judge([*sent("a"), *ran("a", 2)])
    assert verdict.good
    assert (verdict.duplicates, verdict.bound, verdict.recovery) == (0, 0, None)


def test_what_should_not_have_ended_so_is_unexpected() -> None:
    verdict = judge(
        [
            *ran("never-sent", 1),
            *sent("a"),
            "9 9 dead a crashes",
            *sent("b", "failing"),
            *ran("b", 2),
        ]
    )
    assert {finding.id: finding.why for finding in verdict.findings} == {
        "never-sent": "unexpected: it was never sent",
        "a": "unexpected: it is dead and should be done",
        "b": "unexpected: it is done and should be dead",
    }
    assert verdict.failures == ("3 unexpected",)


def test_a_kill_explains_what_its_process_had_started() -> None:
    again = [*sent("a"), "2 2 started a 0", *ran("a", 3, OTHER)]
    assert judge(again, kill(2.5)).good
    assert (judge(again, kill(2.5)).duplicates, judge(again, kill(2.5)).bound) == (1, 1)

    other = judge(again, kill(2.5, OTHER))
    assert (other.duplicates, other.bound, other.unexplained) == (1, 0, 1)
    assert other.failures == ("1 ran more often than the faults explain",)


def test_a_kill_explains_what_had_just_ended_and_no_more() -> None:
    again = [*sent("a"), *ran("a", 2), *ran("a", 9, OTHER)]
    assert judge(again, kill(2.1 + UNSETTLED)).good
    assert not judge(again, kill(2.2 + UNSETTLED)).good
    followed = ["2 1 awaits a", *again]
    assert judge(followed, kill(2.1 + FOLLOWED)).good
    assert not judge(followed, kill(2.2 + FOLLOWED)).good


def test_a_repeat_of_one_task_is_not_excused_by_what_could_have_repeated_others() -> None:
    others = [line for task in "bcdefg" for line in [*sent(task), *ran(task, 2.4, OTHER)]]
    verdict = judge([*others, *sent("a"), *ran("a", 2), *ran("a", 5)], kill(2.5, OTHER))
    assert (verdict.duplicates, verdict.bound, verdict.unexplained) == (1, 6, 1)
    assert not verdict.good


def test_what_ended_while_acks_were_held_back_is_open_to_the_next_fault() -> None:
    again = [*sent("a"), *ran("a", 2), *ran("a", 9, OTHER)]
    slow = Incident(number=1, kind="slow", began=2.2, ended=6.0)
    alarm = Incident(number=1, kind="alarm", began=2.2, ended=6.0)
    assert not judge(again, alarm, kill(6.2)).good
    assert judge(["2 1 awaits a", *again], alarm, kill(6.2)).good
    assert not judge(again, kill(6.1)).good
    assert judge(again, slow, kill(6.1)).good
    assert not judge(again, slow, kill(6.2 + UNSETTLED)).good


def test_a_slow_network_explains_only_what_waited_long_for_its_confirm() -> None:
    slow = Incident(number=1, kind="slow", began=1.05, ended=9.0)
    assert not judge([*sent("a"), *ran("a", 2), *ran("a", 5)], slow).good
    waited = ["1 1 attempted a short", "4 1 acknowledged a"]
    assert judge([*waited, *ran("a", 5), *ran("a", 6)], slow).good


def test_a_send_while_the_broker_was_away_explains_nothing() -> None:
    away = Incident(number=1, kind="broker-stop", began=1.0, ended=5.0, broke=1.5, back=4.5)
    lines = ["2 1 attempted a short", "2.1 1 refused a ConnectFailed", *sent("a", at=6.0)]
    assert not judge([*lines, *ran("a", 7), *ran("a", 8)], away).good
    lines[0] = "1.4 1 attempted a short"
    assert judge([*lines, *ran("a", 7), *ran("a", 8)], away).good


def test_a_lost_connection_explains_what_was_being_sent() -> None:
    again = [*sent("a"), *ran("a", 2), *ran("a", 5, OTHER)]
    cut = Incident(number=1, kind="cut", began=1.05, ended=1.05, broke=1.05)
    assert judge(again, cut).good
    late = Incident(number=1, kind="cut", began=1.5, ended=1.5, broke=1.5)
    assert not judge(again, late).good


def test_a_send_that_was_tried_again_explains_one_more_run() -> None:
    lines = ["1 1 attempted a short", "2 1 refused a ConfirmTimeout", *sent("a", at=3.0)]
    assert judge([*lines, *ran("a", 4), *ran("a", 5)]).good
    assert not judge([*lines, *ran("a", 4), *ran("a", 5), *ran("a", 6)]).good


def test_a_crashing_task_kills_three_times_and_its_neighbours_may_run_again() -> None:
    crashes = [line for at in (2, 3, 4) for line in (f"{at} {CHILD + at} started a 0",)]
    dead = ["9 9 dead a crashes"]
    alone = judge([*sent("a", "crashing"), *crashes, *dead])
    assert (alone.duplicates, alone.crashed, alone.crashes) == (0, 1, 3)

    neighbour = [*sent("b"), *ran("b", 1.8, CHILD + 2), *ran("b", 6, OTHER)]
    verdict = judge([*sent("a", "crashing"), *crashes, *dead, *neighbour])
    assert (verdict.duplicates, verdict.good) == (1, True)


def test_retries_are_runs_of_their_own() -> None:
    assert judge([*sent("a"), *ran("a", 2), *ran("a", 3, retries=1)]).duplicates == 0
    assert judge([*sent("a"), *ran("a", 2, retries=1), *ran("a", 3, retries=1)]).duplicates == 1


def test_recovery_counts_from_when_work_could_go_on() -> None:
    outage = Incident(number=1, kind="broker-kill", began=2.0, ended=6.0, broke=2.0, back=5.0)
    lines = [*sent("a"), *ran("a", 2.5), *sent("b", at=1.5), *ran("b", 7.0)]
    assert judge(lines, outage).recovery == 7.1 - 5.0

    again = Incident(number=2, kind="cut", began=6.0, ended=6.0, broke=6.0, back=6.0)
    assert judge(lines, outage, again).recovery == 7.1 - 6.0

    idle = [*sent("a"), *ran("a", 1.5), *sent("b", at=8.0), *ran("b", 9.0)]
    assert judge(idle, outage).recovery is None


def test_work_must_go_on_soon_after_the_broker_is_back() -> None:
    outage = Incident(number=7, kind="broker-stop", began=2.0, ended=6.0, broke=2.0, back=5.0)
    lines = [*sent("a"), *ran("a", 2.5), *sent("b", at=1.5), *ran("b", 7.0)]
    assert judge(lines, outage, within=2.2).good
    assert judge(lines, outage, within=2.2).returns == 7.1 - 5.0
    assert judge(lines, outage, within=2.0).failures == (
        "after fault 7 (broker-stop) work went on 2.1 s after the broker was back, not within 2 s",
    )


def test_what_starts_early_is_unexpected() -> None:
    lines = ["1 1 attempted a delayed 2.500", "1.1 1 acknowledged a"]
    assert judge([*lines, *ran("a", 3.49)]).good
    assert judge([*lines, *ran("a", 3.4)]).findings[0].why == "unexpected: it started 0.100 s early"


def test_what_runs_after_its_revoke_is_unexpected() -> None:
    lines = [*sent("a"), "2 1 revoked a"]
    assert judge([*lines, *ran("a", 3)]).good
    assert judge([*lines, *ran("a", 6)]).failures == ("1 unexpected",)


def test_what_was_revoked_ends_by_a_node_that_says_so() -> None:
    verdict = judge([*sent("a"), "2 1 revoking a", "9 9 discarded a"])
    assert (verdict.good, verdict.revoked, verdict.lost) == (True, 1, 0)
    verdict = judge([*sent("a"), "2 1 revoking a"])
    assert (verdict.revoked, verdict.lost) == (0, 1)
    verdict = judge([*sent("a"), "2 1 revoking a", *ran("a", 3)])
    assert (verdict.revoked, verdict.done) == (0, 1)


def test_results_count_where_their_publisher_lived() -> None:
    lines = [
        *sent("a"),
        "2 1 awaits a",
        *ran("a", 2),
        *sent("b"),
        "2 1 awaits b",
        *ran("b", 2),
        "3 1 result a ok",
        "3 1 result b wrong: 5",
    ]
    assert judge(lines).results == 0
    verdict = judge(lines, living=[PUBLISHER])
    assert (verdict.results, verdict.results_missing) == (2, 1)
    assert verdict.findings[0].id == "b"


def test_forgetful_queues_are_only_reported() -> None:
    ledger = Ledger(KINDS)
    ledger.add(events(*sent("a"), *ran("a", 2), *ran("a", 5)))
    assert ledger.judge([], duplicates_count=False).good
    assert not ledger.judge([]).good
    assert not ledger.judge([], duplicates_count=False, troubles=["node1 died"]).good


def test_tells_what_is_open() -> None:
    ledger = Ledger(KINDS)
    ledger.add(events(*sent("a"), *sent("b"), *sent("c", "failing"), *ran("a", 2)))
    assert ledger.open() == {"b"}
    assert ledger.expected_dead() == 1
    assert ledger.waiting()
