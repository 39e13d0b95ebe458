"""What every pool promises, asked of each of them in the same words.

One node per pool runs most of the cases, beside and after each other, as a node of a user does: what one case leaves behind, the
next one trips over. Cases that end a node, or need another one, have their own.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from amqtask.errors import (
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from amqtask.worker.start.options import WorkerOptions
from tests.acceptance.nodes import Node, Place
from tests.brokers import Broker
from tests.waiting import eventually

SLOTS = Path(__file__).with_name("slots.py")


class Kind(NamedTuple):
    """A pool, and what it can do.

    Attributes:
        pool: its name.
        slots: how many tasks a node of concurrency 4 runs at a time.
        many: whether one process runs several tasks.
        children: whether tasks run in processes that can be replaced.
    """

    pool: str
    slots: int = 4
    many: bool = True
    children: bool = True


KINDS = [
    Kind("prefork", many=False),
    Kind("solo", slots=1, many=False, children=False),
    Kind("threads"),
    Kind("asyncio"),
    Kind("gevent"),
    Kind("eventlet"),
]
UNENFORCED = (
    "a message asks for a hard time limit, which the solo pool does not enforce; use --pool prefork"
)
ALONE = "the solo pool runs one task at a time, whatever is asked; use --pool prefork or threads"
LATE = "a soft time limit does not interrupt a system call in a thread; use --pool prefork where it must"
FORMS = ["", "a"]  # before a task's name: the function, the coroutine function

pytestmark = [
    pytest.mark.exact("counts how often things ran; what a cut gives back may run again"),
    pytest.mark.parametrize("kind", KINDS, ids=[each.pool for each in KINDS], scope="module"),
]
forms = pytest.mark.parametrize("form", FORMS, ids=["function", "coroutine"])


def place_of(kind: Kind, folder: Path, broker: Broker) -> Place:
    return Place(folder, broker, tasks=SLOTS, type="quorum")


def flags(kind: Kind, concurrency: int = 4) -> list[str]:
    return ["-P", kind.pool, *(["-c", str(concurrency)] if kind.slots > 1 else [])]


@pytest.fixture(scope="module")
def shared(
    kind: Kind, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Place, Node]]:
    """The node that most cases of a pool share. At its end nothing is left: no message, no process, no crash that nobody meant."""
    with place_of(kind, tmp_path_factory.mktemp(kind.pool), broker) as at:
        node = at.node(*flags(kind), "-Q", at.queue)
        yield at, node
        assert node.stop() == 0, node.output
        assert at.depth() == 0
        assert not node.records("a callback on the I/O thread failed"), node.output
        assert not node.records("a message could not be settled and is rejected"), node.output


class Case:
    """One case on a node that others use, too: names of its own, and only its own lines of the log."""

    def __init__(self, kind: Kind, at: Place, node: Node) -> None:
        self.kind = kind
        self.at = at
        self.node = node
        self.tag = uuid.uuid4().hex[:6]
        self._before = len(node.records())

    def name(self, what: object) -> str:
        return f"{self.tag}-{what}"

    def send(self, task: str, *args: object, **options: Any) -> Any:
        return self.at.send(task, *args, **options)

    def hold(self, form: str, *whats: str) -> list[Any]:
        """Have tasks run until ``release``; their results."""
        found = [self.send(f"{form}hold", self.name(what), self.name("go")) for what in whats]
        self.started(*whats)
        return found

    def release(self) -> None:
        self.at.release(self.name("go"))

    def started(self, *whats: str, times: int = 1) -> None:
        """Wait until each of these has been started so often."""
        eventually(lambda: all(self.starts(what) >= times for what in whats), 20, interval=0.02)

    def starts(self, what: str) -> int:
        return self.at.count("start")[self.name(what)]

    def ends(self, what: str) -> int:
        return self.at.count("end")[self.name(what)]

    def once(self, *whats: str) -> None:
        """Assert that each of these was started, and ended, once."""
        names = [self.name(what) for what in whats]
        for event in ("start", "end"):
            seen = self.at.count(event)
            assert {name: seen[name] for name in names} == dict.fromkeys(names, 1), event

    def process(self, what: str) -> int:
        """The process that ran something last."""
        return [pid for event, pid, name in self.at.lines() if name == self.name(what)][-1]

    def records(self, event: str) -> list[dict[str, Any]]:
        return [
            record for record in self.node.records()[self._before :] if record["event"] == event
        ]

    def party(self, task: str, count: int) -> list[Any]:
        """Have so many tasks wait until all of them run; what they return."""
        party = uuid.uuid4().hex[:6]
        sent = [self.send(task, self.name(n), party, count) for n in range(count)]
        return values(sent)

    def works(self) -> None:
        """Assert that all slots of the node work."""
        assert len(self.party("meet", self.kind.slots)) == self.kind.slots


@pytest.fixture
def case(kind: Kind, shared: tuple[Place, Node]) -> Iterator[Case]:
    at, node = shared
    assert node.process.poll() is None, node.output
    found = Case(kind, at, node)
    yield found
    found.release()  # one that failed leaves nobody waiting


@pytest.fixture
def at(kind: Kind, broker: Broker, tmp_path: Path) -> Iterator[Place]:
    """A place for a node of a case's own."""
    with place_of(kind, tmp_path, broker) as found:
        yield found


