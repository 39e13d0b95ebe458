"""The feed: a node's line to the stream of verdicts. Lives on an I/O thread, of the node's agent or of a solo worker.

It reads the stream from where the node is, and adds what the node has to say. On every new channel it publishes a mark; when that
comes back, everything older has been read. A mark that does not come back after a resume means that the stream is not the one
that was read before (it was deleted and made anew, and offsets began again), so it is read from its beginning.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from amqtask.amqp.reach import reach_of
from amqtask.amqp.stream import verdict_stream
from amqtask.amqp.threaded.follower import Entry, StreamFollower
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.core.verdicts import STREAM, Kind, Record, decode, new_event, publication
from amqtask.errors import BrokerError, DecodeError, OperationRefused
from amqtask.log import get_logger
from amqtask.worker.job import Job

log = get_logger("amqtask.worker")

QUIET = 3.0  # seconds without a record after which a confirmed mark should have come back
MARKS = 4  # tries to publish a mark
MARK_AGAIN = 1.0  # seconds between them
RETRY = 5.0  # seconds before what the stream did not take is sent again


class VerdictFeed:
    """Follows the stream of verdicts and adds to it. All of it on the I/O thread.

    Args:
        io: the I/O thread to live on; the callbacks run there.
        job: brokers, settings, and whether the stream may be declared.
        publisher: takes what is added; not closed here.
        name: the node's name.
        offset: where to begin, asked for on every new channel.
        on_read: the offset of what comes next, and records in order, marks left out.
        on_replayed: once, when all that was there at the start has been read.
        on_cannot: the stream cannot be used as wanted, with a sentence for each different reason. The feed goes on trying.
    """

    def __init__(
        self,
        io: IoThread,
        job: Job,
        publisher: ThreadedPublisher,
        *,
        name: str,
        offset: Callable[[], int],
        on_read: Callable[[int, list[Record]], None],
        on_replayed: Callable[[], None],
        on_cannot: Callable[[str], None],
    ) -> None:
        self._io = io
        self._publisher = publisher
        self._name = name
        self._offset = offset
        self._on_read = on_read
        self._on_replayed = on_replayed
        self._on_cannot = on_cannot
        self._replayed = False
        self._reported: set[str] = set()
        self._told_differs = False
        self._mark = ""  # the event that tells the end of the replay on this channel
        self._resumed = False  # this channel began behind what was read before
        self._anew = False  # the next channel is to begin at the oldest
        self._heard = 0.0  # when the last entry came, monotonic
        self._timer: Any = None
        self._pending: dict[str, tuple[Record, Callable[[], None]]] = {}  # not confirmed yet
        self._retry: Any = None
        self._on_empty: list[Callable[[], None]] = []
        self._closed = False
        settings = job.settings
        self._follower = StreamFollower(
            io,
            reach_of(job.addresses, settings),
            name=f"{name} verdicts",
            stream=STREAM,
            declaration=verdict_stream(settings) if job.declares else None,
            offset=self._begin_at,
            on_batch=self._entries,
            on_open=self._opened,
            on_refused=self._refused,
            on_differs=self._differs,
            on_lost=self._lost,
        )

    def start(self) -> None:
        """Connect and follow."""
        self._follower.start()
        self._publisher.connect()  # for the mark: tasks wait until it has come back

    def publish(self, record: Record, on_confirmed: Callable[[], None]) -> None:
        """Add a record; tried until the broker has confirmed it. One that is under way already is not sent twice."""
        if record.event not in self._pending:
            self._pending[record.event] = (record, on_confirmed)
            self._send(record)

    def when_empty(self, callback: Callable[[], None]) -> None:
        """Run ``callback`` once nothing that was to be published waits for its confirm."""
        self._on_empty.append(callback)
        self._check_empty()

    def close(self, on_closed: Callable[[], None]) -> None:
        """Stop following."""
        self._closed = True
        for timer in (self._timer, self._retry):
            if timer is not None:
                self._io.cancel(timer)
        self._timer = self._retry = None
        self._follower.close(on_closed)

    # ------------------------------------------------------------ reading

    def _begin_at(self) -> int:
        offset = 0 if self._anew else self._offset()
        self._anew = False
        self._resumed = offset > 0
        return offset

    def _opened(self) -> None:
        self._reported.clear()
        self._heard = time.monotonic()
        self._mark = new_event()
        self._put_mark(self._mark, MARKS)

    def _put_mark(self, mark: str, tries: int) -> None:
        """Publish the mark of this channel; again when it is not taken, which a broker that has just started may do."""
        record = Record(kind=Kind.MARK, event=mark, origin=self._name, time=time.time())

        def settled(error: Exception | None) -> None:
            if mark != self._mark or self._closed:
                return
            if error is None or tries <= 1:
                if error is not None:
                    self._cannot(f"nothing can be added to it ({error})")
                self._watch(mark, confirmed=error is None)
                return
            self._timer = self._io.call_later(MARK_AGAIN, lambda: again(mark))

        def again(mark: str) -> None:
            self._timer = None
            if mark == self._mark:
                self._put_mark(mark, tries - 1)

        self._submit(record, settled)

    def _watch(self, mark: str, *, confirmed: bool) -> None:
        """See that the mark comes back, or, without one, that the stream has gone quiet."""

        def look() -> None:
            self._timer = None
            if mark != self._mark:
                return
            if time.monotonic() - self._heard < QUIET:
                self._watch(mark, confirmed=confirmed)
            elif self._resumed and confirmed:
                log.warning("the stream of verdicts was made anew; reading it from its beginning")
                self._anew = True
                self._follower.renew()
            else:
                self._finished()

        if self._timer is not None:
            self._io.cancel(self._timer)
        self._timer = self._io.call_later(QUIET, look)

    def _entries(self, entries: list[Entry]) -> None:
        self._heard = time.monotonic()
        records = []
        back = False
        for offset, body in entries:
            try:
                record = decode(body)
            except DecodeError as error:
                log.warning(
                    "an entry of the stream is no verdict", offset=offset, reason=str(error)
                )
                continue
            if record.kind is not Kind.MARK:
                records.append(record)
            elif record.event == self._mark:
                back = True
        self._on_read(entries[-1][0] + 1, records)
        if back:
            self._finished()

    def _finished(self) -> None:
        self._mark = ""
        if self._timer is not None:
            self._io.cancel(self._timer)
            self._timer = None
        if not self._replayed:
            self._replayed = True
            self._on_replayed()

    def _lost(self, _error: BrokerError) -> None:
        self._mark = ""
        if self._timer is not None:
            self._io.cancel(self._timer)
            self._timer = None

    def _refused(self, error: OperationRefused) -> None:
        self._cannot(f"{error.code} {error.text.strip()}")

    def _differs(self, error: OperationRefused) -> None:
        if not self._told_differs:
            self._told_differs = True
            log.warning(
                "the stream of verdicts is used as it is: it cannot be declared as the settings have it",
                stream=STREAM,
                reason=f"{error.code} {error.text.strip()}",
            )

    def _cannot(self, reason: str) -> None:
        if reason not in self._reported:
            self._reported.add(reason)
            self._on_cannot(reason)

    # ------------------------------------------------------------ adding

    def _send(self, record: Record) -> None:
        def settled(error: Exception | None) -> None:
            if error is None:
                _, on_confirmed = self._pending.pop(record.event)
                on_confirmed()
                self._check_empty()
            elif self._retry is None and not self._closed:
                log.debug("a verdict was not taken yet", reason=str(error))
                self._retry = self._io.call_later(RETRY, self._send_again)

        self._submit(record, settled)

    def _send_again(self) -> None:
        self._retry = None
        for record, _ in list(self._pending.values()):
            self._send(record)

    def _submit(self, record: Record, settled: Callable[[Exception | None], None]) -> None:
        try:
            self._publisher.submit(publication(record), settled)
        except BrokerError as error:  # it is closed
            settled(error)

    def _check_empty(self) -> None:
        if self._on_empty and not self._pending:
            callbacks, self._on_empty = self._on_empty, []
            for callback in callbacks:
                callback()
