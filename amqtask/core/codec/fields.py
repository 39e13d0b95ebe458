"""The fields of a task message: each is read, whatever a header or a protocol 1 body holds in its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from amqtask.core import serialization
from amqtask.core.codec.headers import utf8_size
from amqtask.errors import DecodeError


def moment(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 time; one without an offset is UTC, as in Celery.

    Raises:
        ValueError: the text is no such time.
    """
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return parsed.timestamp()


def wrong(name: str, expected: str, value: object) -> DecodeError:
    """Make the error for a field that holds ``value`` where ``expected`` should be."""
    return DecodeError(
        f"The message's {name!r} must be {expected}, not {serialization.shown(value)}."
    )


def read_text(name: str, value: object) -> str | None:
    """Read a text, ``None`` for an empty one.

    Raises:
        DecodeError: it is none.
    """
    if type(value) is not str:
        raise wrong(name, "a string", value)
    if utf8_size(value) < 0:  # from a protocol 1 body; it could not be sent on
        raise wrong(name, "valid Unicode", value)
    return value or None


def _count(name: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise wrong(name, "a whole number from 0", value)
    return value


def read_flag(name: str, value: object) -> bool:
    """Read true or false.

    Raises:
        DecodeError: it is neither.
    """
    if value is not True and value is not False and value not in (0, 1):
        raise wrong(name, "true, false or null", value)
    return bool(value)


def _time(name: str, value: object) -> str | None:
    if value == "":
        return None
    if isinstance(
        value, datetime
    ):  # an AMQP timestamp, or kombu's JSON extension in a protocol 1 body
        parsed, text = value, value.isoformat()
    elif type(value) is not str:
        raise wrong(name, "an ISO 8601 time", value)
    else:
        text = value
        try:
            parsed = datetime.fromisoformat(text)
        except ValueError:
            raise wrong(name, "an ISO 8601 time", value) from None
    return text if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC).isoformat()


def _time_limits(name: str, value: object) -> tuple[float | None, float | None]:
    if not isinstance(value, list | tuple) or len(value) not in (0, 2):
        raise wrong(name, "[hard, soft]", value)
    hard, soft = value or (None, None)
    return _seconds(name, hard, value), _seconds(name, soft, value)


def _seconds(name: str, value: object, limits: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise wrong(name, "two numbers or nulls", limits)
    try:
        seconds = float(value)
    except (OverflowError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise wrong(name, "two numbers from 0 or nulls", limits)
    # Celery reads 0 as "the task's own limit"
    return seconds or None


def _names(name: str, value: object) -> Sequence[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise wrong(name, "a list of strings", value)
    return value


def _table(name: str, value: object) -> Mapping[str, object] | None:
    if not isinstance(value, Mapping):
        raise wrong(name, "a table", value)
    return value or None


READERS: dict[str, Callable[[str, object], object]] = {
    "retries": _count,
    "eta": _time,
    "expires": _time,
    "timelimit": _time_limits,
    "root_id": read_text,
    "parent_id": read_text,
    "group": read_text,
    "group_index": _count,
    "ignore_result": read_flag,
    "origin": read_text,
    "shadow": read_text,
    "argsrepr": read_text,
    "kwargsrepr": read_text,
    "replaced_task_nesting": _count,
    "stamped_headers": _names,
    "stamps": _table,
}
