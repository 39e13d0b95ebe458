"""Signals by name."""

from __future__ import annotations

import signal

import pytest

from amqtask.worker.supervision.signal_names import asked_for, cause_of, readable


@pytest.mark.parametrize("name", ["SIGKILL", "kill", "Sigkill"])
def test_a_signal_is_asked_for_with_or_without_sig(name: str) -> None:
    assert asked_for(name) is signal.SIGKILL


def test_a_name_that_means_nothing_is_term() -> None:
    assert asked_for("nonsense") is signal.SIGTERM


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"signal": 11}, "signal 11 (SIGSEGV)"),
        ({"signal": 50}, "signal 50"),  # a real-time signal
        ({"exit_code": 3}, "exit code 3"),
        ({}, None),
    ],
)
def test_what_a_child_died_of(fields: dict[str, object], cause: str | None) -> None:
    assert cause_of(fields) == cause


def test_fields_name_their_signal() -> None:
    assert readable({"signal": 9, "pid": 1}) == {"signal": "SIGKILL", "pid": 1}
    assert readable({"signal": 50}) == {"signal": 50}
