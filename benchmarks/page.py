"""Puts a run into the documentation: ``python -m benchmarks.page RUN.json``.

The figures of ``docs/explanation/performance.md`` are written anew, with the chart and all samples beside it; the rest of the
page stays.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import chart, report
from benchmarks.environments import ROOT
from benchmarks.figures import Run

PAGE = ROOT / "docs" / "explanation" / "performance.md"
BEGIN, END = "## Figures\n", "\n## The bars\n"


def page(text: str, run: Run) -> str:
    """The page with the figures of this run.

    Raises:
        ValueError: the page has not the two headings between which figures stand.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page needs the headings {BEGIN.strip()!r} and {END.strip()!r}.")
    figures = [
        "![amqtask beside other frameworks](performance.svg)",
        "All samples are in [performance.json](performance.json).",
        report.text(run).rstrip(),
    ]
    return f"{head}{begin}\n" + "\n\n".join(figures) + f"\n{end}{tail}"


def main(arguments: Sequence[str]) -> int:
    """Write page, chart and samples from the run in a file."""
    if len(arguments) != 1:
        print("use: python -m benchmarks.page RUN.json", file=sys.stderr)
        return 2
    try:
        data = Path(arguments[0]).read_bytes()
        run = msgspec.json.decode(data, type=Run)
    except (OSError, msgspec.MsgspecError) as error:
        print(f"{arguments[0]} cannot be read: {error}", file=sys.stderr)
        return 1
    PAGE.write_text(page(PAGE.read_text(), run))
    PAGE.with_suffix(".svg").write_text(chart.svg(run))
    PAGE.with_suffix(".json").write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