def values(results: Sequence[Any]) -> list[Any]:
    return [result.get(timeout=20) for result in results]


# ---------------------------------------------------------------- side by side


def test_as_many_as_it_was_told_run_at_a_time(case: Case) -> None:
    slots = case.kind.slots
    for task in ("meet", "ameet"):
        processes = case.party(task, slots)
        assert len(set(processes)) == (1 if case.kind.many else slots)
    # functions and coroutines side by side: none stops the others
    sent = [case.send(f"{FORMS[n % 2]}meet", case.name(n), case.tag, slots) for n in range(slots)]
    assert len(values(sent)) == slots


@forms
def test_results(case: Case, form: str) -> None:
    sent = [case.send(f"{form}add", n, n) for n in range(20)]
    assert values(sent) == [2 * n for n in range(20)]


@forms
def test_context_variables_are_the_tasks_own(case: Case, form: str) -> None:
    for _ in range(2):  # the second ones run where the first ones ran
        sent = [case.name(n) for n in range(case.kind.slots)]
        assert case.party(f"{form}remember", case.kind.slots) == [
            ["nothing", name] for name in sent
        ]


@forms
def test_the_request_is_the_tasks_own(case: Case, form: str) -> None:
    slots = case.kind.slots
    sent = [
        case.send(f"{form}tell", case.name(n), case.tag, slots, headers={"customer": case.name(n)})
        for n in range(slots)
    ]
    for number, result in enumerate(sent):
        told = result.get(timeout=20)
        assert told.pop("hostname").startswith("amqtask@")
        assert told == {
            "id": result.id,
            "args": [case.name(number), case.tag, slots],
            "queue": case.at.queue,
            "customer": case.name(number),
            "aborted": False,
        }


@forms
def test_abort_reaches_the_one_that_was_meant(case: Case, form: str) -> None:
    whats = [str(n) for n in range(case.kind.slots)]
    sent = [case.send(f"{form}patient", case.name(what)) for what in whats]
    case.started(*whats)
    for number, result in enumerate(sent):
        result.abort()
        assert result.get(timeout=10) == "stopped"
        ends = case.at.count("end")
        assert [ends[case.name(what)] for what in whats] == [
            int(n <= number) for n in range(len(whats))
        ]


# ---------------------------------------------------------------- ends


@forms
def test_an_exception_reaches_the_caller(case: Case, form: str) -> None:
    sent = [case.send(f"{form}fail", case.name(n)) for n in range(4)]
    for number, result in enumerate(sent):
        with pytest.raises(Exception, match=case.name(number)) as caught:
            result.get(timeout=10)
        assert "Broken" in repr(caught.type) or "Broken" in str(caught.value)
        assert result.state == "FAILURE"
    case.works()


