from __future__ import annotations

import random
from functools import partial
from typing import Any, cast
from xml.etree import ElementTree as ET

import msgspec
import pytest

from benchmarks import chart, interleave, page, report
from benchmarks.environments import Missing
from benchmarks.figures import FULL, LeftOut, Run, Sample, label_key, medians
from benchmarks.frameworks import Broken
from benchmarks.place import Place
from benchmarks.system.jobs import Job

FIGURES = "# A\n\nb\n\n## Figures\n\nold\n\n## The bars\n\nc\n"

SVG = "{http://www.w3.org/2000/svg}"


def a_run(**changes: Any) -> Run:
    samples = [
        Sample("3.10.8", "drain", "celery", "drain", {"rate": 2000.0, "worker_us": 400.0}),
        Sample("3.10.8", "drain", "amqtask", "drain", {"rate": 24000.0, "worker_us": 40.0}),
        Sample("3.10.8", "drain", "amqtask", "drain", {"rate": 26000.0, "worker_us": 42.0}),
        Sample("3.10.8", "drain", "celery", "best", {"rate": 5000.0}),
        Sample("4.3.6", "drain", "celery", "drain", {"rate": 3000.0}),
        Sample("3.10.8", "results", "amqtask", "results", {"p50_ms": 0.5, "p95_ms": 0.7}),
        Sample("3.10.8", "results", "celery", "results", {"p50_ms": 2.0, "p95_ms": 2.1}),
    ]
    run = Run(
        started="2030-01-01 00:00 UTC",
        machine={"cpus": 2, "model": "a <CPU>", "system": "Linux", "python": "3.11.7"},
        versions={"amqtask": {"amqtask": "0.1.0", "pika": "1.4.4"}, "celery": {"celery": "5.7.0"}},
        brokers=["3.10.8", "4.3.6"],
        repetitions=2,
        size=FULL,
        labels={label_key("drain", "celery", "best"): "2 × solo & <all>"},
        samples=samples,
        left_out=[LeftOut("4.3.6", "drain", "taskiq", "best", "the worker ended")],
    )
    return msgspec.structs.replace(run, **changes)


def test_a_table_has_ours_first_and_says_how_many_times_better_it_is() -> None:
    lines = report.text(a_run()).splitlines()
    rows = [line for line in lines if line.startswith(("| amqtask, drain", "| celery"))]
    assert "25,000 (24,000–26,000)" in rows[0]
    assert [cell.strip() for cell in rows[1].split("|")[2:4]] == ["2,000", "12.5"]
    # the best setting of a peer is held against ours as it is shipped
    assert [cell.strip() for cell in rows[2].split("|")[1:4]] == [
        "celery, 2 × solo & <all>",
        "5,000",
        "5.0",
    ]


def test_where_less_is_better_the_ratio_is_turned_round() -> None:
    row = next(
        line for line in report.text(a_run()).splitlines() if line.startswith("| celery, results")
    )
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["2.00", "4.0"]


def test_a_report_names_versions_bars_and_what_was_left_out() -> None:
    text = report.text(a_run())
    assert "- amqtask: amqtask 0.1.0, pika 1.4.4" in text
    assert "| drain ÷ Celery prefork" in text
    assert "÷" not in report.text(a_run(size="tiny"))
    assert "- taskiq, drain (best) on 4.3.6: the worker ended" in text


def test_headings_name_the_amounts_of_the_run() -> None:
    samples = [
        Sample("3.10.8", "results", "amqtask", "results", {"flight_rate": 1.0, "group_s": 0.1}),
        Sample("3.10.8", "growth", "amqtask", "drain", {"short_rate": 1.0, "long_rate": 2.0}),
        Sample("3.10.8", "chords", "amqtask", "chords", {"chord_s": 1.0}),
    ]
    full, tiny = (a_run(samples=samples, size=size) for size in (FULL, "tiny"))
    for text in (report.text(full), chart.svg(full)):
        assert "5,000" in text
    assert "group of 1,000, s" in report.text(full)
    assert "at 200,000" in report.text(full)
    for text in (report.text(tiny), chart.svg(tiny)):
        assert "5,000" not in text
        assert "200" in text
    assert "A chord of 100 no-op parts" in report.text(tiny)
    assert "at 2,000 " in report.text(tiny)
    assert "Size tiny" in report.text(tiny)


