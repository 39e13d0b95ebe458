"""Logging: one format for every logger, the running task on every line, and nothing a value holds can break a line."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from amqtask import log
from amqtask.errors import ConfigurationError, SoftTimeLimitExceeded
from amqtask.request import Request, current


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    quiet = {
        name: logging.getLogger(name).level for name in ("pika", "aiormq", "aio_pika", "watchfiles")
    }
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in quiet.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


@pytest.fixture
def task() -> Iterator[None]:
    token = current.set(Request(id="id-1", task="shop.email"))
    yield
    current.reset(token)


class Lines:
    """Standard error, caught."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@contextlib.contextmanager
def logging_as(*, as_json: bool, level: str = "info", node: str | None = "n@h") -> Iterator[Lines]:
    lines = Lines()
    with contextlib.redirect_stderr(lines.stream):
        log.configure(level, json=as_json, node=node)
        yield lines


def test_every_kind_of_logger_comes_out_in_one_format() -> None:
    with logging_as(as_json=True) as lines:
        log.get_task_logger("ours").info("sent %s", "a", key=1)
        log.get_task_logger("ours").info("sent %(what)s", {"what": "b"})
        logging.getLogger("theirs").warning("std %d", 3, extra={"a": [1]})
        structlog.get_logger("struct").error("bound", y=2)
        structlog.get_logger().info("named for its module")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("careful", UserWarning, stacklevel=1)

    found = lines.json()

    assert [entry["event"] for entry in found[:5]] == [
        "sent a",
        "sent b",
        "std 3",
        "bound",
        "named for its module",
    ]
    assert "careful" in found[5]["event"]
    assert [entry["level"] for entry in found] == [
        "info",
        "info",
        "warning",
        "error",
        "info",
        "warning",
    ]
    assert [entry["logger"] for entry in found[:5]] == [
        "ours",
        "ours",
        "theirs",
        "struct",
        __name__,
    ]
    assert (found[0]["key"], found[2]["a"], found[3]["y"]) == (1, [1], 2)
    for entry in found:
        assert entry["node"] == "n@h"
        assert entry["pid"] > 0
        assert entry["timestamp"].endswith("Z")


def test_the_running_task_is_on_every_line(task: None) -> None:
    with logging_as(as_json=True) as lines:
        log.get_logger("ours").info("a")
        logging.getLogger("theirs").info("b")
        structlog.get_logger("struct").bind(z=1).info("c")

    assert {(entry["task_id"], entry["task_name"]) for entry in lines.json()} == {
        ("id-1", "shop.email")
    }


