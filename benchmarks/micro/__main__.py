"""Times the inner parts: ``python -m benchmarks.micro [PART ...] [--json FILE]``. Needs no broker."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.arguments import at_least_one, unwritable
from benchmarks.micro import board, codec, decide, frames, journal, ladder, ledger, routing
from benchmarks.micro.timing import LEAST, REPETITIONS, Timing, measure

PARTS = {
    "codec": codec.cases,
    "frames": frames.cases,
    "ledger": ledger.cases,
    "decide": decide.cases,
    "routing": routing.cases,
    "ladder": ladder.cases,
    "board": board.cases,
    "journal": journal.cases,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per case, in nanoseconds."""
    parser = argparse.ArgumentParser(prog="benchmarks.micro", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--reps", type=at_least_one, default=REPETITIONS, help="repetitions of each case"
    )
    parser.add_argument(
        "--least", type=float, default=LEAST, help="seconds of one repetition, about"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    options = parser.parse_args(arguments)
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"there is no part {part!r}: choose of {', '.join(PARTS)}")
    if options.json is not None and (why := unwritable(options.json)):
        parser.error(why)
    found: dict[str, dict[str, Timing]] = {}
    print(f"Python {platform.python_version()}, median of {options.reps} (least–most), ns")
    for part in options.parts or PARTS:
        found[part] = {}
        for case in PARTS[part]():
            timing = found[part][case.name] = measure(case, options.reps, options.least)
            print(
                f"{part:8} {case.name:44} {timing.median:10,.0f}  ({timing.least:,.0f}–{timing.most:,.0f})",
                flush=True,
            )
    if options.json is not None:
        figures = {
            part: {name: timing._asdict() for name, timing in timings.items()}
            for part, timings in found.items()
        }
        told = {"python": platform.python_version(), "unit": "ns", "figures": figures}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
