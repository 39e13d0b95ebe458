"""A node that scales itself: reads off the board what its slots do, and has ``core.autoscale`` decide. In the supervisor."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from amqtask.core import autoscale, fleet
from amqtask.worker.memory.board import Board
from amqtask.worker.start.options import WorkerOptions


class _Use(msgspec.Struct, frozen=True):
    """What one child does."""

    index: int
    busy: int  # slots that run a task
    idle: int  # slots that run none, and have run none since the look before


class Scaling:
    """Looks at the node, and tells its machine of another number of children. One thread.

    Args:
        options: the bounds; ``autoscale`` is set.
        board: where the children show what they run.
    """

    def __init__(self, options: WorkerOptions, board: Board) -> None:
        assert options.autoscale is not None
        most, least = options.autoscale
        self._bounds = autoscale.Bounds(least, most, options.slots, options.autoscale_keepalive)
        self._scale = autoscale.begin(self._bounds)
        self._board = board
        self._ended: dict[tuple[int, int], int] = {}  # by pid and slot: how many tasks had ended

    def look(self, waiting: int | None, state: fleet.State, now: float) -> Iterator[fleet.Rescale]:
        """Decide, now that the broker has told how many messages wait; None when it has not.

        Args:
            waiting: messages in the queues that no consumer has.
            state: of the node.
            now: monotonic seconds.
        """
        if state.mode is not fleet.Mode.RUNNING:
            return
        uses = self._uses(state)
        busy = sum(use.busy for use in uses)
        look = autoscale.Look(
            # while the children wait for the verdicts, that messages wait means nothing
            waiting=waiting if self._board.released else None,
            working=len(uses),
            busy=busy,
            idle=sum(use.idle for use in uses),
        )
        before = self._scale.wanted
        self._scale = autoscale.decide(self._bounds, self._scale, look, now)
        if self._scale.wanted != before:
            # those that do nothing go first, and among them those that have had nothing to do
            order = [use.index for use in sorted(uses, key=lambda use: (use.busy, -use.idle))]
            yield fleet.Rescale(self._scale.wanted, tuple(order), waiting or 0, busy)

    def _uses(self, state: fleet.State) -> list[_Use]:
        """What the children do that work and are to stay."""
        uses = []
        ended: dict[tuple[int, int], int] = {}
        for child in state.children.values():
            if child.generation != state.current or child.phase not in fleet.WORKING:
                continue
            busy = idle = 0
            for place, slot in enumerate(self._board.child(child.index).slots):
                key = child.pid, place
                ended[key] = sum(slot.counts())
                if slot.read() is not None:
                    busy += 1
                elif self._ended.get(key) == ended[key]:
                    idle += 1
            uses.append(_Use(child.index, busy, idle))
        self._ended = ended
        return uses
