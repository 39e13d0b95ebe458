"""Moving the dead letters of a queue, through whatever happens to the connection."""

from __future__ import annotations

import time
from collections.abc import Callable

from amqtask.amqp.transfer import Transfer
from amqtask.core.letters import Filter
from amqtask.dead.actions import Action
from amqtask.dead.run import Room, Run
from amqtask.dead.tally import Stopped, Tally
from amqtask.errors import ConfirmTimeout, ConnectFailed, ConnectionLost, OperationRefused
from amqtask.topology.model import Topology

RECONNECT = 60.0  # seconds a broker that went in the middle gets to come back
FRUITLESS = 3  # connections lost in a row without anything done, after which it is not the broker
SETTLED = 3.0  # seconds in which its queue must not change before it is read again
PAUSE = 0.5  # seconds between two attempts to reach it

Connect = Callable[[], Transfer]


class Mover:
    """Moves the dead letters of one queue.

    Args:
        connect: opens a connection; called again when the broker went away in the middle.
        topology: tells which target queues are bounded, so that none is filled until it refuses, and which are not: what a
            killed run had sent to those has arrived.
    """

    def __init__(self, connect: Connect, topology: Topology | None = None) -> None:
        self._connect = connect
        self._room = Room.of(topology)

    def run(
        self,
        queue: str,
        wanted: Filter,
        action: Action,
        *,
        tally: Tally,
        limit: int | None = None,
        rate: float | None = None,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[Tally], None] = lambda tally: None,
    ) -> None:
        """Carry out ``action`` on what is meant, until all is done, ``limit`` is reached or something stops it.

        A letter that comes back while this runs is left for the next run.

        Args:
            queue: the queue of dead letters.
            wanted: which.
            action: what.
            tally: counted up; tells at the end why the run ended early, if it did.
            limit: messages at most, those of ``tally.done`` counted.
            rate: messages a second at most.
            stop: asked between batches.
            progress: called after each batch.

        Raises:
            ConfigurationError: there is no such queue, or another run is at it.
            BrokerError: the broker cannot be reached, or refuses for good.
        """
        transfer = self._connect().open()
        with transfer:
            state = transfer.queue(queue)
        tally.ready += state.messages if state is not None else 0
        run = Run(queue, wanted, action, tally, limit, rate, stop, progress, self._room)
        fruitless = 0
        while True:
            before = tally.done + tally.finished
            try:
                with self._connect().open() as transfer:
                    if run.turn(transfer):
                        return
            except (ConnectionLost, ConfirmTimeout) as error:
                fruitless = 0 if tally.done + tally.finished > before else fruitless + 1
                if fruitless > FRUITLESS or not self._comes_back(queue, stop):
                    run.stop(Stopped.LOST, f"{error} Run the command again to go on with the rest.")
                    return

    def _comes_back(self, queue: str, stop: Callable[[], bool]) -> bool:
        """Wait for a broker that may have to start first, and then for its queue, which fills up as it recovers."""
        deadline = time.monotonic() + RECONNECT
        was_down = False
        while time.monotonic() < deadline and not stop():
            try:
                with self._connect().open() as transfer:
                    if was_down:
                        _settled(transfer, queue)
                    return True
            except (ConnectFailed, ConnectionLost, OperationRefused):
                was_down = True
                time.sleep(PAUSE)
        return False


def _settled(transfer: Transfer, queue: str) -> None:
    """Wait until a queue holds the same for a while."""
    deadline = time.monotonic() + RECONNECT
    before, since = None, time.monotonic()
    while time.monotonic() < min(deadline, since + SETTLED):
        transfer.wait(PAUSE)
        state = transfer.queue(queue)
        if state != before:
            before, since = state, time.monotonic()
