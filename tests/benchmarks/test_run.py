"""A whole run in small, of amqtask alone: it gives figures, and the broker is as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from amqtask.amqp.address import Address
from amqtask.amqp.session import Session
from benchmarks.environments import ROOT
from tests.brokers import Broker


def test_a_tiny_drain_gives_a_rate_and_leaves_nothing(broker: Broker, tmp_path: Path) -> None:
    file, picture = tmp_path / "run.json", tmp_path / "run.svg"
    options = ["--jobs", "drain", "--peers", "", "--size", "tiny", "--reps", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *options, "--json", file, "--chart", picture],
        cwd=ROOT,
        env={**os.environ, "AMQTASK_BROKER_URL": broker.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        told, complaints = process.communicate()
    assert process.returncode == 0, complaints
    used = [f"bench-{process.pid}.amqtask{suffix}" for suffix in ("", ".quorum")]
    run = json.loads(file.read_text())
    assert [(one["work"], one["who"], one["how"]) for one in run["samples"]].count(
        ("drain", "amqtask", "quorum")
    ) == 1
    assert all(one["values"]["rate"] > 0 for one in run["samples"])
    assert "amqtask, prefork, 2 children" in told
    assert picture.read_text().startswith("<svg")
    with Session([Address.parse(broker.url)]) as session:
        assert [session.queue(name) for name in used] == [None, None]


def test_a_run_is_told_again_from_its_json(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--chart-of", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
