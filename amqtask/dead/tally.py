"""What a run over dead letters has done, and why it ended."""

from __future__ import annotations

import enum
from collections import Counter

import msgspec


class Stopped(enum.Enum):
    """Why a run ended before everything that was meant was done."""

    FULL = "full"
    GONE = "gone"
    LOST = "lost"
    INTERRUPTED = "interrupted"


class Tally(msgspec.Struct):
    """What a run has done so far.

    Attributes:
        seen: letters read.
        done: moved or discarded.
        finished: moved by an earlier run that was killed before it could take them away.
        skipped: meant, but without a way back.
        kept: left where they are, because their target was gone or full.
        doubtful: sent, or to be sent, again although they may have reached their target.
        ready: letters that were in the queue at the start.
        stopped: why the run ended early.
        problem: the same as a sentence.
        targets: how many went where.
    """

    seen: int = 0
    done: int = 0
    finished: int = 0
    skipped: int = 0
    kept: int = 0
    doubtful: int = 0
    ready: int = 0
    stopped: Stopped | None = None
    problem: str = ""
    targets: Counter[str] = msgspec.field(default_factory=Counter)
