"""Start: from the worker's command to the end of the first task, which waits in the queue; and what the import costs."""

from __future__ import annotations

import subprocess
import time
from functools import partial

from benchmarks.environments import ROOT
from benchmarks.figures import Size
from benchmarks.frameworks import Framework, environment
from benchmarks.place import Place
from benchmarks.system.jobs import Job

WORK = "start"
HOW = "drain"
IMPORTS = 5  # the fastest counts: anything else is somebody else's work
CLIENTS = ("pika", "aiormq", "aio_pika", "amqp", "pamqp")


def jobs(framework: Framework, place: Place, size: Size) -> list[Job]:
    """One job."""
    label = framework.purposes[HOW]["label"]
    return [Job(place, WORK, framework.who, HOW, label, partial(_measure, framework, place))]


def _measure(framework: Framework, place: Place) -> dict[str, float]:
    framework.ask(place, "setup")
    framework.ask(place, "fill", tasks=1, task="noop")
    place.settle()
    with framework.working(place, HOW) as worker:
        worker.wait(1)
        first = worker.counted().last - worker.started
    statement = framework.about["imports"]
    bare = min(_run(framework, "pass") for _ in range(IMPORTS))
    whole = min(_run(framework, statement) for _ in range(IMPORTS))
    count = f"import sys; {statement}; sys.exit(sum(name in sys.modules for name in {CLIENTS}))"
    return {
        "first_s": first,
        "import_ms": (whole - bare) * 1e3,
        "clients": float(_exit_code(framework, count)),
    }


def _run(framework: Framework, statement: str) -> float:
    start = time.monotonic()
    if _exit_code(framework, statement):
        raise SystemExit(f"{framework.who}: {statement} failed")
    return time.monotonic() - start


def _exit_code(framework: Framework, statement: str) -> int:
    return subprocess.run(
        [str(framework.python), "-c", statement], env=environment(), cwd=ROOT, check=False
    ).returncode
