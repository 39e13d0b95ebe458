"""How long to wait before trying again: exact exponential growth, and full jitter as a separate step.

Reconnects, crash loops and (later) task retries share these two functions. Full jitter spreads clients that lost the same
broker at the same moment (Marc Brooker, "Exponential Backoff And Jitter", 2015).
"""

from __future__ import annotations

from typing import Protocol


class Random(Protocol):
    """The one method of ``random.Random`` that is needed."""

    def uniform(self, a: float, b: float) -> float:
        """A float between ``a`` and ``b``."""
        ...


def exponential(attempt: int, base: float, cap: float) -> float:
    """Seconds before attempt number ``attempt`` (0 = the first repeat): ``base * 2**attempt``, at most ``cap``."""
    if (
        attempt > 60
    ):  # 2**61 bases is past any cap; do not build giant floats for a worker that tried for days
        return cap
    return min(cap, base * 2.0**attempt)


def full_jitter(delay: float, rng: Random) -> float:
    """A moment drawn evenly from zero to ``delay`` seconds."""
    return rng.uniform(0.0, delay)
