"""What every test can ask for: a broker, a queue name, a broker of its own; and checks for leaks.

The run's broker is found or started before the first test, outside of the tests' time limits, and
only when a selected test needs one. At the end nothing may be left: no process, no thread, no
queue; what is left makes the run fail.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import amqtask
from amqtask.broker.processes import marked
from amqtask.errors import AmqtaskError
from tests import weather
from tests.brokers import Broker, OwnBroker, left_behind, own_broker, run_broker
from tests.waiting import eventually

# Properties say what holds, not how fast: on a machine that does something else any example may take long.
settings.register_profile("amqtask", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("amqtask")

_RUN = "AMQTASK_TEST_RUN"
_BROKER = pytest.StashKey[Broker]()
_LEAKS = pytest.StashKey[list[str]]()
_FIXTURES = {"broker", "queue_name", "private_node", "fresh_broker"}


def pytest_addoption(parser: pytest.Parser) -> None:
    weather.add_option(parser)


def pytest_configure(config: pytest.Config) -> None:
    # Inherited by every process that a test starts, directly or not, and found again at the end.
    os.environ[_RUN] = uuid.uuid4().hex
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A script that runs the tests with & has it ignored, which every process that a test sends it to would inherit.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # And what they import is what is tested, wherever the run began and whatever else is installed.
    path = [str(Path(amqtask.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark each test that takes a broker, so that `-m "not broker"` cannot miss one."""
    for item in items:
        if _FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.broker)
    suiting = [item for item in items if weather.suits(item)]
    if weather.seed_of(config) is not None:
        config.hook.pytest_deselected(items=[item for item in items if item not in suiting])
        items[:] = suiting


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    wanted = {"broker", "queue_name"}
    needed = any(wanted & set(getattr(item, "fixturenames", ())) for item in session.items)
    if not needed or session.config.option.collectonly:
        return (yield)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    say = reporter.write_line if reporter else print
    with ExitStack() as stack:
        try:
            straight = stack.enter_context(run_broker(say))
        except AmqtaskError as exc:
            pytest.exit(str(exc), returncode=pytest.ExitCode.INTERNAL_ERROR)
        seed = weather.seed_of(session.config)
        if seed is None:
            session.config.stash[_BROKER] = straight
        else:
            say(f"Weather: seed {seed}; --weather={seed} gives the same again.")
            session.config.stash[_BROKER] = stack.enter_context(weather.bad(straight, seed))
        outcome = yield
        session.config.stash[_LEAKS] = left_behind(straight)
        return outcome


@pytest.hookimpl(trylast=True)  # after the processes that ran tests side by side have ended
def pytest_sessionfinish(session: pytest.Session) -> None:
    leaks = session.config.stash.setdefault(_LEAKS, [])
    leaks += _after_a_while(_processes) + _after_a_while(_threads)
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["leaks"] = leaks
    if leaks and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """One of several processes that run tests side by side has ended: what it left counts like ours."""
    found = getattr(node, "workeroutput", {}).get("leaks", [])
    node.config.stash.setdefault(_LEAKS, []).extend(found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if leaks := terminalreporter.config.stash.get(_LEAKS, []):
        terminalreporter.section("left behind by the tests", red=True)
        for leak in leaks:
            terminalreporter.write_line(leak)


def _after_a_while(look: Callable[[], list[str]]) -> list[str]:
    """Give what is ending the time to end, and name what stays."""
    try:
        eventually(lambda: not look(), timeout=10, interval=0.05)
    except AssertionError:
        return look()
    return []


def _processes() -> list[str]:
    left = []
    for process in marked(os.environ[_RUN], _RUN):
        try:
            command = Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        # the standard library's own, which ends with us and not before
        if b"multiprocessing.resource_tracker" not in command:
            left.append(f"process {process.pid}: {command.decode(errors='replace').strip()[:200]}")
    return left


def _threads() -> list[str]:
    return [
        f"thread {thread.name!r}"
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.name.startswith("pytest_timeout")
    ]


# ---------------------------------------------------------------- fixtures


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Broker:
    """The run's RabbitMQ, shared by all tests, with a virtual host of the run's own."""
    return pytestconfig.stash[_BROKER]


@pytest.fixture
def queue_name(broker: Broker, request: pytest.FixtureRequest) -> Iterator[str]:
    """A queue name nobody else uses; that queue and its ``.dead`` are deleted afterwards."""
    test = re.sub(r"\W+", "-", request.node.name)[:80].strip("-")
    name = f"{test}-{uuid.uuid4().hex[:8]}"
    yield name
    with broker.channel() as channel:
        channel.queue_delete(name)
        channel.queue_delete(f"{name}.dead")


@pytest.fixture
def private_node() -> Iterator[Callable[..., OwnBroker]]:
    """Start brokers of the test's own: ``private_node(config="...")``; removed afterwards."""
    with ExitStack() as stack:
        yield lambda config="": stack.enter_context(own_broker(config))


@pytest.fixture
def fresh_broker(private_node: Callable[..., OwnBroker]) -> OwnBroker:
    """One broker of the test's own, running, to stop, kill, pause and restart."""
    return private_node()
