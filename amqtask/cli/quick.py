"""The usual command line of a worker, read without the command line library.

That library and what it imports in turn take a third of the time in which a worker starts (docs/decisions/0022), and a
worker's command line is mostly written once, for a process manager, without mistakes. So what is plain is read here; whatever is not (help, a mistake,
an odd spelling, another command) is left to the library, which has the last word on all of it. A test holds both to the same
answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from amqtask.cli.boot import Flags
from amqtask.cli.target import Target

ROOT = {"-A": "app", "--app": "app", "-b": "broker", "--broker": "broker"}
SHORT = {
    "-Q": "queues",
    "-c": "concurrency",
    "-P": "pool",
    "-n": "hostname",
    "-l": "loglevel",
}
SWITCHES: Mapping[str, tuple[str, bool]] = {
    "--declare": ("declare", True),
    "--no-declare": ("declare", False),
    "--reload": ("reload", True),
    "--json-logs": ("json_logs", True),
    "--no-json-logs": ("json_logs", False),
}
TEXTS = frozenset(
    {"app", "broker", "queues", "pool", "hostname", "loglevel", "autoscale"}
)  # else numbers
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
COMPLETION = "_AMQTASK_COMPLETE"  # a shell asks for words instead


class _Odd(Exception):
    """Something that is for the library."""


def worker(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[Target, Flags] | None:
    """What a command line that starts a worker says, or ``None`` when it is for the library to read.

    Args:
        arguments: without the program's name.
        environment: of the process; a shell that completes words says so there.
    """
    if "worker" not in arguments or COMPLETION in environment:
        return None
    place = arguments.index("worker")
    try:
        before = dict(_options(arguments[:place], ROOT))
        names = {
            **{
                f"--{name.replace('_', '-')}": name
                for name in Flags.__struct_fields__
                if name not in {field for field, _ in SWITCHES.values()}
            },
            **SHORT,
            **ROOT,
        }
        queues: list[str] = []
        values: dict[str, object] = {}
        for name, value in _options(arguments[place + 1 :], names):
            if name == "queues":
                queues.append(str(value))
            else:
                values[name] = value
        after = {name: values.pop(name) for name in ("app", "broker") if name in values}
        flags = msgspec.convert({**values, "queues": queues}, Flags, strict=False)
    except (_Odd, msgspec.ValidationError):
        return None
    target = Target(before.get("app"), before.get("broker"))  # type: ignore[arg-type]  # texts, both
    return target.override(after.get("app"), after.get("broker")), flags  # type: ignore[arg-type]  # as above


def _options(words: Sequence[str], names: Mapping[str, str]) -> Iterator[tuple[str, str | bool]]:
    """The options among words: names of fields with what was given.

    Raises:
        _Odd: a word that is neither ``--name=value`` nor ``--name value`` of a known name, nor a known switch.
    """
    left = iter(words)
    for word in left:
        if word in SWITCHES and names is not ROOT:
            yield SWITCHES[word]
            continue
        option, joined, value = word.partition("=")
        if option not in names or (joined and not option.startswith("--")):
            raise _Odd
        if not joined:
            value = next(left, "-")
        if not value or value.startswith("-") or not value.isascii() or value != value.strip():
            raise _Odd
        name = names[option]
        if name not in TEXTS and not NUMBER.fullmatch(value):
            raise _Odd
        yield name, value
