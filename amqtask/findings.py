"""What a check of the doctor found: a status, a sentence, and a remedy."""

from __future__ import annotations

import enum

import msgspec


class Status(enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


class Finding(msgspec.Struct, frozen=True):
    """What one check found: ``remedy`` is empty where there is nothing to do."""

    check: str
    status: Status
    text: str
    remedy: str = ""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check, Status.OK, text)


def warn(check: str, text: str, remedy: str = "") -> Finding:
    """It works, with a but."""
    return Finding(check, Status.WARN, text, remedy)


def fail(check: str, text: str, remedy: str = "") -> Finding:
    """It does not work."""
    return Finding(check, Status.FAIL, text, remedy)
