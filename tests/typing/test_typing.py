"""What type checkers say about code that uses amqtask."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

CASES = Path(__file__).parent / "cases"
ROOT = CASES.parents[2]


@pytest.mark.parametrize("case", ["good.py", "bad.py"])
def test_the_checker_agrees(case: str) -> None:
    # A process of its own: mypy raises the recursion limit of the one it runs in.
    checker = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--warn-unused-ignores"),
            *("--config-file", str(ROOT / "pyproject.toml"), str(CASES / case)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert checker.returncode == 0, checker.stdout + checker.stderr
