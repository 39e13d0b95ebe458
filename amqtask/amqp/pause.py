"""How long to leave a broker alone before the next attempt to connect; both adapters wait alike."""

from __future__ import annotations

import os
import random
import threading
import time

from amqtask.amqp.address import Address
from amqtask.core.backoff import exponential, full_jitter
from amqtask.errors import BrokerError, LoginRefused

RETRY_BASE = 0.1  # seconds
RETRY_CAP = 3.0  # a broker that is back is found within seconds
NEXT_BROKER = 0.05  # most seconds before the next of several brokers is tried
REFUSED_EVERY = 5.0  # seconds between two logins that are likely to be refused, in one process
HEALTHY_AFTER = 10.0  # seconds open before the next loss counts as the first again


class Turns:
    """Spaces the logins of a process out while a broker refuses them: brokers lock accounts, and log each.

    All connections of a process that use one login on one broker take turns. Any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: dict[tuple[str, str], float] = {}  # by broker and login; guarded by _lock

    def refused(self, address: Address, now: float) -> None:
        """Note a refused login."""
        key = (address.endpoint, address.user)
        with self._lock:
            self._next[key] = max(self._next.get(key, 0.0), now + REFUSED_EVERY)

    def accepted(self, address: Address) -> None:
        """Note a login that was not refused: nobody waits for a turn any more."""
        if self._next:
            with self._lock:
                self._next.pop((address.endpoint, address.user), None)

    def wait(self, address: Address, now: float) -> float:
        """Take the next turn: seconds until it comes, zero when the login is not known to be refused."""
        if not self._next:
            return 0.0
        key = (address.endpoint, address.user)
        with self._lock:
            turn = self._next.get(key)
            if turn is None:
                return 0.0
            turn = max(turn, now)
            self._next[key] = turn + REFUSED_EVERY
            return turn - now


turns = Turns()
os.register_at_fork(after_in_child=turns.__init__)  # type: ignore[misc]  # the lock may be held in the parent


def pause(
    error: BrokerError,
    failed: Address,
    following: Address,
    attempt: int,
    brokers: int,
    rng: random.Random,
) -> float:
    """Seconds to wait before the next attempt to connect.

    Where there are several brokers the next one is tried at once, and the wait grows from one round to the next.

    Args:
        error: why the last attempt failed, or the connection was lost.
        failed: the broker it was.
        following: the broker to try next.
        attempt: earlier failures in a row.
        brokers: how many there are.
        rng: draws the jitter, so that clients that lost a broker together do not come back together.
    """
    now = time.monotonic()
    if isinstance(error, LoginRefused):
        turns.refused(failed, now)
    if (attempt + 1) % brokers:
        delay = full_jitter(NEXT_BROKER, rng)
    else:
        delay = full_jitter(exponential(attempt // brokers, RETRY_BASE, RETRY_CAP), rng)
    return max(delay, turns.wait(following, now))
