"""The ledger of a chaos run: from what every process wrote down to a verdict in Jepsen's words. Pure.

Every id that was *attempted* is either *acknowledged* (the broker confirmed it) or not. What was acknowledged must be found
again: done, dead, revoked, or pending in a queue; what is in none of them is *lost*. What ran without having been attempted, or ended
as its kind does not end, is *unexpected*. What was never acknowledged and ran all the same is *recovered*, which is allowed.

A task may run twice when a fault hits a process that had started it and whose ack the broker did not have yet; how often that
can have happened is counted for each fault from the same lines, and is the bound the duplicates are held against.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from amqtask.testing.history import Event
from amqtask.testing.kinds import TaskKind

# Seconds after its last line in which a task may be unsettled: until the broker has read its ack; until its result or dead
# letter is confirmed first; and the retries of a process wait until the ladder of delays is declared. All of that takes
# milliseconds, and on a machine with ten times the work that it can do, or when its broker has just started, so long.
UNSETTLED = 2.0
FOLLOWED = 4.0
RETRIED = 12.0
RESENT = 2.5  # seconds without a confirm after which a publisher may send again by itself
AFTERMATH = (
    0.4  # seconds in which what was under way may still break off, or a lost connection be noticed
)
RETRY = 2.0  # seconds a task of the workload waits for its next attempt, at most
PASSAGE = 0.5  # seconds that the broker takes to hand over what is due
KNOWN = 3.0  # seconds after which every node knows of a revoke
EARLY = 0.05  # seconds before it is due in which a task may start
TOLD = 20  # ids of each sort that are told with what is known of them

# What a fault can have repeated: runs of the processes it hit, or messages on their way to the broker, or both.
RUNS = frozenset({"kill-child", "kill-supervisor", "stop-child"})
# What holds acks back while it lasts: what had ended is unsettled until it is over, and open to the next fault.
DELAYS = frozenset({"alarm", "slow", "freeze", "broker-freeze", "stop-child"})
SENDS = frozenset({"alarm", "slow"})
BOTH = frozenset(
    {
        "cut",
        "cut-one",
        "freeze",
        "broker-stop",
        "broker-kill",
        "broker-restart",
        "broker-freeze",
    }
)
KILLS = frozenset({"kill-child", "kill-supervisor", "kill-publisher"})
BROKER_DIES = frozenset({"broker-kill"})
BROKER_ENDS = frozenset({"broker-kill", "broker-stop", "broker-restart"})
AWAY = BROKER_ENDS | {"broker-freeze"}  # after which work must resume in time


class Incident(msgspec.Struct, frozen=True, kw_only=True):
    """A fault as it happened. Times are of the clock of the events.

    Attributes:
        number: counts from 1.
        kind: the fault's name.
        began: when it began.
        ended: when it was over.
        pids: the processes it hit; none means everybody.
        broke: when the last connection was gone, where that is known; else they may break off until ``ended``.
        back: from when on work could be expected again; ``None`` where it never stopped.
        text: what was done, for people.
    """

    number: int
    kind: str
    began: float
    ended: float
    pids: tuple[int, ...] = ()
    broke: float | None = None
    back: float | None = None
    text: str = ""


class Run(msgspec.Struct):
    """One run of a task: from its first line to its last, or to the death of its process."""

    id: str
    retries: int
    pid: int
    started: float
    ended: float | None = None
    settled: float = float("inf")  # by then the broker had its ack, unless a fault came between
    whole: bool = False  # it wrote its last line
    raised: bool = False


class Attempt(msgspec.Struct):
    """One try to send a task: until it was acknowledged or refused, or its process died."""

    id: str
    pid: int
    began: float
    ended: float | None = None


class Finding(msgspec.Struct, frozen=True):
    """One task with which something is wrong, and what is known of it."""

    id: str
    kind: str
    why: str
    lines: tuple[str, ...]


class FaultSummary(msgspec.Struct, frozen=True):
    """All faults of one kind: how many, and the longest time until work went on."""

    kind: str
    count: int
    recovery: float | None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a run showed.

    Attributes:
        attempted: ids that somebody tried to send.
        acknowledged: ids the broker confirmed; the sum of the next five.
        done: acknowledged and run to the end.
        dead: acknowledged and among the dead letters.
        revoked: acknowledged, revoked, and ended by a node without having run.
        pending: acknowledged and still in a queue at the end.
        lost: acknowledged and nowhere.
        stuck: messages that were in a queue at the end, wanted or not.
        unexpected: ran or died without having been sent, or ended as their kind does not.
        recovered: not acknowledged, and found all the same.
        duplicates: runs beyond those intended.
        bound: how many duplicates the faults can explain.
        unexplained: ids that ran more often than the faults that hit them explain.
        duplicates_count: whether such ids fail the run.
        crashed: tasks that were meant to kill their process, and ``crashes``: how often they did.
        results: results that living publishers waited for.
        results_missing: of these, what did not come or was wrong.
        recovery: seconds until work went on, the longest.
        returns: the same after the broker was away: from its first answer.
        faults: by kind.
        findings: the ids behind the numbers, at most some of each sort.
        troubles: what else went wrong, in sentences.
    """

    attempted: int
    acknowledged: int
    done: int
    dead: int
    revoked: int
    pending: int
    lost: int
    stuck: int
    unexpected: int
    recovered: int
    duplicates: int
    bound: int
    unexplained: int
    duplicates_count: bool
    crashed: int
    crashes: int
    results: int
    results_missing: int
    recovery: float | None
    returns: float | None
    faults: tuple[FaultSummary, ...]
    by_kind: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]
    troubles: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """What was not kept, in words."""
        found = []
        for count, text in (
            (self.lost, "lost"),
            (self.stuck, "stuck"),
            (self.unexpected, "unexpected"),
            (self.results_missing, "without the result that was waited for"),
        ):
            if count:
                found.append(f"{count} {text}")
        if self.duplicates_count and self.unexplained:
            found.append(f"{self.unexplained} ran more often than the faults explain")
        return (*found, *self.troubles)