def test_what_a_task_starts_ends_no_process(case: Case) -> None:
    others = [str(n) for n in range(case.kind.slots - 1)]
    neighbours = case.hold("a", *others)
    for _ in range(2):
        with pytest.raises(Exception, match="stray"):
            case.send("astray").get(timeout=10)
    case.release()
    assert values(neighbours) == [case.name(what) for what in others]
    if others:
        case.once(*others)
    assert not case.records("child crashed")
    case.works()


def test_what_a_task_does_to_the_event_loop_costs_no_process(case: Case) -> None:
    others = [str(n) for n in range(case.kind.slots - 1)]
    neighbours = case.hold("", *others)
    for _ in range(2):
        bully = case.send("bully")
        if case.kind.pool in ("asyncio", "gevent", "eventlet"):  # the loop is not its own
            assert bully.get(timeout=10) is None
        else:
            with pytest.raises(RuntimeError, match="stopped"):
                bully.get(timeout=10)
    case.release()
    assert values(neighbours) == [case.name(what) for what in others]
    if others:
        case.once(*others)
    assert not case.records("child crashed")
    assert len(case.party("ameet", case.kind.slots)) == case.kind.slots


@forms
def test_retries_run_again(case: Case, form: str) -> None:
    asked, policy = (
        case.send(f"{form}flaky", case.name("a"), 2),
        case.send(f"{form}troubled", case.name("b"), 1),
    )
    assert values([asked, policy]) == [2, 1]
    assert (case.starts("a"), case.starts("b")) == (3, 2)


@forms
def test_reject_and_ignore(case: Case, form: str) -> None:
    with pytest.raises(Exception, match="not now"):
        case.send(f"{form}rejected", case.name("y")).get(timeout=10)
    ignored = case.send(f"{form}ignored", case.name("x"))
    case.started("x")
    case.works()
    assert ignored.state == "PENDING"  # nothing is said of it
    assert case.starts("x") == 1


def test_a_delayed_task_runs_when_it_is_due(case: Case) -> None:
    due = time.time() + 0.4
    for form in FORMS:
        case.send(f"{form}note", case.name(form), countdown=0.4)
    eventually(lambda: all(case.ends(form) for form in FORMS), 10)
    assert time.time() > due - 0.1
    case.once(*FORMS)


@forms
def test_a_task_publishes(case: Case, form: str) -> None:
    sent = [case.send(f"{form}send", case.name(n)) for n in range(4)]
    assert values(sent) == [None] * 4
    eventually(lambda: all(case.at.count("end")[case.name(n)] for n in range(4)), 10)
    case.once(*map(str, range(4)))


@forms
def test_a_task_waits_for_the_result_of_another(case: Case, form: str) -> None:
    if case.kind.slots == 1:  # nobody would run the other one
        assert case.send(f"{form}add", 1, 1).get(timeout=10) == 2
        return
    sent = [case.send(f"{form}ask", n, 1) for n in range(case.kind.slots - 1)]
    assert values(sent) == [n + 1 for n in range(case.kind.slots - 1)]


# ---------------------------------------------------------------- time limits


@forms
def test_the_soft_limit_is_raised_in_its_task_only(case: Case, form: str) -> None:
    before = case.node.children()
    others = [str(n) for n in range(case.kind.slots - 2)]
    neighbours = case.hold(form, *others)
    tidy = case.send(f"{form}linger", case.name("tidy"), "return", soft_time_limit=0.3)
    loud = case.send(f"{form}linger", case.name("loud"), "raise", soft_time_limit=0.3)

    assert tidy.get(timeout=10) == "cleaned up"
    with pytest.raises(SoftTimeLimitExceeded):
        loud.get(timeout=10)
    case.release()
    assert values(neighbours) == [case.name(what) for what in others]
    case.once(*others)
    soft = case.at.count("soft")
    assert (soft[case.name("tidy")], soft[case.name("loud")]) == (1, 1)
    assert case.node.children() == before
    case.works()  # the slots are unharmed


