"""How long to leave a broker alone before the next attempt to connect; both adapters wait alike."""

from __future__ import annotations

import random

from amqtask.core.backoff import exponential, full_jitter
from amqtask.errors import BrokerError, LoginRefused

RETRY_BASE = 0.1  # seconds
RETRY_CAP = 3.0  # a broker that is back is found within seconds
REFUSED_CAP = 30.0  # a refused password is not tried more often than brokers lock accounts for
HEALTHY_AFTER = 10.0  # seconds open before the next loss counts as the first again


def pause(error: BrokerError, attempt: int, rng: random.Random) -> float:
    """Seconds to wait after ``attempt`` earlier failures in a row and now this error."""
    cap = REFUSED_CAP if isinstance(error, LoginRefused) else RETRY_CAP
    return full_jitter(exponential(attempt, RETRY_BASE, cap), rng)
