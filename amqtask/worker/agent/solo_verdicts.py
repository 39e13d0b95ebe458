"""Verdicts of a solo worker: it has no supervisor and no agent, so it follows the stream itself, on its own I/O thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.threaded.publisher import ThreadedPublisher
from amqtask.core.verdicts import STREAM, Record
from amqtask.log import get_logger
from amqtask.worker.agent.docket import Docket
from amqtask.worker.agent.feed import VerdictFeed
from amqtask.worker.job import Job
from amqtask.worker.memory.board import Board

log = get_logger("amqtask.worker")

REPLAY_WITHIN = (
    30.0  # seconds before tasks run without the verdicts of the others; a broker may be away
)


class SoloVerdicts:
    """Reads the stream into the board of this very process. I/O thread.

    Args:
        io: the worker's I/O thread.
        job: brokers and settings.
        publisher: the worker's own.
        board: shows what is known.
        on_terminate: called with the revokes that want running tasks ended, too.
    """

    def __init__(
        self,
        io: IoThread,
        job: Job,
        publisher: ThreadedPublisher,
        board: Board,
        on_terminate: Callable[[list[Record]], None],
    ) -> None:
        self._io = io
        self._on_terminate = on_terminate
        self._board = board
        self._docket = Docket(job.node, board, job.settings.verdict_max_age)
        self._timer: Any = None
        self._feed = VerdictFeed(
            io,
            job,
            publisher,
            name=job.node,
            offset=lambda: board.offset,
            on_read=self._read,
            on_replayed=board.release,
            on_cannot=self._cannot,
        )

    def start(self) -> None:
        """Begin to follow."""
        self._timer = self._io.call_later(REPLAY_WITHIN, self._late)
        self._feed.start()

    def close(self) -> None:
        """Stop following."""
        if self._timer is not None:
            self._io.cancel(self._timer)
            self._timer = None
        self._feed.close(_nothing)

    def _read(self, offset: int, records: list[Record]) -> None:
        self._docket.read(offset, records)
        ending = [record for record in records if record.terminate]
        if ending:
            self._on_terminate(ending)

    def _cannot(self, reason: str) -> None:
        log.warning(
            "the stream of verdicts cannot be used; what other nodes know of crashes and revokes may be missing here",
            stream=STREAM,
            reason=reason,
        )
        self._board.release()

    def _late(self) -> None:
        self._timer = None
        if not self._board.released:
            log.warning(
                "the verdicts of other nodes are not known yet; going on without them",
                seconds=REPLAY_WITHIN,
            )
            self._board.release()


def _nothing() -> None:
    """Nobody waits for this close."""
