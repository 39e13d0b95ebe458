"""Random canvases as values: built with the library, and evaluated by plain function calls.

A drawing is a JSON value, so that it can travel to a worker and be printed when a test fails:

``["call", args, immutable]``   one task
``["fail"]``                    one task that raises
``["seq", parts]``              a chain
``["par", parts]``              a group
``["join", header, body]``      a chord
``["map", items]``, ``["starmap", items]``
``["swap", part]``              a task that replaces itself with that canvas
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

Drawing = list[Any]
FAILS = "drawn to fail"


class Drawn(Exception):
    """What a task raises that was drawn to fail."""


def digest(*values: object) -> str:
    """What every task computes: a short text that tells its arguments, and their order, apart."""
    return hashlib.sha1(json.dumps(values).encode()).hexdigest()[:10]


# ------------------------------------------------------------ drawing


def draw(rng: random.Random, depth: int = 4, *, failing: float = 0.0) -> Drawing:
    """A random canvas.

    Args:
        rng: draws.
        depth: how deep primitives may be nested.
        failing: the probability that a task is one that fails.
    """
    if depth <= 1 or rng.random() < 0.15:
        return _leaf(rng, failing)
    kind = rng.choices(("seq", "par", "join", "swap"), (5, 4, 4, 1))[0]

    def parts(least: int, most: int) -> list[Drawing]:
        return [draw(rng, depth - 1, failing=failing) for _ in range(rng.randint(least, most))]

    if kind == "seq":
        drawn = parts(1, 4)
        if (
            len(drawn) > 1 and rng.random() < 0.1
        ):  # an empty group in a chain is as if it was not there
            drawn.insert(rng.randint(0, len(drawn)), ["par", []])
        return ["seq", drawn]
    if kind == "par":
        return ["par", parts(2, 4)]
    if kind == "join":
        return [
            "join",
            parts(0 if rng.random() < 0.1 else 1, 4),
            draw(rng, depth - 1, failing=failing),
        ]
    return ["swap", draw(rng, depth - 1, failing=failing)]


def _leaf(rng: random.Random, failing: float) -> Drawing:
    if rng.random() < failing:
        return ["fail"]
    luck = rng.random()
    if luck < 0.05:
        return ["map", [rng.randint(0, 99) for _ in range(rng.randint(0, 3))]]
    if luck < 0.1:
        return ["starmap", [[rng.randint(0, 99), 1] for _ in range(rng.randint(0, 3))]]
    return ["call", [rng.randint(0, 999) for _ in range(rng.randint(0, 2))], rng.random() < 0.15]


# ------------------------------------------------------------ by plain function calls


def evaluate(drawing: Drawing, *args: object) -> object:
    """What a canvas comes to when it is called with these arguments.

    Raises:
        Drawn: a task of it fails.
    """
    kind = drawing[0]
    if kind == "call":
        own, immutable = drawing[1], drawing[2]
        return digest(*own) if immutable else digest(*args, *own)
    if kind == "fail":
        raise Drawn(FAILS)
    if kind == "map":
        return [digest(item) for item in drawing[1]]
    if kind == "starmap":
        return [digest(*item) for item in drawing[1]]
    if kind == "swap":
        return evaluate(drawing[1], digest(*args))
    if kind == "join":
        return evaluate(drawing[2], _members(drawing[1], args))
    if kind == "par":
        return _members(drawing[1], args)
    return _in_turn(drawing[1], args)


def _members(parts: Sequence[Drawing], args: Sequence[object]) -> list[object]:
    """A group in a group is one with it."""
    values: list[object] = []
    for part in parts:
        if part[0] == "par":
            values += _members(part[1], args)
        else:
            values.append(evaluate(part, *args))
    return values


def _in_turn(parts: Sequence[Drawing], args: Sequence[object]) -> object:
    steps = [part for part in parts if part != ["par", []]]
    if not steps:
        return []
    value: object = None
    for number, step in enumerate(steps):
        value = evaluate(step, *(args if number == 0 else (value,)))
    return value


# ------------------------------------------------------------ with the library


class Builder:
    """Builds canvases with the library.

    Args:
        task: a signature of the task of a name with arguments, immutable or not.
        library: has ``chain``, ``group``, ``chord``, ``xmap`` and ``xstarmap``.
        rng: chooses between ways to write the same.
    """

    def __init__(self, task: Callable[..., Any], library: Any, rng: random.Random) -> None:
        self._task = task
        self._library = library
        self._rng = rng

    def build(self, drawing: Drawing) -> Any:
        """The canvas of a drawing."""
        kind = drawing[0]
        library = self._library
        if kind == "call":
            return self._task("digest", drawing[1], immutable=drawing[2])
        if kind == "fail":
            return self._task("fail", [])
        if kind in ("map", "starmap"):
            whole = library.xmap if kind == "map" else library.xstarmap
            return whole(self._task("digest", []), drawing[1])
        if kind == "swap":
            return self._task("swap", [drawing[1]])
        if kind == "join":
            header = [self.build(part) for part in drawing[1]]
            body = self.build(drawing[2])
            if header and self._rng.random() < 0.5:
                return library.chord(library.group(header), body)
            return library.chord(header, body)
        parts = [self.build(part) for part in drawing[1]]
        if kind == "par":
            if parts and self._rng.random() < 0.3:
                return library.group(part for part in parts)  # lazily
            return library.group(parts) if self._rng.random() < 0.5 else library.group(*parts)
        return library.chain(*parts)
