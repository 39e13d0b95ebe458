"""Tasks sent for later: on time, in the broker meanwhile, past everything that happens to the broker."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tests.acceptance.nodes import Place

Places = Callable[..., Place]

TICK = 0.1  # seconds, the ladder's accuracy
NOISE = 0.9  # seconds a task may be late on a machine that is busy with other things
EARLY = -0.05


def test_countdowns_are_on_time(place: Places) -> None:
    at = place(type="quorum")
    node = at.node("-c1", "--pool", "solo")
    rng = random.Random(4)
    delays = [0.1 * step for step in range(1, 31)] + [rng.uniform(0.1, 3.0) for _ in range(10)]
    results = [
        at.send("punctual", time.time() + delay, countdown=delay)
        for delay in rng.sample(delays, len(delays))
    ]
    seen = [result.get(timeout=30)["late"] for result in results]

    assert min(seen) >= EARLY
    assert sorted(seen)[len(seen) // 2] <= TICK + 0.1
    assert max(seen) <= TICK + NOISE
    assert node.stop() == 0
