"""A signature as a picture: what it will run, in which order, before anything is sent. Pure.

It reads the dictionary form, so a signature from a message or a file is drawn like one that was made here, whatever app its
tasks are of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from amqtask.canvas.lazy import Lazy
from amqtask.core import flow_mermaid, flow_svg
from amqtask.core.flow import Aside, Beside, Box, Flow, Steps, shortened
from amqtask.core.result import safe_repr
from amqtask.errors import ConfigurationError

PEEK: Final = 10_000  # members that a generator is asked for; what else it would give is not drawn
DEPTH: Final = 100  # signatures in signatures
TEXT, TIP = 40, 600  # characters of a box's title, and of what is shown beside it

_SHOWN_OPTIONS = ("queue", "routing_key", "exchange", "countdown", "eta", "expires", "priority", "time_limit", "soft_time_limit")  # fmt: skip

# as Celery writes them: their type is in the name of the task alone
_BUILTIN = {"celery.map": "xmap", "celery.starmap": "xstarmap", "celery.chunks": "chunks"}


def mermaid(signature: Mapping[str, Any]) -> str:
    """A signature as a mermaid flowchart.

    Raises:
        ConfigurationError: this is no signature.
    """
    return flow_mermaid.mermaid(flow_of(signature))


def svg(signature: Mapping[str, Any]) -> str:
    """A signature as an SVG picture.

    Raises:
        ConfigurationError: this is no signature.
    """
    return flow_svg.svg(flow_of(signature), "workflow")


def flow_of(signature: Mapping[str, Any]) -> Flow:
    """What a signature does, as boxes and arrows.

    Args:
        signature: one, or its dictionary form.

    Raises:
        ConfigurationError: this is no signature.
    """
    return _flow(signature, 0)


def _flow(sig: Any, depth: int) -> Flow:
    if not isinstance(sig, Mapping) or not isinstance(sig.get("task"), str):
        raise ConfigurationError(
            f"A signature is a mapping with task, args, kwargs and options, not {shortened(safe_repr(sig), 60)}."
        )
    if depth > DEPTH:
        return Box("…", "deeper")
    kwargs = sig.get("kwargs")
    kwargs = kwargs if isinstance(kwargs, Mapping) else {}
    options = sig.get("options")
    options = options if isinstance(options, Mapping) else {}
    asides = _asides(options, depth)
    match _BUILTIN.get(sig["task"]) or sig.get("subtask_type"):
        case "chain":
            return _chain(_list(kwargs.get("tasks")), asides, depth)
        case "group":
            members, more = _members(kwargs.get("tasks"))
            return _beside("group", members, more, asides, depth)
        case "chord":
            return _chord(kwargs, asides, depth)
        case "xmap" | "xstarmap" | "chunks" as kind:
            return _map(kind, kwargs, options, asides)
        case _:
            return _task(sig, kwargs, options, asides)


def _chain(tasks: Sequence[Any], asides: tuple[Aside, ...], depth: int) -> Flow:
    parts: list[Flow] = []
    for task in tasks:
        part = _flow(task, depth + 1)
        if isinstance(part, Steps) and not part.asides:
            parts += part.parts
        else:
            parts.append(part)
    return parts[0] if len(parts) == 1 and not asides else Steps(tuple(parts), asides)


def _beside(
    kind: str, members: Sequence[Any], more: bool, asides: tuple[Aside, ...], depth: int
) -> Beside:
    parts = [_flow(member, depth + 1) for member in members]
    if more:
        parts.append(Box("… more", "as its generator gives them"))
    count = f"{len(members):,} or more" if more else f"{len(members):,}"
    return Beside(f"{kind} of {count}", tuple(parts), asides)


def _chord(kwargs: Mapping[str, Any], asides: tuple[Aside, ...], depth: int) -> Flow:
    header = kwargs.get("header")
    if isinstance(header, Mapping):
        of_header = header.get("kwargs")
        header = of_header.get("tasks") if isinstance(of_header, Mapping) else ()
    members, more = _members(header)
    first = _beside("chord of", members, more, (), depth)
    first = Beside(first.title.replace("chord of of", "chord of"), first.parts)
    body = kwargs.get("body")
    if body is None:
        return Beside(first.title, first.parts, asides)
    last = _flow(body, depth + 1)
    rest = last.parts if isinstance(last, Steps) and not last.asides else (last,)
    return Steps((first, *rest), asides)


def _map(
    kind: str, kwargs: Mapping[str, Any], options: Mapping[str, Any], asides: tuple[Aside, ...]
) -> Box:
    inner = kwargs.get("task")
    name = inner.get("task") if isinstance(inner, Mapping) else inner
    items = kwargs.get("it")
    count = f"{len(items):,} items" if isinstance(items, Sequence) else "items"
    if kind == "chunks":
        count += f" in chunks of {kwargs.get('n')}"
    verb = {"xmap": "map", "xstarmap": "starmap"}.get(kind, kind)
    return Box(
        f"{_short(str(name))}.{verb}", ", ".join([count, *_options(options)]), str(name), asides=asides
    )  # fmt: skip


def _task(
    sig: Mapping[str, Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    asides: tuple[Aside, ...],
) -> Box:
    args = [safe_repr(value) for value in islice(_list(sig.get("args")), 20)]
    named = [f"{name}={safe_repr(value)}" for name, value in islice(kwargs.items(), 20)]
    called = ", ".join([*args, *named])
    name = str(sig["task"])
    detail = ["immutable"] if sig.get("immutable") else []
    return Box(
        shortened(f"{_short(name)}({called})", TEXT),
        ", ".join([*detail, *_options(options)]),
        shortened(f"{name}({called})", TIP),
        asides=asides,
    )


def _options(options: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {shortened(str(options[name]), 24)}"
        for name in _SHOWN_OPTIONS
        if options.get(name) is not None
    ]


def _asides(options: Mapping[str, Any], depth: int) -> tuple[Aside, ...]:
    found = [Aside("then", _flow(each, depth + 1)) for each in _links(options.get("link"))]
    found += [
        Aside("on error", _flow(each, depth + 1), error=True)
        for each in _links(options.get("link_error"))
    ]
    return tuple(found)


def _links(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, Mapping) else _list(value)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _members(tasks: Any) -> tuple[list[Any], bool]:
    """The members of a group, and whether there may be more: a generator is asked for some, which it keeps."""
    if isinstance(tasks, Lazy):
        tasks.peek(PEEK)
        return list(islice(tasks, PEEK)), not tasks.complete
    if isinstance(tasks, Mapping) or not isinstance(tasks, Iterable):
        return ([] if tasks is None else [tasks]), False
    return _list(tasks), False


def _short(name: str) -> str:
    """The last part of a task's name, which tells most."""
    return name if len(name) <= TEXT // 2 else name.rpartition(".")[2]
