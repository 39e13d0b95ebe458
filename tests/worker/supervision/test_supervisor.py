"""Real nodes: a supervisor, a fork server and children, under every signal and every death, without a broker."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from amqtask.core import fleet
from amqtask.worker.memory.board import Board
from amqtask.worker.memory.journal import Ended, mark_of
from amqtask.worker.supervision.supervisor import _Shell
from tests.waiting import eventually

pytestmark = pytest.mark.process

PROGRAM = Path(__file__).with_name("toynode.py")
Record = dict[str, Any]


class ToyNode:
    """A running toynode.py: what it reports, what it logs, and its processes."""

    def __init__(self, folder: Path, program: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.program = program
        self.pid = program.pid

    # ---- what happened

    def events(self, name: str | None = None) -> list[Record]:
        path = self.folder / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines]
        return [record for record in records if name in (None, record["event"])]

    def plain(self) -> list[str]:
        """What was said outside of the log, line by line."""
        lines = (self.folder / "stderr").read_text().splitlines()
        return [line for line in lines if not line.startswith("{")]

    def log(self, name: str | None = None) -> list[Record]:
        lines = (self.folder / "stderr").read_text().splitlines()
        records = [json.loads(line) for line in lines if line.startswith("{")]
        return [record for record in records if name in (None, record["event"])]

    def ready(self, number: int, **fields: object) -> list[Record]:
        """Wait for that many children that are ready and alive; return their reports in order of time."""

        def enough() -> list[Record]:
            found = [
                record
                for record in self.events("ready")
                if alive(record["pid"])
                and all(record[name] == value for name, value in fields.items())
            ]
            return found if len(found) >= number else []

        return eventually(enough, timeout=20)

    def wait(self, number: int, name: str) -> list[Record]:
        """Wait for that many events of a name; return them."""
        eventually(lambda: len(self.events(name)) >= number)
        return self.events(name)

    def wait_log(self, number: int, name: str) -> list[Record]:
        """Wait for that many log lines of a name; return them."""
        eventually(lambda: len(self.log(name)) >= number)
        return self.log(name)

    # ---- what to do

    def tell(self, pid: int, command: str) -> None:
        path = self.folder / f"{pid}.fifo"
        descriptor = os.open(path, os.O_WRONLY)
        os.write(descriptor, f"{command}\n".encode())
        os.close(descriptor)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def exit_code(self, timeout: float = 15.0) -> int:
        return self.program.wait(timeout)

    def processes(self) -> list[int]:
        """Return every live process of this node, whoever its parent is: they all inherited the marker."""
        marker = f"AMQTASK_TOY={self.folder}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if marker in environment.split(b"\0"):
                    found.append(int(entry.name))
        return [pid for pid in found if alive(pid)]


def stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat after the name: state, parent, …; empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def alive(pid: int) -> bool:
    fields = stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def wait_dead(pid: int) -> None:
    eventually(lambda: not alive(pid))


def wait_reaped(pid: int) -> None:
    eventually(lambda: not stat(pid))


def fds(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


Start = Callable[..., ToyNode]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start nodes; afterwards nothing of them may be left."""
    nodes: list[ToyNode] = []

    def run(app: str = "GREETING = 'hello'\n", **options: object) -> ToyNode:
        folder = tmp_path / f"node{len(nodes)}"
        folder.mkdir()
        (folder / "toyapp.py").write_text(app)
        values = {"concurrency": 2, **options}
        with (folder / "stderr").open("wb") as stderr:
            program = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(folder), json.dumps(values)],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env={**os.environ, "AMQTASK_TOY": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
                start_new_session=True,
            )
        node = ToyNode(folder, program)
        nodes.append(node)
        return node

    yield run
    for node in nodes:
        node.program.kill()
        node.program.wait()
    eventually(lambda: not any(node.processes() for node in nodes), timeout=5)


def test_starts_and_shows_its_banner_once(start: Start) -> None:
    node = start(concurrency=3)

    children = node.ready(3)

    assert {child["index"] for child in children} == {0, 1, 2}
    assert [event["info"] for event in node.events("banner")] == [{"greeting": "hello"}]
    assert len({os.getpgid(child["pid"]) for child in children}) == 3
    eventually(lambda: node.log("ready"))


