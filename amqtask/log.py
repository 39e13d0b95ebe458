"""Logging: lines with fields, through the standard library's loggers; and the one place that sets logging up.

A program that only publishes is left alone: amqtask's loggers are standard loggers there, lines reach whatever logging the
program set up, and nothing is configured. In processes that amqtask owns (workers, commands) ``configure`` puts one handler
on the root logger, and every line (amqtask's, ``logging.getLogger``'s, structlog's, warnings) leaves in one format:
JSON, or lines for people on a terminal.

Every line logged while a task runs carries ``task_id`` and ``task_name``, whoever logs it. They are read when a line is
written, so a task that logs nothing pays nothing.

structlog's own loggers are set up too, when the app imports structlog. amqtask does not import it to write a line: with what it
imports for its tracebacks it would cost every worker a tenth of a second at its start and 8 MB (docs/decisions/0022).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json as jsonlib
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final, TextIO

from amqtask.errors import ConfigurationError, SoftTimeLimitExceeded

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_QUIET: Final = {
    # what goes wrong below is told once, by amqtask, with the remedy
    "pika": logging.CRITICAL,
    "aiormq": logging.CRITICAL,
    "aio_pika": logging.CRITICAL,
    "watchfiles": logging.WARNING,
}
_DEEPEST: Final = 8  # levels of a nested value written to JSON; what lies deeper is its repr

Fields = MutableMapping[str, Any]
ContextProvider = Callable[[], Mapping[str, object]]


def _nothing() -> Mapping[str, object]:
    return {}


_context: ContextProvider = _nothing  # set once, at import time of amqtask.request


def set_context_provider(provider: ContextProvider) -> None:
    """Name the function that tells what every line carries: called for each line written, in the thread that logs."""
    global _context
    _context = provider


# ---------------------------------------------------------------- loggers


class Logger:
    """A logger for lines with fields that costs nothing until it writes.

    ``logger.info("sent %s", key)`` and ``logger.info("sent", key=key)`` both work, and so does everything else that
    structlog's ``BoundLogger`` has; for that, structlog is imported. Any thread.
    """

    __slots__ = ("_bound", "_fields", "_own", "_standard")

    def __init__(
        self, name: str, *, own: bool = False, fields: Mapping[str, Any] | None = None
    ) -> None:
        self._standard = logging.getLogger(name)
        self._own = own  # a line of amqtask itself
        self._fields: Mapping[str, Any] = fields or {}
        self._bound: Any = None  # any thread: two that make it at the same time make the same

    def debug(self, event: object = None, *args: object, **fields: Any) -> None:
        """Log at level DEBUG."""
        if self._standard.isEnabledFor(logging.DEBUG):
            self._write("debug", event, args, fields)

    def info(self, event: object = None, *args: object, **fields: Any) -> None:
        """Log at level INFO."""
        if self._standard.isEnabledFor(logging.INFO):
            self._write("info", event, args, fields)

    def warning(self, event: object = None, *args: object, **fields: Any) -> None:
        """Log at level WARNING."""
        if self._standard.isEnabledFor(logging.WARNING):
            self._write("warning", event, args, fields)

    def error(self, event: object = None, *args: object, **fields: Any) -> None:
        """Log at level ERROR."""
        if self._standard.isEnabledFor(logging.ERROR):
            self._write("error", event, args, fields)

    def critical(self, event: object = None, *args: object, **fields: Any) -> None:
        """Log at level CRITICAL."""
        if self._standard.isEnabledFor(logging.CRITICAL):
            self._write("critical", event, args, fields)

    def exception(self, event: object = None, *args: object, **fields: Any) -> None:
        """Log at level ERROR, with the traceback of the exception being handled."""
        if self._standard.isEnabledFor(logging.ERROR):
            fields.setdefault("exc_info", True)
            self._write("error", event, args, fields)

    def bind(self, **fields: Any) -> Logger:
        """The same logger, with fields that every line of it carries."""
        return Logger(self._standard.name, own=self._own, fields={**self._fields, **fields})

    def _write(
        self, method: str, event: object, args: tuple[object, ...], fields: dict[str, Any]
    ) -> None:
        try:
            if fields.get("stack_info"):
                getattr(self._structlog(), method)(event, *args, **fields)  # it renders stacks
                return
            line = {**_of_structlog(), **self._fields, **fields}
            if event is not None:
                line["event"] = _filled_in(event, args) if args else event
            (told,), rest = _hand_over(self._standard, method, line)
            # the line is that of whoever called the method that called this
            self._standard.log(LEVELS[method], told, stacklevel=3, **rest)
        except SoftTimeLimitExceeded:
            raise  # struck while the line was written; it is for the task
        except Exception:
            # A user's filter or handler that raises must not end a worker's I/O thread or undo a settlement.
            if not self._own:
                raise
            if logging.raiseExceptions and sys.stderr is not None:
                with contextlib.suppress(OSError, ValueError):
                    traceback.print_exc(limit=-3)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._structlog(), name)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        # a function sent by value takes the loggers of its module along
        return _logger, (self._standard.name, self._own, dict(self._fields))

    def __repr__(self) -> str:
        return f"<Logger {self._standard.name}>"

    def _structlog(self) -> Any:
        if self._bound is None:
            import structlog

            self._bound = structlog.wrap_logger(
                self._standard,
                processors=_chain(),
                wrapper_class=structlog.stdlib.BoundLogger,
                cache_logger_on_first_use=True,
            ).bind(**self._fields)
        return self._bound


def _logger(name: str, own: bool, fields: Mapping[str, Any]) -> Logger:
    return Logger(name, own=own, fields=fields)


def _filled_in(event: object, args: tuple[object, ...]) -> object:
    """An event with its arguments in it, as the standard library fills them in: a lone mapping by its names."""
    only = args[0]
    named = len(args) == 1 and isinstance(only, Mapping) and only
    return event % (only if named else args)  # type: ignore[operator]  # what cannot be filled in raises, as it should


def _of_structlog() -> Mapping[str, Any]:
    """What the program bound to its context with structlog; nothing when it has not imported that."""
    contextvars = sys.modules.get("structlog.contextvars")
    merge = getattr(contextvars, "merge_contextvars", None)  # another thread may be importing it
    return {} if merge is None else merge(None, "", {})


def get_logger(name: str) -> Any:
    """A logger over the standard logger ``name``, for amqtask's own lines; key-values become part of the line.

    What the user's filters and handlers raise goes to stderr and no further. Any thread.
    """
    return Logger(name, own=True)


def get_task_logger(name: str) -> Any:
    """A logger for a module of tasks, as in Celery: ``logger = get_task_logger(__name__)``.

    Takes %-style arguments and key-values; the id and the name of the running task are on every line.
    """
    return Logger(name)


def _chain() -> list[Any]:
    """What happens to a line between a structlog logger and the standard library."""
    import structlog

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.filter_by_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.StackInfoRenderer(additional_ignores=[__name__]),
        _hand_over,
    ]


class _Event(dict[str, Any]):
    """A line's fields, readable as text by handlers that know nothing of structlog."""

    def __str__(self) -> str:
        fields = dict(self)
        stack = fields.pop("stack", None)
        fields.pop("exc_info", None)  # the record has it too
        words = [str(fields.pop("event", ""))]
        for name, value in fields.items():
            words.append(
                f"{name}={value if isinstance(value, str) and _is_word(value) else repr(value)}"
            )
        return " ".join(words) + (f"\n{stack}" if stack else "")


