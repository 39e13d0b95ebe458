"""The two libraries of greenlets, each as the few operations a pool needs, and gates to wait at in a greenlet.

A hub is the event loop that switches between the greenlets of one thread, here the child's main thread. gevent lets other
threads call into its hub; eventlet does not, so there a pipe wakes it.
"""

from __future__ import annotations

import abc
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import greenlet

from amqtask.amqp.waits import Gate
from amqtask.log import get_logger

log = get_logger("amqtask.worker")

Callback = Callable[[], object]


class Hub(abc.ABC):
    """The hub of the thread that makes this object. Its methods are for that thread, but for ``call``."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._called: deque[Callback] = deque()  # appended by any thread, drained by the hub
        self._awake = False  # a wake-up is under way; written by any thread, cleared by the hub before it drains

    def call(self, callback: Callback) -> None:
        """Have ``callback`` run in the hub soon, where it must not wait. Any thread; in the order of the calls."""
        self._called.append(callback)
        if not self._awake:
            try:
                self._awake = True
                self._wake()
            except BaseException:  # an exception from outside: the next call must wake the hub
                self._awake = False
                raise

    def gate(self) -> Gate:
        """A gate for the caller to wait at: in a greenlet of this hub the others go on meanwhile. Any thread."""
        if threading.get_ident() == self._thread and greenlet.getcurrent() is not self.own:
            return GreenGate(self)
        gate = threading.Lock()
        gate.acquire()
        return gate

    @property
    @abc.abstractmethod
    def own(self) -> object:
        """The greenlet of the hub itself, which may not wait."""

    @abc.abstractmethod
    def spawn(self, function: Callable[..., object], *args: object) -> greenlet.greenlet:
        """Start a greenlet, in the order of the calls, not before the hub runs next."""

    @abc.abstractmethod
    def soon(self, callback: Callback) -> None:
        """Run ``callback`` in the hub, after what is ready to go on now. Cheaper than ``call``."""

    @abc.abstractmethod
    def later(self, seconds: float, callback: Callback) -> Callback:
        """Run ``callback`` in the hub after so many seconds; returns what calls it off, which must be called in any case."""

    @abc.abstractmethod
    def switch(self) -> None:
        """Let the others go on until something switches back to this greenlet. Not in the hub."""

    @abc.abstractmethod
    def _wake(self) -> None:
        """Have the hub call ``_drain`` soon. Any thread."""

    def _drain(self) -> None:
        self._awake = False
        called = self._called
        for _ in range(len(called)):
            try:
                called.popleft()()
            except Exception:  # one bad callback must not cost the others
                log.exception("a callback in the hub failed")


class GreenGate:
    """A gate for one greenlet to wait at. Opened by any thread.

    Args:
        hub: of the greenlet that will wait.
    """

    __slots__ = ("_hub", "_open", "_waiter")

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._open = False  # written by who opens it, and put back by the one that waits
        self._waiter: greenlet.greenlet | None = None  # belongs to the hub's thread

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Wait until it opens, at most ``timeout`` seconds (-1: for ever); whether it has."""
        if not self._open and blocking and timeout != 0:
            call_off = None if timeout < 0 else self._hub.later(timeout, self._resume)
            self._waiter = greenlet.getcurrent()
            try:
                # Looked at again: it may have been opened before there was anybody to resume.
                if not self._open:
                    self._hub.switch()
            finally:
                self._waiter = None
                if call_off is not None:
                    call_off()
        opened, self._open = self._open, False
        return opened

    def release(self) -> None:
        """Open it."""
        self._open = True
        self._hub.call(self._resume)

    def _resume(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.switch()


class GeventHub(Hub):
    """gevent's hub."""

    def __init__(self) -> None:
        super().__init__()
        import gevent

        gevent.reinit()  # the app may have used one while it was imported, in the process that forked us
        hub: Any = gevent.get_hub()
        self._hub = hub
        self._start = gevent.spawn
        # Active for ever, so the hub never finds that nothing could wake its greenlets.
        self._signal = hub.loop.async_()
        self._signal.start(self._drain)

    @property
    def own(self) -> object:
        """The hub's own."""
        return self._hub

    def spawn(self, function: Callable[..., object], *args: object) -> greenlet.greenlet:
        """Start a ``gevent.Greenlet``."""
        started: greenlet.greenlet = self._start(function, *args)
        return started

    def soon(self, callback: Callback) -> None:
        """A callback of the loop."""
        self._hub.loop.run_callback(callback)

    def later(self, seconds: float, callback: Callback) -> Callback:
        """A timer of the loop."""
        timer = self._hub.loop.timer(seconds)
        timer.start(callback)
        close: Callback = timer.close
        return close

    def switch(self) -> None:
        """To the hub."""
        self._hub.switch()

    def _wake(self) -> None:
        self._signal.send()


class EventletHub(Hub):
    """eventlet's hub."""

    def __init__(self) -> None:
        super().__init__()
        import eventlet
        import eventlet.hubs

        eventlet.hubs.use_hub()  # instead of one that the app may have used while it was imported
        hub: Any = eventlet.hubs.get_hub()
        self._hub = hub
        self._start = eventlet.spawn
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        hub.add(hub.READ, self._reader, self._woken, _nothing, _nothing)

    @property
    def own(self) -> object:
        """The hub's own."""
        return self._hub.greenlet

    def spawn(self, function: Callable[..., object], *args: object) -> greenlet.greenlet:
        """Start a ``GreenThread``."""
        started: greenlet.greenlet = self._start(function, *args)
        return started

    def soon(self, callback: Callback) -> None:
        """A timer that is due."""
        self._hub.schedule_call_global(0, callback)

    def later(self, seconds: float, callback: Callback) -> Callback:
        """A timer of the hub."""
        timer = self._hub.schedule_call_global(seconds, callback)
        cancel: Callback = timer.cancel
        return cancel

    def switch(self) -> None:
        """To the hub."""
        self._hub.switch()

    def _wake(self) -> None:
        try:
            os.write(self._writer, b"\0")
        except BlockingIOError:
            pass  # full of wake-ups already

    def _woken(self, _descriptor: int) -> None:
        try:
            os.read(self._reader, 512)
        except BlockingIOError:
            pass
        self._drain()


def _nothing(*_args: object) -> None:
    """The hub tells nobody of a pipe's end."""


HUBS: Final[dict[str, type[Hub]]] = {"gevent": GeventHub, "eventlet": EventletHub}
