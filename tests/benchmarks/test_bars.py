from __future__ import annotations

import pytest

from benchmarks.bars import Bar, Figure, Verdict, bars, judge
from benchmarks.figures import Key, Sample, medians


def verdicts(broker: str, *samples: tuple[str, str, str, str, float]) -> dict[str, Verdict]:
    found = medians(
        Sample(broker, work, who, how, {name: value}) for work, who, how, name, value in samples
    )
    return {verdict.bar.text: verdict for verdict in judge(found, broker)}


def test_a_bar_against_a_peer_is_a_ratio_of_medians() -> None:
    told = verdicts(
        "3.10.8",
        ("drain", "amqtask", "drain", "rate", 24_000.0),
        ("drain", "celery", "drain", "rate", 2_000.0),
    )["drain ÷ Celery prefork"]
    assert (told.measured, told.reached, told.demand) == (12.0, True, "≥ 10")


def test_the_best_other_framework_counts_at_its_best_setting_and_celery_does_not() -> None:
    told = verdicts(
        "3.10.8",
        ("drain", "amqtask", "drain", "rate", 24_000.0),
        ("drain", "celery", "best", "rate", 20_000.0),
        ("drain", "dramatiq", "drain", "rate", 5_000.0),
        ("drain", "dramatiq", "best", "rate", 10_000.0),
        ("drain", "taskiq", "best", "rate", 4_000.0),
    )["drain ÷ the best other framework at its best setting"]
    assert (told.measured, told.reached) == (2.4, False)


def test_an_absolute_bar_needs_no_peer() -> None:
    told = verdicts("3.10.8", ("start", "amqtask", "drain", "import_ms", 100.0))
    assert told["`import amqtask`, ms"].reached is True
    assert told["`worker` command to first task done, s"].reached is None


def test_what_must_not_be_there_is_reached_at_zero() -> None:
    name = "AMQP clients that `import amqtask` loads"
    job = ("start", "amqtask", "drain", "clients")
    assert verdicts("4.3.6", (*job, 0.0))[name].reached is True
    assert verdicts("4.3.6", (*job, 1.0))[name].reached is False


def test_p99_is_held_against_celerys_p50() -> None:
    told = verdicts(
        "3.10.8",
        ("results", "amqtask", "results", "p99_ms", 3.9),
        ("results", "celery", "results", "p50_ms", 2.0),
    )["round trip p99 ÷ Celery rpc p50"]
    assert (told.measured, told.reached) == (1.95, True)


@pytest.mark.parametrize(("release", "factor"), [((3, 10, 8), 5), ((4, 0, 0), 10), ((4, 3, 6), 10)])
def test_a_newer_broker_asks_for_more_of_a_batch(release: tuple[int, ...], factor: float) -> None:
    asked = {bar.text: bar.factor for bar in bars(release)}
    assert asked["publish in `app.batch()`, confirmed ÷ Celery `group`, unconfirmed"] == factor


def test_words_for_people() -> None:
    bar = Bar("x", Figure("start", "amqtask", "drain", "first_s"), 0.5, at_most=True)
    assert [Verdict(bar, measured).word for measured in (0.4, 0.6, None)] == [
        "reached",
        "NOT reached",
        "not measured",
    ]


def test_a_run_of_another_broker_does_not_count() -> None:
    found = medians([Sample("4.3.6", "growth", "amqtask", "drain", {"share": 1.0})])
    assert Key("4.3.6", "growth", "amqtask", "drain") in found
    assert all(verdict.measured is None for verdict in judge(found, "3.10.8"))
