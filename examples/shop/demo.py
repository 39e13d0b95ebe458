"""What ``make demo`` runs: the example shop from topology to results, on the broker of ``AMQTASK_BROKER_URL``.

It does what a user does in several terminals: applies the topology, starts two worker nodes per queue with the
``amqtask`` command, publishes from another process, stops the nodes with SIGTERM. Then it deletes what it declared, and
only that. However it ends, it leaves no process behind.

Exit codes: 0; 1 when anything failed, told in one sentence; 128 + n after signal n, so 130 after Ctrl-C.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

# this file is run as a script; the shop is a package below the repository's root
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from amqtask import AmqtaskError
from amqtask.amqp.session import Session
from amqtask.worker.forking.lineage import die_with
from examples.shop.publish import Wrong, arguments, find
from examples.shop.tasks import ROOT, app

NODES_PER_QUEUE = 2
START = 60.0  # seconds in which all nodes must consume; a second or two, unless the machine is busy
WORK = 45.0  # for the publisher
STOP = 20.0  # for all nodes to end after SIGTERM
PATIENCE = 10.0  # for a connection that is cut to come back
GONE = 5.0  # for the broker to notice that the nodes are gone
LOOK = 0.05  # seconds between two looks at the processes
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Told(Exception):
    """A command failed and has said why."""


class Stopped(BaseException):
    """A signal asked the demo to stop."""

    def __init__(self, number: int) -> None:
        self.number = number


@dataclass(frozen=True, slots=True)
class Node:
    """A worker node under way."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def last_words(self) -> str:
        """The end of its log as a sentence: what it said last."""
        lines = self.log.read_text(errors="replace").split("\n")
        text = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        try:
            record = json.loads(text)
        except ValueError:
            return text.strip()
        return ": ".join(str(record[key]) for key in ("event", "reason") if key in record)


