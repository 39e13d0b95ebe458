"""``amqtask chaos`` as a user runs it: a run that holds, one in which tasks go astray, runs that are interrupted; nothing is left."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from amqtask.broker.processes import marked
from amqtask.testing.plan import Plan
from tests.brokers import Broker
from tests.cli.running import Folder, Running
from tests.waiting import eventually

MARK = "AMQTASK_CHAOS_RUN"


class Chaos(Folder):
    """Runs of the command on a broker that is left alone, with their temporary files in a folder of the test's."""

    def __init__(self, path: Path, broker: Broker) -> None:
        super().__init__(path)
        self.broker = broker
        self.temporary = path / "tmp"
        self.temporary.mkdir()
        self.environment["TMPDIR"] = str(self.temporary)

    def arguments(self, *more: str) -> tuple[str, ...]:
        return ("chaos", "-b", self.broker.url, "--publishers", "1", "-c", "1", *more)

    @property
    def folder(self) -> Path:
        """The folder of the run that goes on."""
        return eventually(lambda: list(self.temporary.glob("amqtask-chaos-*")), 20)[0]

    @property
    def queue(self) -> str:
        return Plan.read(self.folder).queue

    def started(self, running: Running) -> list[int]:
        """Wait until tasks run; the processes of the run."""
        running.says("fault 1", 40)
        return [process.pid for process in marked(str(self.folder), MARK)]

    def gone(self, folder: Path) -> None:
        """Wait until no process of a run is left."""
        eventually(lambda: not marked(str(folder), MARK), 20)

    def delete(self, queue: str) -> None:
        with self.broker.channel() as channel:
            channel.queue_delete(queue)
            channel.queue_delete(f"{queue}.dead")


@pytest.fixture
def chaos(tmp_path: Path, broker: Broker) -> Chaos:
    return Chaos(tmp_path, broker)


def test_a_run_with_kills_and_cuts_holds(chaos: Chaos) -> None:
    kinds = "kill-child,kill-supervisor,kill-publisher,cut,freeze"
    done = chaos.run(
        *chaos.arguments("--tasks", "200", "--faults", "6", "--duration", "6"),
        *("--kinds", kinds, "--json"),
    )

    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    verdict = report["verdict"]
    assert report["incidents"]
    assert verdict["attempted"] == 200
    assert verdict["acknowledged"] == sum(verdict[end] for end in ("done", "dead", "revoked"))
    assert verdict["lost"] == verdict["stuck"] == verdict["pending"] == verdict["unexpected"] == 0
    assert verdict["duplicates"] <= verdict["bound"]
    assert not list(chaos.temporary.iterdir())


def test_what_goes_wrong_is_told(chaos: Chaos) -> None:
    """One task is acked and thrown away, one runs four times though no fault explains it, one is put where nobody looks."""
    flags = ("--tasks", "14", "--faults", "1", "--duration", "1", "--kinds", "cut-one")
    more = ("--task-kinds", "long", "--workers", "1", "--patience", "3")
    with chaos.process(*chaos.arguments(*flags, *more)) as running:
        chaos.started(running)
        plan, folder = Plan.read(chaos.folder), chaos.folder
        with chaos.broker.channel() as channel:

            def take() -> tuple[Any, ...]:
                method, *rest = channel.basic_get(plan.queue, auto_ack=True)
                return () if method is None else tuple(rest)

            eventually(take)
            copied, body = eventually(take)
            for _ in range(4):  # the cut may explain two repeats
                channel.basic_publish("", plan.queue, body, copied)
            hidden, body = eventually(take)
            channel.queue_declare(
                plan.ladder.unroutable, durable=True, arguments={"x-queue-type": "quorum"}
            )
            channel.basic_publish("", plan.ladder.unroutable, body, hidden)
        running.says("FAILED", 100)
        assert running.wait() == 1

    assert "FAILED: 1 lost" in running.output
    assert "FAILED: 1 stuck" in running.output
    assert "FAILED: 1 ran more often than the faults explain" in running.output
    # Three of the copies are too many. The cut can add one, when it breaks off a copy that runs or a publication that was taken;
    # and take one, when it gives back a copy that waited behind one that has ended.
    for why in ("lost", "stuck", "ran [2-5] times too often"):
        assert re.search(rf"\(long\): {why}", running.output), running.output
    assert "acknowledged" in running.output
    assert f"The logs of all processes are in {folder}." in running.output
    assert (folder / "plan.json").exists()
    report = json.loads((folder / "report.json").read_text())
    assert report["verdict"]["lost"] == 1
    chaos.gone(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing(chaos: Chaos, number: signal.Signals) -> None:
    flags = ("--tasks", "2000", "--faults", "1", "--duration", "60", "--kinds", "slow")
    with chaos.process(*chaos.arguments(*flags), environment={"PYTHONUNBUFFERED": "1"}) as running:
        eventually(lambda: chaos.folder.joinpath("plan.json").exists(), 20)
        folder, queue = chaos.folder, chaos.queue
        eventually(lambda: len(marked(str(folder), MARK)) >= 4, 20)
        code = running.end(number, 40)

    chaos.gone(folder)
    if number is signal.SIGKILL:
        chaos.delete(queue)  # nobody was left to do that
    else:
        assert code == 130
        assert not list(chaos.temporary.iterdir())
