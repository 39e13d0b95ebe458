"""Revoked tasks end as REVOKED for their callers, wherever they are; aborted ones see it; nobody else is hit."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from amqtask.core.dead import SENT_BACK
from amqtask.core.verdicts import STREAM, Kind, Record, new_event, publication
from amqtask.errors import TaskRevokedError
from tests.acceptance.nodes import Place, alive
from tests.waiting import eventually

Places = Callable[..., Place]

STOPPABLE = '''

import threading

from amqtask import is_aborted


@app.task(name="work.patient", bind=True)
def patient(self, what):
    """Run until somebody asks to stop."""
    log("start", what)
    while not self.is_aborted():
        time.sleep(0.005)
    log("end", what)
    return "stopped"


@app.task(name="work.unbound")
async def unbound(what):
    log("start", what)
    while not is_aborted():
        await asyncio.sleep(0.005)
    return "stopped"


@app.task(name="work.threaded")
def threaded(what):
    """Ask in a thread of the task's own."""
    log("start", what)
    request = threaded.request
    seen = []

    def run():
        while not request.is_aborted():
            time.sleep(0.005)
        seen.append("stopped")

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return seen[0]


@app.task(name="work.tidy")
def tidy(what, how):
    """Clean up when told to, and end as it likes."""
    try:
        log("start", what)
        time.sleep(3600)
    except SoftTimeLimitExceeded:
        log("soft", what)
        if how == "raise":
            raise
    return "tidied up"


@app.task(name="work.tidy_coroutine")
async def tidy_coroutine(what):
    try:
        log("start", what)
        await asyncio.sleep(3600)
    except SoftTimeLimitExceeded:
        log("soft", what)
        raise


@app.task(name="work.again", bind=True, max_retries=None)
def again(self, what, countdown, when_aborted=False):
    log("start", what)
    while when_aborted and not self.is_aborted():
        time.sleep(0.005)
    raise self.retry(countdown=countdown)


@app.task(name="work.brink", bind=True)
def brink(self, what, seconds):
    """End shortly after somebody has asked to stop."""
    log("start", what)
    while not self.is_aborted():
        time.sleep(0.001)
    time.sleep(seconds)
    return what


@app.task(name="work.early", acks_late=False)
def early(what):
    log("start", what)
    time.sleep(3600)


@app.task(name="work.gil")
def gil(what):
    log("start", what)
    sum(range(10**11))


@app.task(name="work.family")
def family(what):
    pid = os.fork()
    if pid == 0:
        while True:
            time.sleep(1)
    log("grandchild", pid)
    log("start", what)
    sum(range(10**11))
