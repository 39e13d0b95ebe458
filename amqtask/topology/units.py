"""Durations and sizes as people write them: ``1h30m``, ``500ms``, ``16MiB``; plain numbers are seconds and bytes.

The patterns are also what the JSON Schema gives to editors, so both always accept the same text.
"""

from __future__ import annotations

import re
from fractions import Fraction

# Largest first, each at most once: the order in which they may follow each other.
DURATIONS: dict[str, Fraction] = {
    "w": Fraction(7 * 24 * 3600),
    "d": Fraction(24 * 3600),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 1000),
}
SIZES: dict[str, int] = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}

# 18 digits hold more than any broker takes, and keep the arithmetic small whatever is written.
_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,9})?"
DURATION_PATTERN = (
    r"^\s*(?=[0-9])(?:"
    + "".join(rf"(?:{_NUMBER}\s*{unit}\s*)?" for unit in DURATIONS)
    + rf"|{_NUMBER})\s*$"
)
SIZE_PATTERN = rf"^\s*{_NUMBER}\s*(?:{'|'.join(SIZES)})?\s*$"
_PART = re.compile(rf"({_NUMBER})\s*([A-Za-z]*)")
_DURATION_HELP = "write it like 90s, 2h, 1h30m or 500ms (units w, d, h, m, s, ms)"
_SIZE_HELP = "write it like 512KiB, 16MiB or 1GB (units B, kB, MB, GB, TB, KiB, MiB, GiB, TiB)"


def parse_duration(value: float | str) -> float:
    """Seconds, exact to the millisecond.

    Args:
        value: a number of seconds, or text such as ``"1h30m"``.

    Raises:
        ValueError: not a duration, negative, or finer than a millisecond; the text says how to write one.
    """
    if isinstance(value, str):
        seconds = _parts(value, DURATIONS, DURATION_PATTERN, "duration", _DURATION_HELP)
    else:
        seconds = _number(value, "duration")
    if (seconds * 1000).denominator != 1:
        raise ValueError(f"{value!r} is finer than a millisecond, the smallest step the broker has")
    return float(seconds)


def parse_size(value: float | str) -> int:
    """Bytes.

    Args:
        value: a number of bytes, or text such as ``"16MiB"``.

    Raises:
        ValueError: not a size, negative, or not a whole number of bytes; the text says how to write one.
    """
    if isinstance(value, str):
        scale = {unit: Fraction(size) for unit, size in SIZES.items()}
        size = _parts(value, scale, SIZE_PATTERN, "size", _SIZE_HELP)
    else:
        size = _number(value, "size")
    if size.denominator != 1:
        raise ValueError(f"{value!r} is not a whole number of bytes")
    return size.numerator


def milliseconds(seconds: float) -> int:
    """The broker's unit for durations."""
    return round(seconds * 1000)


def format_duration(seconds: float) -> str:
    """The shortest text that ``parse_duration`` reads back as the same number of milliseconds."""
    rest = Fraction(milliseconds(seconds), 1000)
    text = ""
    for unit, scale in DURATIONS.items():
        count = rest // scale
        rest -= count * scale
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def format_size(size: int) -> str:
    """Bytes in the largest binary unit that divides them."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % SIZES[unit] == 0:
            return f"{size // SIZES[unit]}{unit}"
    return f"{size}B"


def _number(value: float, what: str) -> Fraction:
    if not abs(value) < 10**18:  # true for nan as well
        raise ValueError(f"{value!r} is not a {what}")
    # through the decimal text: 0.1 means a tenth, not the binary fraction beside it
    number = Fraction(repr(value))
    if number < 0:
        raise ValueError(f"a {what} cannot be negative, and {value!r} is")
    return number


def _parts(text: str, scale: dict[str, Fraction], pattern: str, what: str, remedy: str) -> Fraction:
    if re.match(pattern, text) is None:
        if re.match(rf"^\s*-\s*{_NUMBER}", text):
            raise ValueError(f"a {what} cannot be negative, and {text!r} is")
        unknown = [unit for _, unit in _PART.findall(text) if unit and unit not in scale]
        why = f" (no unit {unknown[0]!r})" if unknown else ""
        raise ValueError(f"{text!r} is not a {what}{why}: {remedy}")
    total = Fraction(0)
    for number, unit in _PART.findall(text):
        total += Fraction(number) * (scale[unit] if unit else 1)
    return total