def test_columns_are_aligned() -> None:
    grid = report.grid(("a", "number"), [("long name", "1"), ("b", "22")])
    assert len({len(line) for line in grid.splitlines()}) == 1
    assert grid.splitlines()[1] == "| --------- | -----: |"


def test_the_figures_of_a_page_are_replaced_and_nothing_else() -> None:
    text = page.page(FIGURES, a_run())
    assert text.startswith("# A\n\nb\n\n## Figures\n\n![")
    assert text.endswith("\n\n## The bars\n\nc\n")
    assert "old" not in text
    assert "25,000" in text
    assert page.page(text, a_run()) == text
    with pytest.raises(ValueError, match="headings"):
        page.page("# A\n", a_run())


def test_the_page_of_the_documentation_has_a_place_for_figures() -> None:
    assert "25,000" in page.page(page.PAGE.read_text(), a_run())


def test_a_run_survives_its_json() -> None:
    run = a_run()
    assert msgspec.json.decode(msgspec.json.encode(run), type=Run) == run


def test_the_chart_is_svg_with_a_bar_for_each_figure_and_nothing_outside() -> None:
    run = a_run()
    picture = ET.fromstring(chart.svg(run))
    assert picture.tag == f"{SVG}svg"
    bars = [
        rectangle
        for rectangle in picture.iter(f"{SVG}rect")
        if rectangle.get("height") == str(chart.BAR - 1)
    ]
    assert len(bars) == 4
    for bar in bars:
        assert float(bar.get("x", "")) + float(bar.get("width", "")) < chart.WIDTH
        assert float(bar.get("y", "")) < float(picture.get("height", ""))
    texts = [text.text or "" for text in picture.iter(f"{SVG}text")]
    assert "celery, 2 × solo & <all>" in texts
    assert "25,000" in texts


def test_the_chart_has_ours_first_and_then_the_fastest() -> None:
    run = a_run()
    rows = chart.rows(run, medians(run.samples), chart.PANELS[0])
    assert [(row.who, row.values) for row in rows] == [
        ("amqtask", (25000.0, None)),
        ("celery", (5000.0, None)),
        ("celery", (2000.0, 3000.0)),
    ]


class NoPlace:
    """Where jobs that need no broker run."""

    version = "4.3.6"


def job(who: str, run: Any, most: int = 1000) -> Job:
    return Job(cast(Place, NoPlace()), "drain", who, "drain", who, run, most)


def run_all(jobs: list[Job], repetitions: int) -> tuple[list[Sample], list[LeftOut]]:
    samples: list[Sample] = []
    left_out: list[LeftOut] = []
    interleave.run(jobs, repetitions, random.Random(1), samples, left_out, lambda _: None)
    return samples, left_out


def test_every_repetition_goes_through_all_jobs() -> None:
    ran: list[str] = []

    def note(who: str) -> dict[str, float]:
        ran.append(who)
        return {"rate": 1.0}

    names = ["a", "b", "c", "d"]
    jobs = [job(name, partial(note, name), most=2 if name == "d" else 1000) for name in names]
    samples, left_out = run_all(jobs, 3)
    assert [sorted(ran[:4]), sorted(ran[4:8]), sorted(ran[8:])] == [names, names, names[:3]]
    assert (len(samples), left_out) == (11, [])


def test_a_job_that_fails_is_told_once_and_the_others_go_on() -> None:
    tried: list[str] = []

    def fail() -> dict[str, float]:
        tried.append("fail")
        raise Broken("the worker ended: no such pool")

    def lack() -> dict[str, float]:
        raise Missing("there is no compiler")

    jobs = [job("a", fail), job("b", dict), job("c", lack)]
    samples, left_out = run_all(jobs, 3)
    assert tried == ["fail"]
    assert [sample.who for sample in samples] == ["b", "b", "b"]
    assert sorted((one.who, one.why) for one in left_out) == [
        ("a", "the worker ended: no such pool"),
        ("c", "there is no compiler"),
    ]