'''


@pytest.fixture
def at(place: Places) -> Place:
    return _with_stoppable(place())


def _with_stoppable(at: Place) -> Place:
    file = at.path / "work.py"
    file.write_text(file.read_text() + STOPPABLE)
    return at


def revoked(result: Any, reason: str, timeout: float = 15.0) -> None:
    with pytest.raises(TaskRevokedError, match=reason):
        result.get(timeout=timeout)
    assert result.state == "REVOKED"


# ---------------------------------------------------------------- before it runs


def test_queued_tasks_are_refused_by_a_node_that_starts_later(at: Place) -> None:
    at.declare()
    customer = random.getrandbits(60)  # the whole virtual host hears of it, other tests too
    by_id, in_a_list, by_handle, kept = (at.send("note", str(n)) for n in range(4))
    by_header = at.send("note", "4", headers={"customer": customer, "size": "s"})
    by_stamp = at.send("note", "8", stamped_headers=["customer"], customer=[str(customer)])
    other = at.send("note", "5", headers={"customer": customer + 1})
    at.put(  # stamped by a Celery
        b'[["7"], {}, {}]',
        headers={
            "lang": "py",
            "task": "work.note",
            "id": "stamped",
            "stamped_headers": ["customer"],
            "stamps": {"customer": [str(customer)]},
        },
        content_type="application/json",
        content_encoding="utf-8",
    )
    control = at.app.control
    control.revoke(by_id.id)
    control.revoke([in_a_list.id, "nobody"])
    asyncio.run(_arevoke(by_handle))
    control.revoke_by_headers({"customer": [str(customer), str(customer + 2)]})

    node = at.node("-c1", "-Q", at.queue)
    assert (kept.get(timeout=10), other.get(timeout=10)) == ("3", "5")
    for result in (by_id, in_a_list, by_handle, by_header, by_stamp):
        revoked(result, "revoked")
    # what is sent with that header later is refused too, and a node that was there all the time knows
    revoked(at.send("note", "6", headers={"customer": str(customer + 2)}), "revoked")
    assert node.stop() == 0

    assert at.count("start") == {"3": 1, "5": 1}
    at.all_settled()
    assert at.depth(at.dead) == 0  # nobody wants to look at it again


async def _arevoke(result: Any) -> None:
    await result.arevoke()


def test_a_revoke_holds_after_a_restart_of_the_node(at: Place) -> None:
    node = at.node("-c1", "-Q", at.queue)
    running = at.send("hold", "x", "go")
    at.saw("start", "x")
    waiting = at.send("note", "y")
    waiting.revoke()
    running.revoke()  # it runs, and nobody said that it should be ended
    node.kill()
    node.wait()

    again = at.node("-c1", "-Q", at.queue)
    revoked(waiting, "revoked")
    revoked(running, "revoked")
    assert again.stop() == 0
    assert at.count("start") == {"x": 1}


@pytest.mark.exact("has each task in its state within a second of the others")
@pytest.mark.parametrize(
    ("kind", "flags"), [("classic", "-c1"), ("quorum", "-c1"), ("quorum", "-Psolo")]
)
def test_every_state_by_every_way(place: Places, kind: str, flags: str) -> None:
    at = _with_stoppable(place(type=kind))
    customer = str(random.getrandbits(60))
    header = {"headers": {"customer": customer}}
    node = at.node(flags, "--prefetch-multiplier", "32", "-Q", at.queue)
    done = at.send("note", "done")
    assert done.get(timeout=10) == "done"
    retry = {n: at.send("again", f"retry{n}", 1.2, **way) for n, way in _ways(header)}
    eventually(lambda: all(each.state == "RETRY" for each in retry.values()), 10)
    runs = at.send("again", "runs", 3600, True)
    at.saw("start", "runs")
    early = {n: at.send("note", f"early{n}", countdown=1.0, **way) for n, way in _ways(header)}
    held = {n: at.send("note", f"held{n}", **way) for n, way in _ways(header)}
    eventually(lambda: at.depth() == 0, 10)  # in the child, behind the one that runs
    spared = at.send("note", "spared")

    for number, state in enumerate((early, retry, held)):
        state["id"].revoke(terminate=True)  # none of them runs
        at.app.control.revoke([state["ids"].id, f"nobody{number}"])
    at.app.control.revoke_by_headers({"customer": [customer, "nobody"]})
    at.app.control.revoke([runs.id, done.id])
    runs.abort()  # told after all the others: whoever knows of it knows of them

    for result in (runs, *held.values(), *early.values(), *retry.values()):
        revoked(result, "revoked")
    assert spared.get(timeout=10) == "spared"
    assert (done.get(timeout=1), done.state) == ("done", "SUCCESS")
    assert node.stop() == 0
    ran = {"done", "runs", "spared", "retryid", "retryids", "retryheader"}
    assert set(at.count("start")) == ran
    at.all_settled()
    assert at.depth(at.dead) == 0


def _ways(header: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [("id", {}), ("ids", {}), ("header", header)]


@pytest.mark.parametrize("flags", ["-c1", "-Psolo"])
def test_a_running_task_goes_on_without_terminate(at: Place, flags: str) -> None:
    node = at.node(flags, "-Q", at.queue)
    result = at.send("patient", "x")
    at.saw("start", "x")
    result.revoke()
    # Others are looked for, and this one is none of them.
    at.app.control.terminate("another")
    at.app.control.revoke_by_headers({"customer": f"{at.queue}-another"}, terminate=True)
    result.abort()
    assert result.get(timeout=10) == "stopped"
    assert result.state == "SUCCESS"
    assert node.stop() == 0


# ---------------------------------------------------------------- where it runs


def test_terminate_ends_the_task_and_spares_its_neighbours(at: Place) -> None:
    node = at.node("-c1", "--prefetch-multiplier", "16", "-Q", at.queue)
    (child,) = node.children()
    result = at.send("linger", "x", True)  # it swallows the soft limit
    at.saw("start", "x")
    neighbours = at.send_notes(8)
    began = time.monotonic()
    result.revoke(terminate=True)

    revoked(result, "terminated")
    assert time.monotonic() - began < 3
    at.everything_done(neighbours)
    node.whole(1, without=child)
    assert node.stop() == 0
    assert at.count("start") == Counter([*neighbours, "x"])
    assert node.records("child ended with a revoked task")
    assert not node.records("child crashed")
    assert not node.records("child killed")
    at.all_settled()
    assert at.depth(at.dead) == 0


@pytest.mark.parametrize(("name", "way"), [("gil", "SIGTERM"), ("family", "SIGKILL")])
def test_what_cannot_end_itself_is_killed(at: Place, name: str, way: str) -> None:
    node = at.node("-c1", "--prefetch-multiplier", "16", "-Q", at.queue)
    (child,) = node.children()
    result = at.send(name, "x")
    at.saw("start", "x")
    neighbours = at.send_notes(8)
    at.app.control.terminate(result.id, signal=way)

    revoked(result, "revoked")  # by whoever got the message when it came back
    at.everything_done(neighbours)
    node.whole(1, without=child)
    assert node.stop() == 0
    assert at.count("start") == Counter([*neighbours, "x"])
    assert not alive([int(pid) for pid in at.count("grandchild")])
    (record,) = node.records("child killed")
    assert record["reason"] == "its task was revoked"
    assert not node.records("child crashed")
    at.all_settled()
    assert at.depth(at.dead) == 0


def test_a_terminate_that_comes_late_spares_the_next_life(at: Place) -> None:
    node = at.node("-c2", "-Q", at.queue)
    back = at.send("hold", "x", "go", headers={SENT_BACK: datetime.now(UTC).isoformat()})
    at.saw("start", "x")
    with at.broker.channel() as channel:  # of before it was sent back, read only now
        late = Record(
            kind=Kind.REVOKED,
            event=new_event(),
            origin="test",
            time=time.time() - 60,
            ids=(back.id,),
            terminate=True,
            signal="KILL",
        )
        channel.basic_publish("", STREAM, publication(late).envelope.body)
    node.says("ending a revoked task")
    assert at.send("note", "longer than a child gets", 1.0).get(timeout=20)
    at.release("go")
    assert back.get(timeout=10) == "x"
    assert node.stop() == 0
    assert at.count("start") == {"x": 1, "longer than a child gets": 1}


def test_terminate_by_headers_and_of_a_task_acked_early(at: Place) -> None:
    node = at.node("-c3", "-Q", at.queue)
    customer = random.getrandbits(60)
    mine = at.send("linger", "mine", headers={"customer": str(customer)})
    early = at.send("early", "early")
    other = at.send("hold", "other", "go", headers={"customer": str(customer + 1)})
    for what in ("mine", "early", "other"):
        at.saw("start", what)
    at.app.control.revoke_by_headers({"customer": customer}, terminate=True)
    early.revoke(terminate=True)

    revoked(mine, "terminated")
    revoked(early, "terminated")
    at.release("go")
    assert other.get(timeout=10) == "other"
    node.whole(3)
    assert node.stop() == 0
    assert at.count("start") == {"mine": 1, "early": 1, "other": 1}


@pytest.mark.parametrize("flags", ["-c1", "-Psolo"])
def test_sigusr1_lets_the_task_clean_up(at: Place, flags: str) -> None:
    node = at.node(flags, "-Q", at.queue)
    before = node.children()
    result = at.send("tidy", "x", "raise")
    at.saw("start", "x")
    result.revoke(terminate=True, signal="SIGUSR1")
    revoked(result, "terminated")
    stubborn = at.send("tidy", "y", "return")
    at.saw("start", "y")
    stubborn.revoke(terminate=True, signal="SIGUSR1")
    ended = stubborn.get(timeout=10, propagate=False)
    assert ended == "tidied up", (at.lines(), node.output)
    coroutine = at.send("tidy_coroutine", "z")
    at.saw("start", "z")
    coroutine.revoke(terminate=True, signal="SIGUSR1")
    revoked(coroutine, "terminated")

    assert at.count("soft") == {"x": 1, "y": 1, "z": 1}
    assert at.send("note", "after").get(timeout=10) == "after"
    assert node.children() == before
    assert node.stop() == 0


SIGNALS = ["SIGTERM", "SIGKILL", "SIGUSR1"]


def test_every_signal_by_name_and_number(at: Place) -> None:
    ways = ["SIGTERM", 15, "SIGKILL", 9, signal.SIGINT, "usr1", signal.SIGUSR1.value]
    node = at.node(f"-c{len(ways)}", "-Q", at.queue)
    results = {way: at.send("tidy", way, "raise") for way in ways}
    for way in ways:
        at.saw("start", str(way))
    before = node.children()
    with pytest.raises(ValueError, match=r"^There is no signal 'SIGTREM'; write one like [^.]*\.$"):
        results["SIGTERM"].revoke(terminate=True, signal="SIGTREM")
    for way, result in results.items():
        result.revoke(terminate=True, signal=way)

    for result in results.values():
        revoked(result, "revoked|terminated", 20)
    assert at.count("soft") == {"usr1": 1, str(signal.SIGUSR1.value): 1}
    eventually(lambda: len(set(before) & set(node.children())) == 2, 10)
    assert not node.records("child crashed")
    assert node.stop() == 0
    assert set(at.count("start").values()) == {1}


def test_terminate_never_hits_the_next_task(at: Place) -> None:
    """Tasks that are about to end are terminated; those that take their place are not."""
    node = at.node("-c2", "--prefetch-multiplier", "4", "-Q", at.queue)
    victims = [at.send("brink", f"v{n}", n % 7 * 0.003) for n in range(21)]
    others = [at.send("note", f"o{n}", 0.01) for n in range(42)]
    waiting = {f"v{number}": victim for number, victim in enumerate(victims)}
    while waiting:
        # in the order in which they start: what a killed child held starts later than what its neighbour holds
        name = eventually(lambda: next(iter(waiting.keys() & at.count("start").keys()), ""), 20)
        victim = waiting.pop(name)
        victim.abort()  # it ends when it hears of this, or when it hears of that
        victim.revoke(terminate=True, signal=SIGNALS[int(name[1:]) % 3])

    assert [result.get(timeout=20) for result in others] == [f"o{n}" for n in range(42)]
    for number, victim in enumerate(victims):
        try:
            assert victim.get(timeout=10) == f"v{number}"
        except TaskRevokedError:
            pass
    assert node.stop() == 0
    starts, ends = at.count("start"), at.count("end")
    # one that had ended may run again, if its ack died with a process; none is cut short
    assert all(starts[f"o{n}"] == ends[f"o{n}"] > 0 for n in range(42))
    assert not node.records("child crashed")


# ---------------------------------------------------------------- abort


@pytest.mark.parametrize("name", ["patient", "unbound", "threaded"])
@pytest.mark.parametrize("flags", ["-c1", "-Psolo"])
def test_an_aborted_task_sees_it(at: Place, name: str, flags: str) -> None:
    node = at.node(flags, "-Q", at.queue)
    result = at.send(name, "x")
    at.saw("start", "x")
    began = time.monotonic()
    result.abort()
    assert result.get(timeout=10) == "stopped"
    assert time.monotonic() - began < 2
    assert result.state == "SUCCESS"
    assert node.stop() == 0


def test_a_task_that_was_aborted_before_it_started(at: Place) -> None:
    at.declare()
    result = at.send("patient", "x")
    at.app.control.abort([result.id])
    node = at.node("-c1", "-Q", at.queue)
    assert result.get(timeout=10) == "stopped"
    assert node.stop() == 0
    assert at.count("start") == at.count("end") == {"x": 1}
