"""``make bench``: the system benchmarks, then the micro ones.

Absolute figures belong to the machine and the minute; read the ratios, which come from one interleaved run. The broker comes
from ``AMQTASK_BROKER_URL``.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

from benchmarks.system import drain


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000, help="preloaded tasks per drain")
    parser.add_argument("--reps", type=int, default=3, help="repetitions, interleaved")
    parser.add_argument("--children", type=int, default=2, help="worker processes")
    parser.add_argument("--no-micro", action="store_true", help="system benchmarks only")
    parser.add_argument("--no-celery", action="store_true", help="without the peer")
    options = parser.parse_args()

    drain.main(options.tasks, options.reps, options.children, peer=not options.no_celery)
    if not options.no_micro:
        for script in sorted(Path(__file__).parent.glob("micro/bench_*.py")):
            print(f"\n{script.stem}")
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as end:
                if end.code:
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