def test_killed_child_is_replaced_and_its_task_named(start: Start) -> None:
    node = start()
    victim, other = node.ready(2)
    node.tell(victim["pid"], "begin task-9")
    eventually(lambda: node.events("begun"))

    os.kill(victim["pid"], signal.SIGKILL)

    node.ready(2)
    line = eventually(lambda: node.log("child crashed"))[0]
    assert line["node"] == "toy@test"
    assert line["pid"] == victim["pid"]
    assert line["signal"] == "SIGKILL"
    assert (line["task_id"], line["task_name"], line["count"]) == ("task-9", "toy.task", 1)
    node.tell(other["pid"], "verdict task-9")
    verdict = eventually(lambda: node.events("verdict"))[0]
    assert (verdict["crashes"], verdict["cause"]) == (1, "signal 9 (SIGKILL)")


def test_crashes_of_one_task_are_counted(start: Start) -> None:
    node = start(concurrency=1)
    for count in (1, 2, 3):
        child = node.ready(1)[0]
        node.tell(child["pid"], "begin poison")
        node.wait(count, "begun")
        node.tell(child["pid"], "segv")
        node.wait_log(count, "child crashed")

    line = node.log("child crashed")[-1]
    assert (line["signal"], line["task_id"], line["count"]) == ("SIGSEGV", "poison", 3)


def test_idle_child_that_dies_charges_nobody(start: Start) -> None:
    node = start(concurrency=1)
    child = node.ready(1)[0]

    node.tell(child["pid"], "os-exit 7")

    node.ready(1)
    line = eventually(lambda: node.log("child crashed"))[0]
    assert line["exit_code"] == 7
    assert "task_id" not in line


def test_exception_out_of_run_is_logged_and_exits_70(start: Start) -> None:
    node = start(concurrency=1)
    child = node.ready(1)[0]

    node.tell(child["pid"], "raise")

    eventually(lambda: [line for line in node.log("child crashed") if line["exit_code"] == 70])
    failure = node.log("child failed")[0]
    assert "RuntimeError: out of run" in failure["exception"]


def test_grandchild_dies_with_its_child(start: Start) -> None:
    node = start(concurrency=1)
    child = node.ready(1)[0]
    node.tell(child["pid"], "fork")
    grandchild = eventually(lambda: node.events("grandchild"))[0]["pid"]

    os.kill(child["pid"], signal.SIGKILL)

    eventually(lambda: not alive(grandchild), timeout=1)
    node.ready(1)


@pytest.mark.parametrize("without_prctl", [False, True])
def test_nothing_outlives_a_killed_supervisor(start: Start, without_prctl: bool) -> None:
    node = start(without_prctl=without_prctl)
    child = node.ready(2)[0]
    node.tell(child["pid"], "fork")
    eventually(lambda: node.events("grandchild"))
    assert (
        len(node.processes()) == 6
    )  # supervisor, fork server, agent, two children, the grandchild

    os.kill(node.pid, signal.SIGKILL)
    node.program.wait()

    eventually(lambda: not node.processes(), timeout=5)


def test_nothing_outlives_a_supervisor_killed_while_its_server_is_stopped(start: Start) -> None:
    node = start()
    child = node.ready(2)[0]
    node.tell(child["pid"], "fork")
    eventually(lambda: node.events("grandchild"))
    os.kill(child["server"], signal.SIGSTOP)

    os.kill(node.pid, signal.SIGKILL)
    node.program.wait()

    eventually(lambda: not node.processes(), timeout=5)


def test_nothing_outlives_a_supervisor_killed_during_the_import(start: Start) -> None:
    node = start(app="import signal\nsignal.pause()\n")
    eventually(lambda: node.events("importing"))

    os.kill(node.pid, signal.SIGKILL)
    node.program.wait()

    eventually(lambda: not node.processes(), timeout=5)


