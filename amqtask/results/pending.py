"""The table of awaited results: what arrived on a reply queue meets who waits for it.

One table per app and process, fed by every reply consumer of the process (the I/O thread's and each event loop's) and read
from any thread or loop. The feeding side only files bytes: decoding, which may run a user's code, happens in the thread
that asks. An entry lives as long as a handle to it; those that got a reply last are kept beyond that, a bounded number of
them, so that ``app.AsyncResult(id)`` finds a result whose handle was dropped before or after it came.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

from amqtask.amqp.waits import closed_gate
from amqtask.core.message import Envelope
from amqtask.errors import ConnectionLost, ResultError
from amqtask.results.record import Known

KEPT_MAX: Final = 1000  # tasks
KEPT_MAX_BYTES: Final = 64 * 1024 * 1024  # of bodies: a thousand large results must not fill us
FOLD_AT: Final = 32  # undecoded states of one task; above it they are folded on arrival, so that progress cannot pile up

Changed = Callable[[], None]
Decode = Callable[[Envelope], Known]


class Awaited:
    """The result of one task as far as it is known here. Made by ``Pending`` only.

    Attributes:
        id: the task's id.
        error: why no result will come: the publish failed, or the app was closed. Taken back when it is sent again.
        expected: this process has asked for the result, or a reply has come. An entry that was let go and made again does not know.
        queue: the reply queue that was named when it was sent from here, else empty.
    """

    # _fresh, _waiters, error: guarded by the table's lock. _known: guarded by _folding.
    __slots__ = (
        "__weakref__", "_folding", "_fresh", "_known", "_table", "_waiters", "error", "expected", "id",
        "queue",
    )  # fmt: skip

    def __init__(self, table: Pending, task_id: str) -> None:
        self.id = task_id
        self.error: BaseException | None = None
        self.expected = False
        self.queue = ""
        self._table = table
        self._fresh: list[Envelope] = []
        self._waiters: list[Changed] = []
        self._known: Known | None = None
        self._folding = threading.Lock()

    def latest(self) -> Known | None:
        """The best known result, ``None`` before any arrived. Decodes what is new in the calling thread."""
        if self._fresh:
            self._fold()
        return self._known

    def settled(self) -> bool:
        """Whether waiting longer is pointless: a final state is here, or none will come."""
        known = self.latest()
        return (known is not None and known.final) or self.error is not None

    @property
    def in_feeder(self) -> bool:
        """Whether the caller is an I/O thread that files replies: waiting there would wait for itself."""
        return threading.get_ident() in self._table.feeders

    @property
    def home(self) -> str:
        """What the process is called, among all, to which the replies of this table come."""
        return self._table.name

    @property
    def vain(self) -> bool:
        """Whether it is certain that nothing comes: this process has asked for no result at all."""
        return not self._table.asked

    def wait(self, timeout: float | None) -> bool:
        """Block until settled; false when ``timeout`` seconds passed first. Any thread but an I/O thread."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.settled():
            gate = closed_gate()
            self.on_change(gate.release)
            try:
                # Looked at again after the registration: what another thread decoded in between rang no bell of ours.
                if self.settled():
                    return True
                if deadline is None:
                    gate.acquire()
                else:
                    left = min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)
                    if not gate.acquire(timeout=left):
                        return self.settled()
            finally:
                self.discard(gate.release)
        return True

    def on_change(self, callback: Changed) -> None:
        """Have ``callback`` run once, when something new is here; at once when something undecoded already is.

        Look at ``settled`` after this call, not only before. The callback runs in the thread that files or decodes the
        reply, and must neither block nor raise.
        """
        with self._table.lock:
            if not self._fresh and self.error is None:
                self._waiters.append(callback)
                return
        callback()

    def discard(self, callback: Changed) -> None:
        """Forget an ``on_change``; does nothing when it ran."""
        with self._table.lock:
            if callback in self._waiters:
                self._waiters.remove(callback)

    def file(self, envelope: Envelope) -> None:
        """Take a reply. Called by ``Pending``."""
        with self._table.lock:
            self._fresh.append(envelope)
            full = len(self._fresh) > FOLD_AT
        self._wake()
        if full:
            self._fold()

    def fail(self, error: BaseException) -> None:
        """No result will come, for this reason."""
        with self._table.lock:
            if self.error is None:
                self.error = error
        self._wake()

    def sibling(self, task_id: str) -> Awaited:
        """The entry of another task in the same table."""
        return self._table.expect(task_id)

    def forget(self) -> None:
        """Drop what is known. What had ended is not told again, and so whoever asks for it is told that."""
        ended = (known := self.latest()) is not None and known.final
        with self._folding, self._table.lock:
            self._fresh.clear()
            self._known = None
            if ended and self.error is None:
                self.error = ResultError(
                    f"The result of task {self.id} was forgotten here, and comes once only."
                )

    def _fold(self) -> None:
        # One thread decodes; a second one that came meanwhile waits here and then finds the outcome.
        with self._folding:
            with self._table.lock:
                fresh, self._fresh = self._fresh, []
            for envelope in fresh:
                self._known = better(self._known, self._table.decode(envelope))
        self._wake()

    def _wake(self) -> None:
        if self._waiters:
            with self._table.lock:
                waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter()


