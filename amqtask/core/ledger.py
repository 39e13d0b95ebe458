"""Deliveries in flight on one consumer: each is settled exactly once, or lost with its epoch.

An *epoch* is the life of one channel. Delivery tags start again at 1 in each, so a tag means nothing without its epoch: a
verdict for an older epoch is refused here, because the broker has given that message to somebody else already. Acks are
coalesced: one ``basic.ack`` with ``multiple`` covers everything below the lowest open tag.

Pure: no I/O, no clock. One thread at a time (the consumer's I/O thread).
"""

from __future__ import annotations

import msgspec

from amqtask.core.outcome import Verdict


class Settle(msgspec.Struct, frozen=True):
    """One command for the broker: settle ``tag`` (and, with ``multiple``, all before it) with ``verdict``."""

    verdict: Verdict
    tag: int
    multiple: bool = False


class Ledger:
    """The deliveries of the current epoch that are open, and the acks that wait to be sent."""

    def __init__(self) -> None:
        self.epoch = 0
        self._open: dict[int, None] = {}  # unsettled tags, lowest first: tags arrive in order
        self._acked: list[int] = []
        self._returned: list[Settle] = []

    def __len__(self) -> int:
        """Deliveries that have no verdict yet."""
        return len(self._open)

    @property
    def unsent(self) -> bool:
        """Whether ``flush`` has something to send."""
        return bool(self._acked or self._returned)

    def open_epoch(self, number: int | None = None) -> int:
        """Begin a new channel: everything of the old one is lost with it. Returns the new epoch.

        Args:
            number: of the new epoch, where several ledgers share one count; else the next one.
        """
        self.epoch = self.epoch + 1 if number is None else number
        self._open = {}
        self._acked = []
        self._returned = []
        return self.epoch

    def accept(self, tag: int) -> None:
        """Note a delivery of the current epoch. Tags must grow, as the broker counts them."""
        self._open[tag] = None

    def settle(self, epoch: int, tag: int, verdict: Verdict) -> bool:
        """Decide a delivery. False when it is stale or decided already: then nothing will be sent for it."""
        if epoch != self.epoch:
            return False
        try:
            del self._open[tag]
        except KeyError:
            return False
        if verdict is Verdict.ACK:
            self._acked.append(tag)
        else:
            self._returned.append(Settle(verdict, tag))
        return True

    def ack(self, epoch: int, tag: int) -> bool:
        """``settle`` with an ack, where that is asked for each message. False when its epoch has ended."""
        if epoch != self.epoch:
            return False
        if tag in self._open:
            del self._open[tag]
            self._acked.append(tag)
        return True

    def give_back(self) -> None:
        """Decide everything that is open: it goes back to its queue."""
        self._returned += [Settle(Verdict.GIVE_BACK, tag) for tag in self._open]
        self._open = {}

    def flush(self) -> list[Settle]:
        """The commands to send now, in order.

        Rejections go first: a later ``multiple`` ack covers their tags, which the broker must have settled by then.
        """
        commands = self._returned
        acked = self._acked
        if acked:
            lowest_open = next(iter(self._open), None)
            if lowest_open is None:
                commands.append(Settle(Verdict.ACK, max(acked), multiple=True))
            else:
                below = [tag for tag in acked if tag < lowest_open]
                if below:
                    commands.append(Settle(Verdict.ACK, max(below), multiple=True))
                commands += [Settle(Verdict.ACK, tag) for tag in sorted(acked) if tag > lowest_open]
        self._returned = []
        self._acked = []
        return commands