@pytest.mark.parametrize("without_prctl", [False, True])
def test_killed_fork_server_is_replaced_with_all_below_it(
    start: Start, without_prctl: bool
) -> None:
    node = start(without_prctl=without_prctl)
    old = node.ready(2)
    node.tell(old[0]["pid"], "fork")
    grandchild = eventually(lambda: node.events("grandchild"))[0]["pid"]

    os.kill(old[0]["server"], signal.SIGKILL)

    node.ready(2, generation=2)
    eventually(lambda: not any(alive(pid) for pid in (old[0]["pid"], old[1]["pid"], grandchild)))
    assert not node.log("child crashed")


def test_term_waits_for_what_runs(start: Start) -> None:
    node = start()
    busy, idle = node.ready(2)
    node.tell(busy["pid"], "begin long")
    eventually(lambda: node.events("begun"))

    node.signal(signal.SIGTERM)
    eventually(lambda: not alive(idle["pid"]))
    assert alive(busy["pid"])
    node.tell(busy["pid"], "end 0")

    assert node.exit_code() == 0
    assert not node.events("quit")
    assert len([e for e in node.events("term") if e["pid"] == busy["pid"]]) == 1


def test_second_int_is_cold(start: Start) -> None:
    node = start()
    busy, idle = node.ready(2)
    node.tell(busy["pid"], "begin long")
    eventually(lambda: node.events("begun"))

    node.signal(signal.SIGINT)
    wait_dead(idle["pid"])
    assert alive(busy["pid"])
    node.signal(signal.SIGINT)

    assert node.exit_code() == 0
    assert [event["pid"] for event in node.events("quit")] == [busy["pid"]]
    assert not node.log("child crashed")


def test_quit_kills_what_does_not_answer(start: Start) -> None:
    node = start(concurrency=1)
    child = node.ready(1)[0]
    node.tell(child["pid"], "begin long")
    node.tell(child["pid"], "stubborn")
    eventually(lambda: node.events("stubborn"))

    node.signal(signal.SIGQUIT)

    assert node.exit_code() == 1
    assert node.log("child killed")
    assert not node.log("child crashed")


