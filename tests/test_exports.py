"""The public API is a list, complete and sorted; importing it is cheap."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from importlib.metadata import version

import amqtask
from amqtask import errors

IMPORT_BUDGET = 0.1  # seconds of the process's own time, as promised


def test_all_is_sorted_and_complete() -> None:
    assert amqtask.__all__ == sorted(amqtask.__all__)
    public = {
        name
        for name, value in vars(amqtask).items()
        if not name.startswith("_") and not isinstance(value, type(sys))
    } - {"annotations"}
    assert public == set(amqtask.__all__) - {"__version__"}


def test_every_error_is_public() -> None:
    theirs = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == "amqtask.errors"
    }
    assert theirs <= set(amqtask.__all__)


def test_the_version_is_the_packages() -> None:
    assert amqtask.__version__ == version("amqtask")


def in_new_process(program: str) -> str:
    # What is measured is loading, not compiling, whatever the environment says about keeping bytecode.
    kept = {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=kept,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


# What takes long to import, or much memory, and is needed by some programs only.
ASYNC_CLIENT = {"aio_pika", "aiormq", "pamqp", "yarl", "multidict"}
COMMANDS = {"typer", "click", "rich", "pygments", "pydantic", "importlib.metadata", "watchfiles"}
FORMATS = {"structlog", "cloudpickle", "pickle", "tomllib"}
COMPRESSION = {"bz2", "lzma", "zstandard"}
THE_REST = {"pika", "asyncio", "ssl", "ruamel", "ctypes", "email", "http", "multiprocessing"}


def loaded_by(program: str) -> set[str]:
    """The modules and packages that a program has loaded when it ends."""
    printed = in_new_process(f"import sys\n{program}\nprint('loaded', *sys.modules)").splitlines()[
        -1
    ]
    names = printed.split()[1:]
    return {
        ".".join(parts[: n + 1])
        for name in names
        for parts in [name.split(".")]
        for n in range(len(parts))
    }


def test_importing_and_declaring_load_no_amqp_client_and_nothing_else_heavy() -> None:
    loaded = loaded_by(
        "import amqtask\n"
        "app = amqtask.App('x')\n"
        "@app.task(bind=True)\n"
        "def f(self): ...\n"
        "app.close()\n"
    )
    assert loaded & (ASYNC_CLIENT | COMMANDS | FORMATS | COMPRESSION | THE_REST) == set()


def test_a_worker_starts_without_what_only_some_need() -> None:
    loaded = loaded_by(
        "from amqtask.cli import main, quick\n"
        "assert quick.worker(['-A', 'shop', 'worker', '-c', '2'], {})\n"
        "from amqtask import log\n"
        "from amqtask.worker.start import node, preview\n"
        "from amqtask.worker.supervision import supervisor\n"
        "log.configure('info', json=True, node='n')\n"
        "log.get_logger('amqtask').info('a line', key='value')\n"
    )
    assert "pika" in loaded
    assert loaded & (ASYNC_CLIENT | COMMANDS | FORMATS) == set()


def test_importing_is_within_its_budget() -> None:
    # CPU time, and the best of many: another process on the machine must not decide.
    program = "import time; import amqtask; print(time.process_time())"
    bare = "import time; print(time.process_time())"
    python = min(float(in_new_process(bare)) for _ in range(5))
    best = math.inf
    for _ in range(20):
        best = min(best, float(in_new_process(program)) - python)
        if best < IMPORT_BUDGET:
            break

    assert best < IMPORT_BUDGET
