"""How a micro benchmark is timed: a call, repeated, in CPU time, and the median of the repetitions.

CPU time, because what else runs on the machine meanwhile is not what is measured.
"""

from __future__ import annotations

import statistics
import time
import timeit
from collections.abc import Callable
from typing import NamedTuple

REPETITIONS = 9
LEAST = 0.02  # seconds of one repetition: a clock's tick and one interruption then count little


class Case(NamedTuple):
    """One thing to time. ``operations`` is how many of it one call does."""

    name: str
    call: Callable[[], object]
    operations: int = 1


class Timing(NamedTuple):
    """Nanoseconds of one operation over the repetitions."""

    median: float
    least: float
    most: float


def measure(case: Case, repetitions: int = REPETITIONS, least: float = LEAST) -> Timing:
    """Time a case. What the call of the lambda itself costs, some 30 ns, is in the figure.

    Args:
        case: what to time.
        repetitions: how often.
        least: seconds that one repetition lasts, about.
    """
    once = timeit.timeit(case.call, number=3, timer=time.process_time) / 3
    number = max(1, int(least / max(once, 1e-8)))
    taken = timeit.repeat(case.call, number=number, repeat=repetitions, timer=time.process_time)
    each = [seconds / number / case.operations * 1e9 for seconds in taken]
    return Timing(statistics.median(each), min(each), max(each))
