"""A framework from outside: its module asked for something in its own environment, and its workers started and watched."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine
from benchmarks.environments import ROOT, Missing, python
from benchmarks.peers.side import FOLDER, MARK, RECORD
from benchmarks.place import Place

ANSWER = 600.0  # seconds for one thing asked
DRAIN = 200.0  # seconds for one worker to finish its tasks
GRACE = 15.0  # seconds for a worker to end after TERM
PREFIX = f"bench-{os.getpid()}"  # two runs on one broker do not meet
GLANCE = 0.01  # seconds between two looks at the counters


class Broken(Exception):
    """A framework did not do what it was asked; the text says what it printed last."""


class Counted(NamedTuple):
    """Tasks that ended in all processes of a worker, and when the first began and the last ended, monotonic seconds."""

    tasks: int
    first: float
    last: float

    @property
    def rate(self) -> float:
        """Tasks a second from the first one's beginning to the last one's end."""
        return self.tasks / (self.last - self.first) if self.last > self.first else 0.0


class Framework:
    """One framework: amqtask or a peer. Making one makes its environment where there is none.

    Raises:
        Missing: it cannot be installed here, or does not run.
    """

    def __init__(self, who: str, say: Callable[[str], None] = print) -> None:
        self.who = who
        self.python = python(who, say)
        try:
            self.about: dict[str, Any] = self._ask(environment(), "describe", {})
        except Broken as error:
            raise Missing(f"it does not run: {error}") from None

    @property
    def purposes(self) -> Mapping[str, dict[str, Any]]:
        """Its workers, by what they are for; see ``peers.side``."""
        workers: dict[str, dict[str, Any]] = self.about["workers"]
        return workers

    def ask(self, place: Place, word: str, env: Mapping[str, str] = {}, **arguments: object) -> Any:
        """Have its module do something on a broker, and return what it answers.

        Raises:
            Broken: it failed, or took too long.
        """
        return self._ask(environment(place.env, env), word, arguments)

    @contextlib.contextmanager
    def working(self, place: Place, purpose: str, more: Mapping[str, str] = {}) -> Iterator[Worker]:
        """A worker for this purpose, started now and stopped at the end of the block, with all it started.

        ``more`` is told to it in its environment.
        """
        about = self.purposes[purpose]
        with tempfile.TemporaryDirectory(prefix="amqtask-bench-") as name:
            env = environment(place.env, about["env"], more, {FOLDER: name})
            worker = Worker(self.who, about["command"], about.get("processes", 1), env, Path(name))
            try:
                yield worker
            finally:
                worker.stop()

    def _ask(
        self, env: Mapping[str, str], word: str, arguments: Mapping[str, object]
    ) -> dict[str, Any]:
        command = [str(self.python), "-m", f"benchmarks.peers.{self.who}", word]
        command += [f"{name}={value}" for name, value in arguments.items()]
        return run(command, env)


class Worker:
    """The processes of one worker, from ``framework.working``."""

    def __init__(
        self, who: str, command: list[str], processes: int, env: Mapping[str, str], folder: Path
    ) -> None:
        self.who = who
        self._folder = folder
        self._log = (folder / "log").open("w+b")
        self._processes: list[subprocess.Popen[bytes]] = []
        self.started = time.monotonic()
        for number in range(processes):
            self._processes.append(
                subprocess.Popen(
                    [word.replace("{number}", str(number)) for word in command],
                    env=env,
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    start_new_session=True,
                )
            )

    def tree(self) -> list[int]:
        """All its processes."""
        return machine.tree(process.pid for process in self._processes)

    def counted(self) -> Counted:
        """What its tasks have counted so far."""
        tasks, first, last = 0, float("inf"), 0.0
        for path in self._folder.glob("*.count"):
            data = path.read_bytes()
            if len(data) == RECORD.size and (record := RECORD.unpack(data))[0]:
                tasks += record[0]
                first, last = min(first, record[1] / 1e9), max(last, record[2] / 1e9)
        return Counted(tasks, first, last)

    def wait(self, tasks: int, limit: float = DRAIN) -> None:
        """Wait until so many tasks have ended.

        Raises:
            Broken: the worker ended, or has not finished in time.
        """
        deadline = time.monotonic() + limit
        while self.counted().tasks < tasks:
            self._require_alive(deadline, tasks)
            time.sleep(GLANCE)

    def split(self, tasks: int, place: Place) -> dict[str, float]:
        """Wait until so many tasks have ended; what one of them cost worker and broker, in microseconds of CPU.

        Measured from a tenth to nine tenths of them, so that neither the start nor the end of the worker counts.
        """
        self.wait(tasks // 10)
        before, worker, broker = self.counted().tasks, self._cpu(), place.cpu()
        self.wait(tasks - tasks // 10)
        between = self.counted().tasks - before
        found = {"worker_us": (self._cpu() - worker) / between * 1e6}
        if place.pid is not None:
            found["broker_us"] = (place.cpu() - broker) / between * 1e6
        self.wait(tasks)
        return found

    def stop(self) -> None:
        """End all its processes: politely, then not."""
        everything = self.tree()
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + GRACE
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        for pid in set(machine.tree(everything)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
        self._log.close()

    def _cpu(self) -> float:
        return sum(machine.cpu(pid) for pid in self.tree())

    def _require_alive(self, deadline: float, tasks: int) -> None:
        ended = any(process.poll() is not None for process in self._processes)
        if ended or time.monotonic() > deadline:
            done = f"after {self.counted().tasks:,} of {tasks:,} tasks"
            what = "ended" if ended else "was given up"
            raise Broken(f"the worker of {self.who} {what} {done}: {self._said()}")

    def _said(self) -> str:
        return _last_words((self._folder / "log").read_text(errors="replace"))


def run(command: list[str], env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a program that prints its answer as JSON on its last line.

    Raises:
        Broken: it failed, or took too long.
    """
    with subprocess.Popen(
        command,
        env=None if env is None else dict(env),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            printed, complaints = process.communicate(timeout=ANSWER)
        except BaseException as reason:
            process.terminate()  # it deletes what it made on the broker
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
            if isinstance(reason, subprocess.TimeoutExpired):
                raise Broken(f"{command[-1]}: no answer within {ANSWER:g} s") from None
            raise
    lines = [line for line in printed.splitlines() if line.startswith((MARK, "{"))]
    if process.returncode or not lines:
        raise Broken(_last_words(complaints or printed))
    answer: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    return answer


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def environment(*parts: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of a framework: ours, without what would falsify a figure."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("BENCH_")}
    # Modules that are compiled anew by each process would be a part of every start and of every memory figure.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env["BENCH_PREFIX"] = PREFIX
    for part in parts:
        env |= part
    return env
