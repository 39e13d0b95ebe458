"""``then``: calling something when results are there, without a thread for each that waits.

Inside an event loop callbacks run in that loop. Elsewhere they run one after the other in one thread of the process, never on
the I/O thread, where they would hold up every confirm and result.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from amqtask.amqp.waits import Flag
from amqtask.log import get_logger
from amqtask.results.loops import running_loop
from amqtask.results.pending import Awaited
from amqtask.results.watch import Watch

if TYPE_CHECKING:
    import asyncio

log = get_logger("amqtask.results")


class Place(Protocol):
    """Where callbacks run, one after the other."""

    def post(self, call: Callable[[], None]) -> None:
        """Have something called soon, after what was posted before. Any thread."""
        ...

    def expect(self, more: int) -> None:
        """That many more, or fewer, callbacks wait for their results. Any thread."""
        ...


class Then:
    """One callback that waits for its results.

    Args:
        result: the handle the callback is given.
        entries: what must settle first.
        callback: called once, when all have.
        on_error: called with what the callback raised.
        place: where it runs.
    """

    __slots__ = ("_callback", "_on_error", "_place", "_result", "_rung", "_watch")

    def __init__(
        self,
        result: Any,
        entries: Sequence[Awaited | None],
        callback: Callable[[Any], object],
        on_error: Callable[[Exception], object] | None,
        place: Place,
    ) -> None:
        self._result = result
        self._callback = callback
        self._on_error = on_error
        self._place = place
        self._rung = False
        self._watch = Watch(entries, self._ring)
        _waiting.add(self)  # nobody else may hold what it waits for
        place.expect(1)
        place.post(self._start)

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._place.post(self._look)

    def _start(self) -> None:
        self._watch.start()
        self._look()

    def _look(self) -> None:
        self._rung = False  # before the look: what comes after it rings again
        while self._watch.next() is not None:
            pass
        if self._watch.left or self not in _waiting:
            return
        _waiting.discard(self)
        self._place.expect(-1)
        try:
            self._callback(self._result)
        except Exception as error:  # noqa: BLE001  # whatever the user's callback raises is for the user
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if self._on_error is None:
            log.error("a callback of a result failed", result=str(self._result), exc_info=error)
            return
        try:
            self._on_error(error)
        except Exception:
            log.exception("an error callback of a result failed", result=str(self._result))


_waiting: set[Then] = set()


class _Thread:
    """Calls what is posted in a thread, which is there while callbacks wait for their results."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._posted: deque[Callable[[], None]] = deque()
        self._flag = Flag()
        self._expected = 0  # guarded by _lock, as what follows
        self._runs = False

    def post(self, call: Callable[[], None]) -> None:
        with self._lock:
            self._posted.append(call)
            begin, self._runs = not self._runs, True
        if begin:
            threading.Thread(target=self._run, name="amqtask callbacks", daemon=True).start()
        elif not self._flag.is_set():
            self._flag.set()

    def expect(self, more: int) -> None:
        with self._lock:
            self._expected += more

    def _run(self) -> None:
        try:
            self._call()
        except (
            BaseException
        ) as left:  # a callback that exits ends its thread; the next post begins another
            with self._lock:
                self._runs = False
            if not isinstance(left, SystemExit):
                raise

    def _call(self) -> None:
        while True:
            self._flag.clear()  # before the look: what is posted after it sets it again
            while self._posted:
                self._posted.popleft()()
            with self._lock:
                if not self._posted and not self._expected:
                    self._runs = False
                    return
            self._flag.wait(threading.TIMEOUT_MAX)


class _Loop:
    """Calls what is posted in an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def post(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            pass  # the loop has closed, and with it whoever waited

    def expect(self, more: int) -> None:
        """A loop runs anyway."""


_thread = _Thread()


def here() -> Place:
    """Where the caller's callbacks run: in its event loop, or in the thread of callbacks."""
    loop = running_loop()
    return _thread if loop is None else _Loop(loop)


def _after_fork_in_child() -> None:
    global _thread
    _thread = _Thread()
    _waiting.clear()  # they are called in the parent


os.register_at_fork(after_in_child=_after_fork_in_child)
