"""The command line as a user has it: real processes, an app and a topology of the test's own."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from amqtask.cli.main import main
from tests.brokers import Broker
from tests.waiting import eventually

AMQTASK = str(Path(sys.executable).with_name("amqtask"))
OURS = ("AMQTASK_APP", "AMQTASK_BROKER_URL", "NO_COLOR", "FORCE_COLOR")


class Folder:
    """A folder in which commands run."""

    def __init__(self, path: Path, broker_url: str | None = None) -> None:
        self.path = path
        self.environment = {k: v for k, v in os.environ.items() if k not in OURS}
        if broker_url is not None:
            self.environment["AMQTASK_BROKER_URL"] = broker_url

    def write(self, name: str, text: str) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        return file

    def run(
        self, *arguments: str, stdin: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Without ``stdin`` there is nobody to ask."""
        return subprocess.run(
            [AMQTASK, *arguments],
            cwd=self.path,
            env=self.environment | environment,
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def run_on_terminal(
        self, *arguments: str, typed: str = "", **environment: str
    ) -> tuple[int, str]:
        """Run a command on a terminal; exit code and what it showed."""
        pid, terminal = pty.fork()
        if pid == 0:
            try:
                os.chdir(self.path)
                os.execve(
                    AMQTASK,
                    [AMQTASK, *arguments],
                    self.environment | {"TERM": "xterm"} | environment,
                )
            finally:
                os._exit(127)
        os.write(terminal, typed.encode())
        shown = b""
        with contextlib.suppress(OSError):  # EIO is how Linux says that the other side is gone
            while data := os.read(terminal, 65536):
                shown += data
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), shown.decode()

    @contextlib.contextmanager
    def process(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> Iterator[Running]:
        """A command that goes on by itself; killed at the end of the block if it still runs."""
        log = self.path / f"log-{uuid.uuid4().hex[:6]}"
        with log.open("wb") as stream:
            child = subprocess.Popen(
                [AMQTASK, *arguments],
                cwd=self.path,
                env=self.environment | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        try:
            yield Running(child, log)
        finally:
            child.kill()
            child.wait()


def run_here(
    folder: Path, environment: Mapping[str, str], *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in this process: a start of Python for each is most of what a test of many would take.

    Args:
        folder: where it runs.
        environment: added to this process's own, without what names an app or a broker.
        arguments: the command's; it must not import an app.
        stdin: what is typed; without it there is nobody to ask.
    """
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch:
        for name in OURS:
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["amqtask", *arguments])
        patch.setattr(sys, "stdin", io.StringIO(stdin or ""))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = end.code
    done = int(str(code or 0))
    return subprocess.CompletedProcess(arguments, done, out.getvalue(), err.getvalue())


class Running:
    """A command under way."""

    def __init__(self, child: subprocess.Popen[bytes], log: Path) -> None:
        self._child = child
        self._log = log

    @property
    def output(self) -> str:
        return self._log.read_text()

    def says(self, text: str, timeout: float = 20) -> None:
        """Wait until it has printed this."""
        try:
            eventually(lambda: text in self.output or self._child.poll() is not None, timeout)
        finally:
            assert text in self.output, self.output

    def wait(self, timeout: float = 20) -> int:
        """Wait until it has ended by itself; the exit code."""
        return self._child.wait(timeout)

    def end(self, number: signal.Signals = signal.SIGTERM, timeout: float = 20) -> int:
        """Send a signal and return the exit code."""
        self._child.send_signal(number)
        return self._child.wait(timeout)


class Shop(Folder):
    """A folder with an app ``shop.tasks`` and its topology, whose names nobody else uses."""

    def __init__(self, path: Path, broker_url: str) -> None:
        super().__init__(path, broker_url)
        tag = uuid.uuid4().hex[:8]
        self.exchange, self.email, self.images = f"tasks-{tag}", f"email-{tag}", f"images-{tag}"
        self.topology = self.write(
            "shop.yaml",
            f"""
            version: 1
            defaults: {{type: classic}}
            exchanges:
              {self.exchange}: {{type: topic}}
            queues:
              {self.email}:
                bindings: [{{exchange: {self.exchange}, routing_key: "email.#"}}]
              {self.images}:
                max_priority: 9
                bindings: [{{exchange: {self.exchange}, routing_key: "images.#"}}]
            routes:
              - {{task: "shop.tasks.resize", exchange: {self.exchange}, routing_key: "images.{{name}}", priority: 5}}
              - {{task: "shop.tasks.*", exchange: {self.exchange}, routing_key: "email.{{name}}"}}
            """,
        )
        self.write("shop/__init__.py", "")
        self.write(
            "shop/tasks.py",
            """
            import logging
            from amqtask import App, get_task_logger

            app = App("shop", topology="shop.yaml")
            logger = get_task_logger(__name__)

            @app.task
            def add(x: int, y: int) -> int:
                logger.info("adding %s", x, other=y)
                logging.getLogger("somebody").info("else")
                return x + y

            @app.task
            def fail(why: str) -> None:
                raise ValueError(why)

            @app.task
            def resize(key: str) -> None: ...
            """,
        )

    def forget(self, broker: Broker) -> None:
        """Delete what the topology may have made."""
        with broker.channel() as channel:
            for name in (self.email, self.images):
                channel.queue_delete(name)
                channel.queue_delete(f"{name}.dead")
            channel.exchange_delete(self.exchange)
