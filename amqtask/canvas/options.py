"""Options of signatures: which say how to send and which its place in a workflow, and how those around it are put over its own. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from amqtask.call import SendOptions, unexpected
from amqtask.canvas.checks import linkable, well_formed
from amqtask.core.workflow import kind_of

# What an option says of the signature's place in a workflow rather than of how it is sent.
STRUCTURE: Final = frozenset(
    {
        "task_id", "group_id", "group_index", "chord", "root_id", "parent_id", "chain", "link", "link_error",
        "replaced_task_nesting",
    }
)  # fmt: skip
SENT: Final = (
    frozenset(SendOptions.__annotations__) - STRUCTURE - {"add_to_parent", "stamped_headers"}
)
# Options of Celery's that say nothing here: how its client reaches a broker, and what it notes.
CELERYS: Final = frozenset(
    {
        "add_to_parent", "app", "connection", "delivery_mode", "exchange_type", "immediate", "interval", "kwargs", "mandatory",
        "max_retries", "producer", "publisher", "result_cls", "retry", "retry_policy", "route_name", "router", "stamped_headers",
        "stamps", "trail",
    }
)  # fmt: skip
DELAYS: Final = frozenset({"countdown", "eta"})
PLACE: Final = frozenset({"queue", "exchange", "routing_key", "priority"})


def put_over(own: dict[str, Any], others: Mapping[str, Any]) -> None:
    """Put the options of what surrounds a signature over its own. Stamps that it has are its own for good."""
    fixed: set[str] = set()
    if own.get("stamped_headers") is not None:
        theirs = others.get("stamped_headers") or ()
        fixed = {"stamped_headers", *own["stamped_headers"], *theirs}
    own.update({name: value for name, value in others.items() if name not in fixed})


def how_to_send(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say how to send, stamps among them."""
    return {
        name: value
        for name, value in options.items()
        if name not in STRUCTURE and name != "reply_to" and value is not None
    }


def is_signature(value: object) -> bool:
    """Whether it is a mapping that names a task."""
    return isinstance(value, Mapping) and isinstance(value.get("task"), str)


def shown(value: object) -> str:
    """What to call, in an error, a value that is no signature."""
    return f"a value of type {type(value).__name__}"


def refuse_unknown(options: Mapping[str, Any]) -> None:
    """Refuse an option that nobody knows, also of what is called after the task.

    Raises:
        TypeError: it names the nearest known one.
    """
    stamps = options.get("stamped_headers") or ()
    for name, value in options.items():
        if name in ("link", "link_error"):
            for each in value or ():
                linkable(each, name)
                well_formed(each)
                if kind_of(each) == "task":
                    own = each.get("options") or {}
                    refuse_unknown({**own, "link": (), "link_error": ()})
        elif value is not None and not (
            name in SENT or name in STRUCTURE or name in CELERYS or name in stamps
        ):
            raise unexpected(name, "apply_async")


def moment_of(value: object) -> object:
    """A time as a message of Celery's may have it: a text, or without an offset, which is UTC.

    Raises:
        ValueError: a text that is no time.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(
                f"eta and expires are seconds, a datetime, or a time as 2030-01-31T12:00:00+00:00, not {value!r}."
            ) from None
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value


def put_off(options: Mapping[str, Any]) -> float:
    """Seconds until a task is due. What makes no sense is refused elsewhere."""
    countdown, eta = options.get("countdown"), options.get("eta")
    if countdown is None and eta is None:
        return 0.0
    if isinstance(countdown, timedelta):
        return max(0.0, countdown.total_seconds())
    if isinstance(countdown, (int, float)):
        return max(0.0, countdown)
    try:
        moment = moment_of(eta)
    except ValueError:
        return 0.0
    if not isinstance(moment, datetime):
        return 0.0
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
