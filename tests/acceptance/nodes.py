"""Worker nodes as a user starts them, and what they did.

A ``Place`` is a folder with an app (``work`` unless another is named), its topology and settings; ``place.node(...)`` runs
``amqtask worker`` there. The app's tasks write a ledger, so that a test can account for every message: done, dead or still in the queue.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pika

from amqtask import App
from amqtask.testing.members import offspring
from tests import weather
from tests.brokers import Broker, OwnBroker
from tests.cli.running import AMQTASK, OURS, run_here
from tests.waiting import eventually

APP = Path(__file__).with_name("work.py")
START = 30.0  # seconds a node gets to be ready on a busy machine
STOP = 30.0  # seconds a node gets to end


class Place:
    """A folder with an app, on a broker, with queues of its own. Close it, or use it in a ``with`` block.

    Args:
        path: an empty folder.
        broker: where the queues are.
        type: of the queues, ``classic`` or ``quorum``.
        more: further queues of the topology; their names get the place's tag.
        queue: further arguments of all queues, as the topology file has them.
        tasks: the file that has the app; its nodes run it under the file's name.
        settings: of the app.
    """

    def __init__(
        self,
        path: Path,
        broker: Broker,
        *,
        type: str = "classic",  # noqa: A002  # the word of the topology file
        more: Sequence[str] = (),
        queue: Mapping[str, object] | None = None,
        tasks: Path = APP,
        **settings: object,
    ) -> None:
        self.path = path
        self.module = tasks.stem
        self.broker = broker
        tag = uuid.uuid4().hex[:10]
        self.queue = f"work-{tag}"
        self.dead = f"{self.queue}.dead"
        self.queues = [self.queue, *(f"{name}-{tag}" for name in more)]
        shutil.copy(tasks, path / tasks.name)
        self.write_topology({"type": type, "dead_letter": True, **(queue or {})})
        (path / "settings.json").write_text(
            json.dumps({"task_default_queue": self.queue, **settings})
        )
        (path / "ledger").touch()
        self._nodes: list[Node] = []
        self._stack = contextlib.ExitStack()
        self._app: App | None = None

    def write_topology(self, arguments: Mapping[str, object]) -> None:
        topology = {"version": 1, "queues": dict.fromkeys(self.queues, arguments)}
        (self.path / "topology.yaml").write_text(json.dumps(topology))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        if self._app is not None:
            self._app.close()
        if isinstance(self.broker, OwnBroker):
            # They end with it. RabbitMQ 3.10 refuses all quorum queues (541) once one with at-least-once dead letters was
            # deleted in the moment after its leader was elected, as it is after a restart.
            return
        with self.broker.channel() as channel:
            for queue in self.queues:
                channel.queue_delete(queue)
                channel.queue_delete(f"{queue}.dead")

    # ------------------------------------------------------------ processes

    def node(self, *flags: str, ready: bool = True) -> Node:
        """Start ``amqtask worker`` with these flags; return when all its children consume. Killed with the place."""
        node = Node(self, flags)
        self._nodes.append(node)
        self._stack.callback(node.destroy)
        if ready:
            node.wait_ready()
        return node

    def worker(self, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run a worker that is expected to end by itself."""
        return subprocess.run(
            [AMQTASK, "-A", self.module, "worker", *flags],
            cwd=self.path,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START,
            check=False,
        )

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the place's topology to its end, in this process; there is nobody to ask."""
        return run_here(self.path, self.environment, *arguments, "-f", "topology.yaml")

    def script(self, text: str, timeout: float = 60) -> str:
        """Run a program in the folder, as a service that imports the app; what it printed. It must succeed."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", text],
            cwd=self.path,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in OURS}
        return kept | {"AMQTASK_BROKER_URL": self.broker.url, "PYTHONDONTWRITEBYTECODE": "1"}

    # ------------------------------------------------------------ messages

    @property
    def app(self) -> App:
        """A client in this process. It knows the topology, not the tasks: send by name."""
        if self._app is None:
            self._app = App(
                "caller",
                topology=self.path / "topology.yaml",
                broker_url=self.broker.url,
                task_default_queue=self.queue,
                publish_timeout=30.0,
            )
        return self._app

    def send(self, name: str, *args: object, **options: Any) -> Any:
        """Send a task of the app by its short name; its handle."""
        return self.app.send_task(f"{self.module}.{name}", args, **options)

    def send_notes(self, count: int, seconds: float = 0.0, prefix: str = "") -> list[str]:
        """Publish ``note`` so many times, confirmed, without results; what was sent."""
        names = [f"{prefix}{number}" for number in range(count)]
        with self.app.batch():
            for name in names:
                self.send("note", name, seconds, ignore_result=True)
        return names

    def put(self, body: bytes, queue: str | None = None, **properties: Any) -> None:
        """Publish raw bytes with raw properties."""
        with self.broker.channel() as channel:
            channel.confirm_delivery()
            channel.basic_publish(
                "",
                queue or self.queue,
                body,
                pika.BasicProperties(**properties),  # type: ignore[no-untyped-call]  # pika leaves it bare
                mandatory=True,
            )

    def declare(self) -> None:
        """Declare the topology before any worker does."""
        done = run_here(self.path, self.environment, "topology", "apply", "topology.yaml")
        assert done.returncode == 0, done.stdout + done.stderr

    def depth(self, queue: str | None = None) -> int:
        """Messages ready in a queue."""
        with self.broker.channel() as channel:
            found = channel.queue_declare(queue or self.queue, passive=True)
            return int(found.method.message_count)

    def all_settled(self) -> None:
        """Assert that nothing is in the queue: each message was acked. Bad weather can cut off the last acks of a node."""
        assert weather.blows() or self.depth() == 0

    def take(self, queue: str | None = None) -> tuple[Any, bytes] | None:
        """Take one message from a queue (the dead letters unless named): properties and body."""
        with self.broker.channel() as channel:
            method, properties, body = channel.basic_get(queue or self.dead, auto_ack=True)
            return None if method is None else (properties, body or b"")

    def dead_letter(self, timeout: float = 10.0) -> tuple[Any, bytes]:
        """Wait for one dead letter and take it."""
        return self.take_one(self.dead, timeout)

    def take_one(self, queue: str, timeout: float = 10.0) -> tuple[Any, bytes]:
        """Wait for one message in a queue and take it."""
        found = eventually(lambda: self.take(queue), timeout, interval=0.05)
        assert found is not None
        return found

    # ------------------------------------------------------------ the ledger

    def lines(self) -> list[tuple[str, int, str]]:
        """All of the ledger: event, pid, what."""
        found = []
        for line in (self.path / "ledger").read_text().splitlines():
            event, pid, what = line.split(" ", 2)
            found.append((event, int(pid), what))
        return found

    def count(self, event: str) -> Counter[str]:
        """How often each thing had this event."""
        return Counter(what for kind, _, what in self.lines() if kind == event)

    def pids(self, event: str = "start") -> list[int]:
        """The processes of this event, in order."""
        return [pid for kind, pid, _ in self.lines() if kind == event]

    def saw(self, event: str, what: str, timeout: float = 20.0) -> None:
        """Wait for an entry; what the nodes have logged is told when there is none."""
        try:
            eventually(lambda: self.count(event)[what], timeout)
        except AssertionError as error:
            for node in self._nodes:
                error.add_note(node.output[-8000:])
            raise

    def finished(self, count: int, timeout: float = 20.0) -> None:
        """Wait until so many tasks have ended."""
        eventually(lambda: sum(self.count("end").values()) >= count, timeout, interval=0.02)

    def everything_done(self, names: Sequence[str], timeout: float = 40.0) -> None:
        """Wait until each of these has ended at least once."""
        wanted = set(names)
        try:
            eventually(lambda: set(self.count("end")) >= wanted, timeout, interval=0.05)
        except AssertionError as error:
            missing = sorted(wanted - set(self.count("end")))
            begun = sorted(set(missing) & set(self.count("start")))
            error.add_note(
                f"{len(missing)} of {len(wanted)} have not ended: {missing[:20]}; of these began: {begun[:20]}."
            )
            raise

    def release(self, name: str) -> None:
        """Let tasks go on that wait for this file."""
        (self.path / name).touch()


class Node:
    """One ``amqtask worker``, leader of a session of its own, logging JSON lines to a file."""

    def __init__(self, place: Place, flags: Sequence[str]) -> None:
        self.place = place
        self.log = place.path / f"node-{uuid.uuid4().hex[:6]}.log"
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [AMQTASK, "-A", place.module, "worker", "--json-logs", *flags],
                cwd=place.path,
                env=place.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    # ------------------------------------------------------------ what it says

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def records(self, event: str | None = None) -> list[dict[str, Any]]:
        """Its log lines, those of one event when named."""
        found = []
        for line in self.output.splitlines():
            start = line.find('{"')  # behind a piece of what a dying process wrote of its stacks
            if start >= 0:
                with contextlib.suppress(ValueError):  # the last line may be half written
                    found.append(json.loads(line[start:]))
        return [record for record in found if event is None or record["event"] == event]

    def says(self, event: str, timeout: float = 20.0, times: int = 1) -> list[dict[str, Any]]:
        """Wait until it has logged an event so often."""
        try:
            eventually(
                lambda: len(self.records(event)) >= times or self.process.poll() is not None,
                timeout,
                interval=0.03,
            )
        finally:
            assert len(self.records(event)) >= times, self.output
        return self.records(event)

    def reconnected(self, times: int = 0) -> int:
        """Wait until its children have come back to the broker so often; how often they have. The agent's lines are left out."""

        def count() -> int:
            lines = self.records("connected to the broker again")
            return sum("/" in line["connection"] for line in lines)

        eventually(lambda: count() >= times, 20, interval=0.03)
        return count()

    def wait_ready(self, times: int = 1) -> None:
        """Wait until all children consume, for the n-th time."""
        self.says("ready", START, times)

    # ------------------------------------------------------------ its processes

    def family(self) -> list[int]:
        """All processes below the supervisor."""
        return descendants(self.pid)

    def children(self) -> list[int]:
        """The children: what the fork servers have forked, but for the agent."""
        return [pid for pid in self._forked() if not is_agent(pid)]

    def agent(self) -> int:
        """The node's agent; 0 while it has none."""
        return next((pid for pid in self._forked() if is_agent(pid)), 0)

    def _forked(self) -> list[int]:
        return [pid for server in offspring(self.pid) for pid in offspring(server)]

    def whole(self, count: int, without: int = 0, timeout: float = 5.0) -> list[int]:
        """Wait until it has so many children, ``without`` not among them."""

        def look() -> list[int]:
            pids = self.children()
            return pids if len(pids) == count and without not in pids else []

        return eventually(look, timeout)

    def gone(self, family: Sequence[int], timeout: float = 5.0) -> None:
        """Wait until these of its processes do not exist any more."""
        eventually(lambda: not alive(family), timeout)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the supervisor a signal."""
        self.process.send_signal(number)

    def wait(self, timeout: float = STOP) -> int:
        """Wait for the end; the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it runs after {timeout} s:\n{self.output}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = STOP) -> int:
        """Stop it; the exit code. Nothing may be left of it."""
        family = self.family()
        self.kill(number)
        code = self.wait(timeout)
        self.gone(family)
        return code

    def destroy(self) -> None:
        family = self.family()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.gone(family, 10)


def is_agent(pid: int) -> bool:
    """Tell whether a process calls itself a node's agent."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "amqtask agent\n"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """All processes below this one."""
    found = []
    for child in offspring(pid):
        found += [child, *descendants(child)]
    return found


def ports(pid: int) -> set[int]:
    """The ports of a process's own TCP connections over IPv4, at its end."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, *more = line.split()
        if more[7] in inodes:
            found.add(int(local.partition(":")[2], 16))
    return found


def alive(pids: Sequence[int]) -> list[int]:
    """Those that exist and are no zombies."""
    found = []
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            continue
        if stat[stat.rindex(b")") + 2 :][:1] not in (b"Z", b"X"):
            found.append(pid)
    return found


@contextlib.contextmanager
def background(action: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Run something in a thread meanwhile; joined at the end of the block, and its error raised there."""
    import threading

    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001  # raised below, in the test's own thread
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield errors
    finally:
        thread.join()
    if errors:
        raise errors[0]


def elapsed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    began = time.monotonic()
    action()
    return time.monotonic() - began
