"""What type checkers say about code that uses amqtask."""

from __future__ import annotations

from pathlib import Path

import pytest
from mypy import api

CASES = Path(__file__).parent / "cases"
ROOT = CASES.parents[2]


@pytest.mark.parametrize("case", ["good.py", "bad.py"])
def test_the_checker_agrees(case: str) -> None:
    output, errors, status = api.run(
        ["--config-file", str(ROOT / "pyproject.toml"), "--warn-unused-ignores", str(CASES / case)]
    )

    assert (output.strip().splitlines()[-1], errors, status) == (
        "Success: no issues found in 1 source file", "", 0,
    ), output  # fmt: skip