class Ledger:
    """Takes the events of a run in any order of files; knows at each moment what is open, and judges at the end.

    Args:
        kinds: the kinds of tasks by name.
    """

    def __init__(self, kinds: Mapping[str, TaskKind]) -> None:
        self._kinds = kinds
        self._events: dict[str, list[Event]] = defaultdict(list)
        self._kind: dict[str, str] = {}
        self._due: dict[str, float] = {}
        self._asked: set[str] = set()
        self._unwanted: set[str] = set()  # somebody began to revoke them
        self._revoked: dict[str, float] = {}  # and since when that is confirmed
        self.discarded: set[str] = set()  # a node said that it ended them as revoked
        self.attempted: set[str] = set()
        self.acknowledged: set[str] = set()
        self.done: set[str] = set()
        self.ended: set[str] = set()  # done, or failed at least once
        self.begun: set[str] = set()
        self.dead: Counter[str] = Counter()
        self.pending: set[str] = set()
        self.last_start = 0.0  # when a task last started

    def add(self, events: Iterable[Event]) -> None:
        """Take events."""
        for event in events:
            self._events[event.id].append(event)
            match event.what:
                case "attempted":
                    self.attempted.add(event.id)
                    kind, _, countdown = event.note.partition(" ")
                    self._kind[event.id] = kind
                    if countdown:
                        due = event.time + float(countdown)
                        self._due[event.id] = min(self._due.get(event.id, _FOREVER), due)
                case "acknowledged":
                    self.acknowledged.add(event.id)
                case "started":
                    self.begun.add(event.id)
                    self.last_start = max(self.last_start, event.time)
                case "finished":
                    self.done.add(event.id)
                    self.ended.add(event.id)
                case "raised":
                    self.ended.add(event.id)
                case "awaits":
                    self._asked.add(event.id)
                case "revoking":
                    self._unwanted.add(event.id)
                case "revoked":
                    self._revoked[event.id] = event.time
                case "discarded":
                    self.discarded.add(event.id)
                case "dead":
                    self.dead[event.id] += 1
                case "pending":
                    self.pending.add(event.id)
                case _:
                    pass

    def open(self) -> set[str]:
        """What was acknowledged, should be done and is not."""
        return {
            task
            for task in self.acknowledged - self.done
            if self._of(task).end == "done" and not self.dead[task]
        }

    def waiting(self) -> bool:
        """Whether something was sent that has not started."""
        return len(self.attempted) > len(self.begun)

    def expected_dead(self) -> int:
        """How many acknowledged tasks must end among the dead letters."""
        return sum(self._of(task).end == "dead" for task in self.acknowledged)

    def known(self, task: str) -> list[Event]:
        """Everything that was written about a task, in order."""
        return sorted(self._events[task])

    def _of(self, task: str) -> TaskKind:
        return self._kinds.get(self._kind.get(task, ""), _UNKNOWN)

    def judge(
        self,
        incidents: Sequence[Incident],
        *,
        living: Iterable[int] = (),
        duplicates_count: bool = True,
        troubles: Iterable[str] = (),
        began: float = 0.0,
        within: float | None = None,
    ) -> Verdict:
        """The verdict.

        Args:
            incidents: what was done to the system.
            living: publishers that lived to the end: their results must have come.
            duplicates_count: whether duplicates that no fault explains are a failure.
            troubles: what else went wrong.
            began: the time that findings count from.
            within: seconds in which work must go on once the broker is back; ``None``: however long it takes.
        """
        runs, attempts = self._runs(incidents), self._attempts(incidents)
        found = set(self.done) | set(self.dead)
        revoked = (self.acknowledged & self._unwanted & self.discarded) - found - self.pending
        lost = self.acknowledged - found - self.pending - revoked
        unexpected = self._unexpected(runs)
        self._settle(runs, incidents)
        allowed = self._allowed(runs, attempts, [*incidents, *self._crashes(runs)])
        extra = self._extra(runs)
        unexplained = {task: count for task, count in extra.items() if count > allowed[task]}
        results, missing = self._results(set(living))
        dead = (self.acknowledged & set(self.dead)) - self.done
        pending = (self.acknowledged & self.pending) - found
        recoveries = [(i.kind, self._recovery(i, runs, incidents)) for i in incidents]
        told = [time for _, time in recoveries if time is not None]
        returns = [time for kind, time in recoveries if time is not None and kind in AWAY]
        late = [
            f"after fault {incident.number} ({kind}) work went on {time:.1f} s after the broker was back, not within {within:g} s"
            for incident, (kind, time) in zip(incidents, recoveries, strict=True)
            if within is not None and kind in AWAY and time is not None and time > within
        ]
        findings = [
            *self._tell(lost, "lost", began),
            *self._tell(self.pending, "stuck", began),
            *(
                self._finding(task, f"unexpected: {why}", began)
                for task, why in sorted(unexpected.items())[:TOLD]
            ),
            *self._tell(missing, "its result did not come", began),
            *(
                self._finding(task, f"ran {count} times too often", began)
                for task, count in sorted(unexplained.items())[:TOLD]
            ),
        ]
        return Verdict(
            attempted=len(self.attempted),
            acknowledged=len(self.acknowledged),
            done=len(self.acknowledged & self.done),
            dead=len(dead),
            pending=len(pending),
            revoked=len(revoked),
            lost=len(lost),
            stuck=len(self.pending),
            unexpected=len(unexpected),
            recovered=len((self.attempted - self.acknowledged) & found),
            duplicates=sum(extra.values()),
            bound=sum(allowed.values()),
            unexplained=len(unexplained),
            duplicates_count=duplicates_count,
            crashed=len({run.id for run in runs if self._of(run.id).crashes}),
            crashes=sum(self._of(run.id).crashes > 0 for run in runs),
            results=results,
            results_missing=len(missing),
            recovery=max(told, default=None),
            returns=max(returns, default=None),
            faults=_summaries(recoveries),
            by_kind=self._by_kind(),
            findings=tuple(findings),
            troubles=(*troubles, *late),
        )

    # ------------------------------------------------------------ runs and attempts

    def _runs(self, incidents: Sequence[Incident]) -> list[Run]:
        deaths = _deaths(incidents)
        found: list[Run] = []
        for task, events in self._events.items():
            going: dict[tuple[int, int], Run] = {}
            for event in sorted(events):
                if event.what == "started":
                    run = Run(task, int(event.note or 0), event.pid, event.time)
                    going[run.pid, run.retries] = run
                    found.append(run)
                elif event.what in ("finished", "raised"):
                    ended = going.pop((event.pid, int(event.note or 0)), None)
                    if ended is not None:
                        ended.ended, ended.whole = event.time, True
                        ended.raised = event.what == "raised"
        for run in found:
            if run.ended is None:
                later = [at for at in deaths.get(run.pid, ()) if at >= run.started]
                run.ended = min(later, default=None)
                if run.ended is None and self._of(run.id).crashes:
                    run.ended = run.started
        return found

    def _attempts(self, incidents: Sequence[Incident]) -> list[Attempt]:
        deaths = _deaths(incidents)
        found: list[Attempt] = []
        for task, events in self._events.items():
            going: dict[int, Attempt] = {}
            for event in sorted(events):
                if event.what == "attempted":
                    going[event.pid] = Attempt(task, event.pid, event.time)
                    found.append(going[event.pid])
                elif event.what in ("acknowledged", "refused") and event.pid in going:
                    going.pop(event.pid).ended = event.time
        for attempt in found:
            if attempt.ended is None:
                later = [at for at in deaths.get(attempt.pid, ()) if at >= attempt.began]
                attempt.ended = min(later, default=None)
        return found

    def _crashes(self, runs: Sequence[Run]) -> list[Incident]:
        """The kills that tasks did to their own processes."""
        return [
            Incident(
                number=0, kind="kill-child", began=run.started, ended=run.started, pids=(run.pid,)
            )
            for run in runs
            if self._of(run.id).crashes and not run.whole
        ]

    # ------------------------------------------------------------ duplicates

    def _extra(self, runs: Sequence[Run]) -> dict[str, int]:
        """Runs beyond those intended, by id."""
        starts = Counter((run.id, run.retries) for run in runs)
        found: Counter[str] = Counter()
        for (task, _), count in starts.items():
            extra = count - 1
            if extra > 0 and not self._of(task).crashes:  # those are counted by themselves
                found[task] += extra
        return dict(found)

    def _allowed(
        self, runs: Sequence[Run], attempts: Sequence[Attempt], incidents: Sequence[Incident]
    ) -> Counter[str]:
        """How often each id may have run again because of the faults."""
        found: Counter[str] = Counter()
        sent = Counter(attempt.id for attempt in attempts if not _in_vain(attempt, incidents))
        for task, count in sent.items():
            if count > 1:
                found[task] += (count - 1) * self._of(task).chain
        waits = self._waits(runs, attempts)
        for incident in incidents:
            begin = incident.began
            end = (incident.ended if incident.broke is None else incident.broke) + AFTERMATH
            # Each of these may happen to a task in the same fault, and then they add up: the message is there twice, and one of the
            # two is delivered again.
            if incident.kind in RUNS or incident.kind in BOTH:
                self._repeat(
                    found,
                    (
                        run.id
                        for run in runs
                        if run.started <= end
                        and run.settled >= begin
                        and (not incident.pids or run.pid in incident.pids)
                    ),
                )
            if incident.kind in SENDS or incident.kind in BOTH:
                least = RESENT if incident.kind in SENDS else 0.0  # these break nothing off
                self._repeat(
                    found,
                    (
                        attempt.id
                        for attempt in attempts
                        if attempt.began <= end
                        and (attempt.ended or _FOREVER) >= max(begin, attempt.began + least)
                    ),
                )
            if incident.kind in BROKER_ENDS:
                # on its way through the delays, from queue to queue
                self._repeat(
                    found, (task for task, since, until in waits if since <= end and until >= begin)
                )
        return found

    def _repeat(self, found: Counter[str], tasks: Iterable[str]) -> None:
        """Add what one cause in one fault may have repeated of each of these tasks."""
        for task in set(tasks):
            found[task] += self._of(task).chain

    def _settle(self, runs: Sequence[Run], incidents: Sequence[Incident]) -> None:
        """Until when each run may have been unsettled: a moment, and as long as faults held its ack back."""
        delays = sorted(
            (incident for incident in incidents if incident.kind in DELAYS),
            key=lambda incident: incident.began,
        )
        for run in runs:
            if run.ended is None:
                continue
            followed = run.raised or run.id in self._asked
            moment = FOLLOWED if followed else UNSETTLED
            if run.raised and self._of(run.id).chain > 1:
                moment = RETRIED
            run.settled = run.ended + moment
            for incident in delays:
                if incident.began > run.settled:
                    break
                if incident.kind == "alarm" and not followed:
                    continue  # acks go over a connection that publishes nothing, which no alarm blocks
                if run.ended <= incident.ended and (not incident.pids or run.pid in incident.pids):
                    run.settled = max(run.settled, incident.ended + moment)

    def _waits(
        self, runs: Sequence[Run], attempts: Sequence[Attempt]
    ) -> list[tuple[str, float, float]]:
        """When tasks waited in the broker until they were due: for their first run, and between retries."""
        found = []
        for attempt in attempts:
            due = self._due.get(attempt.id, 0.0)
            if due > attempt.began:
                found.append((attempt.id, attempt.began, due + PASSAGE))
        found += [
            (run.id, run.ended, run.ended + RETRY + PASSAGE)
            for run in runs
            if self._of(run.id).chain > 1 and run.ended is not None
        ]
        return found

    # ------------------------------------------------------------ the rest

    def _unexpected(self, runs: Sequence[Run]) -> dict[str, str]:
        ran = {run.id for run in runs}
        found = dict.fromkeys(
            (ran | self.done | set(self.dead) | self.pending) - self.attempted, "it was never sent"
        )
        for task in self.attempted & (self.done | set(self.dead)):
            end = self._of(task).end
            if end == "done" and task not in self.done:
                found[task] = "it is dead and should be done"
            elif end == "dead" and task in self.done:
                found[task] = "it is done and should be dead"
        for run in runs:
            due = self._due.get(run.id)
            if due is not None and run.started < due - EARLY:
                found[run.id] = f"it started {due - run.started:.3f} s early"
            revoked = self._revoked.get(run.id)
            if revoked is not None and run.started > revoked + KNOWN:
                found[run.id] = f"it started {run.started - revoked:.1f} s after its revoke"
        return found

    def _results(self, living: set[int]) -> tuple[int, set[str]]:
        """How many results living publishers waited for, and those that did not come or were wrong."""
        wanted: set[str] = set()
        good: set[str] = set()
        for task, events in self._events.items():
            for event in events:
                if event.what == "awaits" and event.pid in living:
                    wanted.add(task)
                elif event.what == "result" and event.note == "ok" and event.pid in living:
                    good.add(task)
        return len(wanted), wanted - good

    def _recovery(
        self, incident: Incident, runs: Sequence[Run], incidents: Sequence[Incident]
    ) -> float | None:
        """Seconds from the moment that work could go on to the end of the next task that started after it.

        Where another fault stopped work before that, the seconds until then: it was at least so long.
        """
        back = incident.back
        if back is None or not self._waiting(back):
            return None
        if any(other.began < back < other.ended for other in incidents if other is not incident):
            return None  # it happened while another held: that one's recovery counts
        ends = [
            run.ended for run in runs if run.whole and run.started >= back and run.ended is not None
        ]
        stops = [
            other.began
            for other in incidents
            if other is not incident and other.kind in BOTH and other.began >= back
        ]
        went_on = min(ends, default=_FOREVER)
        return min(went_on, min(stops, default=_FOREVER)) - back

    def _waiting(self, at: float) -> bool:
        """Whether some task that could run at once was queued, or about to be, at a moment."""
        for task in self.acknowledged:
            if self._of(task).later:
                continue
            events = self._events[task]
            sent = any(event.what == "attempted" and event.time <= at for event in events)
            if sent and not any(event.what == "started" and event.time <= at for event in events):
                return True
        return False

    def _by_kind(self) -> dict[str, dict[str, int]]:
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for task in self.attempted:
            counts = found[self._kind[task]]
            counts["sent"] += 1
            counts["done"] += task in self.done
            counts["dead"] += task in self.dead and task not in self.done
        return {kind: dict(counts) for kind, counts in sorted(found.items())}

    def _tell(self, tasks: Iterable[str], why: str, began: float) -> list[Finding]:
        return [self._finding(task, why, began) for task in sorted(tasks)[:TOLD]]

    def _finding(self, task: str, why: str, began: float) -> Finding:
        lines = tuple(
            f"{event.time - began:9.3f} s  {event.what} {event.note}".rstrip()
            + f"  (pid {event.pid})"
            for event in self.known(task)
        )
        return Finding(task, self._kind.get(task, "?"), why, lines)


_FOREVER = float("inf")
_UNKNOWN = TaskKind("?", 0, end="either")


def _in_vain(attempt: Attempt, incidents: Sequence[Incident]) -> bool:
    """Whether a send cannot have reached the broker, which was not there from its beginning to its end."""
    return attempt.ended is not None and any(
        incident.kind in BROKER_ENDS
        and incident.broke is not None
        and incident.back is not None
        and incident.broke <= attempt.began
        and attempt.ended <= incident.back
        for incident in incidents
    )


def _deaths(incidents: Sequence[Incident]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = defaultdict(list)
    for incident in incidents:
        if incident.kind in KILLS:
            for pid in incident.pids:
                found[pid].append(incident.ended)
    return found


def _summaries(recoveries: Sequence[tuple[str, float | None]]) -> tuple[FaultSummary, ...]:
    found = []
    for kind in sorted({kind for kind, _ in recoveries}):
        times = [time for name, time in recoveries if name == kind]
        known = [time for time in times if time is not None]
        found.append(FaultSummary(kind, len(times), max(known, default=None)))
    return tuple(found)
