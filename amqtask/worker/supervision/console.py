"""What the worker says to whoever started it, past the log: sentences for a person, and headings of dumps."""

from __future__ import annotations

import os
import sys


def tell(sentence: str) -> None:
    """Say to whoever started the worker why it does not start: a sentence for a person, whatever form the log has."""
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()


def head(text: str) -> None:
    """Write a heading for a dump of stacks, past Python's buffer as the dump itself."""
    os.write(2, f"--- {text}\n".encode())
