"""The nearest known name."""

from __future__ import annotations

import pytest

from amqtask.names import did_you_mean, nearest, suggestion

KEYS = ("type", "max_priority", "message_ttl", "dead_letter", "auto_delete", "max_length")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("max_prioirty", "max_priority"),
        ("x-max-priority", "max_priority"),
        ("maxPriority", "max_priority"),
        ("autoDelete", "auto_delete"),
        ("dead-letter", "dead_letter"),
        ("ttl", "message_ttl"),
        ("Type", "type"),
        ("zzz", None),
        ("max", None),
        ("", None),
    ],
)
def test_nearest(written: str, meant: str | None) -> None:
    assert nearest(written, KEYS) == meant


def test_the_tail_of_a_message() -> None:
    assert did_you_mean("tpye", KEYS) == "; did you mean 'type'?"
    assert did_you_mean("zzz", KEYS) == ""
    assert did_you_mean("x", ()) == ""


def test_the_sentence_after_a_message() -> None:
    assert suggestion("tpye", KEYS) == " Did you mean 'type'?"
    assert suggestion("zzz", KEYS) == ""