def _hand_over(logger: Any, method: str, fields: Fields) -> tuple[tuple[_Event], dict[str, Any]]:
    """Turn a line into arguments for the standard logger, keeping its fields for our formatter."""
    extra = fields.pop("extra", None)
    if isinstance(extra, Mapping):
        fields.update({str(name): value for name, value in extra.items()})
    for name, value in _context().items():
        fields.setdefault(name, value)
    exc_info = _exc_info(fields.pop("exc_info", None))
    if exc_info:
        fields["exc_info"] = exc_info
    return (_Event(fields),), {
        "exc_info": exc_info,
        "extra": {"_logger": logger, "_name": method},
    }


def _exc_info(value: object) -> Any:
    """An exception as a triple, or ``None``, from whatever was given as ``exc_info``."""
    if isinstance(value, BaseException):
        return type(value), value, value.__traceback__
    found = value if isinstance(value, tuple) else (sys.exc_info() if value else None)
    return found if found and found[0] is not None else None


# ---------------------------------------------------------------- set-up of our own processes


def level_number(name: str) -> int:
    """The number of a level as ``-l`` takes it, in any case.

    Raises:
        ConfigurationError: there is no such level.
    """
    number = LEVELS.get(name.lower())
    if number is None:
        raise ConfigurationError(
            f"There is no log level {name!r}: choose one of {', '.join(LEVELS)}."
        )
    return number