def test_each_thread_has_its_own_task() -> None:
    def run(name: str) -> None:
        current.set(Request(id=name, task="t"))
        logging.getLogger("theirs").info(name)

    with logging_as(as_json=True) as lines:
        threads = [threading.Thread(target=run, args=(str(n),)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        logging.getLogger("theirs").info("outside")

    found = lines.json()
    assert all(entry["task_id"] == entry["event"] for entry in found[:5])
    assert "task_id" not in found[5]


def test_a_task_id_given_with_a_line_is_kept(task: None) -> None:
    with logging_as(as_json=True) as lines:
        log.get_logger("ours").info("of another", task_id="id-2")

    assert lines.json()[0]["task_id"] == "id-2"


class Sulky:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [
        "two\nlines",
        "\x1b[31mred\x1b[0m",
        "sep\u2028arated",
        "lone \ud800",
        "del \x7f",
        float("nan"),
        b"bytes",
        {1: {2: {3: "deep"}}},
        {"a": {1, 2}},
        Sulky(),
        10**400,
        ValueError("x\ny"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("as_json", [True, False], ids=["json", "people"])
def test_a_value_of_any_kind_stays_on_its_line(as_json: bool, value: object) -> None:
    with logging_as(as_json=as_json) as lines:
        log.get_logger("ours").info("event", value=value)
        log.get_logger("ours").info(value)
        logging.getLogger("theirs").info("%s and", value)

    text = lines.text
    assert len(text.splitlines()) == 3
    assert text.replace("\n", "").isprintable()
    if as_json:
        lines.json()


def test_an_exception_is_a_field_in_json_and_a_moved_in_block_for_people() -> None:
    def fail() -> None:
        try:
            raise ValueError("boom\n2026-01-01 [error] forged")
        except ValueError:
            log.get_logger("ours").exception("failed")
            logging.getLogger("theirs").exception("failed")

    with logging_as(as_json=True) as lines:
        fail()
    assert [entry["exception"].splitlines()[-2] for entry in lines.json()] == [
        "ValueError: boom"
    ] * 2

    with logging_as(as_json=False) as lines:
        fail()
    assert not [line for line in lines.text.splitlines() if line.startswith("2026-01-01")]
    assert "  ValueError: boom" in lines.text


def test_a_traceback_given_as_text_is_a_block_for_people() -> None:
    with logging_as(as_json=False) as lines:
        log.get_logger("ours").error("failed", traceback="Traceback:\n  here\nE: x\x1b\n", n=1)

    first, *rest = lines.text.splitlines()
    assert first.endswith("n=1")
    assert rest == ["  Traceback:", "    here", "  E: x\\x1b"]


def test_wrong_arguments_do_not_lose_the_line() -> None:
    with logging_as(as_json=True) as lines:
        logging.getLogger("theirs").info("%d items", "many")

    entry = lines.json()[0]
    assert entry["event"] == "%d items"
    assert "TypeError" in entry["log_error"]


def test_levels() -> None:
    with logging_as(as_json=True, level="WARNING") as lines:
        log.get_logger("ours").info("no")
        log.get_logger("ours").warning("yes")

    assert [entry["event"] for entry in lines.json()] == ["yes"]
    with pytest.raises(ConfigurationError, match=r"no log level 'loud': choose one of debug, info"):
        log.configure("loud")


def test_the_amqp_library_is_silent() -> None:
    with logging_as(as_json=True, level="debug") as lines:
        logging.getLogger("pika.adapters").error("Socket failed to connect")

    assert lines.text == ""


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [None, Closed()], ids=["none", "broken"])
def test_a_closed_standard_error_is_nobodys_failure(stream: Any) -> None:
    with contextlib.redirect_stderr(stream):
        log.configure("info")
        log.get_logger("ours").info("nobody reads this")

    gone = io.StringIO()
    gone.close()
    with contextlib.redirect_stderr(gone):
        log.configure("info")
        log.get_logger("ours").info("nor this")


def test_a_soft_limit_that_strikes_while_a_line_is_written_reaches_the_task() -> None:
    class Struck:
        def __repr__(self) -> str:
            raise SoftTimeLimitExceeded

    for as_json in (True, False):
        with logging_as(as_json=as_json), pytest.raises(SoftTimeLimitExceeded):
            log.get_logger("ours").info("event", value=Struck())


def test_a_logger_travels_by_name() -> None:
    logger = pickle.loads(pickle.dumps(log.get_task_logger("shop")))

    assert repr(logger) == "<Logger shop>"


def test_a_program_that_configures_nothing_gets_readable_lines(
    caplog: pytest.LogCaptureFixture, task: None
) -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        log.get_logger("ours").exception("could not send %s", "x", queue="a b", extra={"n": 1})

    assert caplog.messages == ["could not send x queue='a b' n=1 task_id=id-1 task_name=shop.email"]
    assert caplog.records[0].exc_info is not None


def test_importing_it_does_not_import_structlog() -> None:
    code = (
        "import sys, amqtask.log as log; log.get_logger('x').debug('no'); "
        "sys.exit('structlog' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("setting", "expected"), [("NO_COLOR", False), ("FORCE_COLOR", True), (None, False)]
)
def test_colours(setting: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if setting:
        monkeypatch.setenv(setting, "1")
    with logging_as(as_json=False) as lines:
        log.get_logger("ours").info("hello")

    assert ("\x1b[" in lines.text) is expected


def test_a_filter_that_raises_reaches_the_users_own_lines_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(_record: logging.LogRecord) -> bool:
        raise RuntimeError("of a filter")

    standard = logging.getLogger("amqtask.test_broken_filter")
    standard.addFilter(broken)
    try:
        log.get_logger(standard.name).error("ours")
        assert "RuntimeError: of a filter" in capsys.readouterr().err
        with pytest.raises(RuntimeError):
            log.get_task_logger(standard.name).error("theirs")
    finally:
        standard.removeFilter(broken)


def test_structlog_is_set_up_when_the_app_imports_it() -> None:
    program = (
        "import sys\n"
        "from amqtask import log\n"
        "log.configure('info', json=True, node='n')\n"
        "log.configure('info', json=True, node='n')\n"
        "log.get_logger('ours').info('before')\n"
        "assert 'structlog' not in sys.modules\n"
        "import structlog\n"
        "structlog.contextvars.bind_contextvars(request=7)\n"
        "structlog.get_logger('theirs').info('with %s', 'it', y=2)\n"
        "log.get_task_logger('ours').info('after')\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    before, theirs, after = [json.loads(line) for line in done.stderr.splitlines()]
    assert (before["event"], before["node"]) == ("before", "n")
    assert (theirs["logger"], theirs["event"], theirs["y"]) == ("theirs", "with it", 2)
    assert (after["event"], after["request"]) == ("after", 7)


def test_an_apps_own_set_up_of_structlog_has_the_last_word() -> None:
    program = (
        "from amqtask import log\n"
        "log.configure('info', json=True)\n"
        "import structlog\n"
        "structlog.configure(processors=[structlog.processors.KeyValueRenderer()])\n"
        "structlog.get_logger().info('mine', n=1)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert "n=1 event='mine'" in json.loads(done.stderr)["event"]


def test_bound_fields_are_on_every_line_and_travel() -> None:
    logger = log.get_task_logger("shop").bind(order=1).bind(step="pay")
    with logging_as(as_json=True) as lines:
        logger.info("a", step="ship")
        pickle.loads(pickle.dumps(logger)).warning("b")
        logger.unbind("step").info("c")  # what only structlog's loggers have
        logger.info("d", stack_info=True)

    a, b, c, d = lines.json()
    assert (a["order"], a["step"]) == (1, "ship")
    assert (b["order"], b["step"], b["logger"]) == (1, "pay", "shop")
    assert (c["order"], "step" in c) == (1, False)
    assert "test_bound_fields" in d["stack"]


def test_a_line_is_of_whoever_wrote_it(caplog: pytest.LogCaptureFixture) -> None:
    log.get_task_logger("shop").warning("here")

    assert caplog.records[0].funcName == "test_a_line_is_of_whoever_wrote_it"
