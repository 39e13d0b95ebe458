"""A workflow as boxes and arrows: what comes after what, what runs beside what, and in which state. Values and pure functions.

A signature and a tree of results are both drawn from this one shape: boxes, one after the other or side by side, with
what hangs on one of them. ``flow_mermaid`` and ``flow_svg`` render it. Large ones are folded first: what is left out of a
thousand boxes is said in one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from amqtask.errors import ConfigurationError

STEPS_MAX: Final = 12  # in a row; of more, the first and last are drawn
BESIDE_MAX: Final = 10
DEPTH_MAX: Final = 24  # frames in frames
FIRST, LAST, FAILED = (
    5,
    2,
    3,
)  # of many: the first, the last, and some of those that failed between them

BAD: Final = frozenset({"FAILURE", "REVOKED"})


class Box(msgspec.Struct, frozen=True, tag="box", omit_defaults=True):
    """One task.

    Args:
        title: the first line.
        detail: the second.
        tip: all that there was no room for.
        state: of a result.
        asides: what hangs on it.
        count: how many tasks it stands for, when some were left out.
    """

    title: str
    detail: str = ""
    tip: str = ""
    state: str | None = None
    asides: tuple[Aside, ...] = ()
    count: int = 1


class Steps(msgspec.Struct, frozen=True, tag="steps", omit_defaults=True):
    """One after the other."""

    parts: tuple[Flow, ...]
    asides: tuple[Aside, ...] = ()


class Beside(msgspec.Struct, frozen=True, tag="beside", omit_defaults=True):
    """At the same time, in a frame."""

    title: str
    parts: tuple[Flow, ...]
    asides: tuple[Aside, ...] = ()


class Aside(msgspec.Struct, frozen=True, omit_defaults=True):
    """What hangs on something: a callback, an errback, a task that was started."""

    label: str
    flow: Flow
    error: bool = False


Flow = Box | Steps | Beside


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Flow] = msgspec.json.Decoder(Flow)


def to_json(flow: Flow) -> str:
    """A flow as text, for ``from_json``."""
    return _encoder.encode(flow).decode()


def from_json(text: str | bytes) -> Flow:
    """A flow from what ``to_json`` gave.

    Raises:
        ConfigurationError: this is none.
    """
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"This is no graph that amqtask has written: {error}.") from None


def boxes(flow: Flow) -> Iterator[Box]:
    """The boxes of a flow, without those that hang on others."""
    if isinstance(flow, Box):
        yield flow
    else:
        for part in flow.parts:
            yield from boxes(part)


# ---------------------------------------------------------------- folding


def folded(flow: Flow, depth: int = 0) -> Flow:
    """The same with no more in a row, side by side or inside each other than can be looked at."""
    if isinstance(flow, Box):
        asides = _asides(flow.asides, depth)
        return msgspec.structs.replace(flow, asides=asides) if flow.asides else flow
    if depth >= DEPTH_MAX:
        return _many([flow], "deeper")
    if isinstance(flow, Steps):
        parts = _few(flow.parts, STEPS_MAX, depth)
        return Steps(parts, _asides(flow.asides, depth))
    return Beside(flow.title, _few(flow.parts, BESIDE_MAX, depth), _asides(flow.asides, depth))


def _asides(asides: Sequence[Aside], depth: int) -> tuple[Aside, ...]:
    if depth >= DEPTH_MAX:
        return ()
    return tuple(Aside(aside.label, folded(aside.flow, depth + 1), aside.error) for aside in asides)


def _few(parts: Sequence[Flow], most: int, depth: int) -> tuple[Flow, ...]:
    if len(parts) <= most:
        return tuple(folded(part, depth + 1) for part in parts)
    shown = {*range(FIRST), *range(len(parts) - LAST, len(parts))}
    bad = (number for number, part in enumerate(parts) if number not in shown and _bad(part))
    shown.update(number for number, _ in zip(bad, range(FAILED), strict=False))
    found: list[Flow] = []
    hidden: list[Flow] = []
    for number, part in enumerate(parts):
        if number not in shown:
            hidden.append(part)
            continue
        if hidden:
            found.append(_many(hidden, "more"))
            hidden = []
        found.append(folded(part, depth + 1))
    return tuple(found)


def _bad(flow: Flow) -> bool:
    return any(box.state in BAD for box in boxes(flow))


def _many(flows: Sequence[Flow], word: str) -> Box:
    """One box for many."""
    inside = [box for flow in flows for box in boxes(flow)]
    states = Counter(box.state for box in inside if box.state is not None)
    names = Counter(box.title.partition("(")[0] for box in inside)
    counted = states or names
    detail = ", ".join(f"{count:,} {name}" for name, count in counted.most_common(3))
    if len(counted) > 3:
        detail += ", …"
    count = sum(box.count for box in inside)
    return Box(f"… {count:,} {word}", detail, ", ".join(f"{n:,} {name}" for name, n in names.most_common(50)), count=count)  # fmt: skip


def summary(states: Sequence[str]) -> str:
    """How many are in which state: ``2 SUCCESS, 1 FAILURE``."""
    return ", ".join(f"{count:,} {state}" for state, count in Counter(states).most_common())


def shortened(text: str, most: int) -> str:
    """A text with its end left out when it is longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