def configure(level: str, *, json: bool | None = None, node: str | None = None) -> bool:
    """Set up the logging of this process and of those it forks. Main thread, before the app is imported.

    One handler on the root logger writes to standard error; those that were there are taken off. An app that sets up
    logging while it is imported has the last word. Calling it again replaces the set-up.

    Args:
        level: name of the lowest level that is written.
        json: one JSON object per line; ``None`` writes lines for people on a terminal and JSON elsewhere.
        node: name of the worker node, bound to every JSON line.

    Returns:
        Whether lines are JSON.

    Raises:
        ConfigurationError: there is no such level.
    """
    number = level_number(level)
    if json is None:
        json = not _is_terminal(sys.stderr)
    _set_up_structlog_when_imported()
    handler = _StandardError()
    handler.setFormatter(
        _Lines(node if json else None, _to_json if json else _ForPeople(_wants_colors(sys.stderr)))
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)
    for name, lowest in _QUIET.items():
        # a library below its threshold is silent even at debug level
        logging.getLogger(name).setLevel(max(lowest, number))
    logging.captureWarnings(True)
    return json


class _StandardError(logging.Handler):
    """Writes each record to ``sys.stderr`` in one piece; a closed or broken stream is nobody's failure."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except SoftTimeLimitExceeded:
            raise  # it is meant for the task that logs, not for us
        except Exception as error:  # noqa: BLE001  # wrong arguments or a failing __str__: the line is told anyway
            text = self._without_arguments(record, error)
        stream = sys.stderr
        if stream is None:
            return
        try:
            stream.write(text + "\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # the terminal or the pipe is gone: there is nobody left to tell

    def _without_arguments(self, record: logging.LogRecord, error: Exception) -> str:
        bare = logging.makeLogRecord(
            {
                "name": record.name,
                "levelno": record.levelno,
                "levelname": record.levelname,
                "created": record.created,
                "process": record.process,
                "msg": record.msg if isinstance(record.msg, str) else _safe_repr(record.msg),
                "log_error": f"{type(error).__name__} while writing this line",
                "log_args": _safe_repr(record.args),
            }
        )
        return self.format(bare)


def _set_up_structlog() -> None:
    import structlog

    structlog.configure(
        processors=_chain(),
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _set_up_structlog_when_imported() -> None:
    """Have structlog's loggers write as ours do, without importing it for an app that does not."""
    if "structlog" in sys.modules:
        _set_up_structlog()
    elif not any(isinstance(finder, _StructlogFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _StructlogFinder())


class _StructlogFinder:
    """Finds structlog as Python would, once, and sets it up when it has been imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "structlog":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                _set_up_structlog()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # of this one loader
        return spec


# What a record has anyway; anything else came as ``extra``.
_OF_A_RECORD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class _Lines(logging.Formatter):
    """Makes the line of a record, whichever logger it came from.

    Adds what every line has: time, level, logger, node, process, and the task that runs.
    """

    def __init__(self, node: str | None, render: Callable[[Fields], str]) -> None:
        super().__init__()
        self._node = node
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end. Raises what a value's own ``__str__`` raises, and for arguments that do not fit."""
        if isinstance(record.msg, Mapping) and hasattr(record, "_logger"):
            fields = dict(record.msg)  # ours, or structlog's: other handlers read it too
        else:
            fields = {"event": record.getMessage()}
            if record.exc_info:
                fields["exc_info"] = record.exc_info
            if record.stack_info:
                fields["stack_info"] = record.stack_info
            for name, value in record.__dict__.items():
                if name not in _OF_A_RECORD:
                    fields[name] = value
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": fields.pop("event", ""),
            "logger": record.name,
        }
        if self._node is not None:
            line["node"] = self._node
        line["pid"] = record.process
        line.update(_context())
        # another structlog set-up may have added its own
        for name in ("timestamp", "level", "logger"):
            fields.pop(name, None)
        line.update(fields)
        return self._render(line)