def test_a_thread_that_a_coroutine_leaves_holds_up_nothing(case: Case) -> None:
    """Neither the answer, nor the next task, nor the stop of the node that the cases share."""
    began = time.monotonic()
    waiting = case.send("thready", case.name("x"), case.name("never"), soft_time_limit=0.2)
    with pytest.raises(SoftTimeLimitExceeded):
        waiting.get(timeout=10)
    assert time.monotonic() - began < 5
    case.works()


@forms
def test_the_hard_limit_ends_its_task_only(case: Case, form: str) -> None:
    others = [str(n) for n in range(case.kind.slots - 1)]
    if not case.kind.children:  # nobody could replace the process; it says so
        late = case.send(f"{form}hold", case.name("x"), case.name("go"), time_limit=0.3)
        case.started("x")
        case.release()
        assert late.get(timeout=10) == case.name("x")
        told = [record["task_name"] for record in case.node.records(UNENFORCED)]
        assert [name.endswith(f".{form}hold") for name in told].count(
            True
        ) == 1  # once, however many such messages come
        return
    neighbours = case.hold(form, *others)
    result = case.send(
        f"{form}linger", case.name("x"), "go on", soft_time_limit=0.2, time_limit=0.5
    )

    with pytest.raises(TimeLimitExceeded, match=result.id):
        result.get(timeout=10)
    assert case.starts("x") == case.at.count("soft")[case.name("x")] == 1
    assert case.send("add", 1, 2).get(timeout=10) == 3  # while the neighbours go on
    case.release()
    assert values(neighbours) == [case.name(what) for what in others]
    case.once(*others)
    case.works()
    assert case.starts("x") == 1
    assert not case.records("child crashed")


# ---------------------------------------------------------------- revoked


@forms
def test_revoked_before_it_starts(case: Case, form: str) -> None:
    others = [str(n) for n in range(case.kind.slots - 1)]
    neighbours = case.hold(form, *others)
    last = case.send(f"{form}patient", case.name("last"))
    case.started("last")
    waiting = case.send(f"{form}note", case.name("x"))
    waiting.revoke()
    last.abort()  # the node hears of both in this order

    assert last.get(timeout=10) == "stopped"
    with pytest.raises(TaskRevokedError):
        waiting.get(timeout=10)
    case.release()
    assert case.starts("x") == 0
    assert values(neighbours) == [case.name(what) for what in others]
    case.once("last", *others)


@forms
def test_terminate_ends_the_one_that_was_meant(case: Case, form: str) -> None:
    others = [str(n) for n in range(case.kind.slots - 1)]
    neighbours = case.hold(form, *others)
    how = "go on" if case.kind.children else "raise"  # solo can only ask
    result = case.send(f"{form}linger", case.name("x"), how)
    case.started("x")
    result.revoke(terminate=True)

    with pytest.raises(TaskRevokedError, match="terminated"):
        result.get(timeout=10)
    assert result.state == "REVOKED"
    assert case.send("add", 1, 2).get(timeout=10) == 3
    case.release()
    assert values(neighbours) == [case.name(what) for what in others]
    case.once(*others)
    case.works()
    assert case.starts("x") == 1
    assert not case.records("child crashed")


@forms
def test_sigusr1_asks_the_one_that_was_meant(case: Case, form: str) -> None:
    before = case.node.children()
    others = [str(n) for n in range(case.kind.slots - 1)]
    neighbours = case.hold(form, *others)
    result = case.send(f"{form}linger", case.name("x"), "raise")
    case.started("x")
    result.revoke(terminate=True, signal="SIGUSR1")

    with pytest.raises(TaskRevokedError, match="terminated"):
        result.get(timeout=10)
    case.release()
    assert values(neighbours) == [case.name(what) for what in others]
    case.once(*others)
    assert case.at.count("soft")[case.name("x")] == 1
    assert case.node.children() == before
    case.works()


