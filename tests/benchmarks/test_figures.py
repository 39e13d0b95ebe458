from __future__ import annotations

import pytest

from benchmarks.figures import Key, Sample, Spread, medians, ratio, spread


def sample(who: str, **values: float) -> Sample:
    return Sample("4.3.6", "drain", who, "drain", values)


def test_a_spread_is_the_median_between_least_and_most() -> None:
    assert spread([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0, 3)
    assert spread([1.0, 2.0]).median == 1.5
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0, 1)


def test_medians_keep_jobs_apart_and_figures_that_are_missing_sometimes() -> None:
    found = medians(
        [
            sample("amqtask", rate=10.0, broker_us=3.0),
            sample("celery", rate=1.0),
            sample("amqtask", rate=30.0),
            sample("amqtask", rate=20.0),
        ]
    )
    mine, theirs = (Key("4.3.6", "drain", who, "drain") for who in ("amqtask", "celery"))
    assert list(found) == [mine, theirs]
    assert found[mine]["rate"] == Spread(20.0, 10.0, 30.0, 3)
    assert found[mine]["broker_us"] == Spread(3.0, 3.0, 3.0, 1)
    assert found[theirs]["rate"].median == 1.0


@pytest.mark.parametrize(("of", "to", "expected"), [(6.0, 2.0, 3.0), (1.0, 0.0, None)])
def test_a_ratio_to_nothing_is_none(of: float, to: float, expected: float | None) -> None:
    assert ratio(of, to) == expected
