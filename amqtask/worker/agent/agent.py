"""The node's agent: the one process of a node that follows the cluster's verdicts, and tells it the node's own.

Forked like a child, it shares the children's memory and holds no message and no task. What it reads goes to the supervisor,
which alone writes the board; what the supervisor has charged comes from there and is published until it is confirmed. The
supervisor keeps its own copy of that until then, so an agent may die at any moment and nothing is forgotten.

In a node that scales itself the agent also tells the supervisor, about once a second, how many messages wait in the queues.

Two threads: the I/O thread owns the connections, the main thread reads the mailbox and the signals.
"""

from __future__ import annotations

import selectors
import signal
import sys
import threading
from pathlib import Path

import msgspec

from amqtask.amqp.reach import reach_of
from amqtask.amqp.threaded.gauge import QueueGauge
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.core.verdicts import Record, key, parts
from amqtask.log import get_logger
from amqtask.worker.agent.feed import VerdictFeed
from amqtask.worker.forking import link
from amqtask.worker.forking.lineage import Wakeup
from amqtask.worker.forking.prepared import AgentContext
from amqtask.worker.job import Job

log = get_logger("amqtask.worker")

EVERY = 1.0  # seconds between two counts of what waits, at most
LOOKS = 10  # of them in a keepalive, at least
FLUSH = 2.0  # seconds a stopping agent waits for the confirms of what its node charged
CLOSE_GRACE = 1.0
IDS = 400  # of one record in a frame: each takes at most 66 bytes
FRAME_BYTES = (
    link.DATAGRAM // 2
)  # records that came together are passed on in frames of about this size


class Agent:
    """Runs the agent of one node until it is told to stop."""

    def __init__(self, job: Job, context: AgentContext) -> None:
        self._context = context
        self._mailbox = context.mailbox
        settings = job.settings
        reach = reach_of(job.addresses, settings)
        self._io = IoThread("amqtask-agent")
        self._publisher = ThreadedPublisher(
            self._io,
            reach,
            name=f"{context.node} agent",
            window=settings.publish_window,
            buffer=settings.publish_buffer,
        )
        self._feed = VerdictFeed(
            self._io,
            job,
            self._publisher,
            name=context.node,
            offset=self._next_offset,
            on_read=self._io_read,
            on_replayed=lambda: self._mailbox.send(link.AgentReplayed()),
            on_cannot=lambda reason: self._mailbox.send(link.AgentCannot(reason)),
        )
        self._gauge: QueueGauge | None = None
        if job.measured:
            self._gauge = QueueGauge(
                self._io,
                reach,
                name=f"{context.node} gauge",
                queues=job.measured,
                on_measured=self._io_measured,
                # often enough to see what happens in a keepalive
                every=min(EVERY, settings.worker_autoscale_keepalive / LOOKS),
            )
        # I/O thread: not the board's own, on which what was sent last may not be yet
        self._sent_up_to = context.board.offset

    def run(self) -> int:
        """Work until TERM; the exit code."""
        _call_it("amqtask agent")
        wakeup = Wakeup(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
        self._io.start()
        self._io.post(self._feed.start)
        if self._gauge is not None:
            self._gauge.start()
        self._mailbox.send(link.AgentListens())
        with selectors.DefaultSelector() as selector:
            selector.register(self._mailbox, selectors.EVENT_READ)
            selector.register(wakeup, selectors.EVENT_READ)
            while not wakeup.arrived():
                selector.select()
                self._take()
        self._take()
        self._finish()
        return 0

    def _take(self) -> None:
        """Pass on what the supervisor wants published."""
        while frames := self._mailbox.receive():
            for frame in frames:
                self._io.post(lambda record=frame.record: self._io_publish(record))  # type: ignore[misc]  # bound now

    def _finish(self) -> None:
        empty = threading.Event()
        self._io.post(lambda: self._feed.when_empty(empty.set))
        if not empty.wait(FLUSH):
            log.warning("stopping with verdicts that the broker has not confirmed")
        closed = threading.Event()
        self._io.post(lambda: self._feed.close(closed.set))
        if self._gauge is not None:
            self._gauge.close(_nothing)
        self._publisher.close(0.0)
        closed.wait(CLOSE_GRACE)
        self._io.stop(CLOSE_GRACE)

    # ------------------------------------------------------------ I/O thread

    def _next_offset(self) -> int:
        return self._sent_up_to

    def _io_publish(self, record: Record) -> None:
        self._feed.publish(record, lambda: self._mailbox.send(link.AgentConfirmed(record.event)))

    def _io_read(self, offset: int, records: list[Record]) -> None:
        batch: list[Record] = []
        size = 0
        for record in records:
            short = msgspec.structs.replace(
                record, ids=tuple(key(each).decode("utf-8", "replace") for each in record.ids)
            )
            for part in parts(short, IDS):
                batch.append(part)
                size += 300 + 70 * len(part.ids)
                if size > FRAME_BYTES:
                    # the offset follows with the last frame: what is lost with this process is read again
                    self._send(self._sent_up_to, batch)
                    batch, size = [], 0
        self._send(offset, batch)
        self._sent_up_to = offset

    def _io_measured(self, waiting: int | None) -> None:
        # one that finds no room is no loss: the next is newer
        self._mailbox.offer(link.AgentMeasured(waiting))

    def _send(self, offset: int, records: list[Record]) -> None:
        try:
            self._mailbox.send(link.AgentRead(offset, records))
        except OSError as error:
            log.error("verdicts could not be passed on", reason=str(error), count=len(records))


def _nothing() -> None:
    """Nobody waits for this close: what it has asked need not be answered."""


def _call_it(name: str) -> None:
    """Name this process for ``ps`` and ``top``, where that can be done without a library."""
    if sys.platform == "linux":
        try:
            Path("/proc/self/comm").write_text(name)
        except OSError:
            pass  # a matter of looks
