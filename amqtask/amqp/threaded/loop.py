"""The I/O thread: one pika event loop and the only thread that touches its connections.

Other threads hand it work with ``post``. After a fork the child's copy is dead: ``abandon`` closes the inherited
descriptors without telling the broker, so that no grandchild keeps a socket of its parent alive.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from pika.adapters.select_connection import IOLoop

from amqtask.amqp.threaded.seams import close_loop_quietly, cut_off, waker
from amqtask.core.backoff import exponential
from amqtask.log import get_logger

log = get_logger("amqtask.amqp")

# pika reports each lost socket several times with tracebacks; amqtask reports it once, in a sentence. Without a handler
# Python would print pika's to stderr. Programs that configure logging still see them under the name "pika".
logging.getLogger("pika").addHandler(logging.NullHandler())

QUICK = 1.0  # seconds: a loop that fails sooner than this after its last failure pauses, longer each time
PAUSE = 0.01
TURNS = 5  # of the loop, from being told to stop until it does
PAUSE_CAP = 2.0

Callback = Callable[[], object]


class Member(Protocol):
    """A connection on the loop."""

    def abandon(self) -> None:
        """Close the descriptor quietly: it is inherited, or the loop has ended."""
        ...

    def start_over(self) -> None:
        """The loop has failed, perhaps in the middle of an attempt to connect."""
        ...


class IoThread:
    """Runs a pika event loop in a daemon thread of its own.

    ``post`` and ``call_soon`` may be called from any thread; ``call_later``, ``cancel`` and everything on connections only
    from the I/O thread. Starting happens on first ``post``; ``stop`` is idempotent.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.loop = IOLoop()
        self.connections: weakref.WeakSet[Member] = weakref.WeakSet()
        # Told what the loop has failed with, before it goes on. Set it before the thread starts.
        self.on_failure: Callable[[Exception], None] | None = None
        self._posted: deque[Callback] = deque()
        self._awake = False  # a wake-up is under way; written by any thread, cleared by the I/O thread before it drains
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False
        _threads.add(self)

    @property
    def inside(self) -> bool:
        """Whether the caller runs on this I/O thread."""
        return self._thread is not None and threading.get_ident() == self._thread.ident

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def waker(self) -> int:
        """The descriptor that ``post`` wakes the loop by, or -1. The same from beginning to end."""
        return waker(self.loop)

    @property
    def cut_off(self) -> bool:
        """Whether somebody has closed the loop's own descriptors: nothing can be done here any more. I/O thread."""
        return cut_off(self.loop)

    def start(self) -> None:
        """Start the thread; does nothing when it runs already."""
        with self._lock:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self._thread.start()

    def post(self, callback: Callback) -> None:
        """Have ``callback`` run on the I/O thread soon. Callbacks run in the order they were posted."""
        self._posted.append(callback)
        if not self._awake:
            try:
                self._awake = True
                if self.inside:
                    self.loop.call_later(0, self._drain)  # without the way through its wake-up pipe
                    return
                self.loop.add_callback_threadsafe(self._drain)
            except (
                BaseException
            ):  # an exception from outside, like a soft limit: the next post must wake the loop
                self._awake = False
                raise
            if self._thread is None:
                self.start()

    def call_later(self, delay: float, callback: Callback) -> Any:
        """Run ``callback`` on the I/O thread after ``delay`` seconds; returns a handle for ``cancel``."""
        return self.loop.call_later(delay, lambda: self._guard(callback))

    def cancel(self, handle: Any) -> None:
        """Forget a ``call_later``."""
        self.loop.remove_timeout(handle)

    def stop(self, timeout: float = 5.0) -> None:
        """Stop the loop and join the thread. Connections should be closed before. Any thread but the I/O thread."""
        with self._lock:
            self._stopped = True
            thread = self._thread
        if thread is not None:
            self.loop.add_callback_threadsafe(lambda: self._wind_down(TURNS))
            thread.join(timeout)
            if thread.is_alive():
                log.warning("the I/O thread did not stop", thread=self.name, timeout=timeout)
                return
        for connection in list(self.connections):
            connection.abandon()  # what is not closed by now would never be
        self.loop.close()
        _threads.discard(self)

    def abandon(self) -> None:
        """In a forked child: close the inherited sockets and forget the thread, which does not exist here."""
        self._stopped = True
        self._thread = None
        for connection in list(self.connections):
            connection.abandon()
        close_loop_quietly(self.loop)

    def _wind_down(self, turns: int) -> None:
        """Stop the loop after a few more turns, which pika needs to close the socket of an attempt that was given up."""
        if turns:
            self.loop.call_later(0, lambda: self._wind_down(turns - 1))
        else:
            self.loop.stop()

    def _run(self) -> None:
        failures = 0  # with less than a moment between them
        while True:
            began = time.monotonic()
            try:
                self.loop.start()
            except (
                Exception
            ) as error:  # the loop belongs to several connections: one must not end the others
                log.exception("the I/O loop failed and goes on", thread=self.name)
                if self.on_failure is not None:
                    self._guard(partial(self.on_failure, error))
                for connection in list(self.connections):
                    self._guard(connection.start_over)
                if time.monotonic() - began < QUICK:
                    # What fails at once may do so for ever.
                    time.sleep(exponential(failures, PAUSE, PAUSE_CAP))
                    failures += 1
                else:
                    failures = 0
            else:
                return

    def _drain(self) -> None:
        self._awake = False
        posted = self._posted
        for _ in range(len(posted)):
            self._guard(posted.popleft())

    def _guard(self, callback: Callback) -> None:
        try:
            callback()
        except Exception:  # one bad callback must not stop heartbeats and acks for everybody
            log.exception("a callback on the I/O thread failed", thread=self.name)


_threads: weakref.WeakSet[IoThread] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for thread in list(_threads):
        thread.abandon()
    _threads.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
