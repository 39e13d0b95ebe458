"""Publishes in flight on one channel: from sequence number to confirmed, refused or returned.

RabbitMQ counts the publishes of a channel from 1 and answers each with an ack or a nack, singly or ``multiple``; a
mandatory message that no queue takes comes back with ``basic.return`` *before* its ack. What is still here when the
channel goes must be sent again, in order.

Pure: no I/O, no clock. One thread at a time (the publisher's I/O thread).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")

# Seconds without any confirm while publishes are in flight, after which they are sent again on a new channel. RabbitMQ can
# swallow what reaches a quorum queue in the moment after the broker's restart (seen on 3.10: accepted, never confirmed).
# Doubled each time it passes, so that a broker that is merely slow is not flooded.
STALLED = 3.0
STALLED_CAP = 60.0


class InFlight(Generic[T]):
    """Publishes without a confirm yet, oldest first."""

    def __init__(self) -> None:
        self._next = 1
        self._lowest = 1  # every sequence number below it is settled
        self._entries: dict[int, T] = {}
        self._returned: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def next(self) -> int:
        """The sequence number of the next publish on this channel."""
        return self._next

    @property
    def oldest(self) -> int:
        """The lowest number without a confirm; ``next`` when there is none."""
        return next(iter(self._entries), self._next)

    def sent(self, entry: T) -> int:
        """Note a publish; returns its sequence number on this channel."""
        number = self._next
        self._next = number + 1
        self._entries[number] = entry
        return number

    def sent_all(self, entries: Iterable[T]) -> int:
        """Note several publishes; returns the sequence number of the first."""
        first = number = self._next
        noted = self._entries
        for entry in entries:
            noted[number] = entry
            number += 1
        self._next = number
        return first

    def drop(self, number: int, entry: T) -> bool:
        """Stop following this one, if it is in flight under this number; whether it was."""
        if self._entries.get(number) is not entry:
            return False
        del self._entries[number]
        self._returned.pop(number, None)
        return True

    @property
    def any_returned(self) -> bool:
        """Whether something came back whose ack has not come yet."""
        return bool(self._returned)

    def returned(self, matches: Callable[[T], bool], reason: str) -> bool:
        """Note a ``basic.return``: the oldest matching entry will settle as returned when its ack comes."""
        for number, entry in self._entries.items():
            if number not in self._returned and matches(entry):
                self._returned[number] = reason
                return True
        return False

    def confirmed(self, number: int, multiple: bool) -> list[tuple[T, str | None]]:
        """Settle by an ack or a nack: the entries it covers, each with the reason it was returned for, if it was.

        A number this channel does not have in flight settles nothing: the entry was given up earlier.
        """
        if not multiple:
            entry = self._entries.pop(number, None)
            if entry is None:
                return []
            if number == self._lowest:
                self._lowest = number + 1
            return [(entry, self._returned.pop(number, None) if self._returned else None)]
        pop = self._entries.pop
        settled: list[tuple[T, str | None]] = []
        for covered in range(self._lowest, min(number, self._next - 1) + 1):
            entry = pop(covered, None)
            if entry is not None:
                settled.append(
                    (entry, self._returned.pop(covered, None) if self._returned else None)
                )
        self._lowest = max(self._lowest, number + 1)
        return settled

    def give_up(self, condition: Callable[[T], bool]) -> list[T]:
        """Stop following the entries that meet the condition; their confirms will be ignored."""
        numbers = [number for number, entry in self._entries.items() if condition(entry)]
        for number in numbers:
            self._returned.pop(number, None)
        return [self._entries.pop(number) for number in numbers]

    def entries(self) -> list[T]:
        """What is in flight, oldest first."""
        return list(self._entries.values())

    def lost(self) -> list[T]:
        """The channel is gone: what must be sent again, oldest first. Numbers start at 1 again."""
        entries = list(self._entries.values())
        self.__init__()  # type: ignore[misc]  # a new channel starts from nothing
        return entries
