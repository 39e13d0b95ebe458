"""What the process side and the task side of a worker agree on: ``Prepared``, ``ChildContext`` and ``AgentContext``.

The process side (supervisor, fork server) knows nothing of AMQP or tasks. It is given a function that prepares the app once per
generation in the fork server; what that returns is inherited by every child and run there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Protocol

from amqtask.core.fleet import ChildExit
from amqtask.worker.forking.link import (
    ChildReady,
    ChildRetiring,
    FromChild,
    Mailbox,
    ToAgent,
    encode,
)
from amqtask.worker.memory.board import Board, ChildRecord, ChildState

__all__ = ["AgentContext", "ChildContext", "ChildExit", "OnReady", "Prepare", "Prepared"]


class Prepared(Protocol):
    """An app that is imported and checked, ready to be forked.

    It must hold no thread and no connection: both would be broken in the children.
    """

    @property
    def info(self) -> Mapping[str, object]:
        """What to show of it (the banner): plain values that MessagePack can carry."""

    def run(self, context: ChildContext) -> int:
        """Work as one child until told to stop, in the child's main thread; return its exit code (``ChildExit``).

        Signals the child must answer, and finds at their default: TERM finish what runs, give back the rest, return; QUIT give
        back everything and return at once. INT and HUP do nothing, and USR1 dumps the stacks of all threads already.
        """

    def attend(self, context: AgentContext) -> int:
        """Be the node's agent until told to end, in the main thread of a process of its own; return its exit code.

        Signals it must answer, and finds at their default: TERM carry out what is under way and return.
        """


class AgentContext:
    """The agent's place in its node.

    Args:
        node: the node's name.
        board: the node's shared memory; the agent only reads it.
        mailbox: to the supervisor and from it.
    """

    def __init__(self, *, node: str, board: Board, mailbox: Mailbox[ToAgent]) -> None:
        self.node = node
        self.board = board
        self.mailbox = mailbox


Prepare = Callable[[], Prepared]
OnReady = Callable[[Mapping[str, object]], None]


class ChildContext:
    """A child's place in its node. All methods may be called from any one thread of the child.

    Args:
        index: the seat: 0 ≤ index < board.seats, free again after this child's death.
        generation: grows with every reload.
        node: the node's name.
        slots: how many tasks this child runs at a time.
        board: the node's shared memory; ``record`` is this child's part, ``record.slot(0 … slots-1)`` its slots.
        notify: file descriptor that takes this child's frames to the supervisor; None when there is no supervisor (solo).
    """

    def __init__(
        self,
        *,
        index: int,
        generation: int,
        node: str,
        slots: int,
        board: Board,
        notify: int | None,
    ) -> None:
        self.index = index
        self.generation = generation
        self.node = node
        self.slots = slots
        self.board = board
        self.record: ChildRecord = board.child(index)
        self._notify = notify
        self._retiring = False

    @property
    def solo(self) -> bool:
        """True when this is the worker's own process: nobody replaces it, and it stays on its terminal."""
        return self._notify is None

    def ready(self) -> None:
        """Tell the supervisor that this child works now: connected and consuming. Call once."""
        self.record.update(ChildState.READY)
        self._send(ChildReady(self.index, os.getpid(), self.generation))

    def draining(self) -> None:
        """Show on the board that this child takes no new work."""
        self.record.update(ChildState.DRAINING)

    def retire(self) -> None:
        """Ask for a replacement and go on working: TERM follows when the replacement is ready. Repeating does nothing.

        For a child that has reached its limit of tasks or memory. One that cannot go on returns ``ChildExit.RECYCLE`` instead.
        """
        if not self._retiring:
            self._retiring = True
            self._send(ChildRetiring(self.index, os.getpid(), self.generation))

    def _send(self, frame: FromChild) -> None:
        if self._notify is not None:
            try:
                # one write below PIPE_BUF: frames of several children never mix
                os.write(self._notify, encode(frame))
            except BrokenPipeError:
                pass  # the supervisor is gone, and this process is about to follow