def test_shutdown_timeout_makes_a_warm_stop_cold(start: Start) -> None:
    node = start(concurrency=1, shutdown_timeout=0.3)
    child = node.ready(1)[0]
    node.tell(child["pid"], "begin long")
    eventually(lambda: node.events("begun"))

    node.signal(signal.SIGTERM)

    assert node.exit_code() == 0
    assert [event["event"] for event in node.events()][-3:] == ["term", "quit", "supervisor atexit"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_stop_while_the_app_is_imported(start: Start, number: signal.Signals) -> None:
    node = start(app="import signal\nwhile True: signal.pause()\n")
    eventually(lambda: node.events("importing"))

    node.signal(number)

    assert node.exit_code(5) == 0
    assert not node.processes()


def test_term_to_every_process_at_once_is_a_warm_stop(start: Start) -> None:
    """As a process manager does that signals the whole control group."""
    node = start()
    busy, _ = node.ready(2)
    node.tell(busy["pid"], "begin long")
    eventually(lambda: node.events("begun"))

    for pid in node.processes():
        with contextlib.suppress(ProcessLookupError):  # gone already: an idle child is quick
            os.kill(pid, signal.SIGTERM)
    eventually(lambda: node.log("warm shutdown"))
    node.tell(busy["pid"], "end 0")

    assert node.exit_code() == 0
    assert not node.log("child crashed")


def test_hup_brings_new_code_before_the_old_drains(start: Start) -> None:
    node = start()
    old = node.ready(2)
    node.tell(old[0]["pid"], "begin long")
    eventually(lambda: node.events("begun"))
    (node.folder / "toyapp.py").write_text("GREETING = 'new code'\n")

    node.signal(signal.SIGHUP)

    node.ready(2, generation=2, greeting="new code")
    eventually(lambda: len(node.events("term")) == 2)
    names = [event["event"] for event in node.events() if event["event"] in ("ready", "term")]
    assert names == ["ready"] * 4 + ["term"] * 2
    eventually(lambda: not alive(old[1]["pid"]))
    assert alive(old[0]["pid"])
    node.tell(old[0]["pid"], "end 0")
    eventually(lambda: not alive(old[0]["server"]))
    assert not node.log("child crashed")


def test_hup_with_a_broken_app_keeps_the_old_one(start: Start) -> None:
    node = start()
    old = node.ready(2)
    (node.folder / "toyapp.py").write_text("import nowhere_to_be_found\n")

    node.signal(signal.SIGHUP)

    line = eventually(lambda: node.log("reload failed, the old code goes on"))[0]
    assert "No module named 'nowhere_to_be_found'" in line["reason"]
    assert all(alive(child["pid"]) for child in old)
    assert not node.events("term")
    (node.folder / "toyapp.py").write_text("GREETING = 'repaired'\n")
    node.signal(signal.SIGHUP)
    node.ready(2, greeting="repaired")


def test_usr1_dumps_the_stacks_of_all_processes(start: Start) -> None:
    node = start()
    stuck, _ = node.ready(2)
    node.tell(stuck["pid"], "stuck")
    eventually(lambda: node.events("stuck"))

    node.signal(signal.SIGUSR1)

    def dumped() -> bool:
        text = (node.folder / "stderr").read_text()
        # the one that holds the GIL in C shows its stack too
        return text.count("most recent call first") >= 3 and " in do\n" in text

    eventually(dumped)
    assert len(node.ready(2)) == 2


def test_children_that_never_get_ready_back_off(start: Start) -> None:
    node = start(concurrency=1)
    (node.folder / "never-ready").touch()
    for number in range(1, 4):
        node.tell(node.wait(number, "ready")[-1]["pid"], "os-exit 3")

    lines = node.wait_log(3, "crash loop, backing off")
    assert [line["seconds"] for line in lines][-3:] == [0.5, 1.0, 2.0]
    node.signal(signal.SIGTERM)
    assert node.exit_code() == 0


@pytest.mark.parametrize(
    ("app", "sentence"),
    [
        ("import nowhere_to_be_found\n", "No module named 'nowhere_to_be_found'"),
        ("GREETING = 1 / 0\n", "ZeroDivisionError: division by zero"),
        ("GREETING = (\n", "was never closed"),
        ("raise SystemExit(0)\n", "sys.exit(0)"),
        ("import os\nos._exit(0)\n", "died (exit code 0)"),
        ("import os\nos.kill(os.getpid(), 11)\n", "died (SIGSEGV)"),
        ("GREETING = 'refuse'\n", "The toy app refuses: change its greeting."),
        ("GREETING = object()\n", "object"),
    ],
)
def test_app_that_cannot_be_imported_is_one_sentence(start: Start, app: str, sentence: str) -> None:
    node = start(app=app)

    assert node.exit_code() == 1
    lines = node.plain()
    assert len(lines) == 1
    assert sentence in lines[0]
    assert not node.events("banner")


def test_recycled_child_is_replaced_without_a_complaint(start: Start) -> None:
    node = start(concurrency=1)
    for _ in range(7):
        child = node.ready(1)[0]
        node.tell(child["pid"], "exit 79")
        wait_dead(child["pid"])

    node.ready(1)
    assert not [line for line in node.log() if line["level"] in ("warning", "error")]


def test_retiring_child_works_until_the_next_is_ready(start: Start) -> None:
    node = start(concurrency=1)
    old = node.ready(1)[0]

    node.tell(old["pid"], "retire")

    eventually(lambda: node.events("term"))
    names = [event["event"] for event in node.events()]
    assert names.index("term") > len(names) - 1 - names[::-1].index("ready")
    eventually(lambda: not alive(old["pid"]))
    assert len(node.ready(1)) == 1


def test_hard_limit_ends_a_child_that_is_stuck_in_c(start: Start) -> None:
    node = start()
    stuck, other = node.ready(2)
    node.tell(stuck["pid"], "begin slow 0.4")
    node.tell(stuck["pid"], "stuck")
    eventually(lambda: node.events("stuck"))

    eventually(lambda: not alive(stuck["pid"]), timeout=2.5)

    line = eventually(lambda: node.log("child killed"))[0]
    assert (line["task_id"], line["verdict"]) == ("slow", "hard_limit")
    assert line["reason"] == "hard time limit of 0.4 s"
    node.tell(other["pid"], "verdict slow")
    assert eventually(lambda: node.events("verdict"))[0]["hard_limit"]
    node.ready(2)
    assert not node.log("child crashed")


def test_frozen_child_is_killed_and_replaced(start: Start) -> None:
    node = start(concurrency=1, frozen_timeout=0.6)
    child = node.ready(1)[0]
    node.tell(child["pid"], "begin innocent")
    eventually(lambda: node.events("begun"))

    os.kill(child["pid"], signal.SIGSTOP)

    wait_dead(child["pid"])
    assert "stopped by a signal" in eventually(lambda: node.log("child killed"))[0]["reason"]
    follower = node.ready(1)[0]
    node.tell(follower["pid"], "verdict innocent")
    standing = eventually(lambda: node.events("verdict"))[0]
    assert (standing["crashes"], standing["hard_limit"]) == (0, False)


def test_fork_that_the_system_refuses_is_tried_again(start: Start) -> None:
    # root forks without any limit, so the system's refusal is played by the app: the first forks of its server fail
    app = (
        "import errno, os\n"
        "GREETING, left, real = 'hello', [1, 2, 3], os.fork\n"
        "def fork():\n"
        "    if left:\n"
        "        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), left.pop())\n"
        "    return real()\n"
        "os.fork = fork\n"
    )
    node = start(app=app, concurrency=1)

    node.ready(1)

    refused = node.log("no child could be forked") + node.wait_log(
        1, "the node's agent died; another follows"
    )
    assert len(refused) == 3
    reasons = {line.get("reason") or line["how"] for line in refused}
    assert reasons == {"Resource temporarily unavailable"}


def test_task_that_ends_in_time_is_left_alone(start: Start) -> None:
    node = start(concurrency=1)
    child = node.ready(1)[0]
    node.tell(child["pid"], "begin quick 0.2")
    node.tell(child["pid"], "end")
    node.tell(child["pid"], "begin endless")
    eventually(lambda: len(node.events("begun")) == 2)

    # another child's limit passes meanwhile: the clock that is waited on is the supervisor's own
    node.signal(signal.SIGHUP)
    follower = node.ready(1, generation=2)[0]
    node.tell(follower["pid"], "begin slow 0.3")
    eventually(lambda: not alive(follower["pid"]))

    assert alive(child["pid"])
    node.tell(child["pid"], "end 0")


def test_fifty_respawns_leak_nothing(start: Start) -> None:
    node = start(concurrency=1)
    first = node.ready(1)[0]
    server = first["server"]
    before = (fds(node.pid), fds(server), first["fds"])
    for _ in range(50):
        child = node.ready(1)[0]
        node.tell(child["pid"], "exit 79")
        wait_reaped(child["pid"])

    last = node.ready(1)[0]
    assert (fds(node.pid), fds(server), last["fds"]) == before
    assert last["server"] == server
    zombies = [e["pid"] for e in node.events("ready") if stat(e["pid"])[:1] == ["Z"]]
    assert zombies == []


def test_exit_handlers_run_where_they_were_registered(start: Start) -> None:
    app = (
        "import atexit, os, __main__\n"
        "GREETING = 'hello'\n"
        "atexit.register(lambda: __main__.report('import atexit'))\n"
    )
    node = start(app=app, concurrency=1)
    child = node.ready(1)[0]
    node.tell(child["pid"], "atexit")
    node.tell(child["pid"], "exit 79")
    wait_dead(child["pid"])
    node.ready(1)

    node.signal(signal.SIGTERM)

    assert node.exit_code() == 0
    ran = [(e["event"], e["pid"]) for e in node.events() if "atexit" in e["event"]]
    assert ran == [
        ("child atexit", child["pid"]),
        ("import atexit", child["server"]),
        ("supervisor atexit", node.pid),
    ]


def test_frozen_supervisor_changes_nothing_for_the_children(start: Start) -> None:
    node = start(concurrency=1)
    child = node.ready(1)[0]
    node.signal(signal.SIGSTOP)
    eventually(lambda: stat(node.pid)[0] == "T")
    node.tell(child["pid"], "begin task 0.1")
    node.tell(child["pid"], "end")
    node.tell(child["pid"], "begin next")
    eventually(lambda: len(node.events("begun")) == 2)

    node.signal(signal.SIGCONT)
    node.signal(signal.SIGUSR1)

    eventually(lambda: "most recent call first" in (node.folder / "stderr").read_text())
    assert alive(child["pid"])
    assert len(node.events("ready")) == 1


def test_closing_the_terminal_is_a_warm_stop(tmp_path: Path) -> None:
    (tmp_path / "toyapp.py").write_text("GREETING = 'hello'\n")
    ours, theirs = os.openpty()
    with (tmp_path / "stderr").open("wb") as stderr:
        program = subprocess.Popen(
            ["setsid", "--ctty", sys.executable, str(PROGRAM), str(tmp_path), "{}"],
            stdin=theirs,
            stdout=stderr,
            stderr=stderr,
            env={**os.environ, "AMQTASK_TOY": str(tmp_path)},
        )
    os.close(theirs)
    node = ToyNode(tmp_path, program)
    try:
        node.ready(1)

        os.close(ours)

        assert node.exit_code() == 0
        assert node.log("warm shutdown")
    finally:
        program.kill()
        program.wait()


def test_reload_follows_a_change_of_the_code(start: Start) -> None:
    node = start(reload=True)
    node.ready(2)
    eventually(lambda: node.log("watching for changes"))

    def changed() -> bool:
        # written again until it is seen: the watcher needs a moment to start
        text = f"GREETING = 'new code'  # {len(node.events())}\n"
        (node.folder / "toyapp.py").write_text(text)
        return bool(node.log("reloading"))

    eventually(changed, interval=0.7, timeout=20)

    node.ready(2, greeting="new code")
    node.signal(signal.SIGTERM)
    assert node.exit_code() == 0
    eventually(lambda: not node.processes())


def test_solo_runs_in_the_worker_itself(start: Start) -> None:
    node = start(pool="solo", concurrency=1)
    child = node.ready(1)[0]
    assert child["pid"] == node.pid
    assert node.processes() == [node.pid]

    node.signal(signal.SIGINT)

    assert node.exit_code() == 0
    assert node.events("term")


def test_solo_hup_starts_the_program_anew(start: Start) -> None:
    node = start(pool="solo", concurrency=1)
    node.ready(1)
    (node.folder / "toyapp.py").write_text("GREETING = 'new code'\n")
    (node.folder / f"{node.pid}.fifo").unlink()

    node.signal(signal.SIGHUP)

    assert node.ready(1, greeting="new code")[0]["pid"] == node.pid
    node.signal(signal.SIGTERM)
    assert node.exit_code() == 0


def test_solo_import_failure_is_one_sentence(start: Start) -> None:
    node = start(app="import nowhere_to_be_found\n", pool="solo", concurrency=1)

    assert node.exit_code() == 1
    lines = node.plain()
    assert len(lines) == 1
    assert "No module named 'nowhere_to_be_found'" in lines[0]


def test_idle_node_hardly_wakes(start: Start) -> None:
    node = start()
    node.ready(2)
    eventually(lambda: node.log("ready"))

    def wakeups() -> int:
        text = Path(f"/proc/{node.pid}/status").read_text()
        return int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0])

    # two looks at the slots a second: timed over a number of wakeups, not counted over a time
    first, began = wakeups(), time.monotonic()
    eventually(lambda: wakeups() >= first + 4)
    assert 4 / (time.monotonic() - began) < 10


def test_who_gets_a_seat_is_not_waited_for_in_place_of_who_died_there() -> None:
    board = Board(seats=1, slots=1)
    journal = board.journal.seat(0)
    settling, safe = mark_of(("settling",)), mark_of(("safe",))
    journal.begin(settling)
    journal.safe(journal.begin(safe), safe)
    shell = SimpleNamespace(_board=board, _send=lambda generation, frame: None)

    # a fork server died with the child of this seat, and another takes the seat at once
    _Shell._carry_out(cast(Any, shell), (fleet.Spawn(0, 2),))

    assert board.journal.find(settling) is Ended.UNKNOWN
    assert board.journal.find(safe) is Ended.ACK_LOST
    board.close()
