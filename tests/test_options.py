"""Options of @app.task."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from amqtask.errors import ConfigurationError
from amqtask.options import Options, TaskOptions


def test_the_typed_names_are_the_checked_ones() -> None:
    assert set(TaskOptions.__annotations__) | {"bind"} == set(Options.__struct_fields__)


def test_retry_options_are_kept_as_data() -> None:
    options = Options.parse(
        {"autoretry_for": [OSError, ValueError], "retry_backoff": 2, "max_retries": None}, "t"
    )

    assert options.autoretry_for == (OSError, ValueError)
    assert options.retry_backoff == 2
    assert options.max_retries is None


def test_one_exception_class_needs_no_tuple() -> None:
    assert Options.parse({"throws": KeyError}, "t").throws == (KeyError,)


def test_an_unknown_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"Task t .*'ack_late'.*Did you mean 'acks_late'"):
        Options.parse({"ack_late": True}, "t")


@pytest.mark.parametrize(
    "values",
    [
        {"priority": 300},
        {"priority": "high"},
        {"acks_late": 1},
        {"name": ""},
        {"time_limit": 0},
        {"time_limit": -1},
        {"time_limit": float("inf")},
        {"retry_backoff": -1},
        {"throws": "ValueError"},
        {"throws": (ValueError, 3)},
        {"expires": "tomorrow"},
        {"max_retries": -1},
        {"soft_time_limit": 2, "time_limit": 1},
    ],
)
def test_a_value_that_cannot_work_is_named(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"Task t.*{next(iter(values))}"):
        Options.parse(values, "t")


def test_what_calls_start_from() -> None:
    options = Options.parse({"queue": "q", "expires": timedelta(hours=1), "acks_late": False}, "t")

    assert options.call_defaults() == {"queue": "q", "expires": timedelta(hours=1)}
