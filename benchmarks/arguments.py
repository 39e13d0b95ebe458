"""What the programs here check of their arguments before they begin: a mistake must not cost half an hour."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def at_least_one(text: str) -> int:
    """A number of repetitions.

    Raises:
        argparse.ArgumentTypeError: it is no whole number from 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1")
    return int(text)


def unwritable(path: Path) -> str | None:
    """Why a file cannot be written, in a few words; None when it can. Nothing is written."""
    if path.is_dir():
        return f"{path} is a folder: name a file in it"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return f"{path} may not be written"
    return None
