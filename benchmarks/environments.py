"""An environment for each framework, made on first use in ``.venv-bench`` beside this package and kept.

What is installed is pinned in ``peers/requirements``. amqtask itself needs none: it runs in the one that runs this.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import OURS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venv-bench"
REQUIREMENTS = Path(__file__).parent / "peers" / "requirements"
PEERS = ("celery", "dramatiq", "taskiq", "faststream")


class Missing(Exception):
    """Something a job needs is not there; the text is says what, to follow a name and a colon."""


def python(who: str, say: Callable[[str], None] = print) -> Path:
    """The interpreter with this framework installed.

    Raises:
        Missing: its packages could not be installed.
    """
    if who == OURS:
        return Path(sys.executable)
    folder = FOLDER / who
    wanted = (REQUIREMENTS / f"{who}.txt").read_text()
    stamp = folder / ".ready"
    interpreter = folder / "bin" / "python"
    # The interpreter ends in nothing when the Python it was made from is gone.
    if interpreter.exists() and stamp.exists() and stamp.read_text() == wanted:
        return interpreter
    say(f"Making the environment of {who} in {folder.relative_to(ROOT)} ...")
    shutil.rmtree(folder, ignore_errors=True)
    # Without pip: ours installs into it, so that Debian's Python, which comes without its part of venv, will do.
    venv.create(folder, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--quiet"]
    done = subprocess.run(
        [*pip, "--requirement", str(REQUIREMENTS / f"{who}.txt")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        last = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        raise Missing(f"it could not be installed: {last}")
    stamp.write_text(wanted)
    return interpreter


def rabbitmq_c() -> Path:
    """The C program that publishes confirmed, built from ``limit/confirmed.c``.

    Raises:
        Missing: there is no compiler or no librabbitmq here.
    """
    source = Path(__file__).parent / "limit" / "confirmed.c"
    program = FOLDER / "rabbitmq-c" / "confirmed"
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Missing("there is no C compiler (install gcc)")
    done = subprocess.run(
        [compiler, "-O2", "-o", str(program), str(source), "-lrabbitmq"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Missing("its program does not build (install librabbitmq-dev)")
    return program
