"""``make bench`` and ``make bench-peers``: amqtask and its peers on the same work, in one interleaved run.

Absolute figures belong to the machine and the minute; read the ratios. Everything the run leaves on a broker is deleted at
its end, also after Ctrl-C, which ends it with the figures so far.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from amqtask.errors import AmqtaskError
from benchmarks import chart, interleave, machine, report
from benchmarks.arguments import at_least_one, unwritable
from benchmarks.environments import PEERS, Missing
from benchmarks.figures import FULL, OURS, SIZES, LeftOut, Run, Sample, label_key
from benchmarks.frameworks import Framework
from benchmarks.place import Place
from benchmarks.system import (
    answering,
    draining,
    growing,
    joining,
    publishing,
    remembering,
    sleeping,
    starting,
)
from benchmarks.system.jobs import Job

WORKS = {
    module.WORK: module.jobs
    for module in (
        draining,
        publishing,
        answering,
        joining,
        sleeping,
        remembering,
        starting,
        growing,
    )
}
PATIENCE = {FULL: 6.0, "tiny": 0.5}  # seconds for a broker to come to rest before a job


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments ask for; return the exit code: 1 when a job of amqtask failed, 130 after Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = _options(arguments)
    if options.chart_of is not None:
        return _draw(options.chart_of, options)
    rng = random.Random(options.seed)
    started = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    samples: list[Sample] = []
    left_out: list[LeftOut] = []
    code = 0
    with ExitStack() as stack:
        if not stack.enter_context(machine.alone("benchmarks")):
            _say("Another benchmark runs on this machine: the figures of both will mean little.")
        try:
            places = [
                stack.enter_context(Place(url, PATIENCE[options.size])) for url in options.broker
            ]
            frameworks = _frameworks([OURS, *options.peers], left_out)
            for place in places:
                for framework in frameworks:
                    about = framework.about
                    place.expect(about["queues"], about["exchanges"])
            jobs = _jobs(frameworks, places, options, left_out)
            _say(
                f"{len(jobs)} jobs, {options.reps} {'repetition' if options.reps == 1 else 'repetitions'}, on RabbitMQ "
                + " and ".join(place.version for place in places)
            )
            interleave.run(jobs, options.reps, rng, samples, left_out, _say)
        except AmqtaskError as error:
            _say(str(error))
            return 1
        except KeyboardInterrupt:
            code = 130
            _say(
                "Broken off: these are the figures so far."
                if samples
                else "Broken off before anything was measured."
            )
        if not samples:
            return code or 1
        run = Run(
            started=started,
            machine=machine.describe(),
            versions={framework.who: framework.about["versions"] for framework in frameworks},
            brokers=[place.version for place in places],
            repetitions=options.reps,
            size=options.size,
            labels={label_key(job.work, job.who, job.how): job.label for job in jobs},
            samples=samples,
            left_out=left_out,
        )
        _tell(run, options)
    return code or int(any(one.who == OURS for one in left_out))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    def names(known: Sequence[str], text: str) -> list[str]:
        given = [name for name in map(str.strip, text.split(",")) if name]
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
        return given

    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "--jobs",
        type=lambda text: names(list(WORKS), text),
        default=list(WORKS),
        help=f"kinds of work, separated by commas (default: {','.join(WORKS)})",
    )
    parser.add_argument(
        "--peers",
        type=lambda text: names(PEERS, text),
        default=["celery"],
        help=f"beside amqtask: {','.join(PEERS)}, or nothing (default: celery)",
    )
    parser.add_argument("--reps", type=at_least_one, default=3, help="repetitions (default: 3)")
    parser.add_argument(
        "--broker",
        action="append",
        metavar="URL",
        help="may be repeated: one run on several brokers (default: AMQTASK_BROKER_URL)",
    )
    parser.add_argument(
        "--size", choices=SIZES, default=FULL, help="tiny shows that all works, not how fast"
    )
    parser.add_argument("--seed", type=int, help="of the order of jobs")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all samples, for --chart-of"
    )
    parser.add_argument("--chart", type=Path, metavar="FILE", help="write a chart as SVG")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the tables, as printed, to a file"
    )
    parser.add_argument(
        "--chart-of", type=Path, metavar="FILE", help="measure nothing: tell of a run by its JSON"
    )
    options = parser.parse_args(arguments)
    if not options.jobs:
        parser.error(f"--jobs names none: choose of {', '.join(WORKS)}")
    for file in (options.json, options.chart, options.markdown):
        if file is not None and (why := unwritable(file)):
            parser.error(why)
    if options.broker is None:
        options.broker = [os.environ.get("AMQTASK_BROKER_URL", "amqp://guest:guest@127.0.0.1//")]
    return options


def _frameworks(names: Sequence[str], left_out: list[LeftOut]) -> list[Framework]:
    found = []
    for who in names:
        try:
            found.append(Framework(who, _say))
        except Missing as missing:
            _say(f"{who} is left out: {missing}")
            left_out.append(LeftOut("", "", who, "", str(missing)))
    return found


def _jobs(
    frameworks: Sequence[Framework],
    places: Sequence[Place],
    options: argparse.Namespace,
    left_out: list[LeftOut],
) -> list[Job]:
    size = SIZES[options.size]
    jobs: list[Job] = []
    for place in places:
        for work in options.jobs:
            for framework in frameworks:
                jobs += WORKS[work](framework, place, size)
        if publishing.WORK in options.jobs and frameworks:
            try:
                jobs += publishing.limit(frameworks[0], place, size)
            except Missing as missing:
                _say(f"{publishing.LIMIT} is left out: {missing}")
                left_out.append(
                    LeftOut(place.version, publishing.WORK, publishing.LIMIT, "many", str(missing))
                )
    return jobs


def _draw(path: Path, options: argparse.Namespace) -> int:
    try:
        run = msgspec.json.decode(path.read_bytes(), type=Run)
    except (OSError, msgspec.MsgspecError) as error:
        _say(f"{path} cannot be read: {error}")
        return 1
    options.json = None
    _tell(run, options)
    return 0


def _tell(run: Run, options: argparse.Namespace) -> None:
    told = report.text(run)
    print(told, flush=True)
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    if options.markdown is not None:
        options.markdown.write_text(told)
    if options.chart is not None:
        options.chart.write_text(chart.svg(run))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
