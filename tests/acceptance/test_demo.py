"""The demo as a user runs it: its output, its exit code, and that nothing of it stays."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pika.exceptions
import pytest

from amqtask.broker.processes import marked
from tests.brokers import Broker
from tests.cli.running import AMQTASK, OURS
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
MARK = "AMQTASK_TEST_DEMO"
QUEUES = ("shop.words", "shop.files", "shop.reports")
ROW = re.compile(
    r"^(?P<file>\S.*?)  +(?P<task>\S+)  +(?P<queue>shop\.\w+)  +(?P<node>[\w-]+)/(?P<pid>\d+)  +(?P<result>.*?)  +[\d.]+ ms$",
    re.MULTILINE,
)


class Shop:
    """A copy of the example in a folder of its own, or the repository's, on the run's broker."""

    def __init__(self, root: Path, broker: Broker) -> None:
        self.root = root
        self.broker = broker
        self.mark = uuid.uuid4().hex
        self.demo = [sys.executable, "examples/shop/demo.py"]
        kept = {name: value for name, value in os.environ.items() if name not in OURS}
        self.environment = kept | {
            "AMQTASK_BROKER_URL": broker.url,
            MARK: self.mark,
            "PYTHONPATH": str(ROOT),
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the demo to its end, its output piped."""
        return subprocess.run(
            [*self.demo, *arguments],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    @contextlib.contextmanager
    def started(self, *command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """The demo on a terminal of its own; the process and the terminal's other end."""
        here, there = pty.openpty()
        process = subprocess.Popen(
            command or self.demo,
            cwd=self.root,
            env=self.environment | {"TERM": "xterm"},
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(there)
        try:
            yield process, here
        finally:
            process.kill()
            process.wait()
            os.close(here)

    def processes(self, word: str = "") -> list[int]:
        """The demo's processes whose command line holds a word."""
        found = []
        for process in marked(self.mark, MARK):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
                if word in command and "resource_tracker" not in command:
                    found.append(process.pid)
        return found

    def queues(self) -> list[str]:
        """Those of the shop's queues that are there."""
        with self.broker.channel() as channel:
            found = []
            for name in (name for queue in QUEUES for name in (queue, f"{queue}.dead")):
                try:
                    channel.queue_declare(name, passive=True)
                except pika.exceptions.ChannelClosedByBroker:
                    channel = channel.connection.channel()
                else:
                    found.append(name)
        return found

    def leaves_nothing(self) -> None:
        assert not self.queues()
        eventually(lambda: not self.processes(), timeout=30)


def _take_terminal() -> None:
    """Make the terminal on standard input this session's own, so that its Ctrl-C arrives."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until(terminal: int, text: str | None) -> str:
    """What a terminal shows up to a text, or up to the end."""
    shown = b""
    while text is None or text.encode() not in shown:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # EIO: the other side is gone
            break
        if not data:
            break
        shown += data
    return shown.decode()


@pytest.fixture
def shop(tmp_path: Path, broker: Broker) -> Shop:
    """A copy of the example with two texts."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "routing").mkdir()
    shutil.copy(ROOT / "routing" / "shop.yaml", tmp_path / "routing")
    (tmp_path / "README.md").write_text("one two three\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("a\nb\n")
    for name in ("amqtask", "tests"):
        (tmp_path / name).mkdir()
    return Shop(tmp_path, broker)


def test_the_demo_shows_real_results_of_every_node_and_leaves_nothing(broker: Broker) -> None:
    shop = Shop(ROOT, broker)
    done = shop.run("--all", "docs", "README.md")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [match.groupdict() for match in ROW.finditer(done.stdout)]
    nodes = {(row["node"], row["queue"]) for row in rows}
    assert nodes == {(f"{queue[5:]}-{n}", queue) for queue in QUEUES for n in (1, 2)}
    words = {row["file"]: row["result"] for row in rows if row["task"] == "count_words"}
    sums = {row["file"]: row["result"] for row in rows if row["task"] == "checksum"}
    readme = ROOT / "README.md"
    assert words["README.md"] == f"{len(readme.read_text().split()):,} words"
    assert sums["README.md"] == hashlib.sha256(readme.read_bytes()).hexdigest()[:12]
    assert any(row["file"].endswith("(urgent)") for row in rows)
    assert f"tasks               {len(rows):,} on {len(words):,} files" in done.stdout
    assert "6 nodes stopped after" in done.stdout
    assert "each with exit code 0" in done.stdout
    shop.leaves_nothing()


def test_on_a_terminal_it_shows_the_same_in_colour(shop: Shop) -> None:
    with shop.started() as (process, terminal):
        shown = read_until(terminal, None)
        assert process.wait(60) == 0
    assert "\x1b[" in shown
    assert "What the demo declared is deleted." in shown
    shop.leaves_nothing()


@pytest.mark.parametrize(
    "moment", ["worker -Q shop.words", "nodes consume", "examples.shop.publish"]
)
def test_ctrl_c_cleans_up_and_ends_with_130(shop: Shop, moment: str) -> None:
    command = (sys.executable, "-m", "amqtask.broker.run", "--", *shop.demo)  # as make does
    with shop.started(*command) as (process, terminal):
        read_until(terminal, moment)
        os.write(terminal, b"\x03")
        shown = read_until(terminal, None)
        assert process.wait(60) == 130
    assert "Traceback" not in shown
    shop.leaves_nothing()


def test_a_terminal_that_is_closed_in_the_middle_leaves_nothing(shop: Shop) -> None:
    with shop.started() as (process, terminal):
        read_until(terminal, "examples.shop.publish")
        os.dup2(os.open(os.devnull, os.O_RDONLY), terminal)  # its last descriptor: this hangs up
        assert process.wait(60) == 129
    shop.leaves_nothing()


def test_queues_that_were_there_before_stay(shop: Shop) -> None:
    apply = [AMQTASK, "topology", "apply", "routing/shop.yaml"]
    subprocess.run(
        apply, cwd=shop.root, env=shop.environment, check=True, stdout=subprocess.DEVNULL
    )
    try:
        done = shop.run()
        assert (done.returncode, done.stderr) == (0, "")
        assert len(shop.queues()) == 6
    finally:
        with shop.broker.channel() as channel:
            for queue in QUEUES:
                channel.queue_delete(queue)
                channel.queue_delete(f"{queue}.dead")
            channel.exchange_delete("shop")
    shop.leaves_nothing()


def test_a_task_that_fails_fails_the_demo_in_one_sentence(shop: Shop) -> None:
    (shop.root / "docs" / "latin.md").write_bytes(b"caf\xe9")
    done = shop.run("docs")
    assert done.returncode == 1
    assert done.stderr.startswith("count_words('docs/latin.md') failed: UnicodeDecodeError: ")
    assert done.stderr.count("\n") == 1
    shop.leaves_nothing()


def test_a_node_that_dies_fails_the_demo_in_one_sentence(shop: Shop) -> None:
    with shop.started() as (process, terminal):
        (node,) = eventually(lambda: shop.processes("words-1")[:1], timeout=30)
        os.kill(node, signal.SIGKILL)
        shown = read_until(terminal, None)
        assert process.wait(60) == 1
    assert "Node words-1 ended with exit code -9 in the middle of its work: " in shown
    assert "Traceback" not in shown
    shop.leaves_nothing()


def test_a_conflict_is_told_by_the_command_and_changes_nothing(shop: Shop) -> None:
    with shop.broker.channel() as channel:
        channel.queue_declare("shop.files", durable=True, arguments={"x-queue-type": "classic"})
    try:
        done = shop.run()
        assert done.returncode == 1
        assert "'shop.files'" in done.stderr
        assert done.stderr.count("\n") == 1
        assert shop.queues() == ["shop.files"]
    finally:
        with shop.broker.channel() as channel:
            channel.queue_delete("shop.files")
    shop.leaves_nothing()


def test_a_path_that_is_not_there_is_told_before_anything_starts(shop: Shop) -> None:
    done = shop.run("docs", "nowhere")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"There is no 'nowhere' in {shop.root}: name files and folders of the repository.\n"
    )
