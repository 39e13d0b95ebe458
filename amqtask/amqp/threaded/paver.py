"""Carries out, on the I/O thread, what the publisher needs on the broker before it can publish into the delay ladder.

On a channel of its own, because a refused declaration closes the channel and would take publishes with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pika.exceptions

from amqtask.amqp import failures
from amqtask.amqp.declaration import call_of
from amqtask.amqp.threaded.connection import Connection
from amqtask.amqp.threaded.loop import IoThread
from amqtask.amqp.ways import PAVE_TIMEOUT, Paving, Refusal, Ways
from amqtask.errors import AmqtaskError, OperationRefused
from amqtask.topology.plan import Declaration


class Paver:
    """Opens ways, one queue of the ladder at a time, barriers several together. Everything runs on the I/O thread.

    A lost connection interrupts it; ``resume`` begins anew with what was wanted.

    Args:
        io: the I/O thread.
        connection: whose broker connection to use.
        ways: what is in place; written here.
        on_end: told of each queue: ``None`` when it can be reached, or why it cannot.
    """

    def __init__(
        self,
        io: IoThread,
        connection: Connection,
        ways: Ways,
        on_end: Callable[[str, AmqtaskError | None], None],
    ) -> None:
        self._io = io
        self._connection = connection
        self._ways = ways
        self._on_end = on_end
        self._wanted: dict[str, None] = {}  # in the order asked for
        self._paving: Paving | None = None
        self._making: list[str] = []  # what that is for
        self._timer: Any = None

    def want(self, queue: str) -> None:
        """Open the way to a queue; repeating does nothing while it is under way."""
        self._wanted[queue] = None
        self.resume()

    def resume(self) -> None:
        """Go on, when a connection is open."""
        if self._paving is None and self._wanted and self._connection.channel is not None:
            self._making, paving = self._ways.begin(self._wanted, time.monotonic())
            self._paving = paving
            self._timer = self._io.call_later(PAVE_TIMEOUT, lambda: self._overdue(paving))
            self._advance(paving, None)

    def _advance(self, paving: Paving, answer: Refusal | None) -> None:
        if paving is not self._paving:
            return
        try:
            declarations = paving.send(answer)
        except StopIteration as end:
            self._end(end.value)
        except AmqtaskError as error:
            self._end(dict.fromkeys(self._making, error))
        else:
            _Round(self._connection, declarations, self._interrupted, paving, self._advance)

    def _end(self, errors: Mapping[str, AmqtaskError]) -> None:
        self._stop()
        queues, self._making = self._making, []
        for queue in queues:
            del self._wanted[queue]
        for queue in queues:
            self._on_end(queue, errors.get(queue))
        self.resume()

    def _overdue(self, paving: Paving) -> None:
        if paving is self._paving:
            late = failures.unconfirmed(self._connection.address)
            self._end(dict.fromkeys(self._making, late))

    def _interrupted(self, paving: Paving) -> None:
        if paving is self._paving:
            self._stop()

    def _stop(self) -> None:
        self._paving = None
        if self._timer is not None:
            self._io.cancel(self._timer)
            self._timer = None


class _Round:
    """One sequence of declarations on a channel that is opened for it and closed after it."""

    def __init__(
        self,
        connection: Connection,
        declarations: tuple[Declaration, ...],
        on_lost: Callable[[Paving], None],
        paving: Paving,
        on_done: Callable[[Paving, Refusal | None], None],
    ) -> None:
        self._declarations = declarations
        self._at = 0
        self._paving = paving
        self._on_lost = on_lost
        self._on_done = on_done
        try:
            channel = connection.raw.channel(on_open_callback=self._next)
        except pika.exceptions.ConnectionWrongStateError:
            on_lost(paving)  # it closes at this moment
        else:
            channel.add_on_close_callback(self._closed)  # it may be lost before it is open

    def _next(self, channel: Any) -> None:
        if self._at == len(self._declarations):
            channel.close(0, "done")
            self._on_done(self._paving, None)
            return
        method, arguments = call_of(self._declarations[self._at])
        getattr(channel, method)(**arguments, callback=lambda _frame: self._answered(channel))

    def _answered(self, channel: Any) -> None:
        self._at += 1
        if channel.is_open:
            self._next(channel)

    def _closed(self, _channel: Any, reason: Exception) -> None:
        if self._at == len(self._declarations):
            return
        if isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            refused = OperationRefused(reason.reply_code, reason.reply_text)
            self._on_done(self._paving, (refused, self._declarations[self._at]))
        else:
            self._on_lost(self._paving)
