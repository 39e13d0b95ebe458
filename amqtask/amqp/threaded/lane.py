"""One consumed queue on a channel of its own, so that what happens to it happens to no other.

The life of a lane: ``idle → opening → consuming → (cancelled, refused or lost) idle → …``. Each channel is an epoch of the
lane's ledger. A ``basic.cancel`` ends the epoch at once: the channel is closed, another one is opened with a fresh consumer
tag, and verdicts for deliveries of the old one are dropped. (RabbitMQ 4.3 keeps a cancelled consumer half alive, and wakes
it when a late ack arrives on its channel; a fresh channel is the way out on every version.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import pika.exceptions
from pika.channel import Channel

from amqtask.core.ledger import Ledger
from amqtask.errors import BrokerError, ConnectionLost, OperationRefused


class Home(Protocol):
    """What a lane needs of its consumer. I/O thread."""

    prefetch: int
    paused: bool
    exclusive: bool

    @property
    def stopping(self) -> bool:
        """Whether nothing new is to be consumed."""

    def new_channel(self, on_open: Callable[[Channel], None]) -> Channel | None:
        """Open a channel; ``None`` without a connection."""

    def new_epoch(self) -> int:
        """A number that no epoch of any lane had before."""

    def new_tag(self, lane: Lane) -> str:
        """A consumer tag that was never used, under which deliveries come to this lane."""

    def forget_tag(self, tag: str) -> None:
        """Nothing is expected under this tag any more."""

    def arguments(self, queue: str) -> Mapping[str, Any]:
        """Arguments for a consumer of this queue."""

    def delivered(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        """A delivery that pika's own codec has read."""

    def consumes(self, lane: Lane) -> None:
        """The lane consumes, or would but for a pause."""

    def ended(self, lane: Lane, error: BrokerError, was_consuming: bool) -> None:
        """The lane's channel is gone while the connection is not."""


