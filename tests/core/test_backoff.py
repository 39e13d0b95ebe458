"""Backoff grows exactly and jitters fully."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from amqtask.core.backoff import exponential, full_jitter


@given(st.integers(0, 10_000), st.floats(0.001, 10), st.floats(0.001, 1000))
def test_exponential_never_passes_the_cap(attempt: int, base: float, cap: float) -> None:
    assert 0 < exponential(attempt, base, cap) <= cap


def test_exponential_doubles() -> None:
    assert [exponential(n, 0.1, 100.0) for n in range(4)] == [0.1, 0.2, 0.4, 0.8]


@given(st.floats(0, 1000), st.integers())
def test_full_jitter_stays_within_the_delay(delay: float, seed: int) -> None:
    assert 0 <= full_jitter(delay, random.Random(seed)) <= delay