# ---------------------------------------------------------------- crashes


def test_a_killed_child_gives_its_tasks_to_the_next(case: Case) -> None:
    if not case.kind.children:
        assert case.node.children() == []  # the node itself would have to be killed
        return
    others = [str(n) for n in range(case.kind.slots - 1)]
    results = case.hold("", *others)
    early = case.send("early", case.name("early"), case.name("go"))  # acked before it runs
    case.started("early")
    victims = {case.process("0"), case.process("early")}
    mine = [what for what in others if case.process(what) in victims]
    assert len(mine) == (case.kind.slots - 1 if case.kind.many else 1)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)

    case.started(*mine, times=2)
    case.release()
    assert values(results) == [case.name(what) for what in others]
    starts = [case.starts(what) for what in others]
    assert starts == [2 if what in mine else 1 for what in others]
    charged = {record["task_id"] for record in case.records("child crashed")}
    assert charged == {early.id, *(results[int(what)].id for what in mine)}
    case.works()
    assert case.starts("early") == 1


def test_a_task_that_kills_its_child_is_given_up_and_no_other(case: Case) -> None:
    if not case.kind.children:
        assert case.node.children() == []
        return
    result = case.send("die", case.name("x"), case.name("go"))
    case.started("x")
    notes = [case.send(f"{FORMS[n % 2]}note", case.name(n)) for n in range(20)]
    assert values(notes) == [case.name(n) for n in range(20)]
    case.release()

    with pytest.raises(WorkerLostError, match="3 times"):
        result.get(timeout=30)
    assert case.starts("x") == 3
    charged = Counter(record["task_id"] for record in case.records("child crashed"))
    assert charged.pop(result.id) == 3
    # One that had ended may come again, its ack lost with the process, and run beside it.
    assert set(charged) <= {note.id for note in notes}
    assert set(charged.values()) <= {1}
    case.works()


def test_a_task_that_kills_its_child_takes_no_other_with_it(case: Case) -> None:
    if not case.kind.many:
        return  # nothing runs beside it
    others = [str(n) for n in range(case.kind.slots - 1)]
    neighbours = case.hold("", *others)
    case.at.release(case.name("fuse"))
    result = case.send("die", case.name("x"), case.name("fuse"))
    case.started("x", times=2)
    # All of them ran when the process died, twice. Whichever is tried first, the others wait for it.
    case.release()

    with pytest.raises(WorkerLostError, match="3 times"):
        result.get(timeout=30)
    assert values(neighbours) == [case.name(what) for what in others]
    assert case.starts("x") == 3
    charged = Counter(record["task_id"] for record in case.records("child crashed"))
    assert charged.pop(result.id) == 3
    assert set(charged.values()) <= {1, 2}
    case.works()


# ---------------------------------------------------------------- many


def test_ten_thousand_run_once_and_leave_nothing_behind(case: Case) -> None:
    slots = case.kind.slots
    for task in ("meet", "ameet", "census"):  # what there is once per slot is there now
        case.party(task, slots)
    before = case.party("census", slots)

    with case.at.app.batch():
        for number in range(10_000):
            case.send("anoop" if number % 10 == 0 else "noop", number, ignore_result=True)

    file = case.at.path / "noops"
    eventually(lambda: file.exists() and file.stat().st_size >= 80_000, 60, interval=0.1)
    after = case.party("census", slots)
    found = file.read_bytes()
    assert Counter(int(found[n : n + 8]) for n in range(0, len(found), 8)) == Counter(range(10_000))
    threads = {pid: (count, files) for pid, count, files in before}
    for pid, count, files in after:
        assert count <= threads[pid][0] + 1
        assert files <= threads[pid][1] + 2
    assert not case.records("child crashed")


# ---------------------------------------------------------------- children that are replaced


