from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.micro.__main__ import PARTS, main
from benchmarks.micro.timing import Case, measure


@pytest.mark.parametrize("part", PARTS)
def test_every_case_can_be_called_again_and_again(part: str) -> None:
    cases = list(PARTS[part]())
    assert cases
    for case in cases:
        case.call()
        case.call()


def test_a_timing_is_per_operation() -> None:
    calls: list[int] = []
    timing = measure(Case("append", lambda: calls.append(1), 1000), repetitions=3, least=1e-4)
    assert 0 < timing.least <= timing.median <= timing.most
    assert timing.median < 1000  # a thousandth of what one call takes
    assert len(calls) > 6


def test_the_figures_are_written_to_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "micro.json"
    assert main(["decide", "--reps", "1", "--least", "0.0001", "--json", str(file)]) == 0
    told = json.loads(file.read_text())
    assert list(told["figures"]) == ["decide"]
    assert told["figures"]["decide"]["succeeded, no result wanted"]["median"] > 0
    assert "succeeded, no result wanted" in capsys.readouterr().out
