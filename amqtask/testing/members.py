"""The processes of a chaos run: worker nodes and publishers, started as a user starts them, and replaced when they die."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from amqtask.broker.processes import Process, parse_stat
from amqtask.testing.plan import VARIABLE

LEAVE = (
    45.0  # seconds a node gets to stop: it may have to wait for confirms of a broker that is away
)
LAST_WORDS = 3  # lines of its log that a process which failed is told with


class _Said(msgspec.Struct):
    """What the log of a node says of a task."""

    task_id: str = ""
    outcome: str = ""


def offspring(pid: int) -> list[int]:
    """The processes whose parent is this one."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def identify(pid: int) -> Process | None:
    """A process by its id and start time, if it is there."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (OSError, ValueError):
        return None


class Member:
    """One process of the run with its log.

    Attributes:
        name: for people.
        killed: the run has killed it on purpose.
    """

    def __init__(self, name: str, command: list[str], folder: Path, url: str) -> None:
        self.name = name
        self.killed = False
        self.left_at: float | None = None  # when it was told to stop
        self.log = folder / f"{name}.log"
        environment = os.environ | {VARIABLE: str(folder), "AMQTASK_BROKER_URL": url}
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,  # Ctrl-C is for the run, which ends us in order
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, once it has one."""
        return self.process.poll()

    def children(self) -> list[int]:
        """The children of a worker node: what its fork servers have forked."""
        return [child for server in offspring(self.pid) for child in offspring(server)]

    def kill(self) -> None:
        """End it with SIGKILL, and wait until it is gone."""
        self.killed = True
        self.process.kill()
        self.process.wait()

    def leave(self) -> None:
        """Ask it to stop in good order."""
        self.left_at = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.send_signal(signal.SIGCONT)  # a stopped one must hear it too

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return " / ".join(lines[-LAST_WORDS:]) or "nothing in its log"


class Members:
    """All of them. One thread.

    Args:
        folder: of the run.
        url: where they find the broker.
        nodes: how many worker nodes.
        concurrency: tasks that each runs at a time.
        publishers: how many processes publish.
    """

    def __init__(
        self, folder: Path, url: str, *, nodes: int, concurrency: int, publishers: int
    ) -> None:
        self._folder = folder
        self._url = url
        self._concurrency = concurrency
        self._count = 0
        self._all: list[Member] = []
        self.troubles: list[str] = []
        self.publishing = False
        self.nodes: list[Member] = [self._node(slot) for slot in range(nodes)]
        self.leaving: list[Member] = []
        self._wanted = publishers
        self.publishers: dict[int, Member] = {}
        self.living: list[int] = []  # publishers that have ended well, by pid

    def publish(self) -> None:
        """Start the publishers."""
        self.publishers = {slot: self._publisher(slot) for slot in range(self._wanted)}

    def _node(self, slot: int) -> Member:
        self._count += 1
        name = f"node{slot + 1}-{self._count}"
        command = ["amqtask", "-A", "amqtask.testing.workload", "worker", "--json-logs"]
        command += ["-c", str(self._concurrency), "-n", name]
        return self._start(name, command)

    def _publisher(self, slot: int) -> Member:
        self._count += 1
        return self._start(
            f"publisher{slot + 1}-{self._count}", ["amqtask.testing.publisher", str(slot)]
        )

    def _start(self, name: str, command: list[str]) -> Member:
        member = Member(name, command, self._folder, self._url)
        self._all.append(member)
        return member

    # ------------------------------------------------------------ what faults do

    def children(self) -> list[int]:
        """The children of all nodes."""
        return [child for node in self.nodes for child in node.children()]

    def replace_node(self, slot: int, *, kill: bool) -> list[int]:
        """Kill a node's supervisor, or tell it to stop, and start another in its place; the children it had."""
        node = self.nodes[slot]
        children = node.children()
        if kill:
            node.kill()
        else:
            node.leave()
            self.leaving.append(node)
        self.nodes[slot] = self._node(slot)
        return children

    def replace_publisher(self, slot: int) -> int:
        """Kill a publisher and start another, which goes on; its pid."""
        member = self.publishers[slot]
        member.kill()
        self.publishers[slot] = self._publisher(slot)
        return member.pid

    # ------------------------------------------------------------ what happens by itself

    def check(self) -> None:
        """See who has ended, replace nodes and publishers that should not have, and note that as trouble."""
        for slot, node in enumerate(self.nodes):
            if node.code is not None:
                self._note(node)
                self.nodes[slot] = self._node(slot)
        for slot, member in list(self.publishers.items()):
            code = member.code
            if code == 0:
                self.living.append(member.pid)
                del self.publishers[slot]
            elif code is not None:
                self._note(member)
                self.publishers[slot] = self._publisher(slot)
        for node in list(self.leaving):
            self._see_off(node)

    def _see_off(self, node: Member) -> None:
        code = node.code
        if code is None:
            if time.monotonic() - (node.left_at or 0.0) > LEAVE:
                self.troubles.append(f"{node.name} did not stop within {LEAVE:g} s")
                node.kill()
                self.leaving.remove(node)
        else:
            # one that was told before it could listen dies of it, and has neither said nor taken anything
            unheard = code == -signal.SIGTERM and not node.log.stat().st_size
            if code != 0 and not unheard:
                self._note(node)
            self.leaving.remove(node)

    def _note(self, member: Member) -> None:
        self.troubles.append(f"{member.name} ended with code {member.code}: {member.last_words()}")

    def revoked(self) -> set[str]:
        """The ids of the tasks that nodes have ended as revoked: their logs say so before the ack."""
        found: set[str] = set()
        for member in self._all:
            with member.log.open("rb") as stream:
                for line in stream:
                    if b'"revoked"' not in line:
                        continue
                    with contextlib.suppress(
                        msgspec.DecodeError
                    ):  # the last line of one that was killed
                        said = msgspec.json.decode(line, type=_Said)
                        if said.outcome == "revoked":
                            found.add(said.task_id)
        return found

    # ------------------------------------------------------------ the end

    def stop_nodes(self, wait: Callable[[Callable[[], bool]], object]) -> None:
        """Tell all nodes to stop, and wait until they have.

        Args:
            wait: returns when its argument does so truthily.
        """
        for node in self.nodes:
            node.leave()
            self.leaving.append(node)
        self.nodes = []

        def gone() -> bool:
            self.check()
            return not self.leaving

        wait(gone)

    def end(self) -> None:
        """Kill whatever still runs."""
        for member in self._all:
            if member.code is None:
                # nodes end their children when they die; a stopped one is woken for that
                for pid in (*member.children(), member.pid):
                    process = identify(pid)
                    if process is not None:
                        process.signal(signal.SIGCONT)
                member.kill()

    def __iter__(self) -> Iterator[Member]:
        return iter(self._all)
