"""Tasks sent for later: on time, in the broker meanwhile, past everything that happens to the broker."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

import pytest

from tests.acceptance.nodes import Place

Places = Callable[..., Place]

TICK = 0.1  # seconds, the ladder's accuracy
ROUNDS = 4
EARLY = -0.05


@pytest.mark.exact("a cut makes tasks late")
def test_countdowns_are_on_time(place: Places) -> None:
    """Each delay has some chances to be on time: what the ladder does wrong it does each time, a busy machine does not."""
    at = place(type="quorum")
    node = at.node("-c1", "--pool", "solo")
    rng = random.Random(4)
    delays = [0.1 * step for step in range(1, 31)] + [rng.uniform(0.1, 3.0) for _ in range(10)]
    best = dict.fromkeys(delays, math.inf)
    for _ in range(ROUNDS):
        late = [delay for delay in delays if best[delay] > TICK + 0.1]
        if not late:
            break
        results = [
            (delay, at.send("punctual", time.time() + delay, countdown=delay))
            for delay in rng.sample(late, len(late))
        ]
        for delay, result in results:
            lateness = result.get(timeout=30)["late"]
            assert lateness >= EARLY
            best[delay] = min(best[delay], lateness)

    assert max(best.values()) <= TICK + 0.1, {k: v for k, v in best.items() if v > TICK + 0.1}
    assert node.stop() == 0
