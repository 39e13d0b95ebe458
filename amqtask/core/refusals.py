"""Which nacks to believe: a queue that is full says no, and so does one that has just lost its leader.

RabbitMQ answers both with ``basic.nack``. While a quorum queue elects a leader, a channel that publishes to it for the first
time may take the dead one for it, and then refuses everything for as long as the channel lives (seen on 3.10). So a refused
message is sent again on a new channel, for a moment; only what is refused all that time is refused.

Pure: no I/O, no clock. One thread at a time.
"""

from __future__ import annotations

from amqtask.core.message import Publication

BELIEVED = 2.0  # seconds of refusals after which a target is taken at its word; elections take less
FORGOTTEN = 6.0  # seconds from then when that word is questioned again, and without a nack when the first is forgotten
SOONEST = 0.1  # seconds before a refused message is sent again, at first and at most: few tries, since a message
LATEST = 1.0  # for several queues, one of which is full, comes to the others with each of them
# Seconds in which the broker must have answered for all that is in flight, or the channel is kept: another queue of it may be
# silent for as long as it has no majority, and nobody else can send meanwhile. A busy broker that elects leaders needs most
# of it to answer.
DRAIN = 1.0

Target = tuple[str, str]  # exchange and routing key


def target_of(publication: Publication, due_in: str | None) -> Target:
    """What a nack of a publication is about: of the ladder it is the step, whatever the routing key says of the time left.

    What is due in a queue and goes there by its name is about that queue.

    Args:
        publication: as it was sent.
        due_in: the queue it is due in, when it went into the ladder.
    """
    whole = due_in is None or not publication.exchange
    return publication.exchange, publication.routing_key if whole else ""


class Refusals:
    """The targets that refuse at present, and since when. True while there are any."""

    def __init__(self) -> None:
        # Since when (``None``: it is believed), and when that is forgotten. In the order of the latter.
        self._targets: dict[Target, tuple[float | None, float]] = {}

    def __len__(self) -> int:
        return len(self._targets)

    def refused(self, target: Target, now: float) -> float | None:
        """Note a nack: seconds to wait before the message is sent again, ``None`` when the nack is to be believed.

        Args:
            target: what the message was published to.
            now: seconds on a clock that does not jump.
        """
        self._forget(now)
        since, _ = self._targets.get(target, (now, now))
        if since is None:
            return None
        believed = now - since >= BELIEVED
        self._targets.pop(target, None)  # to the end
        self._targets[target] = (None if believed else since, now + FORGOTTEN)
        return None if believed else min(LATEST, max(SOONEST, (now - since) * 2))

    def accepted(self, target: Target) -> None:
        """Note a confirm."""
        self._targets.pop(target, None)

    def _forget(self, now: float) -> None:
        while self._targets:
            target = next(iter(self._targets))
            if now < self._targets[target][1]:
                return
            del self._targets[target]