class Demo:
    """One run. The signal handler only notes the signal; the run looks at the note wherever it waits."""

    def __init__(self, words: Sequence[str], paths: Sequence[str]) -> None:
        self._words = words
        self._paths = paths
        self._signal = 0
        self._nodes: list[Node] = []
        self._made: list[str] = []  # queues that were not there before
        self._made_exchanges: list[str] = []

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note a signal."""
        self._signal = self._signal or number

    def run(self) -> None:
        """Do it all.

        Raises:
            Wrong, AmqtaskError: to be told in one sentence; ``Told``, when it has been.
            Stopped: a signal came; everything is cleaned up.
        """
        find(self._paths)  # a wrong path is told before anything is started
        with ExitStack() as stack:
            logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="amqtask-demo-")))
            stack.callback(self._delete_what_was_made)
            self._apply_topology()
            stack.callback(self._kill_what_runs)
            self._start_nodes(logs)
            self._run_to_end(["python", "-m", "examples.shop.publish", *self._words], WORK)
            self._stop_nodes()

    # ------------------------------------------------------------ the steps

    def _apply_topology(self) -> None:
        with self._session() as session:
            self._made = [name for name in app.topology.all_queues() if not session.queue(name)]
            self._made_exchanges = [
                exchange.name
                for exchange in app.topology.exchanges.values()
                if not session.exchange_exists(exchange.name, exchange.type)
            ]
        self._run_to_end(["amqtask", "topology", "apply", "routing/shop.yaml"], START)

    def _start_nodes(self, logs: Path) -> None:
        began = time.monotonic()
        wanted = {}
        with self._session() as session:
            for queue in app.topology.queues:
                # somebody else may consume there already
                wanted[queue] = self._consumers(session, queue) + NODES_PER_QUEUE
                for number in range(1, NODES_PER_QUEUE + 1):
                    self._start_node(f"{queue.rpartition('.')[2]}-{number}", queue, logs)
            self._until(
                lambda: all(self._consumers(session, queue) >= n for queue, n in wanted.items()),
                START,
                "The worker nodes did not begin to consume",
            )
        say(f"{len(self._nodes)} nodes consume after {time.monotonic() - began:.1f} s.")

    def _start_node(self, name: str, queue: str, logs: Path) -> None:
        log = logs / f"{name}.log"
        # one task at a time, one message in hand: so the next one is always the most urgent of the queue
        limits = ["-c", "1", "--prefetch-multiplier", "1"]
        command = [
            "amqtask",
            "-A",
            "examples.shop.tasks",
            "worker",
            "-Q",
            queue,
            "-n",
            f"{name}@%h",
        ]
        self._nodes.append(Node(name, self._start([*command, *limits], log), log))

    def _stop_nodes(self) -> None:
        say("\n$ kill -TERM " + " ".join(str(node.process.pid) for node in self._nodes))
        began = time.monotonic()
        for node in self._nodes:
            node.process.terminate()
        nodes, self._nodes = self._nodes, []
        try:
            self._until(
                lambda: all(node.process.poll() is not None for node in nodes),
                STOP,
                "The worker nodes did not stop",
            )
        finally:
            for node in nodes:
                _end(node.process, 0.0)
        for node in nodes:
            if node.process.returncode:
                raise Wrong(
                    f"Node {node.name} stopped with exit code {node.process.returncode}: {node.last_words()}"
                )
        say(
            f"{len(nodes)} nodes stopped after {time.monotonic() - began:.1f} s, each with exit code 0."
        )

    # ------------------------------------------------------------ the way out

    def _kill_what_runs(self) -> None:
        """End the nodes of a run that did not come to its own end."""
        if self._nodes:
            say("Stopping the nodes.")
        for node in self._nodes:
            node.process.terminate()
        deadline = time.monotonic() + STOP
        for node in self._nodes:
            _end(node.process, max(0.0, deadline - time.monotonic()))

    def _delete_what_was_made(self) -> None:
        """Delete the queues and exchanges that were not there before, unless somebody else uses them by now."""
        if not self._made and not self._made_exchanges:
            return
        kept = []
        with self._session() as session:
            deadline = time.monotonic() + GONE
            for name in self._made:
                # the broker takes a moment to notice that a consumer is gone
                while self._consumers(session, name) and time.monotonic() < deadline:
                    time.sleep(LOOK)
                if self._consumers(session, name):
                    kept.append(name)
                else:
                    session.delete_queue(name)
            for name in [] if kept else self._made_exchanges:
                session.delete_exchange(name)
        if kept:
            say(f"Left there, because somebody else works on them: {', '.join(kept)}.")
        else:
            say("What the demo declared is deleted.")

    # ------------------------------------------------------------ processes

    def _start(self, command: list[str], log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a command of the shop, shown as a user would type it."""
        say("$ " + shlex.join(command))
        program = {
            "python": sys.executable,
            "amqtask": str(Path(sys.executable).with_name("amqtask")),
        }
        parent = os.getpid()

        def prepare() -> None:
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it may print, though in the background
            die_with(parent, signal.SIGTERM)

        with (log or Path(os.devnull)).open("wb") as stream:
            return subprocess.Popen(
                [program[command[0]], *command[1:]],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stream if log else None,
                stderr=stream if log else None,
                process_group=0,  # a terminal's Ctrl-C comes to the demo alone, which stops the others in order
                preexec_fn=prepare,  # safe: no thread runs here
            )

    def _run_to_end(self, command: list[str], seconds: float) -> None:
        """Run a command that ends by itself.

        Raises:
            Told: it ended with another exit code than 0, and has said why.
            Wrong: it was killed, or did not end in time.
        """
        process = self._start(command)
        try:
            self._until(
                lambda: process.poll() is not None, seconds, f"{shlex.join(command)} did not end"
            )
        finally:
            # in the middle of its work it is not killed: it has things of its own to put away
            if process.poll() is None:
                process.terminate()
            _end(process, 10.0)
        if process.returncode < 0:
            raise Wrong(f"{shlex.join(command)} was killed by signal {-process.returncode}.")
        if process.returncode:
            raise Told

    def _until(self, condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
        """Look until a condition holds; a signal, a node that died and the clock end it."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self._signal:
                raise Stopped(self._signal)
            for node in self._nodes:
                if node.process.poll() is not None:
                    raise Wrong(
                        f"Node {node.name} ended with exit code {node.process.returncode} in the middle of its work: "
                        f"{node.last_words()}"
                    )
            if time.monotonic() > deadline:
                words = "; ".join(f"{node.name}: {node.last_words()}" for node in self._nodes)
                said = f" What the nodes said last: {words}." if words else ""
                raise Wrong(f"{otherwise} within {seconds:g} s.{said}")
            time.sleep(LOOK)

    @staticmethod
    def _session() -> Session:
        return Session(app.addresses, name="shop demo", patience=PATIENCE)

    @staticmethod
    def _consumers(session: Session, queue: str) -> int:
        state = session.queue(queue)
        return 0 if state is None else state.consumers


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Give a process so long to end, then kill it."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def say(text: str, stream: TextIO = sys.stdout) -> None:
    """Print a line at once; a reader or a terminal that is gone misses it, and the run still ends in order."""
    try:
        stream.write(text + "\n")
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def main() -> int:
    """Run the demo; returns the exit code."""
    words = sys.argv[1:]
    demo = Demo(words, arguments(words).paths)
    for number in SIGNALS:
        signal.signal(number, demo.on_signal)
    try:
        demo.run()
    except (Wrong, AmqtaskError) as error:
        say(str(error), sys.stderr)
        return 1
    except Told:
        return 1
    except Stopped as stopped:
        return 128 + stopped.number
    return 0


if __name__ == "__main__":
    sys.exit(main())
