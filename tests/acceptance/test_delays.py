"""Tasks sent for later: on time, in the broker meanwhile, past everything that happens to the broker."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from amqtask.core import codec
from amqtask.core.message import Message
from amqtask.topology.ladder import STEPS
from tests.acceptance.nodes import Place
from tests.brokers import OwnBroker
from tests.waiting import eventually

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


def test_moments_of_every_kind(place: Places) -> None:
    at = place(type="quorum")
    node = at.node("-c1", "--pool", "solo")
    utc = datetime.now(UTC) + timedelta(seconds=1.5)
    moments = {
        "utc": utc,
        "naive": utc.replace(tzinfo=None),  # which is UTC
        "half hours": utc.astimezone(ZoneInfo("Asia/Kolkata")),
        "daylight saving": utc.astimezone(ZoneInfo("America/New_York")),
        "no zone file": utc.astimezone(timezone(-timedelta(hours=3, minutes=7))),
    }
    past = datetime.now(UTC) - timedelta(days=3650)
    sent = {
        name: at.send("punctual", utc.timestamp(), eta=moment) for name, moment in moments.items()
    }
    overdue = at.send("punctual", time.time(), eta=past)
    # As from a Celery producer, or out of the ladder after its longest wait: it is early, and goes round.
    early = codec.encode(
        Message(
            id="early", task="work.note", args=("early",), eta=utc.isoformat(), ignore_result=True
        )
    )
    at.put(
        early.body,
        headers=dict(early.properties.headers or {}),
        content_type=early.properties.content_type,
        content_encoding=early.properties.content_encoding,
    )

    assert overdue.get(timeout=20)["eta"] == past.isoformat(timespec="microseconds")
    for name, result in sent.items():
        seen = result.get(timeout=20)
        assert EARLY <= seen["late"] < 5.0, name  # an hour off would be seen
        assert datetime.fromisoformat(seen["eta"]) == utc, name
        # A Celery worker reads the header too: it takes a time without an offset for UTC, and so say all of ours.
        assert seen["eta"].endswith(("+00:00", "+05:30", "-04:00", "-05:00", "-03:07")), name
    at.saw("end", "early")
    assert at.depth() == at.depth(at.dead) == 0
    assert node.stop() == 0


def test_what_waits_survives_the_broker(place: Places, outage: OwnBroker) -> None:
    """Something waits in each step of the ladder when the broker stops, and when it is killed."""
    at = place(on=outage, type="quorum")
    at.declare()
    soon = [f"soon-{number}" for number in range(60)]
    rng = random.Random(7)
    with at.app.batch():
        for step in range(STEPS):
            at.send("note", f"step-{step}", countdown=1.5 * 2**step * TICK, ignore_result=True)
        for name in soon:
            at.send("note", name, countdown=rng.uniform(0.1, 6.0), ignore_result=True)
    high = [at.app.ladder.step(step) for step in range(12, STEPS)]

    def waiting() -> int:
        return sum(map(at.depth, high))

    eventually(lambda: waiting() == len(high), 20)
    eventually(
        lambda: at.depth() >= 20, 20
    )  # so the others are on their way, some between two steps
    outage.restart()
    outage.kill()
    outage.start()
    node = at.node("-c1", "-Q", at.queue)

    at.everything_done([*soon, *(f"step-{step}" for step in range(6))], 60)
    eventually(lambda: waiting() == len(high), 20)
    # What a step had handed on without having heard so is handed on again: at most 32 of each step and each outage.
    done = at.count("end")
    assert sum(done.values()) - len(done) <= 64, done
    assert node.stop() == 0