def _to_json(fields: Fields) -> str:
    """One line of JSON, whatever the fields hold."""
    exc_info = _exc_info(fields.pop("exc_info", None))
    if exc_info:
        fields["exception"] = "".join(traceback.format_exception(*exc_info)).rstrip("\n")
    if not isinstance(fields["event"], str):
        fields["event"] = _safe_str(fields["event"])
    encoding = (getattr(sys.stderr, "encoding", None) or "ascii").lower().replace("-", "")
    text = jsonlib.dumps(_plain(fields), ensure_ascii=encoding != "utf8")
    # JSON leaves these raw: they end a line for some readers, or steer a terminal
    return text if text.isprintable() else "".join(map(_json_character, text))


def _json_character(character: str) -> str:
    if character.isprintable():
        return character
    return jsonlib.dumps(character)[1:-1] if character != "\x7f" else "\\u007f"


def _plain(value: object, depth: int = 0) -> object:
    """A value as JSON has it: other types by their repr, keys as text, no NaN."""
    if value is None or isinstance(value, (str, bool)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(value)
    if depth < _DEEPEST:
        if isinstance(value, Mapping):
            return {_safe_str(name): _plain(item, depth + 1) for name, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [_plain(item, depth + 1) for item in value]
    return _safe_repr(value)


_COLORS: Final = {
    "debug": "\x1b[32m",
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[31m",
}
_RESET, _BOLD, _DIM = "\x1b[0m", "\x1b[1m", "\x1b[2m"
_NAME, _VALUE, _LOGGER = "\x1b[36m", "\x1b[35m", "\x1b[34m"
_LEVEL_WIDTH: Final = 9
_EVENT_WIDTH: Final = 24


class _ForPeople:
    """A line for a terminal. Nothing that a value holds can start a new line or steer the terminal."""

    def __init__(self, colors: bool) -> None:
        self._colors = colors

    def __call__(self, fields: Fields) -> str:
        exc_info = _exc_info(fields.pop("exc_info", None))
        blocks = [
            fields.pop(name)
            for name in ("stack", "exception", "traceback")
            if isinstance(fields.get(name), str)
        ]
        if exc_info:
            blocks.insert(0, "".join(traceback.format_exception(*exc_info)))
        paint = self._paint
        level = str(fields.pop("level"))
        event = escape(_safe_str(fields.pop("event")))
        words = [
            paint(_DIM, str(fields.pop("timestamp"))),
            f"[{paint(_COLORS.get(level, '') + _BOLD, escape(level).ljust(_LEVEL_WIDTH))}]",
            paint(_BOLD, event.ljust(_EVENT_WIDTH)),
            f"[{paint(_LOGGER + _BOLD, escape(str(fields.pop('logger'))))}]",
        ]
        for name, value in fields.items():
            words.append(f"{paint(_NAME, escape(str(name)))}={paint(_VALUE, _shown(value))}")
        return "\n".join((" ".join(words), *(_indented(block.rstrip("\n")) for block in blocks)))

    def _paint(self, color: str, text: str) -> str:
        return f"{color}{text}{_RESET}" if self._colors else text


def _shown(value: object) -> str:
    """A value fit for a terminal: words bare, everything else quoted and escaped."""
    if isinstance(value, str) and _is_word(value):
        return str(value)
    return escape(_safe_repr(value))


def _indented(block: str) -> str:
    """Lines of a traceback, moved in so that none can pass for a line of the log."""
    return "\n".join(f"  {escape(line)}" for line in block.split("\n"))


def escape(text: str) -> str:
    r"""Text with everything that moves a cursor or ends a line written out: ``\n``, ``\x1b``, ``\u202e``."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def _is_word(value: str) -> bool:
    return bool(value) and value.isprintable() and not set(value) & set(" ='\"")


def _safe_str(value: object) -> str:
    try:
        return str(value)
    except SoftTimeLimitExceeded:
        raise
    except Exception:  # noqa: BLE001  # a user's __str__ may raise anything
        return f"<{type(value).__name__} that cannot be shown>"


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except SoftTimeLimitExceeded:
        raise
    except Exception:  # noqa: BLE001  # a user's __repr__ may raise anything
        return f"<{type(value).__name__} that cannot be shown>"


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False  # closed


def _wants_colors(stream: TextIO | None) -> bool:
    """Whether colours are wanted: ``NO_COLOR`` and ``FORCE_COLOR`` as their conventions have it, else on a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return _is_terminal(stream) and os.environ.get("TERM") != "dumb"
