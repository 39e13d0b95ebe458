"""What one may ask of a wait for results: its time, and to be called meanwhile. Celery's names for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypedDict

from amqtask.log import get_logger
from amqtask.names import did_you_mean

log = get_logger("amqtask.results")

INTERVAL: Final = 0.5  # seconds
PATIENCE: Final = 10.0  # seconds of waiting for ever, after which it is said that there may be nothing to wait for

Interval = Callable[[], object]
Message = Callable[[dict[str, Any]], object]


_in_task: Callable[[], bool] = bool


def use(in_task: Callable[[], bool]) -> None:
    """Have ``in_task`` asked whether the caller is a task that runs."""
    global _in_task
    _in_task = in_task


class WaitOptions(TypedDict, total=False):
    """What else ``get``, ``join``, ``iter_native``, ``collect`` and their twins take.

    Args:
        on_message: called with what is known of a task, a mapping by Celery's names, whenever something new is: a state on the
            way, and the end. States that follow each other faster than they are looked at come as the last of them.
        on_interval: called without arguments while nothing comes.
        interval: seconds between two such calls. Nothing is polled, so it changes nothing else.
        disable_sync_subtasks: true refuses to wait inside a task.
        no_ack: nothing but true, which changes nothing.
    """

    on_message: Message | None
    on_interval: Interval | None
    interval: float
    disable_sync_subtasks: bool
    no_ack: bool


class Listener(NamedTuple):
    """Who is called while something is waited for. ``on_change`` is called with the place of an entry that has changed."""

    on_change: Callable[[int], object] | None = None
    on_interval: Interval | None = None
    interval: float = INTERVAL


NOBODY: Final = Listener()


def checked(timeout: Any) -> None:
    """Do nothing when this can be the time of a wait.

    Raises:
        TypeError, ValueError: it cannot.
    """
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(
            f"A timeout is a number of seconds, or None to wait for ever, not {timeout!r}."
        )
    if timeout < 0 or math.isnan(timeout):
        raise ValueError(
            f"A timeout is 0 seconds, which only looks, or more, or None to wait for ever, not {timeout!r}."
        )


def listening(
    options: WaitOptions,
    called: str,
    known: Callable[[int], dict[str, Any] | None],
    doubts: Interval | None = None,
) -> Listener:
    """Who is called during a wait.

    Args:
        options: what was asked for.
        called: the function that was called, for errors.
        known: what is known of the task behind an entry, by its place; ``None`` when there is nothing to tell.
        doubts: called every ``PATIENCE`` seconds, when the options name nobody who is called at intervals.

    Raises:
        TypeError, ValueError, RuntimeError: as ``options_checked``.
    """
    options_checked(options, called)
    on_message, on_interval = options.get("on_message"), options.get("on_interval")
    on_change: Callable[[int], object] | None = None
    if on_message is not None:
        tell = on_message

        def on_change(place: int) -> None:
            meta = known(place)
            if meta is not None:
                tell(meta)

    if on_interval is None:
        return Listener(on_change, doubts, PATIENCE)
    return Listener(on_change, on_interval, float(options.get("interval", INTERVAL)))


def options_checked(options: Mapping[str, Any], called: str) -> None:
    """Do nothing when a wait can be asked for with these.

    Args:
        options: as ``WaitOptions``.
        called: the function that was called, for errors.

    Raises:
        TypeError, ValueError: an unknown option, or one that makes no sense.
        RuntimeError: waiting inside a task was to be refused, and this is one.
    """
    for name in options:
        if name not in WaitOptions.__annotations__:
            near = did_you_mean(name, WaitOptions.__annotations__) or "."
            raise TypeError(f"{called}() takes no argument {name!r}{near}")
    if not options.get("no_ack", True):
        raise ValueError(
            f"{called}(no_ack=False) is not possible: a reply is acknowledged once it is in this process's table."
        )
    if options.get("disable_sync_subtasks") and _in_task():
        raise RuntimeError(
            f"{called}() inside a task waits while it holds a slot, and disable_sync_subtasks=True refuses that; "
            "let a chain or a chord go on with the result."
        )
    for name in ("on_message", "on_interval"):
        function = options.get(name)
        if function is not None and not callable(function):
            raise TypeError(f"{name} is a function to call, not {function!r}.")
    interval = options.get("interval", INTERVAL)
    if isinstance(interval, bool) or not isinstance(interval, int | float) or not interval > 0:
        raise ValueError(f"An interval is a number of seconds above 0, not {interval!r}.")


def callback_checked(callback: Any, name: str = "callback") -> None:
    """Do nothing when this can be called.

    Raises:
        TypeError: it cannot.
    """
    if not callable(callback):
        raise TypeError(f"{name} is a function to call, not {callback!r}.")


def doubt(called: str) -> str:
    """What is to be said of a result that this process does not know it asked for."""
    return (
        f"this process does not remember having sent {called}, and a result comes to the process that sent the task "
        "(a task that another task sent answers that one's worker)"
    )


class Doubts:
    """Says once, after ``PATIENCE`` seconds of waiting, that there may be nothing to wait for. To be called at intervals.

    Args:
        called: what is waited for.
    """

    def __init__(self, called: str) -> None:
        self._called = called
        self._said = False

    def __call__(self) -> None:
        """Say it, the first time."""
        if not self._said:
            self._said = True
            log.warning("waiting for ever, maybe in vain", reason=doubt(self._called))