def test_a_child_is_replaced_after_so_many_tasks(kind: Kind, at: Place) -> None:
    node = at.node(*flags(kind), "--max-tasks-per-child", "10", "-Q", at.queue)
    case = Case(kind, at, node)
    others = ["hold"] if kind.slots > 1 else []
    held = case.hold("a", *others)
    whats = [str(n) for n in range(45 if kind.children else 15)]
    results = [case.send(f"{FORMS[n % 2]}note", case.name(what)) for n, what in enumerate(whats)]

    assert values(results) == [case.name(what) for what in whats]
    case.release()
    assert values(held) == [case.name(what) for what in others]
    case.once(*whats, *others)
    runs = Counter(at.pids())
    if kind.children:
        # where tasks run side by side, some may begin before the tenth has ended
        assert max(runs.values()) <= 10 + (kind.slots if kind.many else 0)
    else:
        assert len(node.records("ready")) >= 2  # the same process, begun anew
    assert not case.records("child crashed")
    assert node.stop() == 0
    assert at.depth() == at.depth(at.dead) == 0


def test_a_child_is_replaced_when_it_is_too_large(kind: Kind, at: Place) -> None:
    limits = ["--time-limit", "50", "--soft-time-limit", "40"] if kind.children else ["-c", "4"]
    most = ["--max-memory-per-child", str(200 << 10)]
    node = at.node(*flags(kind, 1), *most, *limits, "-Q", at.queue)
    case = Case(kind, at, node)
    # what a pool cannot do, it says at start
    alone = [told["asked"] for told in node.records(ALONE)]
    assert alone[:1] == ([] if kind.children else ["--concurrency 4"])
    assert bool(node.records(LATE)) == (kind.pool in ("threads", "asyncio"))
    first = case.send("grow", 1).get(timeout=10)
    assert case.send("grow", 300).get(timeout=10) == first
    assert (case.send("grow", 1).get(timeout=20) != first) == kind.children
    assert not case.records("child crashed")
    assert node.stop() == 0
    assert at.depth() == 0


def test_a_hard_limit_that_nobody_could_keep_is_refused(kind: Kind, at: Place) -> None:
    if kind.children:
        assert WorkerOptions.parse(app="slots", pool=kind.pool, time_limit=5).time_limit == 5
        return
    done = at.worker("-P", kind.pool, "--time-limit", "5")
    assert done.returncode == 1
    assert "cannot end a task at a hard time limit" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


# ---------------------------------------------------------------- stops


def test_stops(kind: Kind, at: Place) -> None:
    """A warm one: what runs ends, the rest goes back. Then a cold one, with the same messages: all of it goes back."""
    processes = 2 if kind.children else 1
    slots = kind.slots // 2 * processes or 1
    several = [*flags(kind, 2), *(["--processes", "2"] if kind.children else []), "-Q", at.queue]
    node = at.node(*several)
    case = Case(kind, at, node)
    assert len(set(case.party("meet", slots))) == (processes if kind.many else slots)
    running = [str(n) for n in range(slots)]
    results = case.hold("", *running[::2]) + case.hold("a", *running[1::2])
    waiting = [f"w{n}" for n in range(slots)]
    for what in waiting:
        case.send("hold", case.name(what), case.name("never"), ignore_result=True)
    node.kill(signal.SIGTERM)
    eventually(lambda: at.depth() == len(waiting), 10, interval=0.05)
    assert node.process.poll() is None
    case.release()
    assert node.wait() == 0
    assert sorted(values(results)) == sorted(case.name(what) for what in running)
    case.once(*running)
    assert at.depth() == len(waiting)

    node = at.node(*several)
    case.started(*waiting)
    for n in range(slots):
        case.send("ahold", case.name(f"m{n}"), case.name("never"), ignore_result=True)
    family = node.family()
    if kind.children:
        node.kill(signal.SIGTERM)
        node.says("warm shutdown")
        node.kill(signal.SIGTERM)
    else:
        node.kill(signal.SIGQUIT)
    assert node.wait(15) == 0
    node.gone(family)
    assert at.depth() == 2 * len(waiting)
    assert at.depth(at.dead) == 0