class Lane:
    """Consumes one queue. Belongs to the I/O thread, but for ``ledger.epoch``, which any thread may read.

    Attributes:
        queue: what it consumes.
        ledger: the deliveries of its current epoch.
        channel: its open channel, or ``None``.
        consuming: it consumes, or is paused.
        error: why it could not consume at its last try.
        refusals: times in a row that the broker ended its channel.
        since: when it began to consume, on the monotonic clock.
        plain: the broker refused the consumer's arguments, so they are left out.
    """

    def __init__(self, queue: str, home: Home) -> None:
        self.queue = queue
        self.ledger = Ledger()
        self.channel: Channel | None = None
        self.consuming = False
        self.error: BrokerError | None = None
        self.refusals = 0
        self.since = 0.0
        self.plain = False
        self._home = home
        self._opening: Channel | None = None
        self._tags: list[str] = []  # consumers of this channel, those that are leaving too
        self._leaving: set[str] = set()  # consumers whose cancel has no answer yet
        self._granted = 0  # the prefetch its consumers began with; 0 when paused
        self._changing = False  # consumers come or go because the prefetch changes
        self._on_stopped: Callable[[], None] | None = None

    # ------------------------------------------------------------ building

    @property
    def idle(self) -> bool:
        """Whether it has no channel and none is on its way."""
        return self.channel is None and self._opening is None

    @property
    def leaving(self) -> bool:
        """Whether a cancel of ours has no answer yet."""
        return bool(self._leaving)

    def open(self) -> None:
        """Open a channel and consume; does nothing when it has one, or when there is no connection."""
        if self.idle and not self._home.stopping:
            self._opening = self._home.new_channel(self._opened)

    def _opened(self, channel: Channel) -> None:
        if channel is not self._opening:
            channel.close(0, "not needed")
            return
        self._opening = None
        if self._home.stopping:
            channel.close(0, "not needed")
            return
        self.channel = channel
        self.ledger.open_epoch(self._home.new_epoch())
        channel.add_on_close_callback(self._closed)
        channel.add_on_cancel_callback(self._cancelled)
        if self._home.paused:
            self._granted = 0
            self._consumes()
            return
        self._granted = self._home.prefetch

        def granted(_frame: object) -> None:
            if self.channel is channel and not self._home.stopping:
                self._begin(channel, lambda _frame: self._consumes())

        channel.basic_qos(prefetch_count=self._granted, callback=granted)

    def _consumes(self) -> None:
        if self.channel is not None:
            self.consuming = True
            self.error = None
            self._home.consumes(self)
            self.adjust()

    def _begin(self, channel: Channel, began: Callable[[object], None]) -> None:
        tag = self._home.new_tag(self)
        self._tags.append(tag)
        channel.basic_consume(
            self.queue,
            self._home.delivered,
            consumer_tag=tag,
            exclusive=self._home.exclusive,
            arguments=None if self.plain else dict(self._home.arguments(self.queue)),
            callback=began,
        )

    # ------------------------------------------------------------ prefetch and pause

    def adjust(self) -> None:
        """Bring the consumer to the prefetch that is wanted now.

        RabbitMQ applies ``basic.qos`` to consumers that begin after it, so a new consumer begins and the old one leaves; what
        that holds stays ours.
        """
        channel = self.channel
        if channel is None or not channel.is_open or not self.consuming:
            return  # the next channel begins with it
        wanted = 0 if self._home.paused else self._home.prefetch
        if wanted == self._granted or self._home.stopping or self._changing:
            return  # the end of a change looks again
        self._changing = True
        self._granted = wanted
        old = self._active()
        if not wanted:
            self._cancel(channel, old)
            return

        def replace(_frame: object) -> None:
            if self.channel is channel and not self._home.stopping:
                # where there was none, a pause is over: it consumes only now
                self._begin(channel, _nothing if old else lambda _frame: self._consumes())
                self._cancel(channel, old)

        channel.basic_qos(prefetch_count=wanted, callback=replace)

    def _active(self) -> list[str]:
        """The tags of the consumers that are not on their way out."""
        return [tag for tag in self._tags if tag not in self._leaving]

    def _cancel(self, channel: Channel, tags: Sequence[str]) -> None:
        """Cancel consumers; go on when the broker has answered for all that are on their way out."""
        self._leaving.update(tags)

        def gone(tag: str) -> Callable[[object], None]:
            def forget(_frame: object) -> None:
                if self.channel is channel:
                    self._leaving.discard(tag)
                    self._tags.remove(tag)
                    self._home.forget_tag(tag)
                    if not self._leaving:
                        self._all_gone()

            return forget

        for tag in tags:
            channel.basic_cancel(tag, callback=gone(tag))
        if not self._leaving:
            self._all_gone()

    def _all_gone(self) -> None:
        self._changing = False
        if self._home.stopping:
            self.consuming = False
            self._stopped()
        else:
            self.adjust()

    # ------------------------------------------------------------ the end

    def stop(self, on_stopped: Callable[[], None]) -> None:
        """Cancel the consumer; ``on_stopped`` runs when the broker will deliver no more."""
        self._on_stopped = on_stopped
        channel = self.channel
        if channel is None or not channel.is_open or not (self.consuming or self._tags):
            self.consuming = False
            self._stopped()
            return
        # One whose consume has no answer yet is cancelled too: what it brings would be given back, and come again, and again.
        self._cancel(channel, self._active())

    def _stopped(self) -> None:
        told, self._on_stopped = self._on_stopped, None
        if told is not None:
            told()

    def drop(self) -> bool:
        """Forget the channel: it went, or must not be used any more. Returns whether the lane was consuming."""
        was_consuming, self.consuming = self.consuming, False
        self.channel = self._opening = None
        # late verdicts are stale from now on, not only when a channel is open again
        self.ledger.open_epoch(self._home.new_epoch())
        for tag in self._tags:
            self._home.forget_tag(tag)
        self._tags = []
        self._leaving = set()
        self._changing = False
        self._stopped()
        return was_consuming

    def _cancelled(self, frame: Any) -> None:
        channel = self.channel
        if channel is None or frame.method.consumer_tag not in self._tags:
            return
        was_consuming = self.drop()
        if channel.is_open:
            channel.close(0, "cancelled by the broker")
        self._home.ended(self, ConnectionLost("The broker cancelled the consumer."), was_consuming)

    def _closed(self, channel: Channel, reason: Exception) -> None:
        if channel is not self.channel or not channel.connection.is_open:
            return  # an old one; or the connection goes with it, and its owner tells
        error: BrokerError = ConnectionLost("The channel was closed.")
        if isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            error = OperationRefused(reason.reply_code, reason.reply_text)
        was_consuming = self.drop()
        self._home.ended(self, error, was_consuming)


def _nothing(_frame: object) -> None:
    """The answer to a request nobody waits for."""
