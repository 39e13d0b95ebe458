"""A mistake in the arguments is told at once, not after the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import __main__ as program
from benchmarks import machine, page
from benchmarks.micro.__main__ import main as micro


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--reps", "0"], "0 is no whole number from 1"),
        (["--reps", "x"], "x is no whole number from 1"),
        (["--jobs", ","], "--jobs names none"),
        (["--jobs", "nothing"], "nothing is none of drain"),
        (["--json", "/no/such/folder/run.json"], "there is no folder /no/such/folder"),
        (["--chart", "/"], "/ is a folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_the_inner_parts_check_their_file_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        micro(["decide", "--json", "/no/such/folder/micro.json"])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert "there is no folder" in told.err
    assert not told.out


def test_a_page_of_a_file_that_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert page.main([str(tmp_path / "none.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_two_runs_at_once_know_of_each_other() -> None:
    with machine.alone("test") as first, machine.alone("test") as second:
        assert (first, second) == (True, False)
    with machine.alone("test") as third:
        assert third
