"""Time limits under tasks that do what they can to outlive them: each is ended, named, run once, and no neighbour suffers."""

from __future__ import annotations

import resource
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from amqtask.errors import TimeLimitExceeded
from amqtask.testing.members import offspring
from tests.acceptance.nodes import Node, Place, alive
from tests.waiting import eventually

Places = Callable[..., Place]

HOSTILE = '''

import re
import socket
import subprocess
import sys
import threading


def for_ever(action):
    """Do something again and again, whatever is raised meanwhile."""
    while True:
        try:
            while True:
                action()
        except BaseException:
            log("caught", "any")


@app.task(name="work.hostile")
def hostile(what):
    log("start", what)
    if what == "swallow":
        for_ever(lambda: time.sleep(0.01))
    elif what == "busy":
        for_ever(lambda: sum(range(1000)))
    elif what == "sleep":
        time.sleep(3600)
    elif what == "recv":
        one, two = socket.socketpair()
        one.recv(1)
    elif what == "lock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    elif what == "c sleep":  # not interrupted by signals, but without the GIL
        libc = ctypes.CDLL(None)
        while True:
            libc.sleep(3600)
    elif what == "ignore":
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            try:
                signal.signal(number, signal.SIG_IGN)
            except OSError:
                pass
        signal.set_wakeup_fd(-1)
        time.sleep(3600)
    elif what == "mask":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        time.sleep(3600)
    elif what == "fork":
        pid = os.fork()
        if pid == 0:
            for_ever(lambda: time.sleep(1))
        log("grandchild", pid)
        os.waitpid(pid, 0)
    elif what == "bomb":
        for _ in range(50):
            pid = os.fork()
            if pid == 0:
                for_ever(lambda: time.sleep(1))
            log("grandchild", pid)
        time.sleep(3600)
    elif what == "fork with a lock":
        lock = threading.Lock()
        with lock:
            pid = os.fork()
            if pid == 0:
                lock.acquire()
            log("grandchild", pid)
            os.waitpid(pid, 0)
    elif what == "subprocess":
        program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        log("grandchild", program.pid)
        program.wait()
    elif what == "thread":
        thread = threading.Thread(target=for_ever, args=(lambda: time.sleep(0.01),))
        thread.start()
        thread.join()
    elif what == "spin":
        sum(range(10**11))
    elif what == "regex":
        re.match(r"(a+)+$", "a" * 64 + "b")
    elif what == "c call":  # PyDLL keeps the GIL
        libc = ctypes.PyDLL(None)
        while True:
            libc.sleep(3600)
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "switch":
        sys.setswitchinterval(10_000)
        while True:
            pass
    else:
        raise ValueError(what)


@app.task(name="work.stubborn")
async def stubborn(what):
    log("start", what)
    while True:
        try:
            await asyncio.sleep(0.01)
        except BaseException:
            log("caught", what)


@app.task(name="work.mess")
def mess():
    """Leave the process with other handlers and a mask, and end well."""
    for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGRTMIN + 5):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    return os.getpid()


@app.task(name="work.own_loop")
def own_loop():
    """Take a signal in an event loop of its own: the interpreter's wake-up socket is gone afterwards."""
    loop = asyncio.new_event_loop()
    loop.add_signal_handler(signal.SIGUSR2, print)
    loop.close()
    return os.getpid()


@app.task(name="work.deaf")
def deaf(what, until):
    """Take no notice of TERM, and put nothing back."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    log("start", what)
    wait_for(until)
    log("end", what)


@app.task(name="work.leak")
def leak(what):
    """Use up the file descriptors, for good."""
    log("start", what)
    while True:
        os.open(os.devnull, os.O_RDONLY)


@app.task(name="work.split")
def split():
    """Both sides of a fork return."""
    return os.getpid() if os.fork() else "the copy"
'''

SETTLED = [
    "swallow",
    "busy",
    "sleep",
    "recv",
    "lock",
    "c sleep",
    "ignore",
    "mask",
    "fork",
    "fork with a lock",
    "subprocess",
    "thread",
]
KILLED = ["spin", "regex", "c call", "stop", "switch", "bomb"]  # the last by whoever is first


@pytest.fixture
def hostile(place: Places) -> Place:
    at = place()
    file = at.path / "work.py"
    file.write_text(file.read_text() + HOSTILE)
    return at


def _only_those(at: Place, node: Node, whats: list[str], neighbours: list[str]) -> None:
    """Each hostile task started once, each neighbour ended once, no grandchild lives, nothing is left over."""
    at.everything_done(neighbours)
    assert node.stop() == 0
    assert at.count("start") == Counter([*whats, *neighbours])
    assert at.count("end") == Counter(neighbours)
    assert not alive([int(pid) for pid in at.count("grandchild")])
    assert not node.records("child crashed")
    assert at.depth() == 0
    # A process may be killed for its next task after it published a dead letter and before it acked the message: once more, then.
    letters = set()
    while letter := at.take():
        letters.add(letter[0].headers["id"])
    assert len(letters) == len(whats)