def better(known: Known | None, new: Known) -> Known:
    """Which of two states of one task to believe.

    A final state is never replaced by one on the way, and among final states SUCCESS beats FAILURE beats REVOKED: a
    duplicate run cannot take back what was reported. Among states on the way the later one holds: their order of arrival
    is the order in which the task went through them.
    """
    if known is None or not known.final:
        return new
    if not new.final:
        return known
    return new if _FINAL_RANK.get(new.state, 9) < _FINAL_RANK.get(known.state, 9) else known


_FINAL_RANK: Final = {"SUCCESS": 0, "FAILURE": 1, "REVOKED": 2}


class Pending:
    """Awaited results by task id. Every method may be called from any thread.

    Args:
        decode: reads a reply; never raises (what cannot be read is a FAILURE).
        name: what the process and its app are called among all.
    """

    def __init__(self, decode: Decode, name: str = "") -> None:
        self.decode = decode
        self.name = name
        self.asked = False  # whether any result was asked for; set by whoever sends
        self.lock = threading.Lock()
        self.feeders: set[int] = (
            set()
        )  # identifiers of I/O threads that file replies here; written by them
        self._awaited: WeakValueDictionary[str, Awaited] = WeakValueDictionary()
        # The entries that got a reply last, newest last, each with the bytes of its replies. Guarded by lock.
        self._kept: OrderedDict[str, tuple[Awaited, int]] = OrderedDict()
        self._kept_bytes = 0  # guarded by lock
        self._closed: BaseException | None = None  # guarded by lock

    def expect(self, task_id: str) -> Awaited:
        """The entry for an id, with what arrived before anybody asked."""
        with self.lock:
            return self._entry(task_id)

    def sending(self, task_id: str, queue: str | None = None) -> Awaited:
        """The entry for an id that is about to be sent: that an earlier try to send it failed does not hold any more.

        Args:
            task_id: the task's.
            queue: the reply queue that its message names, if it names one of this process.
        """
        with self.lock:
            entry = self._entry(task_id)
            entry.error = self._closed
            entry.expected = self.asked = True
            entry.queue = queue or ""
            return entry

    def arrive(self, task_id: str, envelope: Envelope) -> None:
        """File a reply, whether or not anybody holds a handle."""
        with self.lock:
            entry = self._entry(task_id)
            entry.expected = self.asked = True
            self._keep(entry, len(envelope.body))
        entry.file(envelope)

    def after_fork(self, reason: BaseException) -> None:
        """In a forked child: locks that other threads of the parent held are made anew, and no result will come here."""
        self.lock = threading.Lock()
        self._closed = reason
        for entry in list(self._awaited.values()):
            entry._folding = threading.Lock()  # noqa: SLF001  # the table fills its own entries
            entry.error = entry.error or reason

    def close(self, reason: BaseException) -> None:
        """No reply will come any more: wake everybody who waits, with ``reason``."""
        with self.lock:
            if self._closed is None:
                self._closed = reason
            entries = list(self._awaited.values())
        for entry in entries:
            entry.fail(reason)

    def lose(self, queue: str) -> None:
        """Nothing comes from a reply queue any more: wake everybody who waits for what it would have brought."""
        with self.lock:
            entries = [entry for entry in self._awaited.values() if entry.queue == queue]
        for entry in entries:
            if not entry.settled():
                entry.fail(
                    ConnectionLost(
                        f"The event loop that task {entry.id} was sent in has ended, or its connections were closed, before the"
                        " result came: wait for it there, or send with delay()."
                    )
                )

    def _entry(self, task_id: str) -> Awaited:
        entry = self._awaited.get(task_id)
        if entry is None:
            entry = self._awaited[task_id] = Awaited(self, task_id)
            entry.error = self._closed
        return entry

    def _keep(self, entry: Awaited, size: int) -> None:
        kept = self._kept
        before = kept.pop(entry.id, None)
        kept[entry.id] = (entry, size if before is None else before[1] + size)
        self._kept_bytes += size
        while len(kept) > KEPT_MAX or (self._kept_bytes > KEPT_MAX_BYTES and len(kept) > 1):
            _, (_, dropped) = kept.popitem(last=False)
            self._kept_bytes -= dropped
