"""The signals of a node by name: those that the supervisor answers, those that somebody asks for, those that children die of."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Final

from amqtask.core import fleet

ANSWERED: Final[dict[int, fleet.SignalName]] = {
    signal.SIGTERM: "TERM",
    signal.SIGINT: "INT",
    signal.SIGQUIT: "QUIT",
    signal.SIGHUP: "HUP",
    signal.SIGUSR1: "USR1",
}
NUMBERS: Final = {name: number for number, name in ANSWERED.items()}


def asked_for(name: str) -> signal.Signals:
    """The signal somebody named, with or without ``SIG``; TERM for a name that means nothing here."""
    return getattr(signal.Signals, f"SIG{name.upper().removeprefix('SIG')}", signal.SIGTERM)


def cause_of(fields: Mapping[str, object]) -> str | None:
    """What a child died of, for people: ``signal 11 (SIGSEGV)``, ``exit code 3``."""
    number = fields.get("signal")
    if isinstance(number, int):
        name = readable(fields)["signal"]
        return f"signal {number} ({name})" if isinstance(name, str) else f"signal {number}"
    code = fields.get("exit_code")
    return None if code is None else f"exit code {code}"


def readable(fields: Mapping[str, object]) -> dict[str, object]:
    """Name the signal in fields that hold its number."""
    number = fields.get("signal")
    if isinstance(number, int):
        try:
            return {**fields, "signal": signal.Signals(number).name}
        except ValueError:
            pass  # a real-time signal has no name: its number says it
    return dict(fields)