def test_what_the_childs_own_thread_ends(hostile: Place) -> None:
    at = hostile
    node = at.node("-c3", "--prefetch-multiplier", "4", "-Q", at.queue)
    limits = {"soft_time_limit": 0.2, "time_limit": 0.5}
    results = [at.send("hostile", what, **limits) for what in ("swallow", "busy")]
    results.append(at.send("stubborn", "coroutine", **limits))
    results += [at.send("hostile", what, time_limit=0.5) for what in SETTLED[2:]]
    neighbours = at.send_notes(12)

    for result in results:
        with pytest.raises(TimeLimitExceeded, match=result.id):
            result.get(timeout=30)

    assert at.count("caught")["coroutine"] == 1
    # on a busy machine the supervisor may be faster with one or the other
    killed = {record["task_id"] for record in node.records("child killed")}
    assert len(killed) < len(results) / 2
    _only_those(at, node, [*SETTLED, "coroutine"], neighbours)


def test_what_the_supervisor_must_kill(hostile: Place) -> None:
    at = hostile
    node = at.node("-c2", "--prefetch-multiplier", "4", "-Q", at.queue)
    results = {what: at.send("hostile", what, time_limit=0.5) for what in KILLED}
    neighbours = at.send_notes(8)

    for result in results.values():
        with pytest.raises(TimeLimitExceeded, match=result.id):
            result.get(timeout=30)

    killed = node.records("child killed")
    assert {record["task_id"] for record in killed} >= {results[what].id for what in KILLED[:3]}
    _only_those(at, node, KILLED, neighbours)


def test_it_is_killed_within_a_second_of_its_limit(hostile: Place) -> None:
    at = hostile
    node = at.node("-c1", "-Q", at.queue)
    result = at.send("hostile", "c call", time_limit=0.5)
    at.saw("start", "c call")
    began = time.monotonic()
    (child,) = node.children()
    eventually(lambda: not alive([child]), 5)
    assert time.monotonic() - began < 0.5 + 1.0 + 0.5  # half a second for a busy machine
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=10)
    _only_those(at, node, ["c call"], [])


@pytest.mark.parametrize("mess", ["mess", "own_loop"])
def test_limits_after_a_task_that_left_a_mess(hostile: Place, mess: str) -> None:
    at = hostile
    node = at.node("-c1", "-Q", at.queue)
    (child,) = node.children()
    assert at.send(mess).get(timeout=10) == child
    assert at.send("linger", "x", soft_time_limit=0.2).get(timeout=10) == "cleaned up"
    result = at.send("linger", "y")
    at.saw("start", "y")
    result.revoke(terminate=True, signal="SIGUSR1")
    assert result.get(timeout=10) == "cleaned up"
    assert at.send(mess).get(timeout=10) == child
    assert node.children() == [child]
    assert node.stop(timeout=10) == 0
    assert not node.records("child killed")


@pytest.mark.parametrize("flags", ["-c1", "-Psolo"])
def test_a_process_without_descriptors_is_replaced(hostile: Place, flags: str) -> None:
    at = hostile
    most, hardest = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hardest))  # which the node inherits
    try:
        node = at.node(flags, "-Q", at.queue)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hardest))
    # a child's first result needs a connection, for which no descriptor is left
    with pytest.raises(OSError, match="Too many open files"):
        at.send("leak", "x").get(timeout=20)
    assert at.send("note", "after").get(timeout=20) == "after"
    assert node.stop() == 0
    assert node.records("tasks have used up the file descriptors of this process; it is replaced")
    assert not node.records("child crashed")
    assert at.count("start") == {"x": 1, "after": 1}


def test_the_copy_that_a_fork_leaves_settles_nothing(hostile: Place) -> None:
    at = hostile
    node = at.node("-c1", "-Q", at.queue)
    (child,) = node.children()
    assert at.send("split").get(timeout=10) == child
    eventually(lambda: not alive(offspring(child)), 5)
    assert at.send("note", "after").get(timeout=10) == "after"
    assert node.children() == [child]
    assert node.stop() == 0


def test_a_stop_that_a_task_ignored_is_asked_for_again(hostile: Place) -> None:
    at = hostile
    node = at.node("-c1", "--prefetch-multiplier", "1", "-Q", at.queue)
    at.send("deaf", "x", "go", ignore_result=True)
    at.saw("start", "x")
    at.send_notes(1)
    node.kill(signal.SIGTERM)
    node.says("warm shutdown")
    at.release("go")
    assert node.wait(15) == 0
    assert at.count("end")["x"] == 1
    assert not node.records("child killed")
